package vault_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/problem"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/s3store"
	"holdfast/internal/vault/wal"
)

func other(seed byte) map[string][]byte {
	files := sample()
	big := files["pgdata/base/5/1"] // looked up once: for each of its bytes that takes seconds under the race detector
	for i := range big {
		big[i] ^= seed
	}
	return files
}

// large fills a pack of its own: what lies in a short one is moved together with its neighbours before it is freed.
func large() map[string][]byte {
	big := make([]byte, 18<<20)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(big) // never fails
	return map[string][]byte{"pgdata/base/5/1": big}
}

func usage(t *testing.T, v *vault.Vault) int64 {
	t.Helper()
	c, err := v.Contents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c.Bytes
}

func TestWhatABackupAloneUsedIsFreedAndNothingElse(t *testing.T) {
	v, dir := create(t)
	ctx := t.Context()
	kept, goes, pinned := store(t, v, sample()), store(t, v, large()), store(t, v, other(2))
	nodes, contents := treeSample()
	set, nodes := storeTree(t, v, nodes, contents) // a file set stays, list and contents
	note := vault.Note{Backup: pinned.ID, Kind: vault.Pin, By: "ada", At: time.Unix(3e9, 0).UTC(), Reason: "before the move"}
	if err := v.PutNote(ctx, note); err != nil {
		t.Fatal(err)
	}
	if err := v.PutNote(ctx, vault.Note{Backup: "orders-none", Kind: vault.Hold, By: "ada", At: time.Unix(3e9, 0)}); !errors.Is(err, vault.ErrNoBackup) {
		t.Errorf("a hold on a backup that is not there: %v", err)
	}
	for _, b := range []vault.Backup{goes, pinned} {
		if err := v.PutNote(ctx, vault.Note{Backup: b.ID, Kind: vault.Doomed, By: "h1", At: time.Unix(3e9, 0)}); err != nil {
			t.Fatal(err)
		}
		if err := v.Mark(ctx, b.ID, vault.Validation{Passed: true, At: time.Unix(3e9, 0)}); err != nil {
			t.Fatal(err)
		}
		gone, err := v.Forget(ctx, b.ID)
		if err != nil || gone != (b.ID == goes.ID) {
			t.Errorf("%s: gone %v, %v", b.ID, gone, err)
		}
	}
	if _, err := v.Forget(ctx, goes.ID); !errors.Is(err, vault.ErrNoBackup) {
		t.Errorf("a second time: %v", err)
	}
	before := usage(t, v)
	refused := errors.New("another host has the duty")
	maintainer := reopened(t, dir)
	// Leave is asked before whatever changes, and before each deletion.
	for leave, done := int64(0), false; !done; leave += 5 {
		asked := atomic.Int64{}
		freed, err := maintainer.Reclaim(ctx, vault.ReclaimOptions{Alone: true, May: func(context.Context) error {
			if asked.Add(1) > leave {
				return refused
			}
			return nil
		}})
		if done = asked.Load() <= leave; done != (err == nil) || !done && !errors.Is(err, refused) || freed.Objects > leave {
			t.Fatalf("with leave for %d steps, of which %d were asked for: freed %+v, %v", leave, asked.Load(), freed, err)
		}
		if after := usage(t, v); leave == 0 && before-after > 8<<20 {
			t.Errorf("without leave %d bytes became %d", before, after)
		}
	}
	// One run notes what is unused, a later one frees it: kopia counts that in whole seconds.
	for deadline := time.Now().Add(5 * time.Minute); before-usage(t, v) < 16<<20; time.Sleep(300 * time.Millisecond) {
		if _, err := maintainer.Reclaim(ctx, vault.ReclaimOptions{Alone: true}); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes before, %d after", before, usage(t, v))
		}
	}
	fresh := reopened(t, dir)
	for _, b := range []struct {
		id    string
		files map[string][]byte
	}{{kept.ID, sample()}, {pinned.ID, other(2)}} {
		got, err := fetch(ctx, fresh, b.id)
		if err != nil || differ(b.files, got) != "" {
			t.Errorf("%s cannot be read as it was: %v", b.id, err)
		}
	}
	n := 0
	tree := fresh.OpenTree(set)
	err := tree.Each(ctx, func(node vault.Node) error {
		n++
		if node.Kind != vault.KindFile {
			return nil
		}
		r, err := tree.Open(ctx, node)
		if err != nil {
			return err
		}
		raw, err := io.ReadAll(r)
		if !bytes.Equal(raw, contents[node.Path]) {
			t.Errorf("%q of the file set holds something else", node.Path)
		}
		return errors.Join(err, r.Close())
	})
	if err != nil || n != len(nodes) {
		t.Errorf("of the file set %d of %d names are left: %v", n, len(nodes), err)
	}
	notes, err := fresh.Notes(ctx)
	if err != nil || len(notes) != 2 || notes[0].Kind != vault.Doomed || notes[1].By != "ada" {
		t.Errorf("notes %+v, %v", notes, err)
	}
	if err := fresh.DropNotes(ctx, pinned.ID, vault.Pin, vault.Doomed); err != nil {
		t.Fatal(err)
	}
	if notes, err := fresh.Notes(ctx); err != nil || len(notes) != 0 {
		t.Errorf("notes %+v, %v", notes, err)
	}
}

