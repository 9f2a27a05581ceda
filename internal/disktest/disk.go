// Package disktest gives tests file systems of their own: small ones that fill up, and whatever else only root can make.
package disktest

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Small puts a file system of size ("60m") on an existing directory, until the test has ended and what it registered for
// its end later than this is done.
func Small(t testing.TB, dir, size string, mode fs.FileMode) {
	t.Helper()
	NeedRoot(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		Cannot(t, "no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	if err := os.Chmod(dir, mode); err != nil {
		t.Fatal(err)
	}
}

// Fill writes to a file, behind what it holds, until its disk has no byte left, as somebody else may.
func Fill(t testing.TB, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size > 0; {
		switch _, err := f.Write(make([]byte, size)); {
		case errors.Is(err, unix.ENOSPC):
			size /= 2
		case err != nil:
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// NeedRoot is [Cannot] for whoever is not root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Cannot(t, "only root can make file systems, and give files away")
	}
}

// Cannot leaves a test out that this machine cannot run. In CI it fails: nothing is left out there without a word.
func Cannot(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
