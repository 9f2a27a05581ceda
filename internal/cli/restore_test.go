package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
		"an age in days":                          {"2 days ago", restore.Target{Kind: restore.AtTime, Time: now.Add(-48 * time.Hour)}},
		"an age in days and hours, short":         {"before:2d12h ago", restore.Target{Kind: restore.AtTime, Time: now.Add(-60 * time.Hour), Exclusive: true}},
		"an age in words":                         {"1 week 1 day 30 minutes ago", restore.Target{Kind: restore.AtTime, Time: now.Add(-8*24*time.Hour - 30*time.Minute)}},
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
	for words, hour := range map[string]int{"13:00 UTC": 13, "13:00Z": 13, "14:00 CET": 13, "11:00+01": 10, "09:00 -03:00": 12, "23:00+1000": 13, "14:00 UTC": 14 - 24} {
		want := time.Date(2026, 11, 20, hour, 0, 0, 0, time.UTC)
		if got, err := moment(words, now); err != nil || got.Kind != restore.AtTime || !got.Time.Equal(want) {
			t.Errorf("%q was taken for %v, %v", words, got.Time, err)
		}
	}
	for _, words := range []string{"14:00 EST", "14:00 ago", "14:00 +1", "yesterday", "10m", "x ago", "-5m ago", "2 ago", "days ago", "2 fortnights ago", "9999999 weeks ago", " ago", "xid:2", "xid:5@", "0/3000060@0/28", "before:latest", "25:00"} {
		if got, err := moment(words, now); err == nil {
			t.Errorf("%q was taken for %v", words, got)
		}
	}
}

// A time of the day with the name of a zone that was not right within the last day is refused, not taken for an earlier day's.
func TestATimeOfTheDayIsOfTheLastDay(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal("no zones on this machine: ", err)
	}
	monday := time.Date(2026, 3, 30, 15, 0, 0, 0, berlin) // summer time began on Sunday
	for _, words := range []string{"14:30 CET", "before:14:30 CET", "16:30 CET"} {
		if got, err := moment(words, monday); err == nil || !strings.Contains(err.Error(), "time zone") {
			t.Errorf("%q was taken for %v, %v", words, got.Time, err)
		}
	}
	for _, c := range []struct {
		words     string
		now, want time.Time
	}{
		{"14:30 CEST", monday, time.Date(2026, 3, 30, 12, 30, 0, 0, time.UTC)},
		{"14:30 CET", time.Date(2026, 3, 29, 10, 0, 0, 0, berlin), time.Date(2026, 3, 28, 13, 30, 0, 0, time.UTC)},
		{"14:30", time.Date(2026, 10, 25, 14, 29, 0, 0, berlin), time.Date(2026, 10, 24, 12, 30, 0, 0, time.UTC)}, // 24 h 59 min ago
	} {
		if got, err := moment(c.words, c.now); err != nil || !got.Time.Equal(c.want) {
			t.Errorf("%q at %v was taken for %v, %v", c.words, c.now, got.Time, err)
		}
	}
}

// Whatever takes a moment or a span takes days, as the examples of --help do.
func TestDaysAreTakenWhereverAMomentIs(t *testing.T) {
	now := time.Date(2026, 11, 20, 14, 30, 0, 0, time.UTC)
	if at, err := momentFlag("--since", "2 days ago", now); err != nil || !at.Equal(now.Add(-48*time.Hour)) {
		t.Errorf("undelete: %v, %v", at, err)
	}
	if at, err := dueMoment("in 2 days", now); err != nil || !at.Equal(now.Add(48*time.Hour)) {
		t.Errorf("a switchover: %v, %v", at, err)
	}
	for _, bad := range []string{"in -1h", "in 0 days", "in days"} {
		if at, err := dueMoment(bad, now); err == nil {
			t.Errorf("a switchover %q was taken for %v", bad, at)
		}
	}
	var since span
	if err := since.Set("1.5d"); err != nil || since != span(36*time.Hour) {
		t.Errorf("--since: %v, %v", since, err)
	}
	says(t, words(t, 1, "files", "ls", "letters", "--at", "2 days ago", "--root", t.TempDir()), "context.json") // the moment is read first
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

// A window is told by seconds that lie in it.
func TestWhatIsToldOfAWindowLiesInIt(t *testing.T) {
	at := time.Date(2026, 11, 20, 10, 12, 5, 398e6, time.UTC)
	h := held{Database: "records", Windows: []listedWindow{{From: at, To: at.Add(10 * time.Second), End: "0/5"}}}
	want := "any moment from " + momentText(at.Add(602*time.Millisecond)) + " to " + momentText(at.Add(10*time.Second))
	if got := windowLines(h)[0]; !strings.HasPrefix(got, want) {
		t.Errorf("%s\nwant %s", got, want)
	}
	from, err := moment(firstText(at, at.Add(time.Millisecond)), at.Add(time.Hour))
	if err != nil || !from.Time.Equal(at) {
		t.Errorf("a window without a whole second begins with %v, %v", from.Time, err)
	}
}
