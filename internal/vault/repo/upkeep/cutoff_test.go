package upkeep_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/repotest"
	"holdfast/internal/vault/repo/upkeep"
)

// aged is a place in which some snapshots are listed and some were, and upkeep has been so far that its next run deletes packs, or
// joins some.
func aged(ctx context.Context, t testing.TB, joins bool) (*memory, map[repo.ManifestID]tree) {
	t.Helper()
	m, kept := started(t), map[repo.ManifestID]tree{}
	for i := range 6 {
		what := trees(i, i+1, 3, 60+i)
		id, err := backup(ctx, opened(t, m), what)
		must(t, err)
		kept[id] = what
		if i%2 == 1 {
			must(t, forget(ctx, opened(t, m), id))
			delete(kept, id)
		}
		m.pass(20 * time.Hour)
		if i > 3 {
			must(t, run(ctx, opened(t, m), upkeep.Full()))
		}
	}
	for range 10 {
		m.pass(25 * time.Hour)
		next := m.clone()
		must(t, run(ctx, opened(t, next), upkeep.Full()))
		s, err := upkeep.GetSchedule(ctx, opened(t, next))
		must(t, err)
		joined, deleted := !s.Last(upkeep.TaskRewrite).Before(m.now()), missing(m, next) > 1
		if joins && joined || !joins && deleted {
			return m, kept
		}
		must(t, run(ctx, opened(t, m), upkeep.Full()))
	}
	t.Fatal("nothing is due")
	return nil, nil
}

// missing is how many packs were deleted.
func missing(before, after *memory) (n int) {
	left := after.names("")
	for _, name := range append(before.names("p"), before.names("q")...) {
		if !slices.Contains(left, name) {
			n++
		}
	}
	return n
}

// cutOffs is at how many operations of a run it is killed where there is no time for each.
const cutOffs = 12

// A run that is killed at any of its operations leaves every snapshot whole, and the runs after it finish its work.
func TestARunThatIsCutOffHarmsNothing(t *testing.T) {
	t.Run("one that deletes", func(t *testing.T) { cutOff(t, false, upkeep.Full()) })
	t.Run("one that joins", func(t *testing.T) { cutOff(t, true, upkeep.Full()) })
	t.Run("one that does both", func(t *testing.T) { cutOff(t, true, upkeep.None()) })
}

func cutOff(t *testing.T, joins bool, safety upkeep.Safety) {
	ctx := t.Context()
	m, kept := aged(ctx, t, joins)
	all := m.clone().as(t, "upkeep")
	begun := all.ran
	must(t, run(ctx, all.r, safety))
	operations, step, first := all.ran-begun, 1, 0
	if !repotest.Thorough() {
		step = max(1, operations/cutOffs)
		first = rand.IntN(step)
	}
	for tried, n := 0, first; n < operations; tried, n = tried+1, n+step {
		there := m.clone()
		p := there.as(t, "upkeep")
		p.left, p.applied = p.ran+n, n%2 == 0
		if err := run(ctx, p.r, safety); err == nil && p.dead && n < operations-2 {
			t.Fatalf("killed at operation %d it says that all is well", n)
		}
		if err := whole(ctx, opened(t, there), kept); err != nil {
			t.Fatalf("killed at operation %d of %d: %v", n, operations, err)
		}
		if tried%8 != 0 { // the rest takes long
			continue
		}
		for range 6 {
			there.pass(25 * time.Hour)
			must(t, run(ctx, opened(t, there), safety))
		}
		if err := whole(ctx, opened(t, there), kept); err != nil {
			t.Fatalf("killed at operation %d of %d, and run again: %v", n, operations, err)
		}
		if contents, packs := unused(ctx, t, there); len(contents) > 0 || len(packs) > 0 {
			t.Fatalf("killed at operation %d: never freed are %v and %v", n, contents, packs)
		}
	}
	t.Logf("killed at every %d. of %d operations; a whole run deletes %d packs", step, operations, missing(m, all.memory))
}

// model is what must be true of a repository while everything happens to it.
type model struct {
	*rapid.T
	tb     testing.TB
	ctx    context.Context
	place  *memory
	listed map[repo.ManifestID]tree
	order  []repo.ManifestID // of those that are listed

	old *repo.Repository // of a process that has it open for long

	slow   *repo.Writer // one that writes for hours
	slowID repo.ManifestID
	begun  time.Time
	wants  tree
}

// slowMax is how long that one takes: less than what lies between two looks at least.
const slowMax = 3 * time.Hour

func (m *model) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *model) open() *repo.Repository { return opened(m.tb, m.place) }

// some is a tree of contents that often come again.
func (m *model) some() tree {
	return trees(rapid.SliceOfN(rapid.SampledFrom([]int{0, 1, 2, 3, 4, 6, 7, 8, 9, 12, 13, 15, 16}), 1, 5).Draw(m.T, "contents")...)
}

func (m *model) list(id repo.ManifestID, what tree) {
	m.listed[id] = what
	m.order = append(m.order, id)
}

// Backup lists a snapshot, now and then by a process that has had the repository open for long.
func (m *model) Backup(*rapid.T) { m.backup(rapid.Bool().Draw(m.T, "fresh"), m.some()) }

