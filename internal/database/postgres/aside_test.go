package postgres

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/walscan"
	"holdfast/internal/pgcontrol"
)

// smallLog is a stopped server whose log is in many small files, and where it ended after each script.
func smallLog(t *testing.T, scripts ...string) (*Server, []database.LSN) {
	t.Helper()
	major := 18
	for ; major >= 14; major-- {
		if _, err := os.Stat(fmt.Sprintf("/usr/lib/postgresql/%d/bin/postgres", major)); err == nil {
			break
		}
	}
	bin, err := findBinaries("records", major, "")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	o, err := findOwner("records")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "hfaside")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &Server{at: layoutOf(dir), programs: bin, given: bin, owner: o, log: slog.New(slog.DiscardHandler)}
	s.cfg.Free = func(string) (int64, error) { return 1 << 40, nil }
	if err := s.makeOwned(s.at.data); err != nil {
		t.Fatal(err)
	}
	asOwner(t, s, "", "initdb", "-D", s.at.data, "-A", "reject", "--wal-segsize=1", "--no-sync", "--locale=C")
	var ends []database.LSN
	for _, script := range scripts {
		asOwner(t, s, script, "postgres", "--single", "-D", s.at.data, "-c", "fsync=off", "-c", "wal_keep_size=512MB", "-c", "autovacuum=off", "postgres")
		end, err := s.scan(0)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, database.LSN(end.LSN))
	}
	return s, ends
}

func asOwner(t *testing.T, s *Server, stdin, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(s.bin(), name), args...)
	cmd.SysProcAttr, cmd.Dir, cmd.Env, cmd.Stdin = s.owner.attributes(), "/", s.environment(), strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// names are the log files of a folder.
func names(t *testing.T, dir string, size uint64) []string {
	t.Helper()
	all, err := walscan.Segments(dir, size)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, x := range all {
		out = append(out, x.Name(size))
	}
	return out
}

// sameFiles holds what was put aside against the server's own.
func sameFiles(t *testing.T, s *Server, dir string, of []string) {
	t.Helper()
	for _, name := range of {
		own, err := os.ReadFile(filepath.Join(s.at.wal(), name))
		if err != nil {
			t.Fatal(err)
		}
		if kept, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(own, kept) {
			t.Errorf("%s is not what the server has (%v)", name, err)
		}
	}
}

func TestOnlyTheLogBehindThePartingIsPutAside(t *testing.T) {
	const rows = "insert into t select g, repeat(md5(g::text), 40) from generate_series(1, 2000) g;\n" // more than two segments
	// Each run of a server ends with a checkpoint; so the newest lies behind every parting, and others before.
	s, ends := smallLog(t, "create table t (a int, b text);\n"+rows+rows, rows+"checkpoint;\n"+rows, rows, rows)
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		t.Fatal(err)
	}
	size := c.SegSize
	parted := database.Parting{Timeline: 1, LSN: ends[2]}
	l, err := s.list("", parted)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.commits) != 1 || l.commits[0].Partial || l.unread != 0 || c.Redo <= parted.LSN {
		t.Fatalf("listed: %+v", l)
	}
	id, err := s.putAside("", 7, "abc", l)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(s.at.preserved, id)
	kept, own := names(t, dir, size), names(t, s.at.wal(), size)
	at := func(l database.LSN) string { return walscan.Segment{Timeline: 1, Number: uint64(l) / size}.Name(size) }
	if len(kept) < 3 || kept[0] != at(database.LSN(l.from)) || kept[0] > at(parted.LSN) || kept[0] < at(ends[1]) || !slices.Contains(own, kept[0]) || own[0] >= kept[0] {
		t.Fatalf("of %v are put aside %v; parted at %s, from %s", own, kept, parted.LSN, l.from)
	}
	if last := kept[len(kept)-1]; last != at(database.LSN(l.end.LSN)) {
		t.Errorf("it ends with %s, the log at %s", last, l.end.LSN)
	}
	sameFiles(t, s, dir, kept)
	alone, err := listIn(dir, c, parted.LSN)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l.commits, alone.commits); diff != "" || alone.unread != 0 || alone.nextXID != l.nextXID {
		t.Errorf("by what was put aside alone the list is another:\n%s", diff)
	}

	// A later failover gave up what was common until then: what lacks is added, also after a crash within that.
	earlier := database.Parting{Timeline: 1, LSN: ends[0], Given: true}
	l, err = s.list(id, earlier)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, at(earlier.LSN)+partSuffix), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := s.putAside(id, 8, "abc", l); err != nil || again != id {
		t.Fatalf("put aside as %s: %v", again, err)
	}
	more := names(t, dir, size)
	if len(more) <= len(kept) || more[0] > at(earlier.LSN) || len(l.commits) != 4 {
		t.Errorf("from %s on there are %v, and %d commits", earlier.LSN, more, len(l.commits))
	}
	sameFiles(t, s, dir, more)

	// The server has let go of its log up to the parting since: what was put aside still has it.
	for _, name := range own {
		if name <= at(parted.LSN) {
			if err := os.Remove(filepath.Join(s.at.wal(), name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	again, err := s.list(id, earlier)
	if err != nil || again.unread != 0 || len(again.commits) != len(l.commits) {
		t.Errorf("%d of %d commits, %d unread, %v", len(again.commits), len(l.commits), again.unread, err)
	}
	// Without it what is left is listed, and told to be short: such a list is never taken for one of nothing.
	short, err := s.list("", earlier)
	if err != nil || short.unread == 0 || len(short.commits) != 1 {
		t.Errorf("%d commits, %d unread, %v", len(short.commits), short.unread, err)
	}
}
