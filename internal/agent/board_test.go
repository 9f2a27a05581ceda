package agent

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/cluster"
	"holdfast/internal/database"
	"holdfast/internal/service"
)

func entries(all ...cluster.Entry) map[string]cluster.Entry {
	out := map[string]cluster.Entry{}
	for _, e := range all {
		out[e.Key] = e
	}
	return out
}

func entry(key, value string, revision int64) cluster.Entry {
	return cluster.Entry{Key: key, Value: []byte(value), Revision: revision}
}

func TestOpenRequests(t *testing.T) {
	for _, c := range []struct {
		name  string
		state map[string]cluster.Entry
		want  []string
	}{
		{"nothing was asked", nil, nil},
		{"the oldest comes first, whatever its id", entries(
			entry(KeyRequests+"a", `{"id":"a"}`, 12), entry(KeyRequests+"z", `{"id":"z"}`, 3), entry(KeyRequests+"m", `{"id":"m"}`, 7)), []string{"z", "m", "a"}},
		{"what is settled is left out", entries(
			entry(KeyRequests+"a", `{"id":"a"}`, 2), entry(KeyRequests+"b", `{"id":"b"}`, 3), entry(KeyAnswers+"a", `{}`, 4)), []string{"b"}},
		{"what is no request is left out", entries(
			entry(KeyRequests+"a", `{`, 2), entry(KeyRequests+"b", `{}`, 3), entry(KeyRequests+"c", `{"id":"c"}`, 4)), []string{"c"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, q := range Open(c.state) {
				got = append(got, q.ID)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("a database hears of its own requests alone", func(t *testing.T) {
		state := entries(
			entry(KeyRequests+"a", `{"id":"a","room":"database","subject":"records","kind":"switchover","args":{"to":"b2"},"by":"operator"}`, 2),
			entry(KeyRequests+"b", `{"id":"b","room":"database","subject":"orders","kind":"switchover"}`, 3),
			entry(KeyRequests+"c", `{"id":"c","room":"backup","subject":"records","kind":"base"}`, 4))
		want := []database.Request{{ID: "a", Kind: "switchover", To: "b2", By: "operator"}}
		if diff := cmp.Diff(want, requestsOf(state, "records", time.Now())); diff != "" {
			t.Error(diff)
		}
	})
}

func TestBoardKeepsTheNewestOfALocalServer(t *testing.T) {
	c, wakes := newStill(), 0
	b := newBoard(c, func() { wakes++ })
	start := c.Now()
	look := func(began time.Duration, flushed database.LSN) {
		b.observed("records", database.Local{Known: true, Running: true, Flushed: flushed}, start.Add(began))
	}
	facts := func() DatabaseFacts {
		var f Facts
		b.fill(&f, []database.Policy{{Name: "records"}}, c.Now())
		return f.Databases[0]
	}
	if d := facts(); d.Local.Known || d.Advanced != database.Never {
		t.Errorf("before the first look something is known: %+v", d)
	}
	look(2*time.Second, 100)
	c.now = start.Add(3 * time.Second)
	if d := facts(); d.Local.Age != time.Second || d.Advanced != database.Never {
		t.Errorf("the first look is %v old and the log moved %v ago", d.Local.Age, d.Advanced)
	}
	look(time.Second, 900)
	if d := facts(); d.Local.Flushed != 100 {
		t.Errorf("a look that began earlier was taken: flushed %d", d.Local.Flushed)
	}
	if wakes != 1 {
		t.Errorf("%d wake-ups after one look that counts", wakes)
	}
	look(3*time.Second, 200)
	c.now = start.Add(7 * time.Second)
	if d := facts(); d.Local.Flushed != 200 || d.Advanced != 4*time.Second {
		t.Errorf("flushed %d, moved %v ago", d.Local.Flushed, d.Advanced)
	}
	look(4*time.Second, 200)
	if d := facts(); d.Advanced != 4*time.Second {
		t.Errorf("a look that shows nothing new counts as movement: %v", d.Advanced)
	}
	if b.stopped("records") || b.stopped("orders") {
		t.Error("a server that runs, or that was never looked at, counts as stopped")
	}
	b.observed("records", database.Local{Known: true}, start.Add(5*time.Second))
	if !b.stopped("records") {
		t.Error("a server that was seen ended does not count as stopped")
	}
}

func TestBoardKeepsTheNewestAgreement(t *testing.T) {
	key := RecordKey("records")
	epoch := func(b *board) int64 {
		r, _ := recordOf(b.entries(), "records")
		return r.Epoch
	}
	set := func(epoch string, revision int64) cluster.Change {
		return cluster.Change{Entry: entry(key, `{"epoch":`+epoch+`}`, revision)}
	}
	for _, c := range []struct {
		name  string
		do    func(b *board, now time.Time)
		epoch int64
		wakes int
		known bool
	}{
		{"a change before the first whole reading is ignored", func(b *board, _ time.Time) { b.change(set("4", 9)) }, 0, 0, false},
		{"a change after the reading is taken", func(b *board, now time.Time) {
			b.agreed([]cluster.Entry{set("3", 5).Entry}, 8, now)
			b.change(set("4", 9))
		}, 4, 2, true},
		{"a change that the reading held already is ignored", func(b *board, now time.Time) {
			b.agreed([]cluster.Entry{set("5", 8).Entry}, 8, now)
			b.change(set("4", 7))
			b.change(set("4", 8))
		}, 5, 1, true},
		{"a deletion is taken", func(b *board, now time.Time) {
			b.agreed([]cluster.Entry{set("5", 8).Entry}, 8, now)
			gone := set("5", 9)
			gone.Deleted = true
			b.change(gone)
		}, 0, 2, true},
		{"a reading older than a change leaves the change", func(b *board, now time.Time) {
			b.agreed([]cluster.Entry{set("3", 5).Entry}, 8, now)
			b.change(set("4", 9))
			b.agreed([]cluster.Entry{set("3", 5).Entry}, 8, now)
		}, 4, 2, true},
		{"a reading that brings nothing wakes nobody", func(b *board, now time.Time) {
			b.agreed([]cluster.Entry{set("3", 5).Entry}, 8, now)
			b.agreed([]cluster.Entry{set("3", 5).Entry}, 8, now)
		}, 3, 1, true},
		{"an empty agreement is known too", func(b *board, now time.Time) { b.agreed(nil, 0, now) }, 0, 1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock, wakes := newStill(), 0
			b := newBoard(clock, func() { wakes++ })
			c.do(b, clock.Now().Add(-300*time.Millisecond))
			if got := epoch(b); got != c.epoch {
				t.Errorf("epoch %d, want %d", got, c.epoch)
			}
			if wakes != c.wakes {
				t.Errorf("%d wake-ups, want %d", wakes, c.wakes)
			}
			var f Facts
			b.fill(&f, nil, clock.Now())
			if f.Known != c.known {
				t.Errorf("known: %v", f.Known)
			}
			if want := 300 * time.Millisecond; c.known && f.ContactAge != want {
				t.Errorf("the contact is %v old, want %v: since it was sent", f.ContactAge, want)
			}
		})
	}
	t.Run("a round's copy is not changed by what comes later", func(t *testing.T) {
		b := newBoard(newStill(), func() {})
		b.agreed([]cluster.Entry{set("3", 5).Entry}, 8, time.Time{})
		before := b.entries()
		b.change(set("4", 9))
		if r, _ := recordOf(before, "records"); r.Epoch != 3 {
			t.Errorf("epoch %d in the earlier copy", r.Epoch)
		}
	})
}

func TestBoardReadsWhatIsAgreed(t *testing.T) {
	b := newBoard(newStill(), func() {})
	b.agreed([]cluster.Entry{
		entry(KeyStopping, `true`, 2),
		entry(KeyController, `{"holder":"b2/0011","term":4,"counter":7}`, 6),
		entry(KeyAssignments, `{"generation":3,"services":[{"service":"web","proven":"","assignments":[{"id":"web.3","service":"web","host":"b1","version":"v","since":3}]}]}`, 5),
	}, 6, time.Time{})
	var f Facts
	b.fill(&f, nil, time.Time{})
	if !f.Stopping {
		t.Error("nobody sees that the application is being stopped")
	}
	want := ServiceFacts{
		Revision: 5, Controller: Controller{Host: "b2", Revision: 6},
		Agreed: []service.Placed{{Service: "web", Assignments: []service.Assignment{{ID: "web.3", Service: "web", Host: "b1", Version: "v", Since: 3}}}},
	}
	if diff := cmp.Diff(want, f.Services); diff != "" {
		t.Error(diff)
	}
}

func TestBoardOfInstances(t *testing.T) {
	wakes := 0
	b := newBoard(newStill(), func() { wakes++ })
	running := service.Observed{ID: "web.1", State: service.Running, Life: "a", Age: time.Second}
	older := running
	older.Age = time.Minute
	again := older
	again.Life = "b"
	for _, step := range []struct {
		name     string
		observed []service.Observed
		known    bool
		wakes    int
		still    string
	}{
		{"the first look wakes", []service.Observed{running}, true, 1, "instance web.1"},
		{"age alone wakes nobody", []service.Observed{older}, true, 1, "instance web.1"},
		{"a new life wakes", []service.Observed{again}, true, 2, "instance web.1"},
		{"a look that failed wakes", []service.Observed{again}, false, 3, "instance web.1"},
		{"one that ended no longer keeps a stop waiting", []service.Observed{{ID: "web.1", State: service.Exited, Life: "b"}}, true, 4, ""},
	} {
		b.served(step.observed, step.known)
		if wakes != step.wakes {
			t.Errorf("%s: %d wake-ups, want %d", step.name, wakes, step.wakes)
		}
		if got := b.servesStill(); got != step.still {
			t.Errorf("%s: %q still runs, want %q", step.name, got, step.still)
		}
	}
}

// A watch that begins before the first reading tells changes that nobody takes, and every later one brings the revision up to
// date. The readings that follow, of that very revision, make up for it.
func TestBoardMakesUpForChangesBeforeItsFirstReading(t *testing.T) {
	c, wakes := newStill(), 0
	b := newBoard(c, func() { wakes++ })
	stopping := func() bool {
		var f Facts
		b.fill(&f, nil, c.Now())
		return f.Stopping
	}
	b.change(cluster.Change{Entry: cluster.Entry{Key: KeyStopping, Revision: 17}, Deleted: true})
	b.agreed([]cluster.Entry{entry(KeyStopping, "true", 16)}, 16, c.Now()) // sent before that
	b.change(cluster.Change{Entry: entry(KeyPlan, "a", 18)})
	if !stopping() || b.revision() != 18 {
		t.Fatalf("the change was not missed: stopping %t at %d", stopping(), b.revision())
	}
	before := wakes
	b.agreed([]cluster.Entry{entry(KeyPlan, "a", 18)}, 18, c.Now())
	if stopping() || wakes != before+1 {
		t.Errorf("stopping %t, %d wakes", stopping(), wakes-before)
	}
	b.agreed([]cluster.Entry{entry(KeyPlan, "a", 18)}, 18, c.Now())
	if wakes != before+1 {
		t.Error("a reading that says nothing new wakes the round")
	}
}
