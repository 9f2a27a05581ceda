package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func reportText(r Report) []byte {
	var b strings.Builder
	for _, o := range r.Outcomes {
		fmt.Fprintf(&b, "%s | %s | %s | %s\n", o.If, o.Subject, o.Verdict, o.Then)
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "\n%d:%d (%s) %s\n", w.Line, w.Column, w.Severity, w.Text())
	}
	return []byte(b.String())
}

func TestCheckGolden(t *testing.T) { golden(t, "example.check", reportText(examplePlan(t).Check())) }

// A text that begins like a mapping's key is written so that it is read as a text again.
func TestShownTextsAreReadAsTheyWere(t *testing.T) {
	text := "application: a\nsites: { s: { hosts: { h1: { address: 10.0.0.1 } } } }\nservices:\n  web:\n    run: [/bin/x, \"? y\"]\n    instances: 1\n    env: { A: \"? !\", B: \"?\", C: \"- \" }\n"
	p, mistakes := Parse("/srv/holdfast.yaml", []byte(text))
	if p == nil {
		t.Fatal(mistakes)
	}
	holdsTogether(t, p)
}

func TestShowGolden(t *testing.T) {
	text, err := examplePlan(t).Show()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "example.shown", text)
}

// Each plan is warned of in exactly these ways; 3:49 is the line and column that a warning points at.
func TestCheckWarnsOfWishesThatDefeatEachOther(t *testing.T) {
	const (
		vault    = "vaults: { v: { key: \"env:K\", copies: { away: \"file:///v\" } } }\n"
		database = "databases: { r: { postgres: 17 } }\n"
		backup   = "backup: { r: { vault: v } }\n"
		web      = "services: { w: { run: /bin/w, instances: 2, port: 81, route: http://x.example, ready: /r } }\n"
	)
	domains := func(names ...string) string {
		var hosts []string
		for i, d := range names {
			hosts = append(hosts, fmt.Sprintf("h%d: { address: 10.0.0.%d, fault_domain: %s }", i, i+1, d))
		}
		return "application: clinic\nsites: { east: { hosts: { " + strings.Join(hosts, ", ") + " } } }\n"
	}
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"nothing is wrong with a whole plan", threeHosts + web + database + vault + backup, nil},
		{"a plan without anything to run", threeHosts, []string{"plan.nothing-to-run 0:0"}},
		{"one host", domains("a") + web[:len("services: { w: { run: /bin/w, ")] + "instances: 1 } }\n", []string{"plan.one-host 2:18", "plan.singleton 3:42"}},
		{"two hosts hold one member of etcd", domains("a", "b") + web, []string{"plan.one-etcd-member 2:18"}},
		{"all hosts in one fault domain", domains("a", "a", "a") + web, []string{"plan.one-fault-domain 2:18"}},
		{"most members of etcd in one fault domain", domains("a", "a", "b") + web, []string{"plan.etcd-majority-in-one-domain 2:18"}},
		{"every host on one machine", strings.ReplaceAll(domains("a", "b", "c"), "10.0.0", "127.9.0") + web, []string{"plan.one-machine 2:18"}},
		{"a second site", threeHosts[:len(threeHosts)-2] + ", west: { hosts: { w: { address: 10.1.0.1 } } } }\n" + web, []string{"plan.site-unused 2:110"}},
		{"a single instance behind a route", threeHosts + strings.Replace(web, "instances: 2", "instances: 1", 1), []string{"plan.singleton-with-route 3:42"}},
		{"a service on one host", threeHosts + "services: { w: { run: /bin/w, hosts: [a] } }\n", []string{"plan.service-on-one-host 3:38"}},
		{"a service in one fault domain", domains("a", "a", "b", "c", "d") + "services: { w: { run: /bin/w, instances: 2, hosts: [h0, h1] } }\n", []string{"plan.service-in-one-domain 3:52"}},
		{"a route without readiness", threeHosts + strings.Replace(web, ", ready: /r", "", 1), []string{"plan.route-without-ready 3:62"}},
		{"https without a certificate of its own", threeHosts + strings.Replace(web, "http:", "https:", 1), []string{"plan.route-own-certificate 3:62"}},
		{"a database without a backup", threeHosts + database, []string{"plan.no-backup 3:14"}},
		{"a database without a standby", threeHosts + "databases: { r: { postgres: 17, standbys: 0 } }\n" + vault + backup, []string{"plan.no-standby 3:43"}},
		{"acknowledgement by nobody", threeHosts + "databases: { r: { postgres: 17, acknowledged_by: 0 } }\n" + vault + backup, []string{"plan.acknowledged-by-none 3:50"}},
		{"a database that takes no writes", threeHosts + "databases: { r: { postgres: 17, parameters: { default_transaction_read_only: on } } }\n" + vault + backup,
			[]string{"plan.read-only 3:47"}},
		{"a database that takes writes, said by hand", threeHosts + "databases: { r: { postgres: 17, parameters: { default_transaction_read_only: off } } }\n" + vault + backup, nil},
		{"readers that may end up on the primary", threeHosts + "databases: { r: { postgres: 17, listen: { read: 5433, read_fallback: primary } } }\n" + vault + backup,
			[]string{"plan.readers-on-the-primary 3:70"}},
		{"commits that are discarded unseen", threeHosts + "databases: { r: { postgres: 17, salvage: { discard: r } } }\n" + vault + backup, []string{"plan.salvage-discards 3:33"}},
		{"commits that are exported", threeHosts + "databases: { r: { postgres: 17, salvage: { export: /lost } } }\n" + vault + backup, nil},
		{"commits that wait for the vault", threeHosts + "databases: { r: { postgres: 17, acknowledged_by_vault: strict } }\n" + vault + backup, []string{"plan.writes-wait-for-vault 3:56"}},
		{"commits that wait for a vault, but not for ever", threeHosts + "databases: { r: { postgres: 17, acknowledged_by_vault: relaxed } }\n" + vault + backup, nil},
		{"commits that wait for a copy in the home site", threeHosts + "databases: { r: { postgres: 17, acknowledged_by_vault: relaxed } }\n" + strings.Replace(vault, "away", "east", 1) + backup,
			[]string{"plan.acknowledged-by-copy-in-home-site 3:56", "plan.copies-in-home-site 4:30"}},
		{"two nodes", threeHosts + "databases: { r: { postgres: 17, standbys: 1 } }\n" + vault + backup, []string{"plan.writes-stop-after-failover 3:43"}},
		{"acknowledgement by all", threeHosts + "databases: { r: { postgres: 17, acknowledged_by: 2 } }\n" + vault + backup, []string{"plan.writes-stop-after-failover 3:50"}},
		{"a vault that nothing goes to", threeHosts + web + vault, []string{"plan.vault-unused 4:11"}},
		{"the only copy in the home site", threeHosts + database + strings.Replace(vault, "away", "east", 1) + backup, []string{"plan.copies-in-home-site 4:30"}},
		{"the only copy below the root of real hosts", threeHosts + database + strings.Replace(vault, "///v", "//${root}/v", 1) + backup,
			[]string{"plan.copies-in-home-site 4:30", "plan.copy-on-hosts-disk 4:40"}},
		{"the key below the root", threeHosts + database + strings.Replace(vault, "env:K", "file:${root}/k", 1) + backup, []string{"plan.vault-key-beside-data 4:21"}},
		{"the key inside a copy", threeHosts + database + strings.Replace(vault, "env:K", "file:/v/k", 1) + backup, []string{"plan.vault-key-inside-copy 4:21"}},
		{"an rpo without a copy elsewhere", threeHosts + database + strings.Replace(vault, "away", "east", 1) + backup + "objectives: { rpo: 1m }\n",
			[]string{"plan.copies-in-home-site 4:30", "plan.rpo-without-copy-elsewhere 6:20"}},
		{"an rpo below the backup interval, without the log", threeHosts + database + vault + "backup: { r: { pitr: none } }\nobjectives: { rpo: 1h }\n",
			[]string{"plan.rpo-below-backup-interval 5:22"}},
		{"an rpo above the backup interval, without the log", threeHosts + database + vault + "backup: { r: { pitr: none, full: every 1h } }\nobjectives: { rpo: 2h }\n", nil},
		{"an rpo with the log streamed", threeHosts + database + vault + backup + "objectives: { rpo: 1m }\n", nil},
		{"an rto", threeHosts + database + vault + "backup: { r: { full: Sunday 04:00 } }\nobjectives: { rto: 1h }\n",
			[]string{"plan.rto-long-replay 5:22", "plan.rto-by-hand 6:20"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, w := range mustParse(t, c.text).Check().Warnings {
				got = append(got, fmt.Sprintf("%s %d:%d", w.Code, w.Line, w.Column))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckSaysWhatMisfortunesDo(t *testing.T) {
	hosts := func(n, domains int) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf("h%d: { address: 10.0.0.%d, fault_domain: d%d }", i, i+1, i%domains))
		}
		return "application: x\nsites: { east: { hosts: { " + strings.Join(all, ", ") + " } } }\n"
	}
	const kept = "vaults: { v: { key: \"env:K\", copies: { away: \"file:///v\" } } }\nbackup: { r: {} }\n"
	for _, c := range []struct {
		name, text, event, subject string
		want                       Verdict
	}{
		{"three hosts survive one", hosts(3, 3) + "databases: { r: { postgres: 17 } }\n", "any one host dies", "database r", Survives},
		{"three hosts wait for two", hosts(3, 3) + "databases: { r: { postgres: 17 } }\n", "any two hosts die at once", "database r", Waits},
		{"five hosts with four standbys survive two", hosts(5, 5) + "databases: { r: { postgres: 17, standbys: 4 } }\n", "any two hosts die at once", "database r", Survives},
		{"five hosts with three standbys wait for acknowledgements after two", hosts(5, 5) + "databases: { r: { postgres: 17, standbys: 3 } }\n", "any two hosts die at once", "database r", Waits},
		{"two hosts wait", hosts(2, 2) + "databases: { r: { postgres: 17 } }\n", "any one host dies", "database r", Waits},
		{"acknowledgement by nobody loses", hosts(3, 3) + "databases: { r: { postgres: 17, acknowledged_by: 0 } }\n", "any one host dies", "database r", Loses},
		{"one host waits for its own return", hosts(1, 1) + "databases: { r: { postgres: 17 } }\n", "any one host dies", "database r", Waits},
		{"a whole fault domain of two hosts is survived", hosts(6, 3) + "databases: { r: { postgres: 17 } }\n", "fault domain d1 dies", "database r", Survives},
		{"a site's death loses the last seconds with a copy elsewhere", hosts(3, 3) + "databases: { r: { postgres: 17 } }\n" + kept, "site east dies", "database r", Loses},
		{"a site's death loses nothing that waited for the vault", hosts(3, 3) + "databases: { r: { postgres: 17, acknowledged_by_vault: strict } }\n" + kept, "site east dies", "database r", Waits},
		{"deleted rows come back with the log", hosts(3, 3) + "databases: { r: { postgres: 17 } }\n" + kept, "somebody deletes rows", "database r", Survives},
		{"deleted rows are gone without a backup", hosts(3, 3) + "databases: { r: { postgres: 17 } }\n", "somebody deletes rows", "database r", Loses},
		{"a singleton moves", hosts(3, 3) + "services: { w: { run: /bin/w } }\n", "any one host dies", "service w", Survives},
		{"a singleton on one host waits", hosts(3, 3) + "services: { w: { run: /bin/w, hosts: [h1] } }\n", "any one host dies", "service w", Waits},
		{"a singleton waits for etcd", hosts(2, 2) + "services: { w: { run: /bin/w } }\n", "any one host dies", "service w", Waits},
		{"two instances go on without etcd", hosts(2, 2) + "services: { w: { run: /bin/w, instances: 2 } }\n", "any one host dies", "service w", Survives},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := mustParse(t, c.text).Check().Outcomes
			i := slices.IndexFunc(all, func(o Outcome) bool { return o.If == c.event && o.Subject == c.subject })
			if i < 0 {
				t.Fatalf("nothing is said of %s when %s: %v", c.subject, c.event, all)
			}
			if all[i].Verdict != c.want {
				t.Errorf("%s, said %q; want %s", all[i].Verdict, all[i].Then, c.want)
			}
		})
	}
}

func TestDatabasePlacementSpreadsOverFaultDomains(t *testing.T) {
	p := mustParse(t, `application: x
sites:
  east:
    hosts:
      a: { address: 10.0.0.1, fault_domain: r1 }
      b: { address: 10.0.0.2, fault_domain: r1 }
      c: { address: 10.0.0.3, fault_domain: r2 }
      d: { address: 10.0.0.4, fault_domain: r3 }
databases: { r: { postgres: 17, hosts: [b, a, d, c] } }
`)
	if got := hostNames(p.DatabasePlacement(p.Databases[0])); got != "b, d, c" {
		t.Errorf("placed on %s, want b, d, c", got)
	}
}
