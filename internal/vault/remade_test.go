package vault_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/vault"
)

// reclaimed stores backups of which one is let go of, and cleans up until everything lies in other packs than at first. It gives
// the indexes that were there before.
func reclaimed(t *testing.T, v *vault.Vault, dir string) (all map[string]map[string][]byte, before []string) {
	t.Helper()
	all = map[string]map[string][]byte{store(t, v, sample()).ID: sample(), store(t, v, other(3)).ID: other(3)}
	gone := store(t, v, other(5)).ID
	if ok, err := v.Forget(t.Context(), gone); err != nil || !ok {
		t.Fatal(ok, err)
	}
	closed(t, v)
	before = files(t, dir, "repository/x")
	first := append(files(t, dir, "repository/p"), files(t, dir, "repository/q")...)
	for deadline := time.Now().Add(5 * time.Minute); slices.ContainsFunc(first, exists); time.Sleep(300 * time.Millisecond) {
		keeper := opens(t, config(dir))
		if _, err := keeper.Reclaim(t.Context(), vault.ReclaimOptions{Alone: true}); err != nil {
			t.Fatal(err)
		}
		closed(t, keeper) // the catalog knows its indexes
		if time.Now().After(deadline) {
			t.Fatalf("of the first packs some are still there: %v", first)
		}
	}
	return all, before
}

func exists(file string) bool { _, err := os.Stat(file); return err == nil }

// Everything was moved to other packs and the first ones are freed, when the indexes that say so are lost: the older ones that are
// left lead into packs that are gone. Made anew, every backup is whole, and a clean-up takes nothing of it.
func TestAnIndexIsMadeAnewBehindACleanUp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vault")
	v := createIn(t, place{dir, config(dir)})
	all, before := reclaimed(t, v, dir)
	for _, f := range files(t, dir, "repository/x") {
		if !slices.Contains(before, f) {
			spoil(t, f, "lost")
		}
	}
	hurt := reopened(t, dir)
	damage := scrub(t, hurt).Damage()
	done, err := hurt.Repair(t.Context(), damage, false)
	if err != nil || len(done) == 0 {
		t.Fatal(done, err)
	}
	for _, m := range done {
		if !m.Done {
			t.Errorf("mended %+v", m)
		}
	}
	whole := func(when string) {
		t.Helper()
		last := reopened(t, dir)
		listed, err := last.Backups(t.Context(), "")
		if err != nil || len(listed) != len(all) {
			t.Errorf("%s %d backups are listed, want %d: %v", when, len(listed), len(all), err)
		}
		for _, id := range slices.Sorted(maps.Keys(all)) {
			if got, err := fetch(t.Context(), last, id); err != nil || differ(all[id], got) != "" {
				t.Errorf("%s %s: %v %s", when, id, err, differ(all[id], got))
			}
		}
	}
	whole("made anew,")
	for range 3 {
		if _, err := reopened(t, dir).Reclaim(t.Context(), vault.ReclaimOptions{Alone: true}); err != nil {
			t.Fatalf("made anew, nothing can be freed: %v", err)
		}
		time.Sleep(1100 * time.Millisecond) // kopia counts in whole seconds
	}
	whole("behind a clean-up,")
}

// Packs whose entries were all moved wait for their deletion, and nothing is deleted while an index is lost: they must not keep it
// from being made anew. What they hold is known, though no index names them.
func TestAnIndexIsMadeAnewBesidePacksThatWaitForTheirDeletion(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vault")
	v := createIn(t, place{dir, config(dir)})
	all := map[string]map[string][]byte{store(t, v, sample()).ID: sample(), store(t, v, other(3)).ID: other(3)}
	if err := v.MoveLists(t.Context()); err != nil {
		t.Fatal(err)
	}
	closed(t, v)
	spoil(t, storedFirst(files(t, dir, "repository/x")), "lost")
	hurt := reopened(t, dir)
	done, err := hurt.Repair(t.Context(), scrub(t, hurt).Damage(), false)
	if err != nil || len(done) == 0 {
		t.Fatal(done, err)
	}
	for _, m := range done {
		if !m.Done {
			t.Errorf("mended %+v", m)
		}
	}
	if _, err = hurt.Reclaim(t.Context(), vault.ReclaimOptions{Alone: true}); err != nil {
		t.Errorf("made anew, nothing can be freed: %v", err)
	}
	last := reopened(t, dir)
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if got, err := fetch(t.Context(), last, id); err != nil || differ(all[id], got) != "" {
			t.Errorf("made anew, %s: %v %s", id, err, differ(all[id], got))
		}
	}
}

func storedFirst(files []string) string {
	return slices.MinFunc(files, func(a, b string) int {
		x, _ := os.Stat(a)
		y, _ := os.Stat(b)
		return x.ModTime().Compare(y.ModTime())
	})
}

// An index and the packs it knew are lost together. Made anew it lacks what a listed backup needs: it stays lost and the backup is
// named, until somebody gives it up; then the next full backup makes it whole.
func TestAnIndexThatIsLostWithItsPacksIsGivenUpWithThem(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vault")
	v := createIn(t, place{dir, config(dir)})
	b := store(t, v, sample())
	closed(t, v)
	for _, f := range append(files(t, dir, "repository/x"), files(t, dir, "repository/p")...) {
		spoil(t, f, "lost")
	}
	hurt := reopened(t, dir)
	found := scrub(t, hurt)
	for range 2 {
		done, err := hurt.Repair(t.Context(), found.Damage(), false)
		if err != nil || len(done) < 2 {
			t.Fatal(done, err)
		}
		for _, m := range done {
			if m.Done || strings.HasPrefix(m.Name, "repository/x") && !strings.Contains(m.Why, b.ID) {
				t.Errorf("mended %+v", m)
			}
		}
		if p, err := hurt.Hides(t.Context()); p == nil || err != nil {
			t.Errorf("it says nothing: %v", err)
		}
	}
	if _, err := hurt.GiveUp(t.Context(), found.Lost()); err != nil {
		t.Fatal(err)
	}
	store(t, hurt, sample())
	last := reopened(t, dir)
	if p, err := last.Hides(t.Context()); p != nil || err != nil {
		t.Errorf("given up, it says %v, %v", p, err)
	}
	if got, err := fetch(t.Context(), last, b.ID); err != nil || differ(sample(), got) != "" {
		t.Errorf("stored again, it is not whole: %v %s", err, differ(sample(), got))
	}
}
