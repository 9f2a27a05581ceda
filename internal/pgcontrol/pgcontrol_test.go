package pgcontrol_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/pgcontrol"
)

// directory holds the pg_control of a server that initdb of that version made and that was stopped in good order.
func directory(t *testing.T, version string, change func([]byte) []byte) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "pg_control."+version))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "global"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "global", "pg_control"), change(b), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func same(b []byte) []byte { return b }

func TestEachFormatIsRead(t *testing.T) {
	for _, version := range []string{"15", "18"} {
		t.Run(version, func(t *testing.T) {
			c, err := pgcontrol.Read(directory(t, version, same))
			if err != nil {
				t.Fatal(err)
			}
			want := []pgcontrol.Setting{ // as initdb was told
				{Name: "max_connections", Value: 77}, {Name: "max_worker_processes", Value: 9}, {Name: "max_wal_senders", Value: 11},
				{Name: "max_prepared_transactions", Value: 5}, {Name: "max_locks_per_transaction", Value: 70},
			}
			if diff := cmp.Diff(want, c.Limits); diff != "" {
				t.Error(diff)
			}
			if c.State != pgcontrol.ShutDown || c.SegSize != 16<<20 || c.Timeline != 1 || c.SystemID == 0 || c.Redo != c.Checkpoint {
				t.Errorf("got %+v", c)
			}
		})
	}
}

func TestWhatIsNoControlFileIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func([]byte) []byte
		want   string
	}{
		"a torn file":       {func(b []byte) []byte { b[40] ^= 1; return b }, "checksum is wrong"},
		"a short file":      {func(b []byte) []byte { return b[:100] }, "100 bytes"},
		"an unknown format": {func(b []byte) []byte { b[8] = 7; return b }, "is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pgcontrol.Read(directory(t, "15", c.change))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if _, err := pgcontrol.Read(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
