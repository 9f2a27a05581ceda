package restore

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

func code(err error) string {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return p.Code
	}
	return ""
}

// choiceOf is a choice without any log.
func choiceOf(systemID uint64, bytes int64) Choice {
	return Choice{Backup: vault.Backup{ID: "b", Database: "orders", SystemID: systemID, Bytes: bytes, ServerVersion: 150004, SegmentSize: 16 << 20}}
}

func TestATimeOutsideTheWindowIsAnsweredWithTheWindow(t *testing.T) {
	stopped := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	c := Catalogue{Database: "orders", Backups: []vault.Backup{{ID: "b", Stopped: stopped, SystemID: 1, Timeline: 1}}}
	_, err := Choose(c, Target{Kind: AtTime, Time: stopped.Add(-time.Hour)})
	if code(err) != "restore.outside-window" {
		t.Fatalf("got %v", err)
	}
	if _, err := Choose(Catalogue{Database: "orders"}, Target{}); code(err) != "restore.no-backup" {
		t.Errorf("without any backup: %v", err)
	}
}

func TestWhatADirectoryHoldsDecidesWhetherARestoreTouchesIt(t *testing.T) {
	dir := func(files map[string]string) string {
		d := t.TempDir()
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(d, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return d
	}
	mark := func(system uint64) string {
		raw, err := json.Marshal(marker{Backup: "b", SystemID: system})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	for name, c := range map[string]struct {
		dir   string
		delta bool
		code  string
		state string
	}{
		"an empty directory":                              {dir(nil), false, "", "empty"},
		"something of somebody's":                         {dir(map[string]string{"letter": "dear"}), false, "", "occupied"},
		"something of somebody's, with --delta":           {dir(map[string]string{"letter": "dear"}), true, "restore.other-data", ""},
		"another version":                                 {dir(map[string]string{"PG_VERSION": "13\n"}), true, "restore.other-data", ""},
		"an unfinished restore":                           {dir(map[string]string{markerFile: mark(7)}), false, "", "interrupted"},
		"one of a version that named no cluster":          {dir(map[string]string{markerFile: `{"backup":"b"}`}), false, "", "interrupted"},
		"an unfinished restore of another database":       {dir(map[string]string{markerFile: mark(8)}), false, "restore.not-empty", ""},
		"one whose marker cannot be read is nobody's yet": {dir(map[string]string{markerFile: "?"}), false, "", ""},
	} {
		p, err := Survey(c.dir, choiceOf(7, 1), c.delta, nil)
		if c.code == "" && c.state == "" { // an error in words
			if err == nil {
				t.Errorf("%s: accepted as %q", name, p.State)
			}
			continue
		}
		if code(err) != c.code || err == nil && p.State != c.state {
			t.Errorf("%s: %q, %v", name, p.State, err)
		}
	}
}

func TestTooLittleRoomIsToldBeforeAnythingIsWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	p, err := Survey(dir, choiceOf(7, 1<<60), false, nil)
	if err != nil || p.Fits() || p.Need < 1<<60 {
		t.Errorf("%+v, %v", p, err)
	}
	r := &run{o: Options{Dir: dir, Choice: choiceOf(7, 1<<60)}}
	if err := r.claim(t.Context(), nil); code(err) != "restore.no-space" {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
	for name, c := range map[string]struct {
		all  []need
		want string
	}{
		"everything fits": {[]need{{"a", 5, 10, 1}, {"b", 5, 10, 1}}, ""},
		"two places of one disk are too much for it": {[]need{{"a", 6, 10, 1}, {"b", 6, 10, 1}}, "b"},
		"each has a disk of its own":                 {[]need{{"a", 6, 10, 1}, {"b", 6, 10, 2}}, ""},
		"the second disk is too small":               {[]need{{"a", 6, 10, 1}, {"b", 6, 5, 2}}, "b"},
	} {
		got := ""
		if n := lacks(c.all); n != nil {
			got = n.dir
		}
		if got != c.want {
			t.Errorf("%s: %q lacks room, want %q", name, got, c.want)
		}
	}
}

// A server in a container has numbers of its own: its postmaster.pid names a process that is not there.
func TestAServerIsFoundByItsSocketWhenItsProcessIsNot(t *testing.T) {
	dir, sockets := t.TempDir(), t.TempDir()
	pid := func(line int) string { // nobody's
		return fmt.Sprintf("%d\n%s\n1\n%d\n%s\n", 1<<22+5, dir, line, sockets)
	}
	if err := os.WriteFile(filepath.Join(dir, "postmaster.pid"), []byte(pid(5499)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := stopped(dir, "orders"); err != nil {
		t.Errorf("a server that was killed: %v", err)
	}
	l, err := net.Listen("unix", filepath.Join(sockets, ".s.PGSQL.5499"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if err := stopped(dir, "orders"); code(err) != "restore.running" || !strings.Contains(err.Error(), "5499") {
		t.Errorf("one that answers: %v", err)
	}
}
