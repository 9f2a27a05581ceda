package lab

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Incarnation names the data of a host's server: new data have another one.
func (w *World) Incarnation(host string) string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.serverDir(host), "pgdata", "holdfast.incarnation"))
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// Remaking reports whether the data of a host's server are being made or remade, or were when something ended that.
func (w *World) Remaking(host string) bool {
	w.t.Helper()
	_, err := os.Stat(filepath.Join(w.serverDir(host), "partial"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	return err == nil
}

// LogBytes is how much log lies on a host's disk.
func (w *World) LogBytes(host string) (sum int64) {
	w.t.Helper()
	entries, err := os.ReadDir(filepath.Join(w.serverDir(host), "pgdata", "pg_wal"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() { // it may be gone
			sum += info.Size()
		}
	}
	return sum
}

func (w *World) serverDir(host string) string {
	return filepath.Join(w.Root, "hosts", host, "db", "records")
}
