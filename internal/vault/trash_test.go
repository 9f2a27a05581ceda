package vault_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

func countTrash(t *testing.T, v *vault.Vault) (n int) {
	t.Helper()
	all, err := v.Trash(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		n += c.Objects
	}
	return n
}

// dateLater waits until the file system dates what is written later than a moment: it counts in ticks.
func dateLater(t *testing.T, than time.Time) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tick")
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(time.Millisecond) {
		if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if fi.ModTime().After(than) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the file system's clock stands still")
		}
	}
}

// Log that lay alone at a moment and was bundled since belongs to the vault as it was then; a bundle of later log alone does not.
func TestLogThatWasBundledSinceIsInTheVaultAsItWas(t *testing.T) {
	conf := config(filepath.Join(t.TempDir(), "vault"))
	conf.Trash = -1 // nothing that was deleted is there
	v := createIn(t, place{conf: conf})
	l := v.Log(7, bundleSize)
	putLog(t, l, 1, 4)
	then := time.Now()
	dateLater(t, then)
	for n := 5; n <= 8; n++ {
		if err := l.PutSegment(t.Context(), 1, wal.LSN(n*bundleSize), segmentOf(n), then.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if done := bundleAtOnce(t, l); done.Bundles != 2 {
		t.Fatalf("bundled %+v", done)
	}
	dir := t.TempDir()
	if _, err := v.AsItWas(t.Context(), then, dir, false); err != nil {
		t.Fatal(err)
	}
	wantLog(t, openAll(t, config(dir)).Log(7, bundleSize), 1, 4)
}

// Whatever was deleted wrongly, whoever did it: the vault as it was before comes back in a place of its own, and log that
// was deleted comes back where it was.
func TestWhatWasDeletedComesBack(t *testing.T) {
	v, dir := create(t)
	ctx := t.Context()
	goes := store(t, v, large())
	log := v.Log(7, 1<<20)
	if err := log.PutSegment(ctx, 1, 0, make([]byte, 1<<20), time.Unix(9, 0)); err != nil {
		t.Fatal(err)
	}
	held, err := log.Held(ctx)
	if err != nil || len(held) != 1 {
		t.Fatalf("holds %v, %v", held, err)
	}
	before := time.Now()
	dateLater(t, before)
	if gone, err := v.Forget(ctx, goes.ID); err != nil || !gone {
		t.Fatalf("gone %v, %v", gone, err)
	}
	was := usage(t, v)
	maintainer, err := vault.Open(ctx, config(dir))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Minute); was-usage(t, v) < 16<<20; time.Sleep(300 * time.Millisecond) {
		if _, err := maintainer.Reclaim(ctx, vault.ReclaimOptions{Alone: true}); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was freed")
		}
	}
	if err := maintainer.Close(ctx); err != nil { // it writes down what it deleted
		t.Fatal(err)
	}
	if _, err := log.Drop(ctx, held, time.Now().Add(time.Hour), nil); err != nil {
		t.Fatal(err)
	}
	if l, err := log.Held(ctx); err != nil || len(l) != 0 {
		t.Fatalf("the log holds %v, %v", l, err)
	}
	kept := countTrash(t, v)
	if kept < 2 {
		t.Fatalf("%d objects are in the trash", kept)
	}
	now := reopened(t, dir)
	asItWas := filepath.Join(t.TempDir(), "as-it-was")
	if err := os.Mkdir(asItWas, 0o700); err != nil {
		t.Fatal(err)
	}
	if done, err := now.AsItWas(ctx, before, asItWas, false); err != nil || done.Objects == 0 {
		t.Fatalf("copied %+v, %v", done, err)
	}
	old := openAll(t, config(asItWas))
	if got, err := fetch(ctx, old, goes.ID); err != nil || differ(large(), got) != "" {
		t.Errorf("the backup that went is not there as it was: %v", err)
	}
	if l, err := old.Log(7, 1<<20).Held(ctx); err != nil || len(l) != 1 {
		t.Errorf("the log as it was: %v, %v", l, err)
	}
	wantProblem(t, func() error { _, err := now.AsItWas(ctx, before, asItWas, false); return err }(), "vault.exists")
	o := vault.UndeleteOptions{Since: before, Prefix: "wal/", DryRun: true}
	if done, err := now.Undelete(ctx, o); err != nil || done.Objects != 1 {
		t.Errorf("would bring back %+v, %v", done, err)
	}
	o.DryRun = false
	for _, want := range []vault.Undeleted{{Objects: 1}, {There: 1}} {
		if done, err := now.Undelete(ctx, o); err != nil || done.Objects != want.Objects || done.There != want.There {
			t.Errorf("brought back %+v, %v", done, err)
		}
	}
	if l, err := log.Held(ctx); err != nil || len(l) != 1 {
		t.Errorf("then the log holds %v, %v", l, err)
	}
	if s := scrub(t, now); len(s.Damage()) > 0 {
		t.Errorf("a scrub then finds %+v", s.Damage())
	}
}

func oldest(t *testing.T, v *vault.Vault) time.Duration {
	t.Helper()
	all, err := v.Trash(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	return time.Since(all[0].Oldest)
}

// The trash is emptied by who may delete, with leave for each, and nothing in it is younger than its time.
func TestTheTrashIsEmptiedWithLeave(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vault")
	conf := config(dir)
	conf.Trash = time.Second
	v := createIn(t, place{dir, conf})
	ctx := t.Context()
	log := v.Log(7, 1<<20)
	if err := log.PutSegment(ctx, 1, 0, make([]byte, 1<<20), time.Unix(9, 0)); err != nil {
		t.Fatal(err)
	}
	held, err := log.Held(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.Drop(ctx, held, time.Now().Add(time.Hour), nil); err != nil {
		t.Fatal(err)
	}
	if n := countTrash(t, v); n != 1 {
		t.Fatalf("%d objects in the trash", n)
	}
	long := conf
	long.Trash = time.Hour
	if freed, err := reopenedAs(t, long).Reclaim(ctx, vault.ReclaimOptions{Alone: true}); err != nil || freed.Ended != 0 {
		t.Errorf("ended too soon: %+v, %v", freed, err)
	}
	for deadline := time.Now().Add(5 * time.Minute); oldest(t, v) < conf.Trash; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing in the trash grows old")
		}
	}
	no := errors.New("another host has the duty")
	if _, err := reopenedAs(t, conf).Reclaim(ctx, vault.ReclaimOptions{Alone: true, May: func(context.Context) error { return no }}); !errors.Is(err, no) {
		t.Errorf("without leave: %v", err)
	}
	if n := countTrash(t, v); n < 1 {
		t.Error("the trash was emptied without leave")
	}
	if freed, err := reopenedAs(t, conf).Reclaim(ctx, vault.ReclaimOptions{Alone: true}); err != nil || freed.Ended < 1 {
		t.Errorf("ended %+v, %v", freed, err)
	}
}
