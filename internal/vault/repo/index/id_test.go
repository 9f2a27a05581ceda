package index_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"holdfast/internal/vault/repo/index"
)

func TestAnIDIsItsText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.IntRange(1, 32)
		a := genID(length.Draw(t, "length of a")).Draw(t, "a")
		b := genID(length.Draw(t, "length of b")).Draw(t, "b")
		again, err := index.ParseID(a.String())
		if err != nil || again != a {
			t.Errorf("%s is read as %s, %v", a, again, err)
		}
		made, err := index.MakeID(a.Prefix(), a.Hash())
		if err != nil || made != a {
			t.Errorf("%s is made as %s, %v", a, made, err)
		}
		if got, want := sign(a.Compare(b)), cmp.Compare(a.String(), b.String()); got != want {
			t.Errorf("%s and %s compare as %d, their texts as %d", a, b, got, want)
		}
		raw, err := json.Marshal(a)
		if err != nil || string(raw) != `"`+a.String()+`"` {
			t.Errorf("%s is %s in JSON, %v", a, raw, err)
		}
		if err := json.Unmarshal(raw, &again); err != nil || again != a {
			t.Errorf("%s is read from JSON as %s, %v", a, again, err)
		}
	})
}

func sign(n int) int { return cmp.Compare(n, 0) }

func TestWhatIsNoIDIsRefused(t *testing.T) {
	for _, text := range []string{"k", "f01", "kg", "0", "zz", "k0", "{01", strings.Repeat("00", 33), "k" + strings.Repeat("00", 33), "k 1", "é0"} {
		if id, err := index.ParseID(text); !errors.Is(err, index.ErrID) {
			t.Errorf("%q is %v, %v", text, id, err)
		}
	}
	if id, err := index.ParseID(""); err != nil || !id.IsZero() {
		t.Errorf("nothing is %v, %v", id, err)
	}
	for _, prefix := range []string{"f", "gg", "{", "A"} {
		if id, err := index.MakeID(prefix, []byte{1}); !errors.Is(err, index.ErrID) {
			t.Errorf("%q is %v, %v", prefix, id, err)
		}
	}
}
