package upkeep_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/upkeep"
)

// Where packs may not be joined, what is unused is freed in every run, and nothing says that they were.
func TestWithoutJoiningWhatIsUnusedIsFreed(t *testing.T) {
	ctx, m := t.Context(), started(t)
	kept := map[repo.ManifestID]tree{}
	for i := range 3 {
		id, err := backup(ctx, opened(t, m), trees(3, 60+i))
		must(t, err)
		kept[id] = trees(3, 60+i)
	}
	first := append(m.names("p"), m.names("q")...)
	for i := range 6 {
		gone, err := backup(ctx, opened(t, m), trees(100+i))
		must(t, err)
		must(t, forget(ctx, opened(t, m), gone))
		m.pass(25 * time.Hour)
		must(t, runAs(ctx, opened(t, m), upkeep.Full(), unjoined))
		must(t, whole(ctx, opened(t, m), kept))
		s, err := upkeep.GetSchedule(ctx, opened(t, m))
		must(t, err)
		if joins, frees := len(s.Runs[upkeep.TaskRewrite]), s.Last(upkeep.TaskDelete); joins > 0 || !frees.Equal(m.now()) {
			t.Errorf("run %d: packs were joined %d times, deleted last at %s", i, joins, frees)
		}
	}
	for _, name := range first {
		if !slices.Contains(m.names(""), name) {
			t.Errorf("%s went, which holds what is used", name)
		}
	}
	if _, packs := unused(ctx, t, m); len(packs) > 0 {
		t.Errorf("left are %v", packs)
	}
}

// What the place puts off is deleted before a run says that it is; and a run that could not says so.
func TestADeletionThatIsPutOffIsPartOfTheTask(t *testing.T) {
	ctx, full := t.Context(), started(t)
	id, err := backup(ctx, opened(t, full), trees(3, 4))
	must(t, err)
	gone, err := backup(ctx, opened(t, full), trees(5, 9))
	must(t, err)
	must(t, forget(ctx, opened(t, full), gone))
	full.pass(time.Hour)
	for _, broken := range []error{nil, errors.New("broken disk")} {
		m := full.clone()
		p := m.as(t, "upkeep")
		var waits atomic.Int64
		p.refuse = func(op, name string) error {
			if op == "delete" && strings.HasPrefix(name, "repository/p") {
				waits.Add(1)
			}
			if op == "replace" && waits.Load() > 0 && broken == nil {
				return errors.New("written down before it is done")
			}
			return nil
		}
		finish := func(context.Context) error {
			if waits.Load() > 0 && broken != nil {
				return broken
			}
			waits.Store(0)
			return nil
		}
		err := runAs(ctx, p.r, upkeep.None(), upkeep.Options{Join: unjoined.Join, Finish: finish})
		if !errors.Is(err, broken) || broken == nil && err != nil {
			t.Errorf("%v, want %v", err, broken)
		}
		s, err := upkeep.GetSchedule(ctx, opened(t, m))
		must(t, err)
		if done := !s.Last(upkeep.TaskDelete).IsZero(); done != (broken == nil) {
			t.Errorf("that it was deleted is said: %v, and the place says %v", done, broken)
		}
		must(t, whole(ctx, opened(t, m), map[repo.ManifestID]tree{id: trees(3, 4)}))
	}
}

// Another takes over, at whichever operation of a run. Soon after nothing more is made known, written down or moved.
func TestWithoutLeaveNothingChanges(t *testing.T) {
	ctx, full := t.Context(), started(t)
	kept := map[repo.ManifestID]tree{}
	for i := range 4 {
		id, err := backup(ctx, opened(t, full), trees(3, 60+i))
		must(t, err)
		kept[id] = trees(3, 60+i)
	}
	gone, err := backup(ctx, opened(t, full), trees(5, 9))
	must(t, err)
	must(t, forget(ctx, opened(t, full), gone))
	full.pass(time.Hour)
	no := errors.New("another host has the duty")
	for n := 1; ; n += 2 {
		m := full.clone()
		p := m.as(t, "upkeep")
		begun := p.ran
		var late []string
		p.refuse = func(op, name string) error { // m.mu is held
			name = strings.TrimPrefix(name, "repository/")
			index := op == "put" && (strings.HasPrefix(name, "xn") || strings.HasPrefix(name, "xw"))
			if p.ran > begun+n+6 && (index || op == "replace" || op == "get" && strings.HasPrefix(name, "p")) {
				late = append(late, op+" "+name)
			}
			return nil
		}
		err := runAs(ctx, p.r, upkeep.None(), upkeep.Options{May: func(context.Context) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			if p.ran >= begun+n {
				return no
			}
			return nil
		}})
		if err == nil {
			if n < 50 {
				t.Errorf("a run has only %d operations", n)
			}
			return
		}
		if !errors.Is(err, no) || len(late) > 0 {
			t.Errorf("refused from operation %d on: %v, and then %v", n, err, late)
		}
		must(t, whole(ctx, opened(t, m), kept))
	}
}

