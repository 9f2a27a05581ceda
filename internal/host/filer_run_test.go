package host

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/plan"
)

// A backup of files that its schedule makes ends when somebody names it on its host, and comes again at its next hour.
func TestABackupOfFilesIsEnded(t *testing.T) {
	a, store := anAgreeingArchivist(t)
	a.host.applied.now.Files[0].Backup.Every = plan.Schedule{Every: 24 * time.Hour}
	f := filersOf(t, a.host, 1)[0]
	if due, err := f.due(); err != nil || !due.Now {
		t.Fatalf("%+v, %v", due, err)
	}
	r := f.underWay(t.Context(), nil)
	ask := func(id, run, on string) (answer func() (agent.Settled, bool)) {
		t.Helper()
		raw, err := json.Marshal(agent.Asked{ID: id, Room: "files", Kind: "cancel", Subject: "letters", By: "anna", Args: map[string]string{agent.ArgRun: run, agent.ArgOn: on}})
		if err == nil {
			_, err = store.Put(t.Context(), agent.KeyRequests+id, raw, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		return func() (out agent.Settled, _ bool) {
			e, err := store.Get(t.Context(), agent.KeyAnswers+id)
			if err != nil {
				t.Fatal(err)
			}
			return out, e.Revision != 0 && json.Unmarshal(e.Value, &out) == nil
		}
	}
	other, elsewhere, wanted := ask("q1", "another", "h1"), ask("q2", "another", "h2"), ask("q3", r.id, "h1")
	soon(t, "it ends", func() bool { return r.ctx.Err() != nil })
	if got := whoCancelled(r.ctx); got != "anna" {
		t.Errorf("cancelled by %q", got)
	}
	if err := f.wasCancelled(t.Context(), r, ""); err != nil {
		t.Fatal(err)
	}
	if s, ok := wanted(); !ok || !s.OK || !strings.Contains(s.Text, "on h1 was cancelled by anna, and nothing of it is listed; the next backup is due ") {
		t.Errorf("%+v, %t", s, ok)
	}
	if s, ok := other(); !ok || s.OK {
		t.Errorf("whoever names one that is not there is told %+v, %t", s, ok)
	}
	if s, ok := elsewhere(); ok {
		t.Errorf("what another host is asked is answered here: %+v", s)
	}

	// Nobody begins it again: neither this agent, nor the next, which knows only what is agreed.
	again := filersOf(t, a.host, 1)[0]
	soon(t, "it is agreed", func() bool { return !again.cancelledAt().IsZero() })
	for _, x := range []*filer{f, again} {
		if due, err := x.due(); err != nil || due.Now || due.At.Before(time.Now().Add(time.Hour)) {
			t.Errorf("due is %+v, %v", due, err)
		}
	}
}

// Whoever ends a recovery point leaves the backups of the set their hours, and the other way round.
func TestARecoveryPointThatIsEndedPutsNoBackupOff(t *testing.T) {
	a, _ := anAgreeingArchivist(t)
	for _, c := range []struct {
		name, point string
		other       func(*filer) time.Time // when somebody ended one of the other kind
		this        func(*filer) time.Time
	}{
		{"a recovery point", "abcdefgh", (*filer).cancelledAt, (*filer).pointCancelledAt},
		{"a backup", "", nil, (*filer).cancelledAt}, // the point before it is agreed by now
	} {
		f := filersOf(t, a.host, 1)[0]
		ctx, end := context.WithCancelCause(t.Context())
		end(&cancelledError{"anna"})
		if err := f.wasCancelled(t.Context(), f.underWay(ctx, nil), c.point); err != nil {
			t.Fatal(err)
		}
		again := filersOf(t, a.host, 1)[0] // the next agent, which knows only what is agreed
		soon(t, "it is agreed", func() bool { return !c.this(again).IsZero() })
		for _, x := range []*filer{f, again} {
			if c.this(x).IsZero() || c.other != nil && !c.other(x).IsZero() {
				t.Errorf("%s was ended: that is noted as %s", c.name, c.this(x))
			}
		}
	}
}
