package host

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/clock"
	"holdfast/internal/cluster/memory"
	"holdfast/internal/files"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// aFilerHost has a set that is backed up.
func aFilerHost(t *testing.T, m plan.Moment) *Host {
	t.Helper()
	p := &plan.Plan{Application: "clinic", Files: []plan.FileSet{{Name: "letters", Hosts: []string{"h1"}, Backup: plan.FileBackup{Vault: "main"}, Moment: m}}}
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	d, err := openDiary(dir, "h1", log)
	if err != nil {
		t.Fatal(err)
	}
	h := &Host{cfg: Config{Plan: p, Self: "h1", Dir: dir, Log: log}, applied: &applied{now: p}, diary: d, clock: clock.Real(), proofs: newKeyWatch(clock.Real())}
	if h.agent, err = agent.New(agent.Config{Self: "h1", Store: memory.New().Open("h1"), Beats: &beats{}, Late: func() bool { return false }, Clock: h.clock, Log: log, Diary: d}); err != nil {
		t.Fatal(err)
	}
	return h
}

func filersOf(t *testing.T, h *Host, want int) []*filer {
	t.Helper()
	all, err := h.newFilers()
	if err != nil || len(all) != want {
		t.Fatalf("%d filers, %v", len(all), err)
	}
	return all
}

func TestARecoveryPointIsRefusedByThePlanThatCountsNow(t *testing.T) {
	h := aFilerHost(t, plan.Moment{})
	f := filersOf(t, h, 1)[0]
	code := func(kind string) string {
		if p := f.refused(&agent.Asked{Kind: kind}); p != nil {
			return p.Code
		}
		return ""
	}
	if point, backup := code("point"), code("backup"); point != "files.no-moment" || backup != "" {
		t.Errorf("without a moment: point %q, backup %q", point, backup)
	}
	now := *h.applied.now
	now.Files = []plan.FileSet{{Name: "letters", Moment: plan.Moment{Database: "records"}}}
	h.applied.now = &now
	if point := code("point"); point != "" {
		t.Errorf("with one that was applied: %q", point)
	}
	f.stand(errors.New("it does not want to"))
	if point, backup := code("point"), code("backup"); point != "files.still-frozen" || backup != "" {
		t.Errorf("while it stands still: point %q, backup %q", point, backup)
	}
	if p := f.refused(nil); p != nil {
		t.Errorf("a scheduled one: %s", p.Text())
	}
}

