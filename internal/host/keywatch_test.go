package host

import (
	"context"
	"errors"
	"testing"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/vault"
)

// standing is a clock that stands until it is moved.
type standing struct {
	clock.Clock
	now time.Time
}

func (c *standing) Now() time.Time { return c.now }

// keyedVault is a vault whose keys stand as they are told to.
type keyedVault struct {
	keys  vault.Keys
	err   error
	asked int
}

func (v *keyedVault) Name() string { return "main" }

func (v *keyedVault) Keys(context.Context) (vault.Keys, error) {
	v.asked++
	return v.keys, v.err
}

// An unproven key is a problem of the status until it is proven, which is seen soon; and a proof grows old.
func TestAnUnprovenKeyIsAProblem(t *testing.T) {
	c := &standing{clock.Real(), time.Now()}
	w, v := newKeyWatch(c), &keyedVault{}
	look := func(after time.Duration, asked int, wrong bool) {
		t.Helper()
		c.now = c.now.Add(after)
		v.asked = 0
		for _, who := range []string{"orders", "stock"} {
			if err := w.look(t.Context(), who, v); err != nil && v.err == nil {
				t.Error(err)
			}
		}
		got := w.problems()
		if v.asked != asked || (len(got) > 0) != wrong || len(got) > 1 || wrong && (got[0].Code != "vault.key-unproven" || got[0].Subject != "main") {
			t.Errorf("%s later it was asked %d times, want %d; said is %+v", after, v.asked, asked, got)
		}
	}
	look(0, 2, true)
	look(time.Second, 0, true)
	v.keys.Proven = &vault.KeyProof{At: time.Now()}
	look(keySoon, 2, false)
	look(keySoon, 0, false)
	v.keys.Proven.At = time.Now().Add(-vault.ProveEvery - time.Hour)
	look(keyPace, 2, true)
	v.err, v.keys.Proven.At = errors.New("it is away"), time.Now()
	look(keySoon, 2, true) // what it said stands
	w.leave("orders")
	w.leave("stock")
	if got := w.problems(); len(got) > 0 {
		t.Errorf("another host's duty is told here: %+v", got)
	}
}
