package plan

import (
	"strings"
	"testing"
)

// What can be changed while the application runs is told apart from what cannot, by name.
func TestOnlyWhatCanChangeAtRunTimeIsApplied(t *testing.T) {
	base := `application: clinic
sites: { east: { hosts: { a: { address: 10.0.0.1 }, b: { address: 10.0.0.2 }, c: { address: 10.0.0.3 } } } }
services: { web: { run: /bin/web, instances: 2 } }
databases: { records: { postgres: 15, standbys: 1, acknowledged_by: 1 } }
vaults: { main: { key: "file:/etc/key", copies: { x: "file:///srv/v" } } }
backup: { records: { vault: main, full: "daily 01:00" } }
`
	read := func(text string) *Plan {
		p, mistakes := Parse("holdfast.yaml", []byte(text))
		if p == nil {
			t.Fatalf("%v\n%s", mistakes, text)
		}
		return p
	}
	old := read(base)
	tests := []struct {
		name, from, to string
		fixed          string // "" = it can be applied
	}{
		{"a standby more", "standbys: 1,", "standbys: 2,", ""},
		{"another host", "standbys: 1,", "standbys: 1, hosts: [a, c],", ""},
		{"an asynchronous one", "standbys: 1,", "standbys: 2, members: { c: { mode: async } }, policy: relaxed,", ""},
		{"no acknowledgement", "acknowledged_by: 1", "acknowledged_by: 0", ""},
		{"one instance more", "instances: 2", "instances: 3", ""},
		{"a service more", "services: {", "services: { mail: { run: /bin/mail, env: { A: b }, hosts: [a, b] },", ""},
		{"a service less", "services: { web: { run: /bin/web, instances: 2 } }", "services: {}", ""},
		{"how a service runs", "instances: 2", "instances: 1, port: 8080, route: \"http://:8081\", ready: /up, env: { A: b }", ""},
		{"a setting that is reloaded, one that needs a restart", "standbys: 1,", "standbys: 1, parameters: { work_mem: 8MB, max_connections: 50 },", ""},
		{"every listener", "standbys: 1,", "standbys: 1, listen: { write: 6000, read: 6001, max_lag: 5s, read_fallback: primary, path: kernel },", ""},
		{"where the programs lie, limits", "standbys: 1,", "standbys: 1, bin_dir: /opt/pg, copy_limit: 5MB/s, copy_from: [standby, primary], slots: { max: 1GB, after: 2h }, disk_full: failover,", ""},
		{"a fault domain, an objective", "a: { address: 10.0.0.1 }", "a: { address: 10.0.0.1, fault_domain: x }", ""},
		{"a backup's schedule", "full: \"daily 01:00\"", "full: \"daily 02:00\", pitr: 3d", ""},
		{"another major version", "postgres: 15", "postgres: 16", "database records"},
		{"a role", "standbys: 1,", "standbys: 1, roles: { app: { password: \"file:/etc/pw\" } },", ""},
		{"a vault more", "vaults: {", "vaults: { second: { key: \"file:/etc/key2\", copies: { x: \"file:///srv/w\" } },", "vault second"},
		{"the release", "application: clinic", "application: clinic\nrelease: /srv/release", "service web"},
		{"an address", "a: { address: 10.0.0.1 }", "a: { address: 10.0.0.9 }", "host a"},
		{"a host more", "c: { address: 10.0.0.3 }", "c: { address: 10.0.0.3 }, d: { address: 10.0.0.4 }", ""},
		{"a host less", ", c: { address: 10.0.0.3 }", "", ""},
		{"another host in its place, that keeps etcd's member", "a: { address: 10.0.0.1 }", "z: { address: 10.0.0.4 }", ""},
		{"a member of etcd elsewhere", "a: { address: 10.0.0.1 }", "a: { address: 10.0.0.1, etcd: false }, d: { address: 10.0.0.4 }", ""},
		{"a host more, and another address of one", "a: { address: 10.0.0.1 }", "a: { address: 10.0.0.9 }, d: { address: 10.0.0.4 }", "host a"},
		{"another site", "} } }\nservices", "} }, west: { hosts: { w: { address: 10.0.0.7 } } } }\nservices", "host w"},
		{"Holdfast's own port", "application: clinic", "application: clinic\nports: { gate: 7510 }", "application clinic"},
		{"a database", "databases: {", "databases: { more: { postgres: 15 },", "database more"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			next := read(strings.Replace(base, tt.from, tt.to, 1))
			fixed := Fixed(old, next)
			switch {
			case tt.fixed == "" && len(fixed) > 0:
				t.Fatalf("refused: %v", fixed)
			case tt.fixed != "" && (len(fixed) == 0 || fixed[0].Subject != tt.fixed):
				t.Fatalf("refused %v, want %s", fixed, tt.fixed)
			}
			if tt.fixed != "" {
				return
			}
			before, err := next.Show()
			if err != nil {
				t.Fatal(err)
			}
			if after, err := old.WithHosts(next).Overlay(next).Show(); err != nil || string(after) != string(before) {
				t.Fatalf("%v\n%s\nis not\n%s", err, after, before)
			}
		})
	}
}
