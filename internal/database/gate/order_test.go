package gate

import (
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func TestJudge(t *testing.T) {
	at := func(epoch, generation uint64, cut bool) ledger {
		return ledger{Last: Order{Epoch: epoch, Generation: generation, State: Hold}, Cut: cut}
	}
	open := func(epoch, generation uint64) Order {
		return Order{Epoch: epoch, Generation: generation, State: Open, Target: "127.43.0.9:5432"}
	}
	for _, c := range []struct {
		name  string
		led   ledger
		order Order
		stale bool
		bad   bool
	}{
		{"a gate that knows nothing takes any order", ledger{}, open(1, 0), false, false},
		{"a higher epoch is taken even with a lower generation", at(4, 9, false), open(5, 1), false, false},
		{"a lower epoch is refused even with a higher generation", at(4, 1, false), open(3, 9), true, false},
		{"a lower generation of the same epoch is refused", at(4, 5, false), open(4, 4), true, false},
		{"an equal order is taken, for it is only repeated", at(4, 5, false), open(4, 5), false, false},
		{"a cut epoch takes no equal order", at(4, 5, true), open(4, 5), true, false},
		{"a cut epoch takes a newer generation", at(4, 5, true), open(4, 6), false, false},
		{"epoch 0 is no epoch", ledger{}, open(0, 1), false, true},
		{"open needs a target", ledger{}, Order{Epoch: 1, State: Open}, false, true},
		{"only hold drains", ledger{}, Order{Epoch: 1, State: Shut, DrainFor: 1}, false, true},
		{"an unknown state is refused", ledger{}, Order{Epoch: 1, State: "ajar"}, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.led.judge(c.order)
			_, stale := errors.AsType[*StaleError](err)
			if stale != c.stale || (err != nil && !stale) != c.bad {
				t.Errorf("judged %v, want stale %v, bad %v", err, c.stale, c.bad)
			}
		})
	}
}

// Whatever orders come in whatever sequence, the ledger never goes down.
func TestTheLedgerNeverFalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var led ledger
		for range rapid.IntRange(1, 40).Draw(t, "orders") {
			o := Order{
				Epoch: rapid.Uint64Range(0, 5).Draw(t, "epoch"), Generation: rapid.Uint64Range(0, 5).Draw(t, "generation"),
				State: rapid.SampledFrom([]State{Open, Hold, Shut}).Draw(t, "state"), Target: "127.43.0.9:1",
			}
			if rapid.Bool().Draw(t, "cut") {
				led.Cut = true
			}
			before := led
			if led.judge(o) != nil {
				continue
			}
			led = led.take(o)
			if led.Last.Epoch < before.Last.Epoch ||
				(led.Last.Epoch == before.Last.Epoch && led.Last.Generation < before.Last.Generation) {
				t.Fatalf("fell from %+v to %+v", before.Last, led.Last)
			}
			if before.Cut && led.Last.Epoch == before.Last.Epoch && led.Last.Generation == before.Last.Generation {
				t.Fatalf("took %+v after a cut at %+v", o, before.Last)
			}
		}
	})
}
