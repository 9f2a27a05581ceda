package plan

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// threeHosts is how most plans of these tests begin.
const threeHosts = `application: clinic
sites: { east: { hosts: { a: { address: 10.0.0.1 }, b: { address: 10.0.0.2 }, c: { address: 10.0.0.3 } } } }
`

// mustParse parses a plan that has no mistake.
func mustParse(t testing.TB, text string) *Plan {
	t.Helper()
	p, mistakes := Parse("/srv/clinic/holdfast.yaml", []byte(text))
	for _, m := range mistakes {
		t.Errorf("%s", m)
	}
	if p == nil {
		t.Fatalf("no plan of:\n%s", text)
	}
	return p
}

func examplePlan(t testing.TB) *Plan {
	t.Helper()
	src, err := os.ReadFile(filepath.Join("..", "..", "examples", "clinic", "holdfast.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return mustParse(t, string(src))
}

// sameWishes compares plans without their file: its bytes, its name, and where things stand in it.
var sameWishes = cmp.Options{cmpopts.IgnoreFields(Plan{}, "Source", "File", "Where"), cmpopts.EquateEmpty()}

// golden compares with a kept file; UPDATE=1 go test writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func TestParseResolvesTheExample(t *testing.T) {
	got := examplePlan(t)
	check := func(path string) *Check {
		return &Check{Kind: "http", Path: path, Every: 2 * time.Second, Timeout: time.Second, Fall: 3, Rise: 2, StartFor: 30 * time.Second}
	}
	url := []EnvVar{{"DATABASE_URL", "${databases.records.write_url}"}}
	want := &Plan{
		Application: "clinic",
		Objectives:  Objectives{RPO: time.Minute, RTO: 15 * time.Minute, Prefer: "rpo"},
		Sites: []Site{{Name: "east", Region: "north-europe", Hosts: []Host{
			{"east-1", "east", "127.20.0.1", "rack-a", true},
			{"east-2", "east", "127.20.0.2", "rack-b", true},
			{"east-3", "east", "127.20.0.3", "rack-c", true},
		}}},
		Release: "/srv/clinic/build",
		Ports:   Ports{7400, 7401, 7402, 7403, 7410, 7430, 7450},
		Services: []Service{
			{Name: "web", Run: []string{"bin/clinic", "web"}, Instances: 2, Port: 8080, Route: &Route{"https", "clinic.localhost", 8443},
				Live: check("/livez"), Ready: check("/readyz"), Env: url, StopGrace: 10 * time.Second},
			{Name: "reminders", Run: []string{"bin/clinic", "reminders"}, Instances: 1, Env: url, StopGrace: 10 * time.Second},
		},
		Databases: []Database{{Name: "records", Postgres: 15, Standbys: 2, AcknowledgedBy: 1, WritePort: 5432, Path: PathProxy,
			SlotMax: 8 << 30, SlotAfter: time.Hour, DiskFull: "read-only", Salvage: Salvage{Then: SalvageKeep},
			Roles: []Role{{"clinic", "file:${root}/secrets/clinic.password", []string{"clinic"}}}}},
		Vaults: []Vault{{"main", "file:${root}/secrets/vault.key", []Copy{{Name: "east", URL: "file://${root}/vault"}}, 7 * 24 * time.Hour, Upkeep{
			Retention: Schedule{Text: "daily 04:30", Cron: "30 4 * * *"}, Scrub: Schedule{Text: "Sunday 03:00", Cron: "0 3 * * 0"},
			Renew: Schedule{Text: "daily 05:30", Cron: "30 5 * * *"}, Sync: Schedule{Text: "daily 02:30", Cron: "30 2 * * *"},
			Compact: Schedule{Text: "every 6h", Every: 6 * time.Hour}, ScrubLimit: 50 << 20}, false, 0}},
		Backups: []Backup{{Of: "records", Vault: "main", Full: Schedule{Text: "daily 01:00", Cron: "0 1 * * *"},
			Prove: Schedule{Text: "Sunday 05:00", Cron: "0 5 * * 0"}, PITR: 14 * 24 * time.Hour,
			All: 24 * time.Hour, HalfDaily: 7 * 24 * time.Hour, Daily: 15 * 24 * time.Hour, Weekly: 2 * 365 * 24 * time.Hour}},
	}
	if diff := cmp.Diff(want, got, sameWishes); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	if at := got.Where["databases.records.acknowledged_by"]; at != (Place{35, 22}) {
		t.Errorf("acknowledged_by stands at %v, want 35:22", at)
	}
}

func TestParseFillsDefaultsIn(t *testing.T) {
	hosts := func(domains ...string) string {
		text := "application: x\nsites:\n  east:\n    hosts:\n"
		for i, d := range domains {
			text += "      h" + string(rune('1'+i)) + ": { address: 10.0.0." + string(rune('1'+i)) + ", fault_domain: " + d + " }\n"
		}
		return text
	}
	etcd := func(p *Plan) (names []string) {
		for _, h := range p.HomeSite().EtcdHosts() {
			names = append(names, h.Name)
		}
		return names
	}
	for _, c := range []struct {
		name, text string
		got        func(p *Plan) any
		want       any
	}{
		{"one host holds etcd alone", hosts("a"), func(p *Plan) any { return etcd(p) }, []string{"h1"}},
		{"two hosts hold one member, for two would survive no more", hosts("a", "b"), func(p *Plan) any { return etcd(p) }, []string{"h1"}},
		{"four hosts hold three members", hosts("a", "b", "c", "d"), func(p *Plan) any { return etcd(p) }, []string{"h1", "h2", "h3"}},
		{"seven hosts hold five members", hosts("a", "b", "c", "d", "e", "f", "g"), func(p *Plan) any { return etcd(p) }, []string{"h1", "h2", "h3", "h4", "h5"}},
		{"members take fault domains in turn", hosts("a", "a", "a", "b", "c"), func(p *Plan) any { return etcd(p) }, []string{"h1", "h2", "h3", "h4", "h5"}},
		{"three of four members lie in different fault domains", hosts("a", "a", "b", "c"), func(p *Plan) any { return etcd(p) }, []string{"h1", "h3", "h4"}},
		{"a fault domain is the host's own name", threeHosts, func(p *Plan) any { return p.HomeSite().Hosts[1].FaultDomain }, "b"},
		{"a database has two standbys", threeHosts + "databases: { r: { postgres: 17 } }\n",
			func(p *Plan) any { return [2]int{p.Databases[0].Standbys, p.Databases[0].AcknowledgedBy} }, [2]int{2, 1}},
		{"a database on one named host has no standby", threeHosts + "databases: { r: { postgres: 17, hosts: [b] } }\n",
			func(p *Plan) any { return [2]int{p.Databases[0].Standbys, p.Databases[0].AcknowledgedBy} }, [2]int{0, 0}},
		{"databases listen one port after another", threeHosts + "databases: { r: { postgres: 17 }, s: { postgres: 14 } }\n",
			func(p *Plan) any { return [2]int{p.Databases[0].WritePort, p.Databases[1].WritePort} }, [2]int{5432, 5433}},
		{"a database has no read-only listener", threeHosts + "databases: { r: { postgres: 17 } }\n",
			func(p *Plan) any { d := p.Databases[0]; return []any{d.ReadPort, d.MaxLag, d.ReadFallback} }, []any{0, time.Duration(0), ""}},
		{"a read-only listener refuses what is more than 10 s behind", threeHosts + "databases: { r: { postgres: 17, listen: { read: 5433 } } }\n",
			func(p *Plan) any { d := p.Databases[0]; return []any{d.ReadPort, d.MaxLag, d.ReadFallback} }, []any{5433, 10 * time.Second, FallbackRefuse}},
		{"a listener's path is the proxy", threeHosts + "databases: { r: { postgres: 17 } }\n",
			func(p *Plan) any { return p.Databases[0].Path }, PathProxy},
		{"a service has one instance", threeHosts + "services: { w: { run: /bin/w } }\n", func(p *Plan) any { return p.Services[0].Instances }, 1},
		{"https has port 443", threeHosts + "services: { w: { run: /bin/w, port: 80, route: https://x.example } }\n",
			func(p *Plan) any { return *p.Services[0].Route }, Route{"https", "x.example", 443}},
		{"http has port 80", threeHosts + "services: { w: { run: /bin/w, port: 81, route: http://x.example } }\n",
			func(p *Plan) any { return *p.Services[0].Route }, Route{"http", "x.example", 80}},
		{"a TCP route has no host name", threeHosts + "services: { w: { run: /bin/w, port: 81, route: \"tcp://:9000\" } }\n",
			func(p *Plan) any { return *p.Services[0].Route }, Route{"tcp", "", 9000}},
		{"the word none is no route", threeHosts + "services: { w: { run: /bin/w, port: 81, route: none } }\n",
			func(p *Plan) any { return p.Services[0].Route == nil }, true},
		{"a check's timeout is never longer than its pace", threeHosts + "services: { w: { run: /bin/w, live: { exec: /bin/true, every: 500ms } } }\n",
			func(p *Plan) any { return p.Services[0].Live.Timeout }, 500 * time.Millisecond},
		{"a backup goes to the only vault, daily, for two weeks",
			threeHosts + "databases: { r: { postgres: 17 } }\nvaults: { v: { key: env:K, copies: { x: file:///v } } }\nbackup: { r: {} }\n",
			func(p *Plan) any { return p.Backups[0] },
			Backup{Of: "r", Vault: "v", Full: Schedule{Text: "daily 01:00", Cron: "0 1 * * *"}, Prove: Schedule{Text: "Sunday 05:00", Cron: "0 5 * * 0"},
				PITR: 14 * day, All: day, HalfDaily: 7 * day, Daily: 15 * day, Weekly: 2 * year}},
		{"a relative file leads from the plan's directory", threeHosts + "vaults: { v: { key: file:keys/v, copies: { x: file:///v } } }\n",
			func(p *Plan) any { return p.Vaults[0].Key }, Secret("file:/srv/clinic/keys/v")},
		{"a relative file in the environment too", threeHosts + "services: { w: { run: /bin/w, env: { TOKEN: file:../t } } }\n",
			func(p *Plan) any { return p.Services[0].Env[0].Value }, "file:/srv/t"},
		{"numbers in the environment stay as written", threeHosts + "services: { w: { run: /bin/w, env: { N: 0x10, B: on, T: true, E: \"\" } } }\n",
			func(p *Plan) any { return p.Services[0].Env }, []EnvVar{{"N", "0x10"}, {"B", "on"}, {"T", "true"}, {"E", ""}}},
		{"parameters keep their order", threeHosts + "databases: { r: { postgres: 17, parameters: { work_mem: 8MB, max_connections: 50 } } }\n",
			func(p *Plan) any { return p.Databases[0].Parameters }, []Parameter{{"work_mem", "8MB"}, {"max_connections", "50"}}},
		{"two services may share a route's port by host name",
			threeHosts + "services: { v: { run: /bin/v, port: 81, route: http://v.example }, w: { run: /bin/w, port: 82, route: http://w.example } }\n",
			func(p *Plan) any { return len(p.Services) }, 2},
		{"two services on different hosts may share a port",
			threeHosts + "services: { v: { run: /bin/v, port: 81, hosts: [a] }, w: { run: /bin/w, port: 81, hosts: [b] } }\n",
			func(p *Plan) any { return len(p.Services) }, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, c.got(mustParse(t, c.text))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAcknowledgedByIsHalfOfTheStandbysRoundedUp(t *testing.T) {
	for standbys, want := range []int{0, 1, 1, 2, 2, 3, 3, 4, 4} {
		if got := acknowledgedByDefault(standbys); got != want {
			t.Errorf("%d standbys: acknowledged by %d, want %d", standbys, got, want)
		}
	}
}

func TestWithRootReachesEveryReference(t *testing.T) {
	p := mustParse(t, threeHosts+`release: ${root}/release
services:
  w:
    run: bin/w
    port: 80
    route: https://x.example
    tls: { certificate: "file:${root}/c.pem", key: "file:${root}/k.pem" }
    env: { TOKEN: "file:${root}/t", HOME: "${root}/home", TEXT: "$${root}" }
databases: { r: { postgres: 17, bin_dir: "${root}/pg", roles: { x: { password: "file:${root}/p" } } } }
vaults: { v: { key: "file:${root}/key", copies: { one: "file://${root}/vault" } } }
`)
	before := *p
	q := p.WithRoot("/var/lib/holdfast")
	got := []string{q.Release, string(q.Services[0].TLS.Cert), string(q.Services[0].TLS.Key), q.Services[0].Env[0].Value, q.Services[0].Env[1].Value,
		q.Services[0].Env[2].Value, q.Databases[0].BinDir, string(q.Databases[0].Roles[0].Password), string(q.Vaults[0].Key), q.Vaults[0].Copies[0].URL}
	want := []string{"/var/lib/holdfast/release", "file:/var/lib/holdfast/c.pem", "file:/var/lib/holdfast/k.pem", "file:/var/lib/holdfast/t", "/var/lib/holdfast/home",
		"$${root}", "/var/lib/holdfast/pg", "file:/var/lib/holdfast/p", "file:/var/lib/holdfast/key", "file:///var/lib/holdfast/vault"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&before, p); diff != "" || p.Vaults[0].Copies[0].URL != "file://${root}/vault" {
		t.Errorf("the plan itself changed:\n%s", diff)
	}
}

func TestLookups(t *testing.T) {
	p := examplePlan(t)
	if h, ok := p.Host("east-2"); !ok || h.Address != "127.20.0.2" {
		t.Errorf("host east-2 = %v, %t", h, ok)
	}
	if _, ok := p.Host("west-1"); ok {
		t.Error("host west-1 was found")
	}
	if s, ok := p.SiteNamed("east"); !ok || s.Name != p.HomeSite().Name {
		t.Errorf("site east = %v, %t", s, ok)
	}
	if b, ok := p.BackupOf("records"); !ok || b.Vault != "main" {
		t.Errorf("backup of records = %v, %t", b, ok)
	}
	d, ok := p.DatabaseNamed("records")
	if !ok || len(p.DatabaseHosts(d)) != 3 {
		t.Errorf("database records = %v, %t on %v", d, ok, p.DatabaseHosts(d))
	}
	if r, name, ok := d.Login(); !ok || r.Name != "clinic" || name != "clinic" {
		t.Errorf("login of records = %v, %q, %t", r, name, ok)
	}
	if s, ok := p.ServiceNamed("reminders"); !ok || !s.Singleton() {
		t.Errorf("service reminders = %v, %t", s, ok)
	}
	if s := p.Vaults[0].Key; s.Kind() != "file" || s.Target() != "${root}/secrets/vault.key" {
		t.Errorf("vault key is %s of %s", s.Kind(), s.Target())
	}
	if (&Plan{}).HomeSite().Name != "" {
		t.Error("an empty plan has a home site")
	}
}
