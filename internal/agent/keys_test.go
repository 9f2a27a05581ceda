package agent

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/cluster"
	"holdfast/internal/database"
)

func TestRecords(t *testing.T) {
	w := newWorld(t)
	r := Records(w.store, "records")
	if rec, rev, err := r.Read(t.Context()); err != nil || rev != 0 || rec.Epoch != 0 {
		t.Fatalf("an absent record reads as epoch %d at revision %d (%v)", rec.Epoch, rev, err)
	}
	first := database.Record{Epoch: 1, Generation: 1, Members: []string{"b1", "b2"}, Primary: "b1", Phase: database.Creating, Because: []string{"asked"}}
	if err := r.Swap(t.Context(), 0, first); err != nil {
		t.Fatal(err)
	}
	got, rev, err := r.Read(t.Context())
	if err != nil || rev == 0 {
		t.Fatalf("revision %d: %v", rev, err)
	}
	if diff := cmp.Diff(first, got); diff != "" {
		t.Errorf("it was kept as another:\n%s", diff)
	}
	next := first
	next.Epoch = 2
	for _, c := range []struct {
		name     string
		revision int64
	}{
		{"one that believes the record absent loses", 0},
		{"one that read another revision loses", rev + 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := r.Swap(t.Context(), c.revision, next); !errors.Is(err, cluster.ErrConflict) {
				t.Errorf("the swap says %v", err)
			}
			if kept, at, err := r.Read(t.Context()); err != nil || kept.Epoch != 1 || at != rev {
				t.Errorf("epoch %d at revision %d (%v), want 1 at %d", kept.Epoch, at, err, rev)
			}
		})
	}
	t.Run("one that read the newest wins", func(t *testing.T) {
		if err := r.Swap(t.Context(), rev, next); err != nil {
			t.Fatal(err)
		}
		if kept, at, err := r.Read(t.Context()); err != nil || kept.Epoch != 2 || at <= rev {
			t.Errorf("epoch %d at revision %d: %v", kept.Epoch, at, err)
		}
	})
	t.Run("databases do not share a record", func(t *testing.T) {
		if _, rev, err := Records(w.store, "orders").Read(t.Context()); err != nil || rev != 0 {
			t.Errorf("revision %d: %v", rev, err)
		}
	})
	t.Run("a store that does not answer is no absent record", func(t *testing.T) {
		w.shared.Unavailable(true)
		defer w.shared.Unavailable(false)
		if _, _, err := r.Read(t.Context()); !errors.Is(err, cluster.ErrUnavailable) {
			t.Errorf("the reading says %v", err)
		}
	})
	t.Run("what is no record is an error and not an absent one", func(t *testing.T) {
		if _, err := w.store.Set(t.Context(), RecordKey("orders"), []byte(`[`)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Records(w.store, "orders").Read(t.Context()); err == nil {
			t.Error("no error")
		}
	})
}
