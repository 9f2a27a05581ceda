package vault_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/redact"
	"holdfast/internal/vault"
)

func withKey(conf vault.Config, key string) vault.Config {
	conf.Key = redact.Secret(key)
	return conf
}

func opens(t *testing.T, conf vault.Config) *vault.Vault {
	t.Helper()
	v, err := vault.Open(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func closed(t *testing.T, v *vault.Vault) {
	t.Helper()
	if err := v.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A new passphrase rewrites no backup; both open the vault until the old one is retired, and a rotation that was cut off
// anywhere leaves a vault that either opens.
func TestAKeyIsRotated(t *testing.T) {
	conf, home, away := pair(t)
	v := createIn(t, place{home, conf})
	b := store(t, v, map[string][]byte{"pgdata/PG_VERSION": []byte("15\n")})
	syncAll(t, v)
	format := filepath.Join("repository", "kopia.repository.f")
	before, err := os.ReadFile(filepath.Join(away, format))
	if err != nil {
		t.Fatal(err)
	}
	fresh := redact.Secret("a fresh key")
	if err := v.Rotate(t.Context(), conf.Key, conf.Key); err == nil {
		t.Error("rotated to the same key")
	}
	if err := v.Rotate(t.Context(), conf.Key, fresh); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a fresh key", "a long enough key"} {
		for _, dir := range []string{home, away} {
			one := opens(t, withKey(alone(dir), key))
			if got, err := fetch(t.Context(), one, b.ID); err != nil || len(got) != 1 {
				t.Errorf("%s with %q: %v", dir, key, err)
			}
			if old := key != "a fresh key"; one.OldKey() != old {
				t.Errorf("%q is old: %v", key, one.OldKey())
			}
			closed(t, one)
		}
	}
	// As if it had been cut off before the second copy.
	if err := os.WriteFile(filepath.Join(away, format), before, 0o600); err != nil {
		t.Fatal(err)
	}
	half := opens(t, withKey(conf, "a fresh key"))
	closed(t, opens(t, withKey(alone(away), "a fresh key")))
	if err := half.Rotate(t.Context(), conf.Key, fresh); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if now, err := os.ReadFile(filepath.Join(away, format)); err != nil || cmp.Equal(now, before) {
		t.Errorf("the second copy still opens with the old key: %v", err)
	}
	if k, err := half.Keys(t.Context()); err != nil || k.Generation != 2 || k.Opening != 2 || k.Proven != nil {
		t.Errorf("keys %+v, %v", k, err)
	}
	// Cut off once more, and nobody ends it: the old key must not stay where it was.
	if err := os.WriteFile(filepath.Join(away, format), before, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := half.Retire(t.Context()); err != nil || n != 1 {
		t.Fatalf("retired %d, %v", n, err)
	}
	for _, dir := range []string{home, away} {
		start := time.Now()
		_, err := vault.Open(t.Context(), alone(dir))
		wantProblem(t, err, "vault.wrong-key")
		if took := time.Since(start); took > time.Minute {
			t.Errorf("refusing took %s", took)
		}
		closed(t, opens(t, withKey(alone(dir), "a fresh key")))
	}
	if s := scrub(t, half); len(s.Damage()) > 0 {
		t.Errorf("after it: %+v", s.Damage())
	}
	closed(t, half)
}

// The format's copy opens the vault when the format itself is lost, and a repair brings it back.
func TestALostFormatComesBackFromItsCopy(t *testing.T) {
	v, dir := create(t)
	store(t, v, map[string][]byte{"pgdata/PG_VERSION": []byte("15\n")})
	whole := spoil(t, filepath.Join(dir, "repository", "kopia.repository.f"), "lost")
	again := openAll(t, config(dir))
	s := scrub(t, again)
	if _, err := again.Repair(t.Context(), append(s.Damage(), vault.Finding{Name: "repository/kopia.repository", Kind: vault.Lost}), false); err != nil {
		t.Fatal(err)
	}
	if now, err := os.ReadFile(filepath.Join(dir, "repository", "kopia.repository.f")); err != nil || !cmp.Equal(now, whole) {
		t.Errorf("not brought back: %v", err)
	}
}

func TestAProofOfTheKeyCountsForAWhile(t *testing.T) {
	v, dir := create(t)
	k, err := v.Keys(t.Context())
	if err != nil || k.Trouble("home", time.Now()) == nil {
		t.Errorf("keys %+v, %v", k, err)
	}
	proven := openAll(t, config(dir))
	other, _ := create(t)
	wantProblem(t, v.ProveKey(t.Context(), other, "somebody"), "vault.exchanged")
	if err := v.ProveKey(t.Context(), proven, "somebody"); err != nil {
		t.Fatal(err)
	}
	if k, err = v.Keys(t.Context()); err != nil || k.Proven == nil || k.Proven.By != "somebody" {
		t.Fatalf("keys %+v, %v", k, err)
	}
	for after, want := range map[time.Duration]bool{time.Hour: false, vault.ProveEvery + time.Hour: true} {
		if got := k.Trouble("home", time.Now().Add(after)) != nil; got != want {
			t.Errorf("%s after the proof: trouble %v", after, got)
		}
	}
	early := openAll(t, config(dir)) // an agent that goes on
	if err := v.Rotate(t.Context(), config(dir).Key, redact.Secret("another")); err != nil {
		t.Fatal(err)
	}
	for _, open := range []*vault.Vault{v, early} {
		if k, err = open.Keys(t.Context()); err != nil || k.Proven != nil {
			t.Errorf("a proof of the old key counts for the new one: %+v, %v", k, err)
		}
	}
	if err := v.ProveKey(t.Context(), opens(t, withKey(config(dir), "another")), "somebody"); err != nil {
		t.Fatal(err)
	}
	for _, open := range []*vault.Vault{v, early} {
		if k, err = open.Keys(t.Context()); err != nil || k.Proven == nil {
			t.Errorf("the new key is proven: %+v, %v", k, err)
		}
	}
}
