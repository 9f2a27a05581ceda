package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func filesFor(t *testing.T) options {
	t.Helper()
	program := filepath.Join(t.TempDir(), "clinic")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return options{clinic: program, plan: "../holdfast.yaml"}
}

func TestADirectoryWithSomebodysFilesIsRefusedAndNotTouched(t *testing.T) {
	opt := filesFor(t)
	opt.root = t.TempDir()
	mine := filepath.Join(opt.root, "mine")
	if err := os.WriteFile(mine, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newPlace(opt); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("it was taken: %v", err)
	}
	if entries, err := os.ReadDir(opt.root); err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v (%v) now", entries, err)
	}
}

func TestWhatWasMadeIsRemovedAgain(t *testing.T) {
	opt := filesFor(t)
	opt.root = filepath.Join(t.TempDir(), "new")
	p, err := newPlace(opt)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(opt.root); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}

	opt.root = t.TempDir()
	if p, err = newPlace(opt); err != nil {
		t.Fatal(err)
	}
	if err := p.remove(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(opt.root); err != nil || len(entries) > 0 {
		t.Errorf("an empty directory of somebody else's holds %v (%v) now", entries, err)
	}
}

func TestAnAddressInUseIsNamed(t *testing.T) {
	p := clinicPlan(t, "127.48.1")
	l, err := net.Listen("tcp", "127.48.1.2:5432")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // the test is over
	held := inUse(t.Context(), p)
	if len(held) != 1 || held[0] != "127.48.1.2:5432 (listener of records on east-2): in use by another program" {
		t.Errorf("inUse says %q", held)
	}
}

func TestAllMistakesOfTheCommandLineAreToldAtOnce(t *testing.T) {
	var told strings.Builder
	_, err := parse([]string{"-only", "host,nothing", "-network", "10.1.2", "-holdfast", "/nowhere/holdfast", "more"}, &told)
	if err == nil {
		t.Fatal("it was accepted")
	}
	for _, want := range []string{`no step "nothing"`, `"10.1.2" is not`, "/nowhere/holdfast", `"more" is not understood`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
}
