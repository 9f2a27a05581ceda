package vault_test

import (
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/vault"
)

// A listed backup uses a pack that was lost, and given up: space is freed all the same, then and later, and the next backup of the
// same makes it whole.
func TestSpaceIsFreedBehindWhatWasGivenUp(t *testing.T) {
	for _, how := range []string{"lost", "a flipped bit"} {
		t.Run(how, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "vault")
			v := createIn(t, place{dir, config(dir)})
			hurt, kept := store(t, v, large()), store(t, v, sample())
			hit := biggest(t, dir, "repository/p") // of what stays: beside the next one it might be either
			gone := store(t, v, pack(4))
			if ok, err := v.Forget(t.Context(), gone.ID); err != nil || !ok {
				t.Fatal(ok, err)
			}
			spoil(t, hit, how)
			lost := scrub(t, v).Lost()
			if n, err := v.GiveUp(t.Context(), lost); err != nil || n == 0 {
				t.Fatalf("gave up %d of %v, %v", n, lost, err)
			}
			if _, err := v.Repair(t.Context(), scrub(t, v).Damage(), false); err != nil { // what is left of it goes
				t.Fatal(err)
			}
			before := usage(t, v)
			for n, deadline := 0, time.Now().Add(time.Minute); n < 2 || before-usage(t, v) < 16<<20; n++ {
				if _, err := reopened(t, dir).Reclaim(t.Context(), vault.ReclaimOptions{Alone: true}); err != nil {
					t.Fatalf("run %d: %v", n, err)
				}
				if time.Now().After(deadline) {
					t.Fatalf("%d bytes before, %d after", before, usage(t, v))
				}
				time.Sleep(1100 * time.Millisecond) // entries count whole seconds
			}
			last := reopened(t, dir)
			again := store(t, last, large())
			for id, want := range map[string]map[string][]byte{hurt.ID: large(), kept.ID: sample(), again.ID: large()} {
				if got, err := fetch(t.Context(), last, id); err != nil || differ(want, got) != "" {
					t.Errorf("%s cannot be read as it was: %v", id, err)
				}
			}
		})
	}
}

// What upkeep keeps of its runs is damaged, in the only place or in one of two: space is freed as if nothing had been kept.
func TestADamagedScheduleDoesNotStopWhatIsFreed(t *testing.T) {
	conf, home, away := pair(t)
	for name, c := range map[string]struct {
		conf  vault.Config
		dir   string
		spoil []string
	}{
		"one place":          {config(home + "-alone"), home + "-alone", []string{home + "-alone"}},
		"one of two copies":  {conf, home, []string{home}},
		"each of two copies": {conf, home, []string{home, away}},
	} {
		t.Run(name, func(t *testing.T) {
			if !exists(c.dir) {
				v := createIn(t, place{c.dir, c.conf})
				store(t, v, sample())
				closed(t, v)
			}
			for n := range 3 {
				v := opens(t, c.conf)
				if len(c.conf.Others) > 0 {
					syncAll(t, v)
				}
				if _, err := v.Reclaim(t.Context(), vault.ReclaimOptions{Alone: true}); err != nil {
					t.Errorf("run %d: %v", n, err)
				}
				closed(t, v)
				if n == 0 {
					for _, dir := range c.spoil {
						spoil(t, filepath.Join(dir, "repository/kopia.maintenance.f"), "a flipped bit")
					}
				}
			}
		})
	}
}
