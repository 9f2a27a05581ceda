package holdfast_test

import (
	"go/ast"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A rule that cannot fail is no rule: each one is shown a violation here, and its lawful twin.
func TestLayoutCatchesWhatIsPlanted(t *testing.T) {
	const doc = "// Package x is documented.\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  []string // part of each breach, in order; none = lawful
	}{
		{"a pure room opens a file",
			map[string]string{"internal/plan/x.go": doc + `package plan; import _ "os"`}, []string{"internal/plan/x.go:2: internal/plan imports os"}},
		{"a test of a pure room may open a file",
			map[string]string{"internal/plan/x.go": doc + `package plan`, "internal/plan/x_test.go": `package plan; import _ "os"`}, nil},
		{"a pure room may read addresses",
			map[string]string{"internal/plan/x.go": doc + `package plan; import (_ "net/netip"; _ "net/url")`}, nil},
		{"a pure room logs, dials and rolls dice",
			map[string]string{"internal/edge/x.go": doc + `package edge; import (_ "log/slog"; _ "net"; _ "net/http/httputil"; _ "math/rand/v2"; _ "os/exec")`},
			[]string{"imports log/slog", "imports net\n", "imports net/http/httputil", "imports math/rand/v2", "imports os/exec"}},
		{"a room below a pure one is judged by its own row",
			map[string]string{"internal/backup/retention/x.go": doc + `package retention; import _ "os"`, "internal/backup/x.go": doc + `package backup; import _ "os"`},
			[]string{"internal/backup/retention imports os"}},
		{"a decision reads the clock",
			map[string]string{"internal/database/x.go": doc + "package database\nimport \"time\"\nvar t = time.Now()"}, []string{"x.go:4: uses time.Now"}},
		{"a decision reads the clock under another name",
			map[string]string{"internal/database/x.go": doc + "package database\nimport uhr \"time\"\nvar f = uhr.Since"}, []string{"uses uhr.Since"}},
		{"a decision hides the clock behind a dot",
			map[string]string{"internal/database/x.go": doc + "package database\nimport . \"time\"\nvar f = Now"}, []string{"imports time with a dot"}},
		{"a decision waits through its context",
			map[string]string{"internal/service/x.go": doc + "package service\nimport \"context\"\nvar f = context.WithTimeout"}, []string{"uses context.WithTimeout"}},
		{"a decision may speak of durations",
			map[string]string{"internal/database/x.go": doc + "package database\nimport \"time\"\nvar d = 4 * time.Second"}, nil},
		{"a decision starts a goroutine",
			map[string]string{"internal/service/x.go": doc + "package service\nfunc f() { go f() }"}, []string{"x.go:3: starts a goroutine"}},
		{"the simulator starts a goroutine and sleeps",
			map[string]string{"sim/x.go": doc + "package sim\nimport \"time\"\nfunc f() { go f(); time.Sleep(1) }"}, []string{"starts a goroutine", "uses time.Sleep"}},
		{"the simulator runs a real driver",
			map[string]string{"sim/x.go": doc + `package sim; import _ "holdfast/internal/database/postgres"`},
			[]string{"sim imports internal/database/postgres", "imports the driver internal/database/postgres"}},
		{"the simulator may use the store in memory and seeded dice",
			map[string]string{"sim/x.go": doc + `package sim; import (_ "holdfast/internal/cluster/memory"; _ "math/rand/v2")`}, nil},
		{"a judging room asks the cluster",
			map[string]string{"internal/database/x.go": doc + `package database; import _ "holdfast/internal/cluster"`}, []string{"internal/database imports internal/cluster"}},
		{"a restore needs the cluster",
			map[string]string{"internal/restore/x.go": doc + `package restore; import _ "holdfast/internal/cluster"`}, []string{"internal/restore imports internal/cluster"}},
		{"a restore needs the agent",
			map[string]string{"internal/restore/x.go": doc + `package restore; import _ "holdfast/internal/agent"`}, []string{"internal/restore imports internal/agent"}},
		{"a restore may read the vault and everything in it",
			map[string]string{"internal/restore/x.go": doc + `package restore; import (_ "holdfast/internal/vault"; _ "holdfast/internal/vault/wal")`}, nil},
		{"a keeper knows what a problem is",
			map[string]string{"internal/keeper/x.go": doc + `package keeper; import _ "holdfast/internal/problem"`}, []string{"internal/keeper imports internal/problem"}},
		{"a keeper may use x/sys, but not x/sync",
			map[string]string{"internal/keeper/x.go": doc + `package keeper; import (_ "golang.org/x/sys/unix"; _ "golang.org/x/sync/errgroup")`}, []string{"internal/keeper imports golang.org/x/sync/errgroup"}},
		{"the agent knows a driver",
			map[string]string{"internal/agent/x.go": doc + `package agent; import _ "holdfast/internal/edge/proxy"`},
			[]string{"internal/agent imports internal/edge/proxy", "imports the driver internal/edge/proxy"}},
		{"the agent's test knows a driver",
			map[string]string{"internal/agent/x.go": doc + `package agent`, "internal/agent/x_test.go": `package agent; import _ "holdfast/internal/edge/proxy"`}, []string{"imports the driver internal/edge/proxy"}},
		{"a driver knows another room's driver",
			map[string]string{"internal/edge/proxy/x.go": doc + `package proxy; import _ "holdfast/internal/database/gate"`},
			[]string{"internal/edge/proxy imports internal/database/gate", "imports the driver internal/database/gate"}},
		{"a driver's test may stand on the driver beside it",
			map[string]string{"internal/database/postgres/x.go": doc + `package postgres`, "internal/database/postgres/x_test.go": `package postgres; import _ "holdfast/internal/database/gate"`}, nil},
		{"the assembler may know every driver, but no command",
			map[string]string{"internal/host/x.go": doc + `package host; import (_ "holdfast/internal/edge/proxy"; _ "holdfast/internal/cli")`}, []string{"internal/host imports internal/cli"}},
		{"main does more than call the command line",
			map[string]string{"cmd/holdfast/x.go": doc + `package main; import _ "holdfast/internal/host"`}, []string{"cmd/holdfast imports internal/host"}},
		{"the example application knows Holdfast",
			map[string]string{"examples/clinic/web/x.go": doc + `package web; import _ "holdfast/internal/database"`}, []string{"examples/clinic/web imports internal/database"}},
		{"an engine is used outside its room",
			map[string]string{"internal/backup/x.go": doc + `package backup; import _ "github.com/minio/minio-go/v7"`}, []string{"internal/backup imports github.com/minio/minio-go/v7"}},
		{"an engine is used outside its room by a test",
			map[string]string{"internal/host/x.go": doc + `package host`, "internal/host/x_test.go": `package host; import _ "go.etcd.io/etcd/client/v3"`}, []string{"internal/host imports go.etcd.io/etcd/client/v3"}},
		{"an engine is used inside its room",
			map[string]string{"internal/vault/s3store/x.go": doc + `package s3store; import _ "github.com/minio/minio-go/v7"`}, nil},
		{"a module that nobody asked for",
			map[string]string{"internal/vault/x.go": doc + `package vault; import _ "example.com/left/pad"`}, []string{"imports example.com/left/pad, which belongs to no room"}},
		{"a module whose name only begins alike",
			map[string]string{"internal/vault/x.go": doc + `package vault; import _ "github.com/zeebo/blake3x"`}, []string{"github.com/zeebo/blake3x, which belongs to no room"}},
		{"a tool of tests is linked into the program",
			map[string]string{"internal/vault/x.go": doc + `package vault; import _ "pgregory.net/rapid"`}, []string{"imports pgregory.net/rapid outside tests"}},
		{"a conformance suite may use the tools of tests",
			map[string]string{"internal/cluster/clustertest/x.go": doc + `package clustertest; import _ "github.com/google/go-cmp/cmp"`}, nil},
		{"a new folder without a row",
			map[string]string{"internal/surprise/x.go": doc + `package surprise`}, []string{"internal/surprise has no row"}},
		{"a folder whose name says nothing, even when it holds no code itself",
			map[string]string{"internal/vault/helpers/deep/x.go": doc + `package deep`}, []string{"internal/vault/helpers: is called helpers"}},
		{"a package without a word about itself",
			map[string]string{"internal/vault/x.go": `package vault`}, []string{"internal/vault: has no package comment"}},
		{"a package that is described twice",
			map[string]string{"internal/vault/x.go": doc + `package vault`, "internal/vault/y.go": doc + `package vault`}, []string{"has package comments in internal/vault/x.go and internal/vault/y.go"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			expectBreaches(t, layoutBreaches(parseAll(t, c.files)), c.want)
		})
	}
}

