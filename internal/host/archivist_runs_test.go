package host

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/cluster"
	"holdfast/internal/cluster/heartbeat"
	"holdfast/internal/cluster/memory"
	"holdfast/internal/plan"
	"holdfast/internal/vault"
)

// anAgreeingArchivist is one whose host's agent runs, and reads what is agreed in the store that comes with it.
func anAgreeingArchivist(t *testing.T) (*archivist, cluster.Store) {
	t.Helper()
	a := anArchivist(t, t.TempDir())
	h := a.host
	store := memory.New().Open("h1")
	heard := &beats{publisher: heartbeat.NewPublisher("h1", h.clock), listener: heartbeat.NewListener(nil, nil, h.clock, heartbeat.Interval, h.cfg.Log), log: h.cfg.Log}
	var err error
	h.agent, err = agent.New(agent.Config{Self: "h1", Store: store, Beats: heard, Late: func() bool { return false }, Clock: h.clock, Log: h.cfg.Log, Diary: h.diary})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var runs sync.WaitGroup
	runs.Go(func() {
		if err := h.agent.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); runs.Wait() })
	return a, store
}

func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// wantsEnd asks for the end of a run, and gives what is answered once it is.
func wantsEnd(t *testing.T, s cluster.Store, id, run, by string) (answer func() (agent.Settled, bool)) {
	t.Helper()
	raw, err := json.Marshal(agent.Asked{ID: id, Room: "backup", Kind: "cancel", Subject: "orders", By: by, Args: map[string]string{agent.ArgRun: run}})
	if err == nil {
		_, err = s.Put(t.Context(), agent.KeyRequests+id, raw, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() (out agent.Settled, _ bool) {
		e, err := s.Get(t.Context(), agent.KeyAnswers+id)
		if err != nil {
			t.Fatal(err)
		}
		return out, e.Revision != 0 && json.Unmarshal(e.Value, &out) == nil
	}
}

// A base backup that the schedule makes is told while it runs, ends when somebody names it, and comes again at its next hour.
func TestABackupOfTheScheduleIsToldAndEnded(t *testing.T) {
	a, store := anAgreeingArchivist(t)
	a.host.applied.now.Backups[0].Full = plan.Schedule{Every: 24 * time.Hour}
	r := a.underWay(t.Context(), agent.ChoreBase, nil)
	r.copies(backup.Progress{Phase: "copy", Done: 512 << 20, Total: 1 << 30, Copied: 2 * time.Second})
	told := a.told.Running
	if len(told) != 1 || told[0].Host != "h1" || told[0].Phase != "copy" || told[0].Done != 512<<20 || told[0].Total != 1<<30 || told[0].Rate != 256<<20 || told[0].Left != 2 || told[0].Since.IsZero() {
		t.Fatalf("told is %+v", told)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var refuses sync.WaitGroup
	refuses.Go(func() { _ = a.refuseCancels(ctx) })
	defer refuses.Wait()
	defer cancel()
	other := wantsEnd(t, store, "q1", "another", "anna")
	soon(t, "whoever names one that is not there is told", func() bool { _, ok := other(); return ok })
	if s, _ := other(); s.OK || r.cancelled() != "" {
		t.Errorf("%+v; the one that runs was cancelled by %q", s, r.cancelled())
	}

	answer := wantsEnd(t, store, "q2", told[0].ID, "anna")
	soon(t, "it ends", func() bool { return r.ctx.Err() != nil })
	if r.cancelled() != "anna" {
		t.Errorf("cancelled by %q", r.cancelled())
	}
	none := func(context.Context, string) ([]vault.Backup, error) { return nil, nil }
	r.over(t.Context(), true, a.wasCancelled(t.Context(), none, r, "", "lost"))
	if s, ok := answer(); !ok || !s.OK || !strings.Contains(s.Text, "cancelled by anna, and nothing of it is listed; the next is due ") {
		t.Errorf("%+v", s)
	}
	if len(a.told.Running) > 0 {
		t.Errorf("it is told still: %+v", a.told.Running)
	}
	diary := a.host.diary.Recent()
	if len(diary) == 0 || !strings.Contains(diary[len(diary)-1].What, "cancelled by anna") {
		t.Errorf("the diary has %+v", diary)
	}

	// Nobody begins it again: neither this archivist, nor one that knows only what is agreed.
	again := &archivist{host: a.host, db: a.db, plan: a.plan}
	soon(t, "it is agreed", func() bool { return !again.cancelled(agent.ChoreBase).Cancelled.IsZero() })
	for _, x := range []*archivist{a, again} {
		if w, err := x.want(nil, time.Now()); err != nil || w.Now || !w.Next.After(time.Now()) || !x.waived("lost") || x.waived("more") {
			t.Errorf("%+v, %v; waived: %v", w, err, x.waived("lost"))
		}
	}
	if c, _ := agent.ChoreOf(a.host.agent.Last().Agreed, agent.ChoreBase, "orders"); !c.OK || !strings.Contains(c.Text, "anna") || c.Ended.IsZero() {
		t.Errorf("the chore is %+v", c)
	}
	a.made()
	a.host.choreEnded(t.Context(), agent.ChoreBase, "orders", "b1", time.Now(), time.Now(), "made", nil)
	soon(t, "a backup that is made ends what was waived", func() bool { return !a.waived("lost") && !again.waived("lost") })
}

// What somebody asked for and took back ends too, and says who took it back.
func TestWhatIsTakenBackEnds(t *testing.T) {
	a, store := anAgreeingArchivist(t)
	r := a.underWay(t.Context(), agent.ChoreBase, &agent.Asked{ID: "q", Kind: "base", By: "ben"})
	raw, err := json.Marshal(agent.Settled{ID: "q", Text: "anna cancelled it", Host: "h2"})
	if err == nil {
		_, err = store.Put(t.Context(), agent.KeyAnswers+"q", raw, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	soon(t, "it ends", func() bool { return r.ctx.Err() != nil })
	if r.cancelled() != "anna" {
		t.Errorf("cancelled by %q", r.cancelled())
	}
	r.over(t.Context(), true, "")
}

// The trial of a backup that was just made is ended: the backup stays, and its trial is left to the next one of the schedule.
func TestAnEndedTrialLeavesTheBackup(t *testing.T) {
	a, store := anAgreeingArchivist(t)
	r := a.underWay(t.Context(), agent.ChoreBase, nil)
	r.trial("b1")
	r.proves(backup.Progress{Phase: "restore", Done: 1, Total: 2})
	if told := a.told.Running; len(told) != 1 || told[0].Phase != "prove" || told[0].Check != "restore" || told[0].Backup != "b1" {
		t.Errorf("told is %+v", told)
	}
	wantsEnd(t, store, "q", r.told.ID, "anna")
	soon(t, "it ends", func() bool { return r.cancelled() == "anna" })
	one := func(context.Context, string) ([]vault.Backup, error) { return []vault.Backup{{ID: "b1"}}, nil }
	text := a.wasCancelled(t.Context(), one, r, "b1", "")
	r.over(t.Context(), true, text)
	if !strings.Contains(text, "b1") || !strings.Contains(text, "holdfast backup validate orders --backup b1") {
		t.Error(text)
	}
	if c := a.cancelled(agent.ChoreProve); c.Backup != "b1" || c.Cancelled.IsZero() {
		t.Errorf("the trial is %+v", c)
	}
	soon(t, "the backup itself was made", func() bool {
		c, ok := agent.ChoreOf(a.host.agent.Last().Agreed, agent.ChoreBase, "orders")
		return ok && c.OK && c.Backup == "b1" && c.Cancelled.IsZero()
	})
}
