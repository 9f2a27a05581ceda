package main

import (
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const work = "/var/tmp/holdfast-demo-1"

func argv(words ...string) []string { return words }

// machine is what runs beside each other: one demo, another demo, and people who look at its files.
func machine() []process {
	root, env := work+"/data", []string{"PATH=/bin", mark(work)}
	pg := root + "/hosts/east-1/db/records/pgdata"
	return []process{
		{pid: 1, argv: argv("/sbin/init")},
		{pid: 10, parent: 1, argv: argv("bin/demo", "-root", work), dir: "/src"},
		{pid: 11, parent: 10, argv: argv("bin/holdfast", "up", "--root", root, work+"/plan/holdfast.yaml"), env: env},
		{pid: 20, parent: 11, argv: argv("bin/holdfast", "agent", "--plan", "p", "--host", "east-1", "--root", root, "--loopback"), env: env},
		{pid: 21, parent: 11, argv: argv("bin/holdfast", "agent", "--plan", "p", "--host", "east-2", "--root", root, "--loopback"), env: env},
		{pid: 30, parent: 1, argv: argv("bin/holdfast", "keeper", root+"/hosts/east-1/keep/etcd/spec.json"), env: env},
		{pid: 31, parent: 30, argv: argv("bin/holdfast", "etcd-member", root+"/hosts/east-1/keep/etcd.spec.json"), env: env},
		{pid: 32, parent: 1, argv: argv("bin/holdfast", "keeper", root+"/hosts/east-10/keep/etcd/spec.json"), env: env},
		{pid: 40, parent: 1, argv: argv("/usr/lib/postgresql/15/bin/postgres", "-D", pg), dir: pg}, // its keeper is gone
		{pid: 41, parent: 40, argv: argv("postgres: records: checkpointer "), dir: pg},
		{pid: 42, parent: 40, dir: pg}, // a zombie
		{pid: 50, parent: 30, argv: argv(root+"/hosts/east-1/release/1/bin/clinic", "web"), dir: "/"},
		{pid: 60, parent: 1, argv: argv("less", root+"/hosts/east-1/agent.log")},
		{pid: 61, parent: 1, argv: argv("bash"), dir: root + "/hosts/east-1"},
		{pid: 62, parent: 61, argv: argv("vi", "agent.log"), dir: root + "/hosts/east-1"},
		{pid: 70, parent: 1, argv: argv("bin/holdfast", "keeper", work+"0/data/hosts/east-1/keep/etcd/spec.json"), env: []string{mark(work + "0")}},
		{pid: 71, parent: 1, argv: argv("/usr/lib/postgresql/15/bin/postgres", "-D", work+"0/data/hosts/east-1/db/records/pgdata"), dir: work + "0/data/hosts/east-1/db/records/pgdata"},
		{pid: 72, parent: 1, argv: argv("/usr/lib/postgresql/15/bin/postgres", "-D", "/var/lib/postgresql/15/main"), dir: "/var/lib/postgresql/15/main"},
	}
}

func pids(list []process) []int {
	var out []int
	for _, p := range list {
		out = append(out, p.pid)
	}
	return out
}

func TestAHostsProcessesAreItsOwnAndTheAgentIsFirst(t *testing.T) {
	got := pids(ofHost(machine(), place{work: work}, "east-1", 10))
	if got[0] != 20 {
		t.Errorf("the first is %d, not the agent", got[0])
	}
	if diff := cmp.Diff([]int{20, 30, 31, 50, 40, 41}, got); diff != "" {
		t.Error(diff)
	}
}

func TestADemosProcessesAreThoseThatItStarted(t *testing.T) {
	got := pids(ofDemo(machine(), work, 10))
	slices.Sort(got)
	if diff := cmp.Diff([]int{11, 20, 21, 30, 31, 32, 40, 41, 50}, got); diff != "" {
		t.Error(diff)
	}
}

func TestAnInstanceIsFoundByItsProgramOnItsHost(t *testing.T) {
	at := place{work: work}
	if diff := cmp.Diff([]int{50}, pids(running(machine(), at, "east-1", "clinic", "web", 10))); diff != "" {
		t.Error(diff)
	}
	if got := running(machine(), at, "east-2", "clinic", "web", 10); len(got) > 0 {
		t.Errorf("found %v on a host that has none", pids(got))
	}
}

func TestAPathIsMentionedOnlyAsAWhole(t *testing.T) {
	for text, want := range map[string]bool{
		"/a/b": true, "/a/b/c": true, "--dir=/a/b": true, "file:///a/b?x=1": true, "/a/bc": false, "/a/bc:/a/b": true, "/a": false, "": false,
	} {
		if got := (process{argv: []string{"program", text}}).mentions("/a/b"); got != want {
			t.Errorf("%q mentions /a/b: %v, want %v", text, got, want)
		}
	}
}

func TestThisProcessIsReadAsItIs(t *testing.T) {
	all, err := processes()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(p process) bool { return p.pid == os.Getpid() })
	if i < 0 {
		t.Fatal("it is not among the processes")
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if p := all[i]; p.parent != os.Getppid() || p.dir != here || !slices.Equal(p.argv, os.Args) || p.start == "" {
		t.Errorf("read as %+v", p)
	}
	if memory(os.Getpid()) < 1<<20 {
		t.Errorf("its memory is read as %d bytes", memory(os.Getpid()))
	}
}

func TestANameInBracketsDoesNotShiftTheFieldsOfStat(t *testing.T) {
	p, err := parseStat("77 (a ) b) S 12 77 77 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 98765 1000 10 18446744073709551615")
	if err != nil {
		t.Fatal(err)
	}
	if p.parent != 12 || p.ticks != 300 || p.start != "98765" {
		t.Errorf("read as %+v", p)
	}
	if _, err := parseStat("77 (x) S 1"); err == nil {
		t.Error("a short line was accepted")
	}
}
