package local

import (
	"os"
	"testing"
)

func TestWhoeverHoldsTheRootIsFoundByItsProcess(t *testing.T) {
	root := t.TempDir()
	want := func(pid int, when string) {
		t.Helper()
		if got, err := Up(root); err != nil || got != pid {
			t.Errorf("%s: process %d works on the root (%v), want %d", when, got, err, pid)
		}
	}
	want(0, "before any up")
	held, err := Lock(root)
	if err != nil {
		t.Fatal(err)
	}
	want(os.Getpid(), "while one runs")
	if _, err := Lock(root); err == nil {
		t.Error("a second one took the root too")
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	want(0, "after it ended")
}
