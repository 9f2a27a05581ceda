package format_test

import (
	"crypto/rand"
	"errors"
	"runtime"
	"testing"

	"holdfast/internal/vault/repo/format"
)

// What is remembered of a password opens what the password opens, another repository with the same password is another key, and
// nothing is remembered of a password that opens nothing but that it does not.
func TestAKeyringOpensWhatThePasswordOpens(t *testing.T) {
	keys := &format.Keyring{}
	blob := func() []byte {
		t.Helper()
		raw, err := keys.Make("the key", format.New{Splitter: "FIXED-1M"}, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	one, two := blob(), blob()
	a, err := keys.Read(one, "the key")
	if err != nil {
		t.Fatal(err)
	}
	b, err := keys.Read(two, "the key")
	if err != nil || a.Same(b) {
		t.Fatalf("the same %v, %v", a.Same(b), err)
	}
	for range 2 {
		if _, err := keys.Read(one, "another"); !errors.Is(err, format.ErrWrongPassword) {
			t.Errorf("another password: %v", err)
		}
	}
	again, err := a.Rewrap("another")
	if err != nil {
		t.Fatal(err)
	}
	for who, k := range map[string]*format.Keyring{"it": keys, "who remembers nothing": nil} {
		if c, err := k.Read(again, "another"); err != nil || !c.Same(a) {
			t.Errorf("behind a rotation %s reads: %v", who, err)
		}
		if _, err := k.Read(again, "the key"); !errors.Is(err, format.ErrWrongPassword) {
			t.Errorf("with the old password behind a rotation %s reads: %v", who, err)
		}
	}
}

// A password that was stretched once is not stretched again: opening takes next to no memory then.
func TestAKeyringStretchesAPasswordOnce(t *testing.T) {
	keys := &format.Keyring{}
	raw, err := keys.Make("the key", format.New{Splitter: "FIXED-1M"}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	opening := func(k *format.Keyring) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := k.Read(raw, "the key"); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	if took := opening(keys); took > 1<<20 {
		t.Errorf("with a keyring it takes %d bytes", took)
	}
	if took := opening(nil); took < 32<<20 {
		t.Errorf("without one it takes %d bytes: the test measures nothing", took)
	}
}
