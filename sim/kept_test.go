package sim_test

import (
	"fmt"
	"testing"

	"holdfast/sim"
)

// Seeds that once broke a rule, with what they found (docs/incidents.md). A seed makes the same world only as long
// as the simulator asks its dice in the same order; what each found has a table test of its own besides.
func TestKeptSeeds(t *testing.T) {
	for _, kept := range []struct {
		seed  uint64
		found string
	}{
		{10, "a failed return alone used up the right to one"},
		{15, "a barrier of before passed for names that had changed meanwhile"},
		{54, "the first of two needed standbys never became a voter"},
		{11204, "a standby was counted twice; a fresh agent suspected everybody"},
		{11898, "a copy was made anew for ever"},
	} {
		t.Run(fmt.Sprintf("seed %d: %s", kept.seed, kept.found), func(t *testing.T) {
			if r := sim.Run(sim.Options{Seed: kept.seed}); r.Failure != nil {
				t.Errorf("%v\nsee all of it: go test ./sim -run '^TestSeeds$' -sim.seed=%d -sim.trace", r.Failure, kept.seed)
			}
		})
	}
}
