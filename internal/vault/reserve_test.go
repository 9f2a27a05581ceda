package vault_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/vault"
	"holdfast/internal/vault/filestore"
	stores "holdfast/internal/vault/store"
)

// nearlyFull is a directory whose disk has nothing left, once it is so, but what is kept for the log.
type nearlyFull struct {
	*filestore.Store
	so atomic.Bool
}

func (n *nearlyFull) refuses(ctx context.Context, name string) error {
	if n.so.Load() && strings.HasPrefix(name, "repository/p") && !stores.MayUseReserve(ctx) {
		return fmt.Errorf("store %s: %w", name, stores.ErrReserve)
	}
	return nil
}

func (n *nearlyFull) Put(ctx context.Context, name string, data stores.Data) error {
	if err := n.refuses(ctx, name); err != nil {
		return err
	}
	return n.Store.Put(ctx, name, data)
}

func (n *nearlyFull) Replace(ctx context.Context, name string, data stores.Data) error {
	if err := n.refuses(ctx, name); err != nil {
		return err
	}
	return n.Store.Replace(ctx, name, data)
}

// nearlyFullAt is such a directory, which is not so yet and keeps what is deleted.
func nearlyFullAt(t *testing.T, dir string) *nearlyFull {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := filestore.OpenKeeping(dir, filestore.Trash{For: time.Hour}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return &nearlyFull{Store: s}
}

// packsIn names the packs in a directory.
func packsIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	s, err := filestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.List(t.Context(), "repository/p", func(i stores.Info) error { names = append(names, i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	return names
}

// One of two copies is nearly full: what is damaged there is mended all the same, a backup goes into the other one, and the log
// into both.
func TestACopyThatIsNearlyFullIsMendedAndGetsTheLog(t *testing.T) {
	conf, home, away := pair(t)
	disk := nearlyFullAt(t, home)
	v := createIn(t, place{home, conf.In(disk)})
	store(t, v, map[string][]byte{"pgdata/base/5/1": sample()["pgdata/base/5/1"][:70_000]})
	syncAll(t, v)
	disk.so.Store(true)

	spoil(t, biggest(t, home, "repository/p"), "a flipped bit")
	damage := scrub(t, v).Damage()
	if done, err := v.Repair(t.Context(), damage, false); err != nil || len(done) != 1 || !done[0].Done {
		t.Fatalf("mended %+v, %v", done, err)
	}

	packs := func(dir string) int { return len(packsIn(t, dir)) }
	before := packs(home)
	store(t, v, map[string][]byte{"pgdata/base/5/2": pack(1)["pgdata/base/5/1"][:70_000]})
	if err := v.Log(7, 1<<20).PutSegment(t.Context(), 1, 0, make([]byte, 1<<20), time.Unix(9, 0)); err != nil {
		t.Fatal(err)
	}
	if err := v.Whole(); err != nil {
		t.Errorf("the copy is passed over: %v", err)
	}
	done, err := v.Sync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if packs(home) != before || packs(away) <= before {
		t.Errorf("%d packs in the full copy and %d in the other, %d before; %+v", packs(home), packs(away), before, done)
	}
	for _, dir := range []string{home, away} {
		if held, err := openAll(t, alone(dir)).Log(7, 1<<20).Held(t.Context()); err != nil || len(held) != 1 {
			t.Errorf("%s holds %v, %v", dir, held, err)
		}
	}
	disk.so.Store(false)
	syncAll(t, openAll(t, conf))
	if packs(home) != packs(away) {
		t.Errorf("with room again %d packs in one copy and %d in the other", packs(home), packs(away))
	}
}

// What was deleted comes back though the disk has nothing left but what is kept for the log.
func TestWhatWasDeletedComesBackToADiskThatIsNearlyFull(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vault")
	disk := nearlyFullAt(t, dir)
	v := createIn(t, place{dir, config(dir).In(disk)})
	store(t, v, sample())
	file := packsIn(t, dir)[0]
	if err := disk.Delete(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	disk.so.Store(true)
	if done, err := v.Undelete(t.Context(), vault.UndeleteOptions{Prefix: file}); err != nil || done.Objects != 1 {
		t.Fatalf("brought back %+v, %v", done, err)
	}
	if s := scrub(t, v); len(s.Damage()) > 0 {
		t.Errorf("found %+v", s.Damage())
	}
}