func (m *model) backup(fresh bool, what tree) {
	r := m.old
	if fresh {
		r = m.open()
	}
	id, err := backup(m.ctx, r, what)
	m.must(err)
	m.list(id, what)
}

// Forget lets go of a snapshot.
func (m *model) Forget(*rapid.T) {
	if len(m.order) == 0 {
		return
	}
	n := rapid.IntRange(0, len(m.order)-1).Draw(m.T, "which")
	id := m.order[n]
	m.order = append(m.order[:n:n], m.order[n+1:]...)
	m.must(forget(m.ctx, m.open(), id))
	delete(m.listed, id)
}

// Begin has the slow writer store what will be listed later.
func (m *model) Begin(*rapid.T) { m.begin(m.some()) }

func (m *model) begin(what tree) {
	if m.slow != nil {
		return
	}
	var err error
	m.slow, err = m.place.as(m.tb, "slow").r.NewWriter(m.ctx, repo.WriteOptions{})
	m.must(err)
	m.begun, m.wants = m.place.now(), what
	m.slowID, err = write(m.ctx, m.slow, m.wants)
	m.must(err)
}

// End has it listed, or killed: then nothing of it counts.
func (m *model) End(*rapid.T) { m.end(rapid.IntRange(0, 3).Draw(m.T, "luck") > 0) }

func (m *model) end(well bool) {
	if m.slow == nil {
		return
	}
	w := m.slow
	m.slow = nil
	if !well {
		return
	}
	m.must(w.Flush(m.ctx))
	m.must(w.Close(m.ctx))
	m.list(m.slowID, m.wants)
}

// Revive lets go of a snapshot, and has the slow writer find what it held, while upkeep marks that.
func (m *model) Revive(t *rapid.T) {
	if len(m.order) == 0 || m.slow != nil {
		return
	}
	id := m.order[len(m.order)-1]
	what := m.listed[id]
	m.order = m.order[:len(m.order)-1]
	m.must(forget(m.ctx, m.open(), id))
	delete(m.listed, id)
	m.place.pass(time.Duration(rapid.IntRange(20, 40).Draw(m.T, "hours")) * time.Hour)
	m.begin(what)
	for range rapid.IntRange(0, 4).Draw(m.T, "runs") {
		m.Upkeep(t)
		m.place.pass(time.Duration(rapid.IntRange(1, 45).Draw(m.T, "minutes")) * time.Minute)
	}
	m.end(true)
	m.must(whole(m.ctx, m.open(), m.listed))
}

// Pass lets time pass; the slow writer ends in time.
func (m *model) Pass(*rapid.T) {
	d := time.Duration(rapid.IntRange(1, 40*60).Draw(m.T, "minutes")) * time.Minute
	if m.slow != nil && m.place.now().Add(d).Sub(m.begun) > slowMax {
		m.end(true)
	}
	m.place.pass(d)
}

// Upkeep runs while others write, and is killed at some operation now and then.
func (m *model) Upkeep(*rapid.T) {
	p := m.place.as(m.tb, "upkeep")
	if rapid.IntRange(0, 2).Draw(m.T, "luck") == 0 {
		p.left, p.applied = p.ran+rapid.IntRange(0, 120).Draw(m.T, "operations"), rapid.Bool().Draw(m.T, "applied")
	}
	var others sync.Mutex // they are one at a time
	p.between = map[int]func(){}
	for range rapid.IntRange(0, 4).Draw(m.T, "others") {
		what, fresh := m.some(), rapid.Bool().Draw(m.T, "fresh")
		do := rapid.SampledFrom([]func(){
			func() { m.backup(fresh, what) },
			func() { m.begin(what) },
			func() { m.end(true) },
			func() { m.end(false) },
		}).Draw(m.T, "deed")
		p.between[p.ran+rapid.IntRange(1, 80).Draw(m.T, "at")] = func() {
			others.Lock()
			defer others.Unlock()
			do()
		}
	}
	err := run(m.ctx, p.r, upkeep.Full())
	p.between = nil
	if err != nil && !p.dead {
		m.Fatal(err)
	}
	m.must(whole(m.ctx, m.open(), m.listed))
}

// Everything that is listed reads back whole, whatever others do meanwhile; and in the end nothing else is left.
func TestWhatIsListedStaysAndTheRestGoes(t *testing.T) {
	empty := started(t)
	repotest.FewChecks(t, 6)
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{T: rt, tb: t, ctx: t.Context(), place: empty.clone(), listed: map[repo.ManifestID]tree{}}
		m.old = m.place.as(t, "old").r
		rt.Repeat(map[string]func(*rapid.T){
			"backup": m.Backup, "forget": m.Forget, "begin": m.Begin, "end": m.End,
			"revive": m.Revive, "revive again": m.Revive, "pass": m.Pass, "pass again": m.Pass, "upkeep": m.Upkeep, "upkeep again": m.Upkeep,
		})
		m.end(true)
		for range 10 {
			m.place.pass(30 * time.Hour)
			m.must(run(m.ctx, m.open(), upkeep.Full()))
		}
		m.must(whole(m.ctx, m.open(), m.listed))
		if contents, packs := unused(m.ctx, t, m.place); len(contents) > 0 || len(packs) > 0 {
			rt.Fatalf("never freed are contents %v and blobs %v", contents, packs)
		}
		rt.Log(fmt.Sprintf("%d listed", len(m.listed)))
	})
}