// A host sleeps while it joins packs, and another takes the duty over and frees what no index knows of the first one's. It wakes, and
// nobody tells it: nothing that it had stored is made known.
func TestAHostThatSleptWhileItJoinedHarmsNothing(t *testing.T) {
	ctx, m := t.Context(), started(t)
	a, b := m.as(t, "a"), m.as(t, "b")
	kept := map[repo.ManifestID]tree{}
	for part := range 3 { // short packs, which make more than one when they are joined
		what := trees(5+600*part, 11+600*part, 17+600*part, 23+600*part)
		id, err := backup(ctx, b.r, what)
		must(t, err)
		kept[id] = what
		m.pass(time.Minute)
	}
	m.pass(100 * time.Hour)
	safety := upkeep.Full()
	safety.MinContentAgeSubjectToGC, safety.PackDeleteMinAge, safety.MarginBetweenSnapshotGC = 72*time.Hour, 72*time.Hour, 72*time.Hour
	must(t, a.r.Refresh(ctx))
	packs := len(m.names("p"))
	var slept atomic.Bool
	a.process.refuse = func(op, name string) error { // m.mu is held
		stored := 0
		for n := range m.blobs {
			if strings.HasPrefix(n, "repository/p") {
				stored++
			}
		}
		if stored <= packs || !strings.HasPrefix(name, "repository/p") || slept.Swap(true) {
			return nil
		}
		m.mu.Unlock() // the first joined pack is stored: now the host sleeps
		defer m.mu.Lock()
		m.pass(100 * time.Hour)
		for range 3 {
			if err := errors.Join(b.r.Refresh(ctx), runAs(ctx, b.r, safety, unjoined)); err != nil {
				t.Error("b:", err)
			}
			m.pass(24 * time.Hour)
		}
		return nil
	}
	err := runAs(ctx, a.r, safety, upkeep.Options{})
	a.process.refuse = nil
	if !slept.Load() || err == nil {
		t.Errorf("slept %v, and then it ends with %v", slept.Load(), err)
	}
	for range 2 {
		m.pass(24 * time.Hour)
		must(t, b.r.Refresh(ctx))
		must(t, runAs(ctx, b.r, safety, unjoined))
	}
	must(t, whole(ctx, m.as(t, "c").r, kept))
}

// Another writer joins the manifests while upkeep moves packs, so long after a snapshot was deleted that nothing says so any more.
// Those that were joined are not moved, or the snapshot would be listed again.
func TestManifestsThatWereJoinedMeanwhileAreNotMoved(t *testing.T) {
	ctx, m := t.Context(), started(t)
	a, b := m.as(t, "a"), m.as(t, "b")
	gone, err := backup(ctx, b.r, trees(5))
	must(t, err)
	kept := map[repo.ManifestID]tree{}
	for _, what := range []tree{trees(1, 2, 3), trees(4, 9)} { // packs of data to be moved first
		id, err := backup(ctx, b.r, what)
		must(t, err)
		kept[id] = what
	}
	m.pass(time.Hour)
	must(t, b.r.Write(ctx, repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) error { // in a pack that is not short
		for i := range 14 {
			big := make([]byte, 1<<20)
			copy(big, content(600+i*6+5))
			if _, err := w.Store(ctx, big, "k", false); err != nil {
				return err
			}
		}
		return w.DeleteManifest(ctx, gone)
	}))
	m.pass(3 * 365 * 24 * time.Hour)
	must(t, a.r.Refresh(ctx))
	must(t, b.r.Refresh(ctx))
	joined := false
	begun := func(context.Context) (bool, error) {
		a.process.refuse = func(op, name string) error { // m.mu is held
			if joined || op != "get" || !strings.HasPrefix(name, "repository/p") {
				return nil
			}
			joined = true
			m.mu.Unlock()
			defer m.mu.Lock()
			return b.r.Write(ctx, repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) error { return w.CompactManifests(ctx) })
		}
		return true, nil
	}
	must(t, runAs(ctx, a.r, upkeep.Full(), upkeep.Options{Join: begun}))
	a.process.refuse = nil
	if !joined {
		t.Fatal("nothing was moved")
	}
	must(t, whole(ctx, m.as(t, "c").r, kept))
}
