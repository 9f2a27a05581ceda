package vault_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/vault"
	stores "holdfast/internal/vault/store"
)

// noIndexes is a place that refuses indexes for a while.
type noIndexes struct {
	*memory
	refuse atomic.Bool
}

func (n *noIndexes) Put(ctx context.Context, name string, data stores.Data) error {
	if n.refuse.Load() && strings.HasPrefix(name, "repository/x") {
		return errors.New("the network is gone")
	}
	return n.memory.Put(ctx, name, data)
}

// To let go of a backup, and to write one, fails when the entry is stored and the index of it is not. It does not take effect
// later, when somebody else writes.
func TestWhatFailedDoesNotTakeEffectLater(t *testing.T) {
	there := &noIndexes{memory: &memory{blobs: map[string]kept{}}}
	conf := config("").In(there)
	v := createIn(t, place{conf: conf})
	stays := store(t, v, sample())
	hurt := reopenedAs(t, conf)
	there.refuse.Store(true)
	if gone, err := hurt.Forget(t.Context(), stays.ID); err == nil {
		t.Fatalf("gone %v, without an index", gone)
	}
	if b, err := tryStore(t, reopenedAs(t, conf), other(5)); err == nil {
		t.Fatalf("%+v is stored, without an index", b)
	}
	there.refuse.Store(false)
	next := reopenedAs(t, conf)
	last := store(t, next, other(3))
	all, err := next.Backups(t.Context(), "")
	if err != nil || len(all) != 2 || all[0].ID != stays.ID && all[1].ID != stays.ID || all[0].ID != last.ID && all[1].ID != last.ID {
		t.Errorf("listed are %+v, %v", all, err)
	}
}

// A writer ends in the middle and never says so. The next backup of the same data stores what was not stored and nothing again;
// what nobody takes up is freed; and neither of the two is listed.
func TestWhatAnUnfinishedWriterStoredIsNotStoredAgain(t *testing.T) {
	v, dir := create(t)
	half := func(in *vault.Vault, numbers ...int) {
		t.Helper()
		w, err := in.Begin(t.Context(), "test")
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range numbers {
			for p, content := range pack(n) {
				f := w.File(vault.Entry{Path: p, Mode: 0o600})
				_, err := f.Write(content)
				if err = errors.Join(err, f.Keep()); err != nil {
					t.Fatal(err)
				}
			}
		} // no end: as when its process is killed
	}
	half(v, 1, 2, 3)
	stored := int64(0)
	for _, f := range files(t, dir, "repository/p") {
		at, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		stored += at.Size()
	}
	if stored < 36<<20 {
		t.Fatalf("%d bytes of the unfinished backup are stored", stored)
	}
	next := reopened(t, dir)
	b, err := tryStore(t, next, map[string][]byte{"1": pack(1)["pgdata/base/5/1"], "2": pack(2)["pgdata/base/5/1"], "3": pack(3)["pgdata/base/5/1"]})
	if err != nil {
		t.Fatal(err)
	}
	if all := int64(3 * 18 << 20); b.Stored > all-stored*9/10+1<<20 {
		t.Errorf("%d bytes were stored, and %d after that, of %d", stored, b.Stored, all)
	}
	if got, err := fetch(t.Context(), reopened(t, dir), b.ID); err != nil || differ(map[string][]byte{"1": pack(1)["pgdata/base/5/1"], "2": pack(2)["pgdata/base/5/1"], "3": pack(3)["pgdata/base/5/1"]}, got) != "" {
		t.Errorf("made of what was there: %v", err)
	}

	half(next, 4, 5)
	before := usage(t, next)
	for deadline := time.Now().Add(5 * time.Minute); before-usage(t, next) < 18<<20; time.Sleep(300 * time.Millisecond) {
		if _, err := reopened(t, dir).Reclaim(t.Context(), vault.ReclaimOptions{Alone: true}); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes before, %d after", before, usage(t, next))
		}
	}
	last := reopened(t, dir)
	if all, err := last.Backups(t.Context(), ""); err != nil || len(all) != 1 || all[0].ID != b.ID {
		t.Errorf("listed are %+v, %v", all, err)
	}
	if d := scrub(t, last).Damage(); len(d) > 0 {
		t.Errorf("found %+v", d)
	}
}
