package lab

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"holdfast/internal/durable"
)

// Shape is what a world consists of. Zero fields mean the default in their comment.
type Shape struct {
	Hosts          int                 // 3
	Standbys       int                 // 2
	AcknowledgedBy int                 // 1
	Major          int                 // of PostgreSQL: what HOLDFAST_TEST_POSTGRES names, else Debian's
	Services       bool                // the clinic's web and reminders, and the edge before them
	Disk           int64               // bytes of the disk of its own that each host's databases lie on; 0 = this machine's. Hosts must be apart
	EtcdDisk       int64               // bytes of a disk of its own for each host's etcd member; 0 = this machine's. Hosts must be apart
	Memory         bool                // what each host's programs hold is counted apart, so that it can become short. Hosts must be apart
	Plan           func(string) string // changes the plan's text last; nil = it stays
}

func (s Shape) whole() Shape {
	s.Hosts, s.Standbys, s.AcknowledgedBy = cmp.Or(s.Hosts, 3), cmp.Or(s.Standbys, 2), cmp.Or(s.AcknowledgedBy, 1)
	return s
}

// hosts are the names of a world's hosts.
func (s Shape) hosts() []string {
	names := make([]string, s.Hosts)
	for i := range names {
		names[i] = fmt.Sprintf("h%d", i+1)
	}
	return names
}

// New lays out a world on NETWORK.1 to .3 (for instance "127.60.1"); nothing runs yet. Everything of it ends with
// the test.
func New(t testing.TB, network string) *World {
	t.Helper()
	return NewAs(t, network, Shape{Services: true})
}

// NewAs is [New] in another shape.
func NewAs(t testing.TB, network string, shape Shape) *World {
	t.Helper()
	shape = shape.whole()
	address := map[string]string{}
	for i, name := range shape.hosts() {
		address[name] = fmt.Sprintf("%s.%d", network, i+1)
	}
	return layOut(t, shape, address)
}

func layOut(t testing.TB, shape Shape, address map[string]string) *World {
	t.Helper()
	bin := binaries(t)
	dir, err := os.MkdirTemp("/var/tmp", "holdfast-lab-")
	if err != nil {
		t.Fatal(err)
	}
	w := &World{t: t, Root: filepath.Join(dir, "root"), Plan: filepath.Join(dir, "holdfast.yaml"), bin: bin, Hosts: shape.hosts(), Shape: shape, Address: address}
	t.Cleanup(func() {
		w.Stop()
		w.unmountDisks()
		w.removeOwnMemories()
		if t.Failed() || os.Getenv("HOLDFAST_LAB_KEEP") != "" {
			t.Logf("kept for a look: %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the world: %v", err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "build", "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(bin, "clinic"), filepath.Join(dir, "build", "bin", "clinic")); err != nil {
		copyFile(t, filepath.Join(bin, "clinic"), filepath.Join(dir, "build", "bin", "clinic"))
	}
	if err := os.WriteFile(w.Plan, []byte(shape.plan(address, cmp.Or(shape.Major, postgresMajor(t)))), 0o644); err != nil {
		t.Fatal(err)
	}
	return w
}

// postgresMajor is the version that plans ask for: HOLDFAST_TEST_POSTGRES, else Debian's.
func postgresMajor(t testing.TB) int {
	t.Helper()
	major, err := strconv.Atoi(cmp.Or(os.Getenv("HOLDFAST_TEST_POSTGRES"), "15"))
	if err != nil {
		t.Fatalf("HOLDFAST_TEST_POSTGRES: %v", err)
	}
	return major
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	content, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = content.Close() }() // opened for reading alone
	if err := durable.WriteProgram(to, content); err != nil {
		t.Fatal(err)
	}
}

// plan is the text of the plan file.
func (s Shape) plan(address map[string]string, major int) string {
	var hosts strings.Builder
	for _, name := range s.hosts() {
		fmt.Fprintf(&hosts, "      %s: { address: %s, fault_domain: rack-%s }\n", name, address[name], name)
	}
	services := ""
	if s.Services {
		services = servicesText
	}
	text := fmt.Sprintf(planText, hosts.String(), services, major, s.Standbys, s.AcknowledgedBy)
	if s.Plan != nil {
		text = s.Plan(text)
	}
	return text
}

const planText = `application: lab
sites:
  here:
    hosts:
%s%sdatabases:
  records:
    postgres: %d
    standbys: %d
    acknowledged_by: %d
    listen: { write: 5432 }
    roles:
      clinic: { password: "file:${root}/secrets/clinic.password", owns: [clinic] }
vaults:
  main:
    key: file:${root}/secrets/vault.key
    copies: { here: "file://${root}/vault" }
backup:
  records: { vault: main, full: "daily 01:00", pitr: 14d }
`

const servicesText = `release: ./build
services:
  web:
    run: bin/clinic web
    instances: 2
    port: 8080
    route: https://clinic.localhost:8443
    live: /livez
    ready: /readyz
    env: { DATABASE_URL: "${databases.records.write_url}" }
  reminders:
    run: bin/clinic reminders
    instances: 1
    env: { DATABASE_URL: "${databases.records.write_url}" }
`