func TestWhatStandsStillOfASetThatThePlanHasNoMoreGoesOn(t *testing.T) {
	h := aFilerHost(t, plan.Moment{})
	log := filepath.Join(h.cfg.Dir, "log")
	note := filepath.Join(h.cfg.Dir, "still-papers.json")
	if err := os.WriteFile(note, []byte(`{"after":["/bin/sh","-c","echo $HOLDFAST_PATH >> `+log+`"],"env":["HOLDFAST_PATH=/srv/papers"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	f := filersOf(t, h, 2)[1]
	if err := f.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	said, err := os.ReadFile(log)
	if _, left := os.Stat(note); err != nil || string(said) != "/srv/papers\n" || !os.IsNotExist(left) {
		t.Errorf("%q, %v, note %v", said, err, left)
	}
}

func TestACorrectedCommandLetsGoOn(t *testing.T) {
	h := aFilerHost(t, plan.Moment{Database: "records", After: []string{"/bin/true"}})
	f := filersOf(t, h, 1)[0]
	if err := os.WriteFile(f.stillNote(), []byte(`{"after":["/nowhere/to/be/found"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if !f.thawed(t.Context()) || len(f.problems()) > 0 {
		t.Errorf("it stands still: %v", f.problems())
	}
}

func TestWhatIsWrongWithAFileSetIsToldForAsLongAsItIs(t *testing.T) {
	f := filersOf(t, aFilerHost(t, plan.Moment{}), 1)[0]
	codes := func() string {
		var out []string
		for _, p := range f.problems() {
			out = append(out, p.Code)
		}
		return strings.Join(out, " ")
	}
	f.fail(t.Context(), "the vault was not asked", errors.New("it does not answer"))
	if codes() != "files.failed" || f.told.Trouble == "" {
		t.Errorf("%q", codes())
	}
	f.looked()
	if codes() != "" || f.told.Trouble != "" || !f.failed.IsZero() {
		t.Errorf("the vault answers: %q", codes())
	}
	f.last = &vault.FileBackup{ID: "b1", Host: "h1"}
	f.last.Unreadable.Add("secret: permission denied")
	f.looked()
	if codes() != "files.incomplete" {
		t.Errorf("the newest lacks a file: %q", codes())
	}
	f.complain(&problem.Problem{Code: "files.failed"})
	f.last = &vault.FileBackup{ID: "b2", Host: "h1"}
	f.looked()
	if codes() != "" {
		t.Errorf("the newest is whole: %q", codes())
	}
}

func TestACommandOfAMoment(t *testing.T) {
	did := filepath.Join(t.TempDir(), "did")
	touch := []string{"/bin/sh", "-c", `echo "$1 $HOLDFAST_PATH" > "$0"`, did, "a b"}
	done := func() string {
		said, err := os.ReadFile(did)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(said)
	}
	if err := RunMoment(t.Context(), files.Command{}); err == nil {
		t.Error("none at all ended well")
	}
	err := RunMoment(t.Context(), files.Command{Argv: touch, Began: func(int) error { return errors.New("the disk is full") }})
	if err == nil || !strings.Contains(err.Error(), "the disk is full") || done() != "" {
		t.Errorf("one that could not be noted did %q: %v", done(), err)
	}
	began := 0
	err = RunMoment(t.Context(), files.Command{Argv: touch, Env: []string{"HOLDFAST_PATH=/srv"}, Began: func(pid int) error {
		began = pid
		if done() != "" {
			t.Error("it did something before it was noted")
		}
		return nil
	}})
	if err != nil || done() != "a b /srv\n" || began == 0 {
		t.Errorf("%q, %v, process %d", done(), err, began)
	}
	if err = RunMoment(t.Context(), files.Command{Argv: []string{"/bin/sh", "-c", "echo no; exit 3"}, Began: func(int) error { return nil }}); err == nil || !strings.Contains(err.Error(), "exit status 3: no") {
		t.Errorf("one that fails: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err = RunMoment(ctx, files.Command{Argv: []string{"/bin/sh", "-c", "sleep 600 & wait"}, Began: func(int) error { return nil }}); err == nil {
		t.Error("one that hangs ended well")
	}
}

// How far a backup is is told by its names, of about as many as the one before had.
func TestHowFarABackupOfFilesIs(t *testing.T) {
	began := time.Date(2026, 11, 21, 4, 0, 0, 0, time.UTC)
	earlier := &vault.FileBackup{Entries: 4000}
	for name, c := range map[string]struct {
		p       files.Progress
		earlier *vault.FileBackup
		after   time.Duration
		want    agent.FilesRun
	}{
		"it has just begun":            {files.Progress{}, earlier, 0, agent.FilesRun{Of: 4000}},
		"a quarter is behind it":       {files.Progress{Files: 1000, Read: 10 << 20, Stored: 1 << 20}, earlier, 10 * time.Second, agent.FilesRun{Names: 1000, Of: 4000, Read: 10 << 20, Stored: 1 << 20, Rate: 1 << 20, Left: 30}},
		"there are more than before":   {files.Progress{Files: 5000}, earlier, 10 * time.Second, agent.FilesRun{Names: 5000, Of: 4000}},
		"there was none before":        {files.Progress{Files: 1000, Read: 10 << 20}, nil, 10 * time.Second, agent.FilesRun{Names: 1000, Read: 10 << 20, Rate: 1 << 20}},
		"nothing can be said so early": {files.Progress{Files: 500, Read: 1}, earlier, time.Millisecond, agent.FilesRun{Names: 500, Of: 4000, Read: 1}},
	} {
		c.want.Since = began
		if got := howFar(c.p, c.earlier, began, began.Add(c.after)); *got != c.want {
			t.Errorf("%s: %+v, want %+v", name, *got, c.want)
		}
	}
}

func TestAPointAfterWhichTheApplicationStandsStillDidNotGoWell(t *testing.T) {
	b := vault.FileBackup{ID: "b1", Point: &vault.Point{ID: "p1", Database: "records", Frozen: 167 * time.Millisecond}}
	if !wentWell(b, nil) || strings.Contains(sayPoint(b, nil), "let go on") {
		t.Errorf("one that was let go on: %s", sayPoint(b, nil))
	}
	b.Point.Stuck = "after.sh: exit status 3"
	if said := sayPoint(b, nil); wentWell(b, nil) || !strings.Contains(said, "they were not let go on (after.sh: exit status 3)") {
		t.Errorf("one that was not: %s", said)
	}
}
