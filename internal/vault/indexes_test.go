package vault_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/vault"
)

// Indexes are lost or damaged and no copy has them whole. The vault opens, says that backups may be missing from its lists
// before anybody has scrubbed, lets nothing go, and makes them anew from the packs: then every backup is there and whole.
func TestAnIndexThatNoCopyHasIsMadeAnewFromThePacks(t *testing.T) {
	for _, c := range []struct {
		how    string
		copies int
	}{{"lost", 1}, {"a flipped bit", 1}, {"emptied", 2}} {
		t.Run(fmt.Sprintf("%s in %d", c.how, c.copies), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "vault")
			conf, dirs := config(dir), []string{dir}
			if c.copies == 2 {
				both, home, away := pair(t)
				conf, dirs = both, []string{home, away}
			}
			v := createIn(t, place{dirs[0], conf})
			all := map[string]map[string][]byte{store(t, v, sample()).ID: sample(), store(t, v, other(3)).ID: other(3)}
			gone := store(t, v, other(5)).ID
			if ok, err := v.Forget(t.Context(), gone); err != nil || !ok {
				t.Fatal(ok, err)
			}
			syncAll(t, v)
			closed(t, v)
			for _, d := range dirs {
				for i, f := range files(t, d, "repository/x") {
					if i%2 == 0 || c.copies == 1 { // else some are left
						spoil(t, f, c.how)
					}
				}
			}

			hurt := opens(t, conf)
			p, err := hurt.Hides(t.Context())
			if err != nil || p == nil || p.Code != "vault.damaged" {
				t.Fatalf("it does not say that its lists may lack backups: %v, %v", p, err)
			}
			_, err = hurt.Reclaim(t.Context(), vault.ReclaimOptions{Alone: true})
			wantProblem(t, err, "vault.damaged")
			later := store(t, hurt, other(7)) // backups go on
			all[later.ID] = other(7)
			syncAll(t, hurt)
			damage := scrub(t, hurt).Damage()
			if len(damage) == 0 {
				t.Fatal("a scrub finds nothing")
			}
			before := fingerprint(t, filepath.Join(dirs[0], "repository"))
			plan, err := hurt.Repair(t.Context(), damage, true)
			if err != nil || !cmp.Equal(before, fingerprint(t, filepath.Join(dirs[0], "repository"))) {
				t.Errorf("a dry run changed something, or %v", err)
			}
			for _, m := range plan {
				if m.Why != "" || m.From != vault.ThePacks || m.Entries == 0 || m.Done {
					t.Errorf("planned %+v", m)
				}
			}
			done, err := hurt.Repair(t.Context(), damage, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range done {
				if m.Why != "" || !m.Done || c.copies == 1 && len(m.Listed) != 2 {
					t.Errorf("mended %+v", m)
				}
			}
			syncAll(t, hurt)

			if d := scrub(t, hurt).Damage(); len(d) > 0 {
				t.Errorf("made anew, a scrub finds %+v", d)
			}
			for _, w := range []*vault.Vault{hurt, opens(t, conf)} {
				if p, err := w.Hides(t.Context()); p != nil || err != nil {
					t.Errorf("made anew, it still says %v, %v", p, err)
				}
				listed, err := w.Backups(t.Context(), "orders")
				if err != nil || len(listed) != len(all) {
					t.Errorf("%d backups are listed, want %d: %v", len(listed), len(all), err)
				}
				for id, want := range all {
					if got, err := fetch(t.Context(), w, id); err != nil || differ(want, got) != "" {
						t.Errorf("%s: %v %s", id, err, differ(want, got))
					}
				}
			}
			if _, err := opens(t, conf).Reclaim(t.Context(), vault.ReclaimOptions{Alone: true}); err != nil {
				t.Errorf("made anew, nothing can be freed: %v", err)
			}
			last := opens(t, conf)
			for id, want := range all {
				if got, err := fetch(t.Context(), last, id); err != nil || differ(want, got) != "" {
					t.Errorf("behind a clean-up, %s: %v %s", id, err, differ(want, got))
				}
			}
		})
	}
}

// An index is not made anew while a copy that does not answer may have it, or while a pack does not say what it holds: it
// stays lost, and is said to be.
func TestAnIndexStaysLostWhileSomethingElseMayKnowMore(t *testing.T) {
	conf, home, away := pair(t)
	v := createIn(t, place{home, conf})
	conf.Others[0].Filled = true
	b := store(t, v, sample())
	syncAll(t, v)
	closed(t, v)
	for _, f := range files(t, home, "repository/x") {
		spoil(t, f, "lost")
	}
	aside := filepath.Join(t.TempDir(), "aside")
	if err := os.Rename(away, aside); err != nil {
		t.Fatal(err)
	}
	alone := opens(t, conf)
	damage := scrub(t, alone).Damage()
	done, err := alone.Repair(t.Context(), damage, false)
	if err != nil || len(damage) == 0 {
		t.Fatalf("found %+v, %v", damage, err)
	}
	closed(t, alone)
	for _, m := range done {
		if m.Done || !strings.Contains(m.Why, "may have it") {
			t.Errorf("with a copy away: %+v", m)
		}
	}
	if err := os.Rename(aside, away); err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files(t, away, "repository/x"), append(files(t, home, "repository/q"), files(t, away, "repository/q")...)...) {
		if strings.Contains(f, "/x/") {
			spoil(t, f, "lost")
		} else {
			spoil(t, f, "cut short")
		}
	}
	both := opens(t, conf)
	damage = scrub(t, both).Damage()
	done, err = both.Repair(t.Context(), damage, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range done {
		if strings.Contains(m.Name, "/x") && m.Done {
			t.Errorf("with packs that are silent: %+v", m)
		}
	}
	if p, err := both.Hides(t.Context()); p == nil || err != nil {
		t.Errorf("nothing says that backup %s may be missing: %v", b.ID, err)
	}
}
