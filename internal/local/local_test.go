package local

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/auth"
	"holdfast/internal/host"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

func clinic(root string) *plan.Plan {
	at := func(name, address string) plan.Host {
		return plan.Host{Name: name, Address: address, FaultDomain: name}
	}
	return &plan.Plan{
		Application: "clinic",
		Sites:       []plan.Site{{Name: "b", Hosts: []plan.Host{at("b1", "127.62.1.1"), at("b2", "127.62.1.2")}}},
		Ports:       plan.Ports{Agent: 7400},
		Databases: []plan.Database{{Name: "records", Roles: []plan.Role{
			{Name: "app", Password: plan.Secret("file:" + root + "/secrets/app")},
			{Name: "audit", Password: "env:AUDIT"},
		}}},
		Vaults: []plan.Vault{{Name: "main", Key: plan.Secret("file:" + root + "/secrets/vault")}},
	}
}

func TestOnLoopback(t *testing.T) {
	p := &plan.Plan{Sites: []plan.Site{
		{Name: "b", Hosts: []plan.Host{{Name: "b1", Address: "127.9.9.9"}, {Name: "b2", Address: "10.0.0.2"}}},
		{Name: "m", Hosts: []plan.Host{{Name: "m1", Address: "::1"}, {Name: "m2", Address: "fd00::2"}}},
	}}
	q, told := OnLoopback(p)
	got := map[string]string{}
	for _, h := range q.AllHosts() {
		got[h.Name] = h.Address
	}
	want := map[string]string{"b1": "127.9.9.9", "b2": "127.77.1.2", "m1": "::1", "m2": "127.77.2.2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("addresses:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"b2 runs on 127.77.1.2 instead of 10.0.0.2", "m2 runs on 127.77.2.2 instead of fd00::2"}, told); diff != "" {
		t.Errorf("told:\n%s", diff)
	}
	if p.Sites[0].Hosts[1].Address != "10.0.0.2" {
		t.Error("the plan that was given was changed")
	}
	if _, told := OnLoopback(q); len(told) != 0 {
		t.Errorf("a plan that is on loopback already was changed: %v", told)
	}
}

// tree is every file below a root with its content and mode.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, root+"/")] = info.Mode().String() + " " + string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func prepare(t *testing.T, p *plan.Plan, root string) (Context, []string) {
	t.Helper()
	c, made, err := Prepare(p, "/plans/holdfast.yaml", root)
	if err != nil {
		t.Fatal(err)
	}
	return c, made
}

func TestPrepareRefusesAForeignRoot(t *testing.T) {
	for _, c := range []struct {
		name string
		fill func(t *testing.T, root string)
		says string
	}{
		{"somebody's files", func(t *testing.T, root string) { write(t, filepath.Join(root, "photos", "cat.jpg"), "cat") }, "are not Holdfast's"},
		{"a lock is not enough where other files lie", func(t *testing.T, root string) {
			write(t, filepath.Join(root, "up.lock"), "1")
			write(t, filepath.Join(root, "cat.jpg"), "cat")
		}, "are not Holdfast's"},
		{"a context that nobody can read", func(t *testing.T, root string) { write(t, contextFile(root), "{") }, "are not Holdfast's"},
		{"another application", func(t *testing.T, root string) {
			other := clinic(root)
			other.Application = "shop"
			prepare(t, other, root)
		}, "belongs to application shop"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			c.fill(t, root)
			before := tree(t, root)
			_, _, err := Prepare(clinic(root), "/plans/holdfast.yaml", root)
			var p *problem.Problem
			if !errors.As(err, &p) || p.Code != "host.foreign-root" || !strings.Contains(p.Title, c.says) {
				t.Errorf("it says %v", err)
			}
			if diff := cmp.Diff(before, tree(t, root)); diff != "" {
				t.Errorf("something was touched:\n%s", diff)
			}
		})
	}
}

