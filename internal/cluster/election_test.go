package cluster_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/clock"
	"holdfast/internal/cluster"
	"holdfast/internal/cluster/memory"
)

const ttl = 6 * time.Second

// skewed is one host's monotonic clock: it runs at its own speed.
type skewed struct {
	clock.Clock // its timers are not used: Step is called by hand
	truth       *time.Duration
	percent     int
}

func (s skewed) Now() time.Time {
	return time.Unix(0, 0).Add(*s.truth * time.Duration(s.percent) / 100)
}

// slow is a store whose writes take time before and after they happen; meanwhile does what others do.
type slow struct {
	cluster.Store
	meanwhile func()
}

func (s slow) Put(ctx context.Context, key string, value []byte, rev int64) (int64, error) {
	s.meanwhile()
	next, err := s.Store.Put(ctx, key, value, rev)
	s.meanwhile()
	return next, err
}

// However calls are delayed, answers lost and clients cut off, although clocks differ in speed by a fifth, and although
// the record is taken away once from a holder that renews it, no two candidates lead at once; and terms only rise, until
// the record is gone.
//
// A holder that counts a tenth of TTL too long was found in about one draw of 2,600, so the hundred draws of one
// check are too few.
func TestElectionNeverHasTwoLeaders(t *testing.T) {
	for range 25 {
		rapid.Check(t, electionRun)
	}
}

func electionRun(t *rapid.T) {
	const n = 3
	var truth time.Duration
	shared := memory.New()
	candidates := make([]*cluster.Election, n)
	lastTerm, lastHolder, gone := int64(0), -1, false
	check := func() {
		t.Helper()
		leader := -1
		for i, c := range candidates {
			if !c.Leading() {
				continue
			}
			if leader >= 0 {
				t.Fatalf("h%d and h%d lead at %v", leader, i, truth)
			}
			leader = i
			term := c.Term()
			if gone {
				continue // who has not seen the newest term goes on from an older one
			}
			if term < lastTerm || term == lastTerm && i != lastHolder {
				t.Fatalf("h%d leads in term %d after h%d in term %d", i, term, lastHolder, lastTerm)
			}
			lastTerm, lastHolder = term, i
		}
	}
	pass := func(label string) {
		truth += rapid.SampledFrom([]time.Duration{0, 100 * time.Millisecond, ttl / 6, ttl / 3, ttl / 2}).Draw(t, label)
		check()
	}
	busy := make([]bool, n) // a candidate within a call makes no other
	step := func(i int) {
		if busy[i] {
			return
		}
		busy[i] = true
		candidates[i].Step(t.Context())
		busy[i] = false
		check()
	}
	nested := 0
	for i := range n {
		name := fmt.Sprintf("h%d", i)
		meanwhile := func() {
			pass("delay")
			if nested < 2 && rapid.Bool().Draw(t, "another acts meanwhile") {
				nested++
				step(rapid.IntRange(0, n-1).Draw(t, "who meanwhile"))
				nested--
			}
		}
		c := skewed{truth: &truth, percent: rapid.SampledFrom([]int{90, 100, 110}).Draw(t, "speed")}
		candidates[i] = cluster.Campaign(slow{shared.Open(name), meanwhile}, "/role", name, ttl, c, slog.New(slog.DiscardHandler))
	}
	revoked := rapid.Bool().Draw(t, "never revoked")
	revoke := func() { // whatever the holder does, its record is gone
		revoked = true
		if e, err := shared.Open("revoker").Get(t.Context(), "/role"); err != nil {
			t.Fatal(err)
		} else if e.Revision > 0 {
			if err := shared.Open("revoker").Delete(t.Context(), "/role", e.Revision); err != nil {
				t.Fatal(err)
			}
			gone = true
		}
	}
	for i := range n { // who never saw a record cannot know that one is gone
		for candidates[i].Holder() == "" {
			step(i)
			truth += ttl / 6
		}
	}
	for range rapid.IntRange(1, 200).Draw(t, "actions") {
		i := rapid.IntRange(0, n-1).Draw(t, "who")
		name := fmt.Sprintf("h%d", i)
		switch rapid.IntRange(0, 9).Draw(t, "what") {
		case 0:
			shared.Partition(name, rapid.Bool().Draw(t, "cut"))
		case 1:
			shared.LoseAnswers(name, 1)
		case 2, 3, 4:
			pass("time")
		case 5:
			if !revoked {
				revoke()
			}
		default:
			step(i)
		}
		check()
	}
}

func TestElection(t *testing.T) {
	type world struct {
		truth  time.Duration
		shared *memory.Shared
	}
	candidate := func(w *world, name string) *cluster.Election {
		c := skewed{truth: &w.truth, percent: 100}
		return cluster.Campaign(w.shared.Open(name), "/role", name, ttl, c, slog.New(slog.DiscardHandler))
	}
	t.Run("the first to come leads", func(t *testing.T) {
		w := &world{shared: memory.New()}
		a := candidate(w, "a")
		a.Step(t.Context())
		if !a.Leading() || a.Holder() != "a" || a.Term() != 1 {
			t.Fatalf("leading %v, holder %q, term %d", a.Leading(), a.Holder(), a.Term())
		}
		if len(a.Changed()) != 1 {
			t.Error("nobody was told")
		}
	})
	t.Run("a leader that cannot renew ceases before another may take over", func(t *testing.T) {
		w := &world{shared: memory.New()}
		a, b := candidate(w, "a"), candidate(w, "b")
		a.Step(t.Context())
		b.Step(t.Context())
		w.shared.Partition("a", true)
		w.truth += ttl - ttl/4 - 1
		if !a.Leading() {
			t.Error("it ceased early")
		}
		w.truth++
		if a.Leading() || a.Term() != 0 {
			t.Error("it leads for ever")
		}
		b.Step(t.Context())
		if b.Leading() {
			t.Error("taken over too early")
		}
		w.truth += ttl / 4
		b.Step(t.Context())
		if !b.Leading() || b.Term() != 2 {
			t.Error("nobody took over")
		}
		w.shared.Partition("a", false)
		a.Step(t.Context())
		if a.Leading() || a.Holder() != "b" {
			t.Error("the former leader does not see the new one")
		}
	})
	t.Run("a leader that renews is left alone", func(t *testing.T) {
		w := &world{shared: memory.New()}
		a, b := candidate(w, "a"), candidate(w, "b")
		for range 25 {
			w.truth += a.Step(t.Context())
			b.Step(t.Context())
			if !a.Leading() || b.Leading() {
				t.Fatalf("at %v: a %v, b %v", w.truth, a.Leading(), b.Leading())
			}
		}
	})
	t.Run("a renewal whose answer was lost counts only when seen again", func(t *testing.T) {
		w := &world{shared: memory.New()}
		a := candidate(w, "a")
		w.shared.LoseAnswers("a", 1)
		a.Step(t.Context())
		if a.Leading() {
			t.Fatal("it leads on no answer")
		}
		a.Step(t.Context())
		if !a.Leading() || a.Term() != 1 {
			t.Fatalf("leading %v, term %d", a.Leading(), a.Term())
		}
	})
	t.Run("a new life of the same host waits like anybody", func(t *testing.T) {
		w := &world{shared: memory.New()}
		former, next := candidate(w, "a#1"), candidate(w, "a#2")
		former.Step(t.Context())
		next.Step(t.Context())
		if next.Leading() {
			t.Fatal("it took over from a life that may still act")
		}
	})
}
