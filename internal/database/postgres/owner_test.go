package postgres_test

import (
	"io/fs"
	"os"
	"syscall"
	"testing"
)

// chownLike gives a path to whom info's file belongs.
func chownLike(t *testing.T, path string, info fs.FileInfo) {
	t.Helper()
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("the system tells no owners")
	}
	must(t, os.Chown(path, int(st.Uid), int(st.Gid)))
}
