package main

import (
	"os/exec"
	"strings"
	"testing"
)

// A command that waits with its repository open is let go on, and how it ends is told with what it said.
func TestAProgramIsLetGoOnOnceItWaits(t *testing.T) {
	script := func(text string) *program { return &program{Cmd: exec.Command("sh", "-c", text)} }
	good := script("echo '" + ready + "'; read word; test \"$word\" = go")
	if err := good.open(); err != nil {
		t.Fatal(err)
	}
	if said, err := good.finish(); err != nil {
		t.Errorf("ended with %v: %s", err, said)
	}
	good.abandon() // of one that has ended does nothing

	bad := script("echo '" + ready + "'; read word; echo no vault >&2; exit 3")
	if err := bad.open(); err != nil {
		t.Fatal(err)
	}
	if said, err := bad.finish(); err == nil || !strings.Contains(string(said), "no vault") {
		t.Errorf("ended with %v: %s", err, said)
	}

	if err := script("echo wrong key >&2; exit 1").open(); err == nil || !strings.Contains(err.Error(), "wrong key") {
		t.Errorf("one that never waits: %v", err)
	}

	left := script("echo '" + ready + "'; read word")
	if err := left.open(); err != nil {
		t.Fatal(err)
	}
	left.abandon()
	if left.ProcessState == nil {
		t.Error("one that was abandoned goes on")
	}
}
