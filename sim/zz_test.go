package sim_test

import (
	"fmt"
	"testing"

	"holdfast/sim"
)

func TestZZ(t *testing.T) {
	for s := uint64(1); s <= 40; s++ {
		r := sim.Run(sim.Options{Seed: s, Readers: readers(s)})
		fmt.Printf("%d %x %v %v\n", s, r.Hash, r.Took, r.Failure != nil)
	}
	for s := uint64(1); s <= 6; s++ {
		r := sim.Run(forced(s))
		fmt.Printf("%d %x %v %v\n", s, r.Hash, r.Took, r.Failure != nil)
		r = sim.Run(restored(s))
		fmt.Printf("%d %x %v %v\n", s, r.Hash, r.Took, r.Failure != nil)
	}
}
