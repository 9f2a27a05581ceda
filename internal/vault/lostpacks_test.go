package vault_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
	stores "holdfast/internal/vault/store"
)

// readTreeFiles reads all files of a backup.
func readTreeFiles(t *testing.T, v *vault.Vault, b vault.FileBackup, want map[string][]byte) error {
	t.Helper()
	tree := v.OpenTree(b)
	return tree.Each(t.Context(), func(n vault.Node) error {
		if n.Kind != vault.KindFile {
			return nil
		}
		r, err := tree.Open(t.Context(), n)
		if err != nil {
			return err
		}
		raw, err := io.ReadAll(r)
		if err == nil && !bytes.Equal(raw, want[n.Path]) {
			t.Errorf("%q holds something else", n.Path)
		}
		return errors.Join(err, r.Close())
	})
}

// j: what lies in a pack that is gone is not held, whatever the indexes say: the next backup stores it again and is whole, and the
// loss is told.
func TestABackupDoesNotRelyOnAPackThatIsGone(t *testing.T) {
	v, dir := create(t)
	nodes, contents := treeSample()
	first, stored := storeTree(t, v, nodes, contents)
	if p, looked := v.LostPacks(); p != nil || !looked {
		t.Fatalf("a whole vault: %v, looked %t", p, looked)
	}
	pack := biggest(t, dir, "repository/p")
	aside := filepath.Join(t.TempDir(), "pack")
	if err := os.Rename(pack, aside); err != nil {
		t.Fatal(err)
	}
	w, err := v.BeginTree(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range stored {
		if n.Path == "zbig" && w.Has(n.Object) {
			t.Error("a file whose chunks are gone counts as held")
		}
	}
	if err := w.Abort(); err != nil {
		t.Fatal(err)
	}
	p, looked := v.LostPacks()
	if p == nil || !looked || p.Code != "vault.damaged" || !strings.Contains(p.Title, "repository/p") {
		t.Errorf("told: %+v", p)
	}
	second, _ := storeTree(t, v, nodes, contents)
	if err := readTreeFiles(t, v, second, contents); err != nil {
		t.Errorf("the backup that came after the loss: %v", err)
	}
	if second.Stored < 6<<20 {
		t.Errorf("%d bytes were stored again", second.Stored)
	}
	if err := readTreeFiles(t, v, first, contents); err != nil { // the same bytes, which are there again
		t.Errorf("the backup from before: %v", err)
	}
}

// What is gone for good is told by whoever reads it: with a code, the pack and what to do.
func TestAReadingThatNeedsAPackThatIsGoneSaysSo(t *testing.T) {
	v, dir := create(t)
	nodes, contents := treeSample()
	b, _ := storeTree(t, v, nodes, contents)
	spoil(t, biggest(t, dir, "repository/p"), "lost")
	err := v.OpenTree(b).Unreadable(readTreeFiles(t, v, b, contents))
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok || p.Code != "vault.damaged" || p.Remedy == "" || !strings.Contains(p.Title, b.ID) || !strings.Contains(p.Title, "repository/p") {
		t.Errorf("said %v", err)
	}
	if other := errors.New("the disk is full"); !errors.Is(v.Unreadable(b.ID, other), other) || v.Unreadable(b.ID, nil) != nil {
		t.Error("another error is not given back")
	}
}

// A pack from which a clean-up moved everything is gone rightly: nobody is alarmed.
func TestAPackThatNothingNeedsIsNotMissed(t *testing.T) {
	v, dir := create(t)
	storeTree(t, v, []vault.Node{{Path: ".", Kind: vault.KindDir, Mode: 0o755}}, nil)
	before := files(t, dir, "repository/q")
	if err := v.MoveLists(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, f := range before {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := v.LooksForPacks(t.Context()); err != nil || p != nil {
		t.Errorf("%v, %v", p, err)
	}
}

// A base backup that is made of chunks of the one before does not rely on such a pack either.
func TestAChunkInAPackThatIsGoneIsNotHeld(t *testing.T) {
	v, dir := create(t)
	b := store(t, v, sample())
	r, err := v.OpenBackup(t.Context(), b.ID)
	if err != nil {
		t.Fatal(err)
	}
	spoil(t, biggest(t, dir, "repository/p"), "lost")
	w, err := v.Begin(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Abort() }() // nothing was stored
	asked := 0
	for _, e := range r.Entries() {
		chunks, ok, err := r.Chunks(t.Context(), e)
		if e.Dir || err != nil || !ok || e.Size == 0 {
			continue
		}
		for _, c := range chunks {
			asked++
			if has, err := w.HasChunk(c); err != nil || has {
				t.Errorf("%s: %v, %v", e.Path, has, err)
			}
		}
	}
	if asked == 0 {
		t.Fatal("no chunk was asked for")
	}
}

// unlisted is a place that does not list packs for a while.
type unlisted struct {
	*memory
	refuse atomic.Bool
}

func (u *unlisted) List(ctx context.Context, prefix string, each func(stores.Info) error) error {
	if u.refuse.Load() && strings.HasPrefix(prefix, "repository/p") {
		return errors.New("the list is refused")
	}
	return u.memory.List(ctx, prefix, each)
}

// Where a place cannot say which packs are there, as when its lists lag behind, a backup is made all the same; but nobody says that none
// are gone.
func TestALookForPacksThatFailsTellsNothing(t *testing.T) {
	there := &unlisted{memory: &memory{blobs: map[string]kept{}}}
	conf := config("").In(there)
	store(t, createIn(t, place{conf: conf}), sample())
	v := reopenedAs(t, conf)
	if p, looked := v.LostPacks(); p != nil || looked {
		t.Errorf("told are %v, looked %t, before anybody has", p, looked)
	}
	store(t, v, other(2))
	if p, looked := v.LostPacks(); p != nil || !looked {
		t.Errorf("told are %v, looked %t", p, looked)
	}
	there.refuse.Store(true)
	store(t, v, other(3))
	if p, looked := v.LostPacks(); p != nil || looked {
		t.Errorf("told are %v, looked %t, after a look that failed", p, looked)
	}
}

// A pack that holds entries of backups is gone: those that are left are listed, read and added to, and what is missing is told. Whoever
// would let something go by the list gets none, and when nobody has the pack any more it can be given up.
func TestBackupsAreListedPastEntriesThatAreGone(t *testing.T) {
	v, dir := create(t)
	first := store(t, v, sample())
	before := map[string]bool{}
	for _, f := range files(t, dir, "repository/q") {
		before[f] = true
	}
	store(t, v, other(3))
	var gone []string
	for _, f := range files(t, dir, "repository/q") {
		if !before[f] {
			spoil(t, f, "lost")
			rel, _ := filepath.Rel(filepath.Join(dir, "repository"), f) // it lies below it
			gone = append(gone, "repository/"+strings.ReplaceAll(strings.TrimSuffix(rel, ".f"), "/", ""))
		}
	}
	if len(gone) == 0 {
		t.Fatal("the second backup has no pack of entries of its own")
	}
	v = reopened(t, dir)
	if _, err := v.Backups(t.Context(), ""); err == nil {
		t.Error("a list that lacks a backup was given to who may let things go by it")
	}
	all, err := v.ReadableBackups(t.Context(), "")
	if err != nil || len(all) != 1 || all[0].ID != first.ID {
		t.Fatalf("listed: %v, %v", all, err)
	}
	if sets, err := v.ReadableFileBackups(t.Context(), ""); err != nil || len(sets) != 0 {
		t.Errorf("file sets: %v, %v", sets, err)
	}
	p, err := v.Hides(t.Context())
	if err != nil || p == nil || p.Code != "vault.damaged" || !slices.ContainsFunc(gone, func(pack string) bool { return strings.Contains(p.Title, pack) }) {
		t.Errorf("told: %+v, %v", p, err)
	}
	if got, err := fetch(t.Context(), v, first.ID); err != nil || differ(sample(), got) != "" {
		t.Errorf("the backup that is left: %v", err)
	}
	if _, err := v.Reclaim(t.Context(), vault.ReclaimOptions{Alone: true}); err == nil {
		t.Error("space was freed beside entries that are gone")
	}
	third := store(t, v, other(5))
	if all, err = v.ReadableBackups(t.Context(), ""); err != nil || len(all) != 2 || !slices.ContainsFunc(all, func(b vault.Backup) bool { return b.ID == third.ID }) {
		t.Errorf("with one more: %v, %v", all, err)
	}
	if _, err := v.GiveUp(t.Context(), gone); err != nil {
		t.Fatalf("given up: %v", err)
	}
	if all, err = v.Backups(t.Context(), ""); err != nil || len(all) != 2 {
		t.Errorf("after it was given up: %v, %v", all, err)
	}
	if p, err := v.Hides(t.Context()); err != nil || p != nil {
		t.Errorf("and told: %+v, %v", p, err)
	}
}
