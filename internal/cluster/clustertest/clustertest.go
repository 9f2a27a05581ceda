// Package clustertest is the contract of [cluster.Store] as tests: every driver passes it, the in-memory twin
// too.
package clustertest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/clock"
	"holdfast/internal/cluster"
)

// Subject is one store to be judged, empty or not: each test keeps to keys of its own.
type Subject struct {
	// Open gives a new client of the same store; the suite closes it.
	Open func(t *testing.T) cluster.Store
	// Compact forgets the history up to and including rev.
	Compact func(t *testing.T, rev int64)
	// Flaky gives a client whose connection can be cut and mended.
	Flaky func(t *testing.T) (s cluster.Store, cut func(bool))
}

// patience bounds how long a test waits for what must happen; nothing is asserted about speed.
const patience = 2 * time.Minute

// Run judges the subject.
func Run(t *testing.T, sub Subject) {
	tests := []struct {
		name string
		run  func(t *testing.T, sub Subject, at string)
	}{
		{"an absent key is revision zero and no error", testAbsent},
		{"a write is read back with the revision it returned", testReadBack},
		{"compare-and-swap writes only over the revision it names", testSwap},
		{"a delete needs the right revision, and none for an absent key", testDelete},
		{"a list is sorted, keeps to its prefix and tells its revision", testList},
		{"an empty key is refused", testEmptyKey},
		{"of many concurrent swaps on one revision exactly one wins", testOneWinner},
		{"concurrent histories are linearizable", testLinearizable},
		{"a watch tells every change once, in order, from where the list ended", testWatch},
		{"a watch from an old revision replays the past", testWatchPast},
		{"a watch resumes without a gap after its connection was cut", testWatchResume},
		{"a watch over compacted history says so and goes on", testWatchLost},
		{"a cut client hears ErrUnavailable, and works again when mended", testCut},
		{"a call under an ended context fails and says why", testEndedContext},
		{"typed keys decode strictly and swap on revisions", testKey},
		{"an election has one leader, and a successor when it resigns", testElection},
		{"a closed store refuses calls and closes its watches", testClosed},
	}
	for i, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			tc.run(t, sub, fmt.Sprintf("/suite/%d/%02d/", time.Now().UnixNano(), i))
		})
	}
}

func open(t *testing.T, sub Subject) cluster.Store {
	t.Helper()
	s := sub.Open(t)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// must fails the test on err; it reads as part of the sentence.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func testAbsent(t *testing.T, sub Subject, at string) {
	s := open(t, sub)
	e := must[cluster.Entry](t)(s.Get(t.Context(), at+"nothing"))
	if e.Revision != 0 || len(e.Value) != 0 {
		t.Fatalf("absent key = %+v", e)
	}
}

func testReadBack(t *testing.T, sub Subject, at string) {
	s, other := open(t, sub), open(t, sub)
	first := must[int64](t)(s.Put(t.Context(), at+"k", []byte("one"), 0))
	second := must[int64](t)(s.Set(t.Context(), at+"k", []byte("two")))
	if second <= first || first <= 0 {
		t.Fatalf("revisions %d then %d", first, second)
	}
	got := must[cluster.Entry](t)(other.Get(t.Context(), at+"k"))
	if diff := cmp.Diff(cluster.Entry{Key: at + "k", Value: []byte("two"), Revision: second}, got); diff != "" {
		t.Fatal(diff)
	}
}

func testSwap(t *testing.T, sub Subject, at string) {
	s := open(t, sub)
	first := must[int64](t)(s.Put(t.Context(), at+"k", []byte("one"), 0))
	for _, wrong := range []int64{0, first - 1, first + 1} {
		if _, err := s.Put(t.Context(), at+"k", []byte("no"), wrong); !errors.Is(err, cluster.ErrConflict) {
			t.Fatalf("swap at revision %d instead of %d: %v", wrong, first, err)
		}
	}
	if _, err := s.Put(t.Context(), at+"absent", []byte("no"), first); !errors.Is(err, cluster.ErrConflict) {
		t.Fatalf("swap of an absent key: %v", err)
	}
	second := must[int64](t)(s.Put(t.Context(), at+"k", []byte("two"), first))
	if e := must[cluster.Entry](t)(s.Get(t.Context(), at+"k")); e.Revision != second || string(e.Value) != "two" {
		t.Fatalf("after the swap: %+v", e)
	}
}

func testDelete(t *testing.T, sub Subject, at string) {
	s := open(t, sub)
	if err := s.Delete(t.Context(), at+"k", 0); err != nil {
		t.Fatalf("delete an absent key: %v", err)
	}
	rev := must[int64](t)(s.Put(t.Context(), at+"k", []byte("one"), 0))
	for _, wrong := range []int64{0, rev + 1} {
		if err := s.Delete(t.Context(), at+"k", wrong); !errors.Is(err, cluster.ErrConflict) {
			t.Fatalf("delete at revision %d instead of %d: %v", wrong, rev, err)
		}
	}
	if err := s.Delete(t.Context(), at+"k", rev); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), at+"k", rev); !errors.Is(err, cluster.ErrConflict) {
		t.Fatalf("delete twice: %v", err)
	}
	if e := must[cluster.Entry](t)(s.Get(t.Context(), at+"k")); e.Revision != 0 {
		t.Fatalf("after the delete: %+v", e)
	}
	if next := must[int64](t)(s.Put(t.Context(), at+"k", []byte("again"), 0)); next <= rev {
		t.Fatalf("a key that came back has revision %d, before it was gone %d", next, rev)
	}
}

