package host

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/event"
)

// aDiary begins one in dir whose clock is the test's.
func aDiary(t *testing.T, dir string, at *time.Time) *diary {
	t.Helper()
	d, err := openDiary(dir, "h1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	d.now = func() time.Time { return *at }
	t.Cleanup(func() { _ = d.Close() }) // what a test needs of it, it has read
	return d
}

// saidBy is what a diary shows, a line an event.
func saidBy(d *diary) []string {
	var out []string
	for _, e := range d.Recent() {
		line := e.What
		if e.Times > 1 {
			line = fmt.Sprintf("%s, %d times", line, e.Times)
		}
		out = append(out, line)
	}
	return out
}

func TestTheDiaryGoesOnAfterAKill(t *testing.T) {
	dir, at := t.TempDir(), time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	first := aDiary(t, dir, &at) // it is not closed: its agent is killed
	first.Note("database", "records", "h2 becomes the primary", []string{"ann asked for it"}, time.Second)
	f, err := os.OpenFile(diaryPath(dir), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"at":"2030-01-02T03:04:06Z","host":"h1","room":"dat`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	second := aDiary(t, dir, &at)
	want := []event.Event{{At: at, Host: "h1", Room: "database", Subject: "records", What: "h2 becomes the primary", Because: []string{"ann asked for it"}, Took: event.Duration(time.Second)}}
	if diff := cmp.Diff(want, second.Recent()); diff != "" {
		t.Errorf("after a kill within a line:\n%s", diff)
	}
	second.Note("database", "records", "a copy was made", nil, 0)
	if diff := cmp.Diff([]string{"h2 becomes the primary", "a copy was made"}, saidBy(aDiary(t, dir, &at))); diff != "" {
		t.Errorf("what was written behind the torn line:\n%s", diff)
	}
}

func TestTheDiaryIsBounded(t *testing.T) {
	dir, at := t.TempDir(), time.Now()
	if err := os.WriteFile(diaryPath(dir), []byte(strings.Repeat(`{"at":"2030-01-02T03:04:06Z","what":"of a version that never ended a file"}`+"\n", 100_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	d := aDiary(t, dir, &at)
	if n := len(d.Recent()); n == 0 || n > 20_000 {
		t.Fatalf("of a huge file it shows %d events", n)
	}
	word := func(i int) string { // no two are alike
		return strings.Repeat(string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676%26)), 400)
	}
	for i := range 4000 {
		d.Note("database", "records", word(i), nil, 0)
	}
	d.Note("database", "records", strings.Repeat("x", 3*diaryMax), []string{strings.Repeat("y", 3*diaryMax), "z"}, 0)
	shown := d.Recent()
	if got := shown[len(shown)-2].What; got != word(3999) {
		t.Errorf("before the last stands %.20q", got)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Fatalf("it lies in %d files: %v", len(files), err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > diaryMax+2 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has %d bytes, mode %s", f.Name(), info.Size(), info.Mode())
		}
	}
	if d.bytes > diaryShown {
		t.Errorf("%d bytes are shown", d.bytes)
	}
	again := saidBy(aDiary(t, dir, &at))
	if n := len(again); n < 700 || again[n-2] != word(3999) {
		t.Errorf("the next life shows %d events", n)
	}
	if err := os.Remove(diaryPath(dir)); err != nil { // a crash between the end of a file and the next one
		t.Fatal(err)
	}
	if n := len(aDiary(t, dir, &at).Recent()); n == 0 {
		t.Error("without a newest file nothing is shown")
	}
}

func TestTheDiaryIsWrittenAgainOnceANewFileCanBeBegun(t *testing.T) {
	dir, at := t.TempDir(), time.Now()
	d := aDiary(t, dir, &at)
	d.file.size = diaryMax
	if err := os.MkdirAll(filepath.Join(formerDiaryPath(dir), "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.Note("database", "records", "not written", nil, 0)
	if err := os.RemoveAll(formerDiaryPath(dir)); err != nil {
		t.Fatal(err)
	}
	d.Note("database", "records", "written", nil, 0)
	if diff := cmp.Diff([]string{"not written", "written"}, saidBy(d)); diff != "" {
		t.Errorf("while it runs:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"written"}, saidBy(aDiary(t, dir, &at))); diff != "" {
		t.Errorf("the next life:\n%s", diff)
	}
}

func TestWhatHappensAgainAndAgainDoesNotPushTheRestOut(t *testing.T) {
	dir, at := t.TempDir(), time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	d := aDiary(t, dir, &at)
	d.Note("database", "records", "h2 becomes the primary", []string{"ann asked for it"}, 0)
	began := at
	const tries = 50_000
	for i := range tries {
		at = began.Add(time.Duration(4*i) * time.Second)
		d.Note("database", "records", fmt.Sprintf("clone from=h2 epoch=5 did not succeed: at 0/%X: pid %d: /db/new-%d: no space left", 1000*i, i, 10_000+i), []string{"it has no data"}, time.Duration(i))
	}
	shown := d.Recent()
	last := shown[len(shown)-1]
	if len(shown) != 1+wholeRepeats+1 || shown[0].What != "h2 becomes the primary" || last.Times != tries-wholeRepeats || !last.At.Equal(at) ||
		!last.Since.Equal(began.Add(4*wholeRepeats*time.Second)) || !strings.Contains(last.What, "pid 49999") {
		t.Fatalf("%d events: %v ... %+v", len(shown), shown[0], last)
	}
	if info, err := os.Stat(diaryPath(dir)); err != nil || info.Size() > 64<<10 {
		t.Errorf("the file: %v bytes, %v", info.Size(), err)
	}
	killed := aDiary(t, dir, &at).Recent()
	if n := len(killed); n != len(shown) || killed[n-1].Times < last.Times/2 || last.At.Sub(killed[n-1].At) > joinedAgain {
		t.Errorf("after a kill: %d events, the last %+v", n, killed[n-1])
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(shown, aDiary(t, dir, &at).Recent()); diff != "" {
		t.Errorf("after an end in good order:\n%s", diff)
	}
}

func TestWhatTheDiaryTellsAsOne(t *testing.T) {
	const rounds = 8
	for name, c := range map[string]struct {
		apart  time.Duration
		events []string // of one subject, rounds times
		then   []string // once after them
		want   []string
	}{
		"what comes seldom stands whole":       {joinWithin + time.Second, []string{"a backup was made"}, nil, slices.Repeat([]string{"a backup was made"}, rounds)},
		"hosts with a number are not one":      {time.Second, []string{"b1 leads", "b2 leads"}, nil, slices.Repeat([]string{"b1 leads", "b2 leads"}, rounds/2)},
		"hosts with a site's name are not one": {time.Second, []string{"east-2 leads", "east-3 leads"}, nil, slices.Repeat([]string{"east-2 leads", "east-3 leads"}, rounds/2)},
		"something new ends the line": {time.Second, []string{"it failed at 1f00ba11"}, []string{"it was made", "it failed at 2", "it failed at 3"},
			append(slices.Repeat([]string{"it failed at 1f00ba11"}, wholeRepeats), "it failed at 1f00ba11, 3 times", "it was made", "it failed at 3, 2 times")},
	} {
		t.Run(name, func(t *testing.T) {
			dir, at := t.TempDir(), time.Now()
			d := aDiary(t, dir, &at)
			note := func(what string) {
				at = at.Add(c.apart)
				d.Note("database", "records", what, nil, 0)
			}
			for i := range rounds {
				note(c.events[i%len(c.events)])
			}
			for _, what := range c.then {
				note(what)
			}
			if diff := cmp.Diff(c.want, saidBy(d)); diff != "" {
				t.Error(diff)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, saidBy(aDiary(t, dir, &at))); diff != "" {
				t.Errorf("read back:\n%s", diff)
			}
		})
	}
}

func TestRequestsAreToldEachByItself(t *testing.T) {
	dir, at := t.TempDir(), time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	d := aDiary(t, dir, &at)
	var want []string
	note := func(i int, request string) {
		at = at.Add(time.Second)
		d.Record(event.Event{Room: "database", Subject: "records", What: fmt.Sprintf("base backup of %d: asked for", i), Request: request})
	}
	for i := range 4 * wholeRepeats {
		note(i, fmt.Sprintf("q%d", i))
		want = append(want, fmt.Sprintf("base backup of %d: asked for", i))
	}
	for i := range wholeRepeats + 3 { // the same without one; a request among them parts them
		note(i, "")
		want = append(want[:min(len(want), 5*wholeRepeats)], fmt.Sprintf("base backup of %d: asked for", i))
	}
	want[len(want)-1] += ", 3 times"
	note(77, "q77")
	note(78, "")
	want = append(want, "base backup of 77: asked for", "base backup of 78: asked for")
	if diff := cmp.Diff(want, saidBy(d)); diff != "" {
		t.Error(diff)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, saidBy(aDiary(t, dir, &at))); diff != "" {
		t.Errorf("read back:\n%s", diff)
	}
}

func TestAHugeDiaryIsCutToItsNewestLines(t *testing.T) {
	dir, at := t.TempDir(), time.Now()
	const lines = 100_000
	var huge strings.Builder
	for i := range lines {
		fmt.Fprintf(&huge, `{"at":"2030-01-02T03:04:06Z","what":"of a version that never ended a file: %d"}`+"\n", i)
	}
	for _, path := range []string{diaryPath(dir), formerDiaryPath(dir)} {
		if err := os.WriteFile(path, []byte(huge.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d := aDiary(t, dir, &at)
	sizes := func() {
		t.Helper()
		files, err := os.ReadDir(dir)
		if err != nil || len(files) != 2 {
			t.Fatalf("it lies in %d files: %v", len(files), err)
		}
		for _, f := range files {
			if info, err := f.Info(); err != nil || info.Size() > diaryMax || info.Size() < diaryMax/2 && f.Name() != filepath.Base(diaryPath(dir)) {
				t.Errorf("%s: %d bytes, %v", f.Name(), info.Size(), err)
			}
		}
	}
	sizes()
	newest := fmt.Sprintf("of a version that never ended a file: %d", lines-1)
	if said := saidBy(d); said[len(said)-1] != newest {
		t.Errorf("the last that it shows is %q", said[len(said)-1])
	}
	d.Note("database", "records", strings.Repeat("x", eventTextMax), nil, 0) // it fits into a new file alone
	sizes()
	said := saidBy(aDiary(t, dir, &at))
	if n := len(said); n < 1000 || said[n-2] != newest {
		t.Errorf("the next life shows %d events, before the last %q", n, said[max(0, n-2)])
	}
}
