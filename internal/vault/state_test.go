package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/vault"
)

// newestState is the last saving that is whole, with those that are not.
func newestState(t *testing.T, v *vault.Vault) (newest vault.SavedState, content []byte, damaged []error, err error) {
	t.Helper()
	damaged, err = v.EachState(t.Context(), func(s vault.SavedState, c []byte) error {
		if s.At.Before(newest.At) {
			t.Errorf("%s comes behind %s", s.Object, newest.Object)
		}
		newest, content = s, c
		return nil
	})
	return newest, content, damaged, err
}

func TestStatesAreKeptAndReadBack(t *testing.T) {
	v, dir := create(t)
	if _, _, _, err := newestState(t, v); !errors.Is(err, vault.ErrNoState) {
		t.Fatalf("an empty vault gives %v", err)
	}
	at := time.Date(2026, 11, 21, 1, 2, 3, 456789000, time.UTC)
	first, err := v.PutState(t.Context(), at, 17, []byte("epoch 4 of records"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := v.PutState(t.Context(), at, 17, []byte("epoch 4 of records"))
	if err != nil || again != first {
		t.Fatalf("the same again: %+v, %v", again, err)
	}
	second, err := v.PutState(t.Context(), at.Add(time.Second), 18, []byte("epoch 5 of records"))
	if err != nil {
		t.Fatal(err)
	}
	newest, content, damaged, err := newestState(t, v)
	if err != nil || newest != second || string(content) != "epoch 5 of records" || len(damaged) > 0 {
		t.Fatalf("newest %+v %q %v %v", newest, content, damaged, err)
	}

	t.Run("nothing of it is readable without the key", func(t *testing.T) {
		raw, err := os.ReadFile(filepath.Join(dir, first.Object))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, []byte("epoch")) {
			t.Error("the content lies there in clear")
		}
	})
	t.Run("a damaged saving is passed over and told", func(t *testing.T) {
		path := filepath.Join(dir, second.Object)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		raw[len(raw)-1] ^= 1
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		got, content, damaged, err := newestState(t, v)
		if err != nil || got != first || string(content) != "epoch 4 of records" || len(damaged) != 1 {
			t.Fatalf("got %+v %q %v %v", got, content, damaged, err)
		}
	})
	t.Run("one saving under the name of another is refused", func(t *testing.T) {
		raw, err := os.ReadFile(filepath.Join(dir, first.Object))
		if err != nil {
			t.Fatal(err)
		}
		later := strings.Replace(first.Object, "T01", "T05", 1)
		if err := os.WriteFile(filepath.Join(dir, later), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, _, _, err := newestState(t, v); err != nil || got != first {
			t.Fatalf("got %+v, %v", got, err)
		}
	})
}

func TestOldStatesAreLetGo(t *testing.T) {
	v, _ := create(t)
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for day := range 3 {
		for i := range 20 {
			at := start.AddDate(0, 0, day).Add(time.Duration(i) * time.Minute)
			if _, err := v.PutState(t.Context(), at, int64(day*20+i), fmt.Appendf(nil, "%d", day*20+i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	all, err := v.States(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The 32 newest are 28 to 59; the last of the first day is 19.
	if len(all) != 33 || all[0].Revision != 19 || all[1].Revision != 28 || all[32].Revision != 59 {
		t.Fatalf("%d are kept: %+v", len(all), all)
	}
}

// A state that was put back to an old backup runs on, and is saved on the same day more often than savings are kept: what got further
// before stays.
func TestASavingThatGotFurtherIsNotPushedOut(t *testing.T) {
	v, _ := create(t)
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	save := func(minute int, revision int64) {
		t.Helper()
		if _, err := v.PutState(t.Context(), start.Add(time.Duration(minute)*time.Minute), revision, fmt.Appendf(nil, "%d at %d", revision, minute)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		save(i, 900+int64(i))
	}
	for i := range 60 { // up to a higher revision than the one that counts
		save(10+i, 500+20*int64(i))
	}
	all, err := v.States(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 34 || all[0].Revision != 902 || all[1].Revision != 500 || all[2].Revision != 1060 {
		t.Fatalf("%d are kept: %+v", len(all), all)
	}
}
