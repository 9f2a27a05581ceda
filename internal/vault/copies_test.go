package vault_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// pair is a vault with two copies in directories.
func pair(t *testing.T) (conf vault.Config, home, away string) {
	t.Helper()
	dir := t.TempDir()
	home, away = filepath.Join(dir, "home"), filepath.Join(dir, "away")
	conf = config(home)
	conf.Copy = "home"
	conf.Others = []vault.Place{{Copy: "away", URL: "file://" + away}}
	return conf, home, away
}

func openAll(t *testing.T, conf vault.Config) *vault.Vault {
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

func alone(dir string) vault.Config { return config(dir) }

func syncAll(t *testing.T, v *vault.Vault) {
	t.Helper()
	done, err := v.Sync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range done {
		if c.Away != nil || c.Left > 0 {
			t.Fatalf("copy %s: %v, %d left: %v", c.Copy, c.Away, c.Left, c.Trouble)
		}
	}
}

// Each copy is a whole vault by itself; what one loses comes back from the other; a place that holds anything else is
// never written.
func TestCopiesOfAVaultAreEqualAndFillEachOther(t *testing.T) {
	conf, home, away := pair(t)
	v := createIn(t, place{home, conf})
	b := store(t, v, sample())
	log := v.Log(7, 1<<20)
	if err := log.PutPartial(t.Context(), 1, 0, []byte("begin"), time.Unix(5, 0)); err != nil {
		t.Fatal(err)
	}
	if err := log.PutSegment(t.Context(), 1, 0, make([]byte, 1<<20), time.Unix(9, 0)); err != nil {
		t.Fatal(err)
	}
	if err := log.PutCovered(t.Context(), 1, 1<<20, time.Unix(10, 0)); err != nil {
		t.Fatal(err)
	}
	syncAll(t, v)
	for _, dir := range []string{home, away} {
		one := openAll(t, alone(dir))
		if got, err := fetch(t.Context(), one, b.ID); err != nil || differ(sample(), got) != "" {
			t.Errorf("%s alone: %v", dir, err)
		}
		if held, err := one.Log(7, 1<<20).Held(t.Context()); err != nil || len(held) != 1 || held[0].Partial {
			t.Errorf("%s alone holds %v, %v", dir, held, err)
		}
	}

	t.Run("a disk that is not mounted is not written to, and the vault goes on", func(t *testing.T) {
		if err := os.Rename(home, home+".disk"); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(home, 0o700); err != nil {
			t.Fatal(err)
		}
		gone := conf
		gone.Filled = true
		half := openAll(t, gone)
		if err := half.Log(7, 1<<20).PutSegment(t.Context(), 1, 1<<20, make([]byte, 1<<20), time.Unix(11, 0)); err != nil {
			t.Fatal(err)
		}
		if got, err := fetch(t.Context(), half, b.ID); err != nil || differ(sample(), got) != "" {
			t.Errorf("read without the first copy: %v", err)
		}
		st := half.Copies()
		if st[0].Away == nil || st[1].Away != nil {
			t.Errorf("status %+v", st)
		}
		wantProblem(t, st[0].Away, "vault.copy-gone")
		if left, err := os.ReadDir(home); err != nil || len(left) > 0 {
			t.Errorf("the mount point holds %v, %v", left, err)
		}
	})

	t.Run("an empty place is filled when it may be, and is a vault then", func(t *testing.T) {
		full := openAll(t, conf)
		if _, err := vault.Open(t.Context(), alone(home)); err == nil {
			t.Error("a copy that is not filled opens as a vault")
		}
		syncAll(t, full)
		one := openAll(t, alone(home))
		if held, err := one.Log(7, 1<<20).Held(t.Context()); err != nil || len(held) != 2 {
			t.Errorf("holds %v, %v", held, err)
		}
		end, at, err := one.Log(7, 1<<20).Covered(t.Context(), 1)
		if err != nil || end != wal.LSN(1<<20) || !at.Equal(time.Unix(10, 0)) {
			t.Errorf("covered %s at %s, %v", end, at, err)
		}
	})

	t.Run("a place of another vault stays as it is", func(t *testing.T) {
		other := filepath.Join(t.TempDir(), "other")
		createIn(t, place{other, config(other)})
		before := fingerprint(t, other)
		wrong := conf
		wrong.Others = []vault.Place{{Copy: "away", URL: "file://" + other}}
		half := openAll(t, wrong)
		syncAllButAway(t, half)
		wantProblem(t, half.Copies()[1].Away, "vault.exchanged")
		if d := cmp.Diff(before, fingerprint(t, other)); d != "" {
			t.Error(d)
		}
	})

	t.Run("who only reads changes nothing", func(t *testing.T) {
		before := fingerprint(t, away)
		reading := conf
		reading.ReadOnly = true
		r := openAll(t, reading)
		if got, err := fetch(t.Context(), r, b.ID); err != nil || !bytes.Equal(got["pgdata/PG_VERSION"], sample()["pgdata/PG_VERSION"]) {
			t.Error(err)
		}
		if err := r.Log(7, 1<<20).PutSegment(t.Context(), 1, 2<<20, make([]byte, 1<<20), time.Unix(11, 0)); err == nil {
			t.Error("stored by who only reads")
		}
		if d := cmp.Diff(before, fingerprint(t, away)); d != "" {
			t.Error(d)
		}
	})
}

func syncAllButAway(t *testing.T, v *vault.Vault) {
	t.Helper()
	if _, err := v.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A copy may lose its pages of the catalog for the one that stands for them only when it has that one.
func TestACopyKeepsItsCatalogWhilePagesAreMerged(t *testing.T) {
	conf, home, away := pair(t)
	v := createIn(t, place{home, conf})
	store(t, v, map[string][]byte{"pgdata/PG_VERSION": []byte("15\n")})
	syncAll(t, v)
	pages := func() int {
		all, err := os.ReadDir(filepath.Join(away, "catalog"))
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if pages() == 0 {
		t.Fatal("no page of the catalog reached the second copy")
	}
	merged := false
	for i := range 200 { // many more than are ever left unmerged
		store(t, v, map[string][]byte{"pgdata/PG_VERSION": []byte{byte(i)}})
		if pages() == 0 {
			t.Fatal("the second copy lost its catalog")
		}
		all, err := os.ReadDir(filepath.Join(home, "catalog"))
		if err != nil {
			t.Fatal(err)
		}
		if i > 10 && len(all) < 10 {
			merged = true
			break
		}
	}
	if !merged {
		t.Error("no pages were merged")
	}
}