func reopened(t *testing.T, dir string) *vault.Vault {
	t.Helper()
	return reopenedAs(t, config(dir))
}

func reopenedAs(t *testing.T, conf vault.Config) *vault.Vault {
	t.Helper()
	v, err := vault.Open(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return v
}

// As others have the vault open nothing young is freed, even when nothing uses it.
func TestWhatIsYoungIsNotFreed(t *testing.T) {
	v, dir := create(t)
	goes := store(t, v, sample())
	if gone, err := v.Forget(t.Context(), goes.ID); err != nil || !gone {
		t.Fatal(gone, err)
	}
	before := usage(t, v)
	if _, err := reopened(t, dir).Reclaim(t.Context(), vault.ReclaimOptions{}); err != nil {
		t.Fatal(err)
	}
	if after := usage(t, v); after < before {
		t.Errorf("%d bytes before, %d after", before, after)
	}
}

func TestLogUnderLockStaysAndTheRestGoes(t *testing.T) {
	here, _ := inBucket(t, true)
	here.conf.S3.Lock = 240 * time.Hour
	v := createIn(t, here)
	log := v.Log(7, 1<<20)
	for seg := range wal.LSN(3) {
		if err := log.PutSegment(t.Context(), 1, seg<<20, make([]byte, 1<<20), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	held, err := log.Held(t.Context())
	if err != nil || len(held) != 3 {
		t.Fatal(held, err)
	}
	freed, err := log.Drop(t.Context(), held[:2], time.Now().Add(time.Hour), nil)
	if err != nil || freed.Locked != 2 || freed.Objects != 0 {
		t.Errorf("freed %+v, %v", freed, err)
	}
}

func TestWithoutTheRightToDeleteNothingIsLetGo(t *testing.T) {
	here, _ := inBucket(t, false)
	v := createIn(t, here)
	if err := v.MayLetGo(t.Context()); err != nil {
		t.Fatal(err)
	}
	conf := here.conf
	conf.S3.Delete = s3store.Access{KeyID: "nobody", Secret: redact.Secret("nothing")}
	archives := reopenedAs(t, conf)
	for name, err := range map[string]error{
		"asked":    archives.MayLetGo(t.Context()),
		"freeing":  second(archives.Reclaim(t.Context(), vault.ReclaimOptions{Alone: true})),
		"too much": reopenedReadOnly(t, here.conf).MayLetGo(t.Context()),
	} {
		p, ok := errors.AsType[*problem.Problem](err)
		if name == "too much" && !errors.Is(err, vault.ErrReadOnly) || name != "too much" && (!ok || p.Code != "vault.no-right-to-delete") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second(_ vault.Freed, err error) error { return err }

func reopenedReadOnly(t *testing.T, conf vault.Config) *vault.Vault {
	conf.ReadOnly = true
	return reopenedAs(t, conf)
}

func TestOnlyOldLogIsDropped(t *testing.T) {
	v, dir := create(t)
	log := v.Log(7, 1<<20)
	for seg := range wal.LSN(3) {
		if err := log.PutSegment(t.Context(), 1, seg<<20, make([]byte, 1<<20), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	held, err := log.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-100 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, held[0].Object), old, old); err != nil {
		t.Fatal(err)
	}
	foreign := held[1]
	foreign.Object = "vault.json"
	if _, err := log.Drop(t.Context(), []wal.Held{foreign}, time.Now(), nil); err == nil {
		t.Error("an object that is no log was dropped")
	}
	freed, err := log.Drop(t.Context(), held[:2], time.Now().Add(-72*time.Hour), nil)
	if err != nil || freed.Objects != 1 {
		t.Errorf("freed %+v, %v", freed, err)
	}
	if left, err := log.Held(t.Context()); err != nil || len(left) != 2 || left[0].Object != held[1].Object {
		t.Errorf("left %+v, %v", left, err)
	}
	if systems, err := v.Systems(t.Context()); err != nil || cmp.Diff([]uint64{7}, systems) != "" {
		t.Errorf("systems %v, %v", systems, err)
	}
}
