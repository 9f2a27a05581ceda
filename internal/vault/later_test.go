package vault_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// Scenario 48: what a later version of this program wrote is refused in words, and not a byte of it is changed.
func TestWhatALaterVersionWroteIsRefused(t *testing.T) {
	t.Run("the vault itself", func(t *testing.T) {
		v, dir := create(t)
		store(t, v, map[string][]byte{"pgdata/PG_VERSION": []byte("15\n")})
		p := filepath.Join(dir, "vault.json")
		raw, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		later := strings.Replace(string(raw), `"format": 1`, `"format": 2`, 1)
		if later == string(raw) {
			later = strings.Replace(string(raw), `"format":1`, `"format":2`, 1)
		}
		if later == string(raw) {
			t.Fatalf("vault.json names no format: %s", raw)
		}
		if err := os.WriteFile(p, []byte(later), 0o600); err != nil {
			t.Fatal(err)
		}
		before := fingerprint(t, dir)
		for _, readOnly := range []bool{true, false} {
			conf := config(dir)
			conf.ReadOnly = readOnly
			_, err := vault.Open(t.Context(), conf)
			wantProblem(t, err, "vault.other-format")
		}
		if d := cmp.Diff(before, fingerprint(t, dir)); d != "" {
			t.Error(d)
		}
	})
	t.Run("a piece of log", func(t *testing.T) {
		v, dir := create(t)
		log := v.Log(7, 1<<20)
		for seg := range wal.LSN(2) {
			if err := log.PutSegment(t.Context(), 1, seg<<20, make([]byte, 1<<20), time.Unix(9, 0)); err != nil {
				t.Fatal(err)
			}
		}
		held, err := log.Held(t.Context())
		if err != nil || len(held) != 2 {
			t.Fatal(held, err)
		}
		p := filepath.Join(dir, held[1].Object)
		raw, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		raw[7]++ // the last byte of the magic is the version
		if err := os.WriteFile(p, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := log.Fetch(t.Context(), held[1]); err == nil || !strings.Contains(err.Error(), "another version") {
			t.Errorf("read as: %v", err)
		}
		if _, err := log.Fetch(t.Context(), held[0]); err != nil {
			t.Errorf("the one beside it: %v", err)
		}
		if now, err := os.ReadFile(p); err != nil || !cmp.Equal(now, raw) {
			t.Errorf("it was changed: %v", err)
		}
	})
}

// Scenario 31: while the entry of one backup cannot be read nothing is freed, for what that one uses cannot be known.
func TestNothingIsFreedWhileABackupsEntryCannotBeRead(t *testing.T) {
	v, dir := create(t)
	goes, stays := store(t, v, sample()), store(t, v, other(3))
	entries := files(t, dir, "repository/q") // the packs that hold entries and directories
	if gone, err := v.Forget(t.Context(), goes.ID); err != nil || !gone {
		t.Fatal(gone, err)
	}
	kept := map[string][]byte{}
	for _, f := range entries {
		kept[f] = spoil(t, f, "emptied")
	}
	before := fingerprint(t, filepath.Join(dir, "repository"))
	if _, err := reopened(t, dir).Reclaim(t.Context(), vault.ReclaimOptions{Alone: true}); err == nil {
		t.Error("space was freed beside entries that cannot be read")
	}
	after := fingerprint(t, filepath.Join(dir, "repository"))
	for name, sum := range before {
		if after[name] != sum {
			t.Errorf("%s went, or was changed", name)
		}
	}
	for f, whole := range kept {
		if err := os.WriteFile(f, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fresh := reopened(t, dir)
	if got, err := fetch(t.Context(), fresh, stays.ID); err != nil || differ(other(3), got) != "" {
		t.Errorf("mended, the backup that stays: %v", err)
	}
	if _, err := fresh.Reclaim(t.Context(), vault.ReclaimOptions{Alone: true}); err != nil {
		t.Errorf("mended, nothing can be freed: %v", err)
	}
}

// Indexes are lost in the only copy. The backups that they know of are not listed then, and everything looks unused: nothing is
// let go, and when the indexes are brought back all of it is there.
func TestNothingIsFreedWhileAnIndexIsLost(t *testing.T) {
	v, dir := create(t)
	one, two := store(t, v, sample()), store(t, v, other(3))
	kept := map[string][]byte{}
	for _, f := range files(t, dir, "repository/x") {
		raw, err := os.ReadFile(f)
		if err == nil {
			err = os.Remove(f)
		}
		if err != nil {
			t.Fatal(err)
		}
		kept[f] = raw
	}
	if len(kept) == 0 {
		t.Fatal("there is no index")
	}
	before := fingerprint(t, filepath.Join(dir, "repository"))
	_, err := reopened(t, dir).Reclaim(t.Context(), vault.ReclaimOptions{Alone: true})
	wantProblem(t, err, "vault.damaged")
	after := fingerprint(t, filepath.Join(dir, "repository"))
	for name, sum := range before {
		if after[name] != sum {
			t.Errorf("%s went, or was changed", name)
		}
	}
	for f, raw := range kept {
		if err := os.WriteFile(f, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fresh := reopened(t, dir)
	for _, b := range []struct {
		id    string
		files map[string][]byte
	}{{one.ID, sample()}, {two.ID, other(3)}} {
		if got, err := fetch(t.Context(), fresh, b.id); err != nil || differ(b.files, got) != "" {
			t.Errorf("with the indexes brought back, %s: %v", b.id, err)
		}
	}
	if _, err := fresh.Reclaim(t.Context(), vault.ReclaimOptions{Alone: true}); err != nil {
		t.Errorf("with the indexes brought back nothing can be freed: %v", err)
	}
}
