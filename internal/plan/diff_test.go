package plan

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const diffBase = `application: clinic
sites:
  east:
    hosts:
      a: { address: 10.0.0.1 }
      b: { address: 10.0.0.2 }
      c: { address: 10.0.0.3 }
release: ./build
services:
  web: { run: bin/web, instances: 2, port: 8080, route: http://x.example, ready: /r, env: { A: "1", TOKEN: "env:OLD" } }
  mail: { run: bin/mail }
databases:
  records: { postgres: 15, standbys: 1, parameters: { work_mem: 4MB, max_connections: 100 }, roles: { app: { password: "env:P", owns: [one] } } }
vaults:
  main: { key: "env:K", copies: { east: "file:///v" } }
backup:
  records: { full: daily 01:00 }
`

func TestDiffSaysWhatWouldHappen(t *testing.T) {
	for _, c := range []struct {
		name     string
		from, to string // what is replaced in the plan
		want     []string
	}{
		{"nothing", "", "", nil},
		{"words alone", "application: clinic\n", "# a comment\napplication: clinic\n", nil},
		{"a new release restarts services one at a time", "./build", "./build-2", []string{
			"restart service web: the release changed; instances restart one at a time, the first alone until it is ready",
			"restart service mail: the release changed; its one instance restarts, with an outage of seconds"}},
		{"a secret's reference is named, not shown", "env:OLD", "env:NEW", []string{
			"restart service web: TOKEN changed; instances restart one at a time, the first alone until it is ready"}},
		{"more instances", "instances: 2", "instances: 3", []string{"start service web: 1 instance starts more"}},
		{"fewer instances", "instances: 2", "instances: 1", []string{"stop service web: 1 instance is stopped after draining (1 left)"}},
		{"another check", "ready: /r", "ready: /ready", []string{"reload service web: its check ready changes (/ready, was /r)"}},
		{"another route", "route: http://x.example", "route: http://y.example", []string{
			"stop service web: its route becomes http://y.example (was http://x.example); clients of the old one are drained"}},
		{"a service less", "  mail: { run: bin/mail }\n", "", []string{
			"stop service mail: its instance is stopped; its logs stay on the hosts until somebody deletes them"}},
		{"a service more", "  mail:", "  post: { run: bin/post x }\n  mail:", []string{"start service post: 1 instance starts: bin/post x"}},
		{"a host more", "      c: { address: 10.0.0.3 }", "      c: { address: 10.0.0.3 }\n      d: { address: 10.0.0.4 }", []string{"start host d: it joins at 10.0.0.4"}},
		{"a host less", "      c: { address: 10.0.0.3 }\n", "", []string{
			"stop host c: it leaves the plan; what runs on it starts elsewhere, and its data stay on its disk",
			"stop host b: its member of etcd leaves the group"}},
		{"another address", "10.0.0.3", "10.0.0.9", []string{"restart host c: its address becomes 10.0.0.9 (was 10.0.0.3); everything on it restarts"}},
		{"a standby more", "standbys: 1", "standbys: 2", []string{"start database records: a standby is made on c beside what runs"}},
		{"a parameter that is reloaded", "work_mem: 4MB", "work_mem: 8MB", []string{"reload database records: work_mem: taken over while it runs"}},
		{"a parameter that needs a restart", "max_connections: 100", "max_connections: 200", []string{
			"pending database records: max_connections: PostgreSQL reads it at start; shown as pending until: holdfast database restart records --pending (standbys one at a time, then a switchover)"}},
		{"another major version", "postgres: 15", "postgres: 16", []string{
			"refused database records: PostgreSQL 15 becomes 16; an upgrade between major versions is not available in this version"}},
		{"a database before another one moves its ports", "databases:\n", "databases:\n  first: { postgres: 15, listen: { write: 5000 } }\n", []string{
			"start database first: PostgreSQL 15 starts with a primary and 2 standbys, on port 5000 of each host",
			"pause database records: its place among the databases changes from 1 to 2, and with it the ports of its servers: they restart, and clients wait meanwhile (add new databases at the end)",
			"reload database records: its port becomes 5433 (was 5432); no session is cut, and the former port is served for ten minutes more"}},
		{"a read-only listener", "postgres: 15", "postgres: 15, listen: { read: 5500 }", []string{
			"start database records: port 5500 of each host spreads read-only sessions over its standbys"}},
		{"the kernel's path", "postgres: 15", "postgres: 15, listen: { path: kernel }", []string{
			"reload database records: new sessions of each host's own programs reach the primary by path kernel (was proxy); those that there are go on"}},
		{"a role's possessions", "owns: [one]", "owns: [two]", []string{
			"start database records: role app owns two too; it is made if it is missing",
			"nothing database records: role app need not own one any more; what is there is kept"}},
		{"another copy", "file:///v", "file:///w", []string{
			"start vault main: copy east moves to file:///w and is filled from the others; what lies at the old place is kept"}},
		{"a copy more", "copies: { east: \"file:///v\" }", "copies: { east: \"file:///v\", west: \"file:///w\" }", []string{
			"start vault main: copy west is made at file:///w and filled from the others"}},
		{"another schedule", "daily 01:00", "every 6h", []string{"reload backup of records: its full backups are made every 6h (was daily 01:00)"}},
		{"shorter keeping", "full: daily 01:00", "full: daily 01:00, pitr: 7d", []string{
			"reload backup of records: it keeps any moment of 7d and weekly backups of 2y (was 14d, 2y); what is older expires, except the last proven backup"}},
		{"no backup any more", "backup:\n  records: { full: daily 01:00 }\n", "", []string{
			"stop backup of records: no backup is made any more; those there are stay in vault main"}},
		{"objectives", "release: ./build", "release: ./build\nobjectives: { rpo: 1m }", []string{
			"nothing application clinic: its objectives change; status and alarms measure by the new ones"}},
		{"Holdfast's own ports", "release: ./build", "release: ./build\nports: { agent: 7500 }", []string{
			"pause application clinic: Holdfast's own ports change; agents, gates and database servers restart, and clients wait meanwhile"}},
		{"another fault domain", "10.0.0.3 }", "10.0.0.3, fault_domain: rack }", []string{
			"nothing host c: its fault domain becomes rack (was c); instances are spread anew, one at a time"}},
		{"a host that changes its site", "      c: { address: 10.0.0.3 }\n", "      d: { address: 10.0.0.4 }\n  west: { hosts: { c: { address: 10.0.0.3 } } }\n", []string{
			"start host d: it joins at 10.0.0.4",
			"refused host c: it moves from site east to west; take it out under this name and add it there under a new one"}},
		{"another port of a service", "port: 8080", "port: 8081", []string{
			"restart service web: port changed; instances restart one at a time, the first alone until it is ready"}},
		{"another command, and a variable less", "run: bin/web, instances: 2, port: 8080, route: http://x.example, ready: /r, env: { A: \"1\", TOKEN", "run: bin/web -v, instances: 2, port: 8080, route: http://x.example, ready: /r, env: { TOKEN", []string{
			"restart service web: run, A changed; instances restart one at a time, the first alone until it is ready"}},
		{"a second instance of a singleton", "run: bin/mail", "run: bin/mail, instances: 2", []string{
			"start service mail: 1 instance starts more: two may now run at once"}},
		{"checks of other kinds", "run: bin/mail", "run: bin/mail, port: 25, live: { exec: bin/check }, ready: { tcp: true }", []string{
			"restart service mail: port changed; its one instance restarts, with an outage of seconds",
			"reload service mail: its check live changes (bin/check, was none)",
			"reload service mail: its check ready changes (tcp, was none)"}},
		{"a first route, with a certificate", "run: bin/mail", "run: bin/mail, port: 25, route: https://m.example, tls: { certificate: file:c, key: file:k }", []string{
			"restart service mail: port changed; its one instance restarts, with an outage of seconds",
			"reload service mail: its route becomes https://m.example (was none)",
			"reload service mail: its certificate comes from another place; new connections get it"}},
		{"longer grace on fewer hosts", "run: bin/mail", "run: bin/mail, stop_grace: 1m, hosts: [a, b]", []string{
			"reload service mail: stop_grace becomes 1m (was 10s)",
			"restart service mail: it may run on a, b (was any host); instances elsewhere move one at a time"}},
		{"a key from elsewhere", "env:K", "env:L", []string{"reload vault main: its key is read from another place; it must be the same key"}},
		{"a copy less", "copies: { east: \"file:///v\" }", "copies: { west: \"file:///w\" }", []string{
			"stop vault main: copy east gets nothing new; what it holds is kept",
			"start vault main: copy west is made at file:///w and filled from the others"}},
		{"another vault", "vaults:\n  main:", "vaults:\n  other:", []string{
			"stop vault main: nothing is written to it or expires in it; its copies stay where they are until somebody deletes them",
			"start vault other: it is made in 1 place",
			"start backup of records: it goes to vault other (was main), beginning with a full backup; the old ones are kept"}},
		{"commits that wait for the vault", "standbys: 1,", "standbys: 1, acknowledged_by_vault: strict,", []string{
			"reload database records: commits wait for the vault too (strict), once it has everything"}},
		{"programs of PostgreSQL, hosts and acknowledgement", "standbys: 1,", "standbys: 1, acknowledged_by: 0, bin_dir: /opt/pg, hosts: [a, b],", []string{
			"pending database records: its programs lie in /opt/pg (was the usual place); what runs goes on until: holdfast database restart records --pending",
			"reload database records: a commit is acknowledged by 0 (was 1)",
			"nothing database records: it may lie on a, b (was any host)"}},
		{"how standbys take part", "standbys: 1,", "standbys: 1, policy: relaxed, members: { b: { promote: high }, a: {} },", []string{
			"reload database records: as a standby b is synchronous, promote high (was synchronous)",
			"reload database records: its policy becomes relaxed: with too few standbys commits are acknowledged by fewer"}},
		{"fewer standbys", "standbys: 1,", "standbys: 0,", []string{
			"stop database records: its copy on b is stopped, data kept; if it is the primary it stays until a switchover",
			"reload database records: a commit is acknowledged by 0 (was 1)"}},
		{"roles", "roles: { app: { password: \"env:P\", owns: [one] } }", "roles: { app: { password: \"env:Q\", owns: [one] }, more: { password: \"env:R\", owns: [two] }, some: { password: \"env:S\" } }", []string{
			"reload database records: the password of role app is read from another place; where it is another one, new sessions with the former are refused",
			"start database records: role more is made, and owns two",
			"start database records: role some is made"}},
		{"a role less", "roles: { app: { password: \"env:P\", owns: [one] } }", "", []string{
			"stop database records: role app may not log in any more; its sessions go on, and it and what it owns are kept"}},
		{"a parameter less", "work_mem: 4MB, ", "", []string{"reload database records: work_mem: taken over while it runs"}},
		{"a database less", diffBase[strings.Index(diffBase, "databases:"):], "", []string{
			"stop database records: its primary and 1 standby are stopped; their data stay on the hosts until somebody deletes them",
			"stop vault main: nothing is written to it or expires in it; its copies stay where they are until somebody deletes them",
			"stop backup of records: no backup is made any more; those there are stay in vault main"}},
		{"another application", "application: clinic", "application: other", []string{
			"refused application clinic: its name becomes other; data of one application are never taken over by another: adopt or restore them there"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(diffBase, c.from) {
				t.Fatalf("the plan holds no %q", c.from)
			}
			var got []string
			for _, change := range Diff(mustParse(t, diffBase), mustParse(t, strings.Replace(diffBase, c.from, c.to, 1))) {
				got = append(got, fmt.Sprintf("%s %s: %s", change.Effect, change.Subject, change.What))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
		})
	}
}

// A vault that holds no base backup yet cannot be waited for.
func TestDiffSaysWhatCommitsDoWhileTheyHaveAnotherVault(t *testing.T) {
	for mode, want := range map[string]string{
		"strict":  "; commits wait until that backup is stored there",
		"relaxed": "; until that backup is stored there commits are acknowledged without the vault",
	} {
		old := strings.Replace(diffBase, "standbys: 1,", "standbys: 1, acknowledged_by_vault: "+mode+",", 1)
		found := false
		for _, c := range Diff(mustParse(t, old), mustParse(t, strings.Replace(old, "vaults:\n  main:", "vaults:\n  other:", 1))) {
			found = found || c.Subject == "backup of records" && strings.HasSuffix(c.What, "the old ones are kept"+want)
		}
		if !found {
			t.Errorf("%s: it is not said", mode)
		}
	}
}

func TestDiffOfAFirstStartNamesEverything(t *testing.T) {
	var b strings.Builder
	for _, c := range Diff(nil, examplePlan(t)) {
		fmt.Fprintln(&b, c)
	}
	golden(t, "example.first-start", []byte(b.String()))
}
