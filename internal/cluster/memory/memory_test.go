package memory_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"holdfast/internal/cluster"
	"holdfast/internal/cluster/clustertest"
	"holdfast/internal/cluster/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	shared := memory.New()
	clustertest.Run(t, clustertest.Subject{
		Open:    func(*testing.T) cluster.Store { return shared.Open("b1") },
		Compact: func(_ *testing.T, rev int64) { shared.Compact(rev) },
		Flaky: func(t *testing.T) (cluster.Store, func(bool)) {
			return shared.Open(t.Name()), func(cut bool) { shared.Partition(t.Name(), cut) }
		},
	})
}

func TestFaults(t *testing.T) {
	t.Run("a partition cuts one client and no other", func(t *testing.T) {
		shared := memory.New()
		a, b := shared.Open("a"), shared.Open("b")
		shared.Partition("a", true)
		if _, err := a.Get(t.Context(), "k"); !errors.Is(err, cluster.ErrUnavailable) {
			t.Errorf("cut client: %v", err)
		}
		if _, err := b.Get(t.Context(), "k"); err != nil {
			t.Errorf("other client: %v", err)
		}
	})
	t.Run("an outage cuts everybody", func(t *testing.T) {
		shared := memory.New()
		shared.Unavailable(true)
		if _, err := shared.Open("a").Set(t.Context(), "k", nil); !errors.Is(err, cluster.ErrUnavailable) {
			t.Error(err)
		}
		shared.Unavailable(false)
		if shared.Revision() != 0 {
			t.Error("a refused write was written")
		}
	})
	t.Run("a lost answer leaves its write", func(t *testing.T) {
		shared := memory.New()
		a := shared.Open("a")
		shared.LoseAnswers("a", 1)
		if _, err := a.Put(t.Context(), "k", []byte("x"), 0); !errors.Is(err, cluster.ErrUnavailable) {
			t.Fatal(err)
		}
		if e, err := a.Get(t.Context(), "k"); err != nil || string(e.Value) != "x" {
			t.Fatalf("%+v, %v", e, err)
		}
	})
	t.Run("held watches tell nothing, and everything in order once let go", func(t *testing.T) {
		shared := memory.New()
		a, b := shared.Open("a"), shared.Open("b")
		shared.HoldWatch("a", true)
		for _, v := range []string{"1", "2"} {
			if _, err := b.Set(t.Context(), "k", []byte(v)); err != nil {
				t.Fatal(err)
			}
		}
		if got := a.Since("k", 0); got != nil {
			t.Errorf("held: %+v", got)
		}
		if got := len(b.Since("k", 0)); got != 2 {
			t.Errorf("the other client sees %d changes", got)
		}
		shared.HoldWatch("a", false)
		want := []cluster.Change{
			{Entry: cluster.Entry{Key: "k", Value: []byte("1"), Revision: 1}},
			{Entry: cluster.Entry{Key: "k", Value: []byte("2"), Revision: 2}},
		}
		if diff := cmp.Diff(want, a.Since("k", 0)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("what was read cannot be changed through it", func(t *testing.T) {
		a := memory.New().Open("a")
		if _, err := a.Set(t.Context(), "k", []byte("x")); err != nil {
			t.Fatal(err)
		}
		e, _ := a.Get(t.Context(), "k")
		e.Value[0] = 'y'
		if e, _ := a.Get(t.Context(), "k"); string(e.Value) != "x" {
			t.Fatal("a reader changed the store")
		}
	})
}