func testList(t *testing.T, sub Subject, at string) {
	s := open(t, sub)
	for _, k := range []string{"b", "a/2", "a/1", "a"} {
		must[int64](t)(s.Set(t.Context(), at+"in/"+k, []byte(k)))
	}
	last := must[int64](t)(s.Set(t.Context(), at+"inside-not", nil))
	got, rev, err := s.List(t.Context(), at+"in/")
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, e := range got {
		keys = append(keys, e.Key[len(at):]+"="+string(e.Value))
		if e.Revision <= 0 || e.Revision > rev {
			t.Errorf("%s has revision %d in a list at %d", e.Key, e.Revision, rev)
		}
	}
	if diff := cmp.Diff([]string{"in/a=a", "in/a/1=a/1", "in/a/2=a/2", "in/b=b"}, keys); diff != "" {
		t.Fatal(diff)
	}
	if rev < last {
		t.Fatalf("list read at revision %d, the last write was %d", rev, last)
	}
	none, rev, err := s.List(t.Context(), at+"none/")
	if err != nil || len(none) != 0 || rev < last {
		t.Fatalf("empty list: %v at %d, %v", none, rev, err)
	}
}

func testEmptyKey(t *testing.T, sub Subject, _ string) {
	s := open(t, sub)
	if _, err := s.Set(t.Context(), "", []byte("x")); err == nil || errors.Is(err, cluster.ErrUnavailable) {
		t.Fatalf("set of the empty key: %v", err)
	}
}

func testCut(t *testing.T, sub Subject, at string) {
	s, cut := sub.Flaky(t)
	defer func() { _ = s.Close() }() // closed on the way out; what matters was tested
	must[int64](t)(s.Set(t.Context(), at+"k", []byte("one")))
	cut(true)
	if _, err := s.Get(t.Context(), at+"k"); !errors.Is(err, cluster.ErrUnavailable) {
		t.Fatalf("get while cut: %v", err)
	}
	if _, err := s.Set(t.Context(), at+"k", []byte("two")); !errors.Is(err, cluster.ErrUnavailable) {
		t.Fatalf("set while cut: %v", err)
	}
	if _, _, err := s.List(t.Context(), at); !errors.Is(err, cluster.ErrUnavailable) {
		t.Fatalf("list while cut: %v", err)
	}
	cut(false)
	Eventually(t, func() error { _, err := s.Get(t.Context(), at+"k"); return err })
}

func testEndedContext(t *testing.T, sub Subject, at string) {
	s := open(t, sub)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Set(ctx, at+"k", nil)
	if !errors.Is(err, cluster.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Fatalf("set under an ended context: %v", err)
	}
}

func testClosed(t *testing.T, sub Subject, at string) {
	s := sub.Open(t)
	w := s.Watch(t.Context(), at, 0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wait := time.After(patience)
	for open := true; open; {
		select {
		case _, open = <-w:
		case <-wait:
			t.Fatal("the watch of a closed store is still open")
		}
	}
	if _, err := s.Get(t.Context(), at+"k"); !errors.Is(err, cluster.ErrUnavailable) {
		t.Fatalf("get from a closed store: %v", err)
	}
}

func testKey(t *testing.T, sub Subject, at string) {
	type record struct{ Epoch int }
	s := open(t, sub)
	k := cluster.Key[record](at + "record")
	v, rev, err := k.Load(t.Context(), s)
	if err != nil || rev != 0 || v != (record{}) {
		t.Fatalf("absent: %+v at %d, %v", v, rev, err)
	}
	rev = must[int64](t)(k.Swap(t.Context(), s, 0, record{Epoch: 1}))
	if _, err := k.Swap(t.Context(), s, 0, record{Epoch: 2}); !errors.Is(err, cluster.ErrConflict) {
		t.Fatalf("second swap at zero: %v", err)
	}
	v, got, err := k.Load(t.Context(), s)
	if err != nil || got != rev || v.Epoch != 1 {
		t.Fatalf("loaded %+v at %d, %v", v, got, err)
	}
	for _, bad := range []string{`{"Epoch":1,"Newer":2}`, `{"Epoch":1} {}`, `{"Epoch":"1"}`, ``} {
		must[int64](t)(s.Set(t.Context(), string(k), []byte(bad)))
		if v, _, err := k.Load(t.Context(), s); err == nil {
			t.Errorf("decoded %q as %+v", bad, v)
		}
	}
}

func testElection(t *testing.T, sub Subject, at string) {
	const ttl = 2 * time.Second
	type runner struct {
		e    *cluster.Election
		stop func()
	}
	start := func(self string) runner {
		ctx, cancel := context.WithCancel(t.Context())
		e := cluster.Campaign(open(t, sub), at+"role", self, ttl, clock.Real(), slog.New(slog.DiscardHandler))
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		stop := func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("run %s: %v", self, err)
			}
		}
		return runner{e, stop}
	}
	a := start("a")
	Eventually(t, func() error {
		if !a.e.Leading() {
			return errors.New("a does not lead")
		}
		return nil
	})
	first := a.e.Term()
	b := start("b")
	Eventually(t, func() error {
		if h := b.e.Holder(); h != "a" {
			return fmt.Errorf("b sees %q as the holder", h)
		}
		return nil
	})
	if b.e.Leading() {
		t.Error("two leaders")
	}
	a.stop()
	if a.e.Leading() {
		t.Error("a resigned leader still leads")
	}
	Eventually(t, func() error {
		if !b.e.Leading() {
			return errors.New("b does not lead")
		}
		return nil
	})
	if b.e.Term() <= first {
		t.Errorf("term %d follows term %d", b.e.Term(), first)
	}
	b.stop()
}

// Eventually retries until ok gives nil, or fails the test with its last answer.
func Eventually(t testing.TB, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // the pace of asking, nothing relies on it
	}
}