func TestPrepareIsRepeatable(t *testing.T) {
	for _, c := range []struct {
		name string
		fill func(t *testing.T, root string)
	}{
		{"in a root that does not exist", func(t *testing.T, root string) {}},
		{"in an empty one", func(t *testing.T, root string) {
			if err := os.Mkdir(root, 0o755); err != nil {
				t.Fatal(err)
			}
		}},
		{"in one that holds the lock alone", func(t *testing.T, root string) { write(t, filepath.Join(root, "up.lock"), "") }},
		{"after one that was cut short", func(t *testing.T, root string) {
			p := clinic(root)
			p.Sites[0].Hosts = append(p.Sites[0].Hosts, plan.Host{Name: "no\x00name", Address: "127.62.1.3"})
			if _, _, err := Prepare(p, "/plans/holdfast.yaml", root); err == nil {
				t.Fatal("it was not cut short")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "root")
			c.fill(t, root)
			got, _ := prepare(t, clinic(root), root)
			want := Context{
				Application: "clinic", Plan: "/plans/holdfast.yaml", Root: root,
				Agents: map[string]string{"b1": "127.62.1.1:7400", "b2": "127.62.1.2:7400"},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the context:\n%s", diff)
			}
			if read, err := ReadContext(root); err != nil || !cmp.Equal(read, want) {
				t.Errorf("the context that was kept: %+v, %v", read, err)
			}
			before := tree(t, root)
			if _, made := prepare(t, clinic(root), root); len(made) != 0 {
				t.Errorf("the second time it made %v", made)
			}
			if diff := cmp.Diff(before, tree(t, root)); diff != "" {
				t.Errorf("the second time changed something:\n%s", diff)
			}
		})
	}
}

func TestSecretsAreMadeBelowTheRootAlone(t *testing.T) {
	dir := t.TempDir()
	root, outside := filepath.Join(dir, "root"), filepath.Join(dir, "outside")
	p := clinic(root)
	add := func(name string, s plan.Secret) {
		p.Databases[0].Roles = append(p.Databases[0].Roles, plan.Role{Name: name, Password: s})
	}
	add("own", plan.Secret("file:"+outside))
	add("neighbour", plan.Secret("file:"+root+"-other/secret"))
	add("up", plan.Secret("file:"+root+"/../climbed"))
	add("kept", plan.Secret("file:"+root+"/secrets/kept"))
	prepare(t, &plan.Plan{Application: "clinic"}, root)
	write(t, filepath.Join(root, "secrets", "kept"), "the operator's own\n")
	_, made := prepare(t, p, root)
	want := []string{"key of vault main in " + root + "/secrets/vault", "password of role app in " + root + "/secrets/app"}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("made:\n%s", diff)
	}
	values := map[string]bool{}
	for _, name := range []string{"app", "vault"} {
		path := filepath.Join(root, "secrets", name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
		data, err := os.ReadFile(path)
		if err != nil || len(data) < 32 {
			t.Errorf("%s has %d bytes: %v", name, len(data), err)
		}
		for _, line := range made {
			if strings.Contains(line, strings.TrimSpace(string(data))) {
				t.Errorf("a value is told: %s", line)
			}
		}
		values[string(data)] = true
	}
	if len(values) != 2 {
		t.Error("two secrets have one value")
	}
	if data, err := os.ReadFile(filepath.Join(root, "secrets", "kept")); err != nil || string(data) != "the operator's own\n" {
		t.Errorf("what was there is now %q: %v", data, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("beside the root lies %v: %v", left, err)
	}
}

// certificate is what a host's or the operator's folder holds.
func certificate(t *testing.T, dir string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, auth.HostCertFile))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ageCertificate replaces a host's certificate by one that says the same and ends after left; who signed it does
// not matter to who reads its end.
func ageCertificate(t *testing.T, dir string, left time.Duration) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := certificate(t, dir)
	aged := &x509.Certificate{SerialNumber: c.SerialNumber, NotBefore: c.NotBefore, NotAfter: time.Now().Add(left)}
	der, err := x509.CreateCertificate(rand.Reader, aged, aged, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, auth.HostCertFile), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

