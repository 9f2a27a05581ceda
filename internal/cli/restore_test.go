package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"holdfast/internal/redact"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// TestRestoreScripts runs whole command lines in this process. `status N words...` expects exit status N.
func TestRestoreScripts(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "script", "restore_*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	testscript.Run(t, testscript.Params{
		Files: files,
		Setup: func(env *testscript.Env) error {
			dir := filepath.Join(env.WorkDir, "vault")
			v, err := vault.Create(t.Context(), vault.Config{URL: "file://" + dir, Key: redact.Secret("the key of the test"), Application: "clinic"})
			if err != nil {
				return fmt.Errorf("make the script's vault: %w", err)
			}
			env.Setenv("VAULT", dir)
			return v.Close(t.Context())
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": runWords},
	})
}

func runWords(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N words...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	for i, a := range args { // the script's folder is not this process's
		if i > 1 && filepath.Ext(a) == ".key" || a == "empty" || a == "out" || a == "nowhere" || a == "." {
			args[i] = ts.MkAbs(a)
		}
	}
	stdin, err := os.Open(os.DevNull)
	ts.Check(err)
	defer func() { _ = stdin.Close() }() // only read
	if got := Main(args[1:], stdin, ts.Stdout(), ts.Stderr()); got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func TestMoment(t *testing.T) {
	zone := time.FixedZone("CET", 3600)
	now := time.Date(2026, 11, 20, 14, 30, 0, 0, zone)
	for name, c := range map[string]struct {
		words string
		want  restore.Target
	}{
		"nothing is the latest":                   {"latest", restore.Target{Kind: restore.Latest}},
		"a time of the day is the last one":       {"10:41", restore.Target{Kind: restore.AtTime, Time: time.Date(2026, 11, 20, 10, 41, 0, 0, zone)}},
		"one that is yet to come was yesterday's": {"23:59:30", restore.Target{Kind: restore.AtTime, Time: time.Date(2026, 11, 19, 23, 59, 30, 0, zone)}},
		"an age counts back from now":             {"1h30m ago", restore.Target{Kind: restore.AtTime, Time: now.Add(-90 * time.Minute)}},
		"before makes it exclusive":               {"before:10:41", restore.Target{Kind: restore.AtTime, Time: time.Date(2026, 11, 20, 10, 41, 0, 0, zone), Exclusive: true}},
		"a time without a zone is local":          {"2026-11-20 10:41:07", restore.Target{Kind: restore.AtTime, Time: time.Date(2026, 11, 20, 10, 41, 7, 0, zone)}},
		"a transaction":                           {"before:xid:812", restore.Target{Kind: restore.AtXID, XID: 812, Exclusive: true}},
		"a transaction with a position before it": {"before:xid:812@0/3000060", restore.Target{Kind: restore.AtXID, XID: 812, LSN: 0x3000060, Exclusive: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := moment(c.words, now)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, words := range []string{"yesterday", "10m", "x ago", "-5m ago", "xid:2", "xid:5@", "0/3000060@0/28", "before:latest", "25:00"} {
		if got, err := moment(words, now); err == nil {
			t.Errorf("%q was taken for %v", words, got)
		}
	}
}

// What --find-deletes prints is what --at takes.
func TestWhatFindDeletesPrintsIsTakenBack(t *testing.T) {
	d := restore.Delete{XID: 812, LSN: 0x1_0300_0060}
	got, err := moment(beforeText(d), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d.Before(), got); diff != "" {
		t.Error(diff)
	}
}

func TestRowText(t *testing.T) {
	long := "a note that is far too long to be shown on one line whole"
	for name, c := range map[string]struct {
		row  restore.RowPair
		want string
	}{
		"a missing row shows its columns in order": {
			restore.RowPair{Key: "{7}", Then: json.RawMessage(`{"id":7,"who":"Ann","at":null}`)}, "id=7  who=Ann  at=null"},
		"a changed row shows what differs": {
			restore.RowPair{Key: "{7}", Then: json.RawMessage(`{"id":7,"who":"Ann","n":1}`), Now: json.RawMessage(`{"id":7,"who":"Bob","n":1}`)}, "key 7  who: Ann > Bob"},
		"a difference behind the shown part still counts": {
			restore.RowPair{Key: "{7}", Then: json.RawMessage(`{"t":"` + long + `1"}`), Now: json.RawMessage(`{"t":"` + long + `2"}`)},
			"key 7  t: a note that is far too long to be shown… > a note that is far too long to be shown…"},
		"line breaks and tabs do not break the table": {
			restore.RowPair{Key: "{7}", Now: json.RawMessage(`{"t":"a\n\tb"}`)}, "t=a b"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, rowText(c.row)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSameTable(t *testing.T) {
	for name, c := range map[string]struct {
		typed string
		want  bool
	}{
		"the bare name":             {"appointments", true},
		"the qualified name":        {"public.appointments", true},
		"another schema":            {"archive.appointments", false},
		"the end of the name alone": {"ments", false},
		"another table":             {"practices", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := sameTable("public.appointments", c.typed); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestQuoteConn(t *testing.T) {
	if got, want := quoteConn(`/srv/it's a \ dir`), `'/srv/it\'s a \\ dir'`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
