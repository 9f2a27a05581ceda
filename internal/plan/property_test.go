package plan

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"pgregory.net/rapid"

	"holdfast/internal/problem"
)

// genPlan writes a plan without mistakes.
func genPlan(t *rapid.T) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	maybe := func(label, format string, args ...any) {
		if rapid.Bool().Draw(t, label) {
			line(format, args...)
		}
	}
	line("application: app")
	maybe("rpo", "objectives: { rpo: %ds, rto: 15m }", rapid.IntRange(1, 100000).Draw(t, "rpo seconds"))
	hosts := rapid.IntRange(1, 7).Draw(t, "hosts")
	domains := rapid.IntRange(1, 4).Draw(t, "domains")
	line("sites:\n  east:\n    hosts:")
	for i := range hosts {
		line("      h%d: { address: 10.0.0.%d, fault_domain: d%d }", i, i+1, i%domains)
	}
	maybe("second site", "  west: { hosts: { w1: { address: 10.0.1.1 } } }")
	line("release: %s", rapid.SampledFrom([]string{"./build", "/srv/x.tar.gz", "${root}/release"}).Draw(t, "release"))
	databases := rapid.IntRange(0, 3).Draw(t, "databases")
	if services := rapid.IntRange(0, 3).Draw(t, "services"); services > 0 {
		line("services:")
		for i := range services {
			line("  s%d:\n    run: %s", i, rapid.SampledFrom([]string{"bin/x a b", `[bin/x, "a b"]`, `"sh -c 'a && b'"`}).Draw(t, "run"))
			line("    instances: %d", rapid.IntRange(1, hosts).Draw(t, "instances"))
			line("    port: %d", 8000+i)
			maybe("route", "    route: %s", rapid.SampledFrom([]string{"none", fmt.Sprintf("https://s%d.example", i), fmt.Sprintf("tcp://:%d", 9000+i)}).Draw(t, "route to"))
			maybe("ready", "    ready: /readyz")
			maybe("live", "    live: { exec: [bin/check, \"a 'b\"], every: 1500ms, start_for: 2m }")
			value := rapid.StringMatching(`[ -~]{0,20}`).Filter(func(s string) bool { return !strings.Contains(s, "${") && !strings.Contains(s, "@") && !IsSecret(s) }).Draw(t, "value")
			line("    env: { TEXT: %q, TOKEN: \"env:TOKEN\", ROOT: \"${root}/x\" }", value)
		}
	}
	if databases > 0 {
		line("databases:")
		for i := range databases {
			standbys := rapid.IntRange(0, hosts-1).Draw(t, "standbys")
			line("  db%d:\n    postgres: %d\n    standbys: %d", i, rapid.IntRange(14, 18).Draw(t, "postgres"), standbys)
			maybe("acknowledged", "    acknowledged_by: %d", rapid.IntRange(0, standbys).Draw(t, "acknowledged by"))
			maybe("parameters", "    parameters: { work_mem: 8MB, max_connections: %d }", rapid.IntRange(10, 500).Draw(t, "connections"))
			line("    roles: { app: { password: \"exec:/bin/pw db%d\", owns: [one, two] }, other: { password: \"file:pw\" } }", i)
		}
		line("vaults: { v: { key: \"env:K\", copies: { east: \"file:///v/east\", %s: \"file:///v/away\" } } }", rapid.SampledFrom([]string{"west", "away"}).Draw(t, "copy"))
		line("backup:")
		for i := range databases {
			line("  db%d: { full: %q, pitr: %s }", i, rapid.SampledFrom([]string{"daily 01:00", "Sunday 04:00", "every 6h"}).Draw(t, "full"), rapid.SampledFrom([]string{"14d", "none", "36h"}).Draw(t, "pitr"))
		}
	}
	return b.String()
}

// A good plan, whatever it holds: showing it and reading that gives the same plan, the schema takes it,
// it differs in nothing from itself, and every warning says what it means and what to do.
func TestGoodPlansHoldTogether(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := genPlan(t)
		p, mistakes := Parse("/srv/holdfast.yaml", []byte(text))
		if p == nil {
			t.Fatalf("%v\n%s", mistakes, text)
		}
		holdsTogether(t, p)
		if err := againstSchema([]byte(text)); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if c := Diff(p, p); len(c) > 0 {
			t.Fatalf("differs from itself: %v", c)
		}
	})
}

// An outcome never promises more than the rules of elections allow: a database that survives the death of
// any n hosts has more than n members of etcd to decide with, and n of its standbys hold each commit.
func TestOutcomesPromiseNoMoreThanTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, mistakes := Parse("/srv/holdfast.yaml", []byte(genPlan(t)))
		if p == nil {
			t.Fatal(mistakes)
		}
		for _, o := range p.Check().Outcomes {
			dead := map[string]int{"any one host dies": 1, "any two hosts die at once": 2}[o.If]
			d, isDatabase := p.DatabaseNamed(strings.TrimPrefix(o.Subject, "database "))
			if dead == 0 || !isDatabase || o.Verdict != Survives {
				continue
			}
			if d.AcknowledgedBy < dead {
				t.Fatalf("%+v survives %d dead hosts, said %q", d, dead, o.Then)
			}
			if members := len(p.HomeSite().EtcdHosts()); members-dead <= members/2 {
				t.Fatalf("%d of %d members of etcd decide, said %q", members-dead, members, o.Then)
			}
			if d.Standbys-dead < d.AcknowledgedBy {
				t.Fatalf("%+v can acknowledge nothing after %d dead hosts, said %q", d, dead, o.Then)
			}
		}
	})
}

func holdsTogether(t interface{ Fatalf(string, ...any) }, p *Plan) {
	shown, err := p.Show()
	if err != nil {
		t.Fatalf("show: %v", err)
	}
	again, mistakes := Parse(p.File, shown)
	if again == nil {
		t.Fatalf("what Show gives is no plan: %v\n%s", mistakes, shown)
	}
	if diff := cmp.Diff(p, again, sameWishes); diff != "" {
		t.Fatalf("shown and read again (-before +after):\n%s\n%s", diff, shown)
	}
	for _, w := range p.Check().Warnings {
		if !strings.HasPrefix(w.Code, "plan.") || w.Subject == "" || w.Title == "" || w.Meaning == "" || w.Remedy == "" || rank(w.Severity) < rank(problem.Note) {
			t.Fatalf("warning lacks something: %+v", w)
		}
	}
	Diff(nil, p)
	p.WithRoot("/var/lib/holdfast")
}

// Whatever bytes a plan file has, Parse gives a plan or at least one mistake with a place, and never panics.
func FuzzParse(f *testing.F) {
	archive, err := txtar.ParseFile(filepath.Join("testdata", "mistakes.txtar"))
	if err != nil {
		f.Fatal(err)
	}
	for i := 0; i < len(archive.Files); i += 2 {
		f.Add(archive.Files[i].Data)
	}
	example, err := os.ReadFile(filepath.Join("..", "..", "examples", "clinic", "holdfast.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Fuzz(func(t *testing.T, src []byte) {
		p, mistakes := Parse("/srv/holdfast.yaml", src)
		if (p == nil) == (len(mistakes) == 0) {
			t.Fatalf("plan %v and %d mistakes", p, len(mistakes))
		}
		lines := strings.Count(string(src), "\n") + strings.Count(string(src), "\r") + 1
		for _, m := range mistakes {
			if m.Line < 1 || m.Column < 1 || m.Line > lines || m.What == "" {
				t.Fatalf("%s: no place in a file of %d lines", m, lines)
			}
		}
		if p != nil {
			holdsTogether(t, p)
		}
	})
}