func TestCertificatesFollowThePlan(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	dir := func(name string) string { return host.CertDir(HostDir(root, name)) }
	prepare(t, clinic(root), root)
	first, operator := map[string]*x509.Certificate{}, certificate(t, AdminDir(root))
	for _, name := range []string{"b1", "b2"} {
		first[name] = certificate(t, dir(name))
		if _, err := auth.ServerTLS(dir(name)); err != nil {
			t.Error(err)
		}
	}
	if err := first["b1"].VerifyHostname("127.62.1.1"); err != nil {
		t.Error(err)
	}
	if err := first["b1"].VerifyHostname("records.clinic.holdfast"); err != nil {
		t.Errorf("whoever is led to the primary cannot verify it: %v", err)
	}
	t.Run("one that soon expires is renewed", func(t *testing.T) {
		ageCertificate(t, dir("b2"), 29*24*time.Hour)
		prepare(t, clinic(root), root)
		until, err := auth.Expires(dir("b2"))
		if err != nil || time.Until(until) < 300*24*time.Hour {
			t.Errorf("it is valid until %v: %v", until, err)
		}
		if !certificate(t, dir("b1")).Equal(first["b1"]) {
			t.Error("one that is valid for long was renewed too")
		}
	})
	t.Run("one that was lost is made again", func(t *testing.T) {
		if err := os.Remove(filepath.Join(dir("b2"), auth.HostCertFile)); err != nil {
			t.Fatal(err)
		}
		prepare(t, clinic(root), root)
		certificate(t, dir("b2"))
	})
	if len(operator.DNSNames)+len(operator.IPAddresses) != 0 || operator.Subject.OrganizationalUnit[0] != string(auth.Admin) {
		t.Errorf("the operator's certificate: %v", operator.Subject)
	}

	moved := clinic(root)
	moved.Sites[0].Hosts[1].Address = "127.62.1.9"
	prepare(t, moved, root)
	if got := certificate(t, dir("b2")); !got.IPAddresses[0].Equal(net.ParseIP("127.62.1.9")) {
		t.Errorf("b2 moved, its certificate is for %v", got.IPAddresses)
	}
	if !certificate(t, dir("b1")).Equal(first["b1"]) || !certificate(t, AdminDir(root)).Equal(operator) {
		t.Error("who did not move got a new certificate")
	}

	secure := clinic(root)
	secure.Services = []plan.Service{
		{Name: "web", Route: &plan.Route{Scheme: "https", Host: "clinic.test", Port: 443}},
		{Name: "own", Route: &plan.Route{Scheme: "https", Host: "own.test", Port: 443}, TLS: &plan.TLSFiles{}},
	}
	prepare(t, secure, root)
	got := certificate(t, dir("b1"))
	if err := got.VerifyHostname("clinic.test"); err != nil {
		t.Error(err)
	}
	if got.VerifyHostname("own.test") == nil {
		t.Error("a name that has the operator's own certificate is in ours")
	}
}

func TestRunningIgnoresStalePIDFiles(t *testing.T) {
	root := t.TempDir()
	// A shell keeps its words as the process's: "sh agent ..." looks as an agent does, and lives until its stdin ends.
	script := filepath.Join(t.TempDir(), "agent")
	write(t, script, "read line\n")
	cmd := exec.Command("sh", "agent", "--host", "b1", "--root", root)
	cmd.Dir = filepath.Dir(script)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end := func() {
		if !ended {
			ended = true
			_ = stdin.Close() // lets it end
			_ = cmd.Wait()    // its status says nothing here
		}
	}
	t.Cleanup(end)
	agent := strconv.Itoa(cmd.Process.Pid)
	hosts := []string{"b1", "b2", "b3", "b4", "b5"}
	write(t, PIDFile(root, "b1"), agent+"\n")
	write(t, PIDFile(root, "b2"), agent+"\n") // its number went to another host's agent
	write(t, PIDFile(root, "b3"), strconv.Itoa(os.Getpid()))
	write(t, PIDFile(root, "b4"), "not a number")
	if diff := cmp.Diff(map[string]int{"b1": cmd.Process.Pid}, Running(root, hosts)); diff != "" {
		t.Errorf("said to run:\n%s", diff)
	}
	end()
	if got := Running(root, hosts); len(got) != 0 {
		t.Errorf("said to run after its end: %v", got)
	}
}

func TestAHostOnHold(t *testing.T) {
	a := &Agents{Root: t.TempDir()}
	write(t, HoldFile(a.Root, "b1"), "")
	if !a.onHold("b1") || a.onHold("b2") {
		t.Errorf("on hold: b1 %v, b2 %v", a.onHold("b1"), a.onHold("b2"))
	}
}