// The first reader of a breach has never seen this file.
func TestABreachExplainsItself(t *testing.T) {
	got := layoutBreaches(parseAll(t, map[string]string{"internal/plan/x.go": "// Package plan is planted.\npackage plan\n\nimport _ \"os\""}))
	want := []string{`internal/plan/x.go:4: internal/plan imports os
  Rule: a room that judges touches nothing: equal arguments, equal answer, in the agent, in a dry run and in the simulator.
  Do: take what is needed as an argument and return reasons instead of logging them; effects live in the room's driver folders.`}
	var said []string
	for _, b := range got {
		said = append(said, b.String())
	}
	if d := cmp.Diff(want, said); d != "" {
		t.Errorf("breaches (-want +got):\n%s", d)
	}
}

// A row about a folder that nobody has, or an engine that nobody uses, protects nothing and reads as if it did.
func TestEveryRowOfTheLayoutIsNeeded(t *testing.T) {
	tree := readTree(t, ".")
	used := map[string]bool{}
	for _, s := range tree {
		if r, ok := roomOf(s.folder()); ok {
			used[r.folder] = true
		}
		s.imports(func(_ *ast.ImportSpec, name string) {
			for _, f := range fences {
				if covers(f.module+"/...", name) {
					used[f.module] = true
				}
			}
		})
	}
	for _, r := range rooms {
		if !used[r.folder] {
			t.Errorf("rooms has a row for %s, where no code is: remove it, or mend its name", r.folder)
		}
	}
	for _, f := range fences {
		if !used[f.module] {
			t.Errorf("fences has a row for %s, which nobody imports: remove it", f.module)
		}
	}
	for _, d := range driverFolders {
		if !used[d] {
			t.Errorf("driverFolders names %s, which has no row in rooms or no code", d)
		}
	}
}

func parseAll(t *testing.T, files map[string]string) []source {
	t.Helper()
	var tree []source
	for _, name := range slices.Sorted(maps.Keys(files)) {
		s, err := parseSource(name, []byte(files[name]))
		if err != nil {
			t.Fatalf("parse the planted %s: %v", name, err)
		}
		tree = append(tree, s)
	}
	return tree
}
