package sim_test

import (
	"testing"
	"time"

	"holdfast/sim"
)

// Each primary panics some seconds after it became one, whichever host it is on. Moves end at the third such end, a few
// attempts in place follow, nothing acknowledged is lost, and all is well again once the poison is cured and an
// operator says so.
func TestAPoisonedDatabaseDoesNotMoveForEver(t *testing.T) {
	seeds := uint64(10)
	if testing.Short() || raceEnabled {
		seeds = 3
	}
	opt := sim.Options{FaultTime: 250 * time.Second, Script: []sim.Step{{At: 30 * time.Second, Kind: sim.Poison, Lasts: 220 * time.Second}}}
	if *seed != 0 {
		replay(t, opt)
		return
	}
	for s := range seeds {
		opt.Seed = *from + s
		r := sim.Run(opt)
		if r.Failure != nil {
			report(t, r)
			return
		}
		if r.Halts == 0 {
			t.Errorf("seed %d: moves never ended, in %d epochs", opt.Seed, r.Epochs)
		}
		if r.HaltedMoves > 6 || r.Epochs > 16 {
			t.Errorf("seed %d: %d promotions while halted, %d epochs", opt.Seed, r.HaltedMoves, r.Epochs)
		}
	}
}

// Other faults of every kind come at the same time: a halt must not become a dead end, nor lose anything.
func TestAPoisonedDatabaseAmongOtherFaults(t *testing.T) {
	seeds := uint64(14)
	if testing.Short() || raceEnabled {
		seeds = 3
	}
	opt := sim.Options{FaultTime: 120 * time.Second, Faults: []sim.FaultKind{
		sim.Poison, sim.CrashServer, sim.Partition, sim.CrashHost, sim.CrashAgent, sim.StoreDown, sim.Switchover, sim.PauseMoves, sim.HangDisk, sim.LoseAnswer,
	}}
	if *seed != 0 {
		replay(t, opt)
		return
	}
	halts := 0
	for s := range seeds {
		opt.Seed = *from + s
		r := sim.Run(opt)
		if r.Failure != nil {
			report(t, r)
			return
		}
		halts += r.Halts
	}
	if halts == 0 {
		t.Error("no world came to a halt: nothing was tried")
	}
}
