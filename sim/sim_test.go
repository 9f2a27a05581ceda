package sim_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"holdfast/sim"
)

var (
	seeds = flag.Int("sim.seeds", 0, "how many seeds TestSeeds runs; 0 = a few hundred, fewer when testing is short or slow")
	from  = flag.Uint64("sim.from", 1, "the first seed of TestSeeds")
	seed  = flag.Uint64("sim.seed", 0, "run only this seed")
	trace = flag.Bool("sim.trace", false, "with -sim.seed: print the whole trace as it happens")
)

// Whatever happens to hosts, links, disks and clocks, no acknowledged commit is lost, nobody writes in an epoch
// but its primary, and once the faults are over the database is whole again by itself.
func TestSeeds(t *testing.T) {
	if *seed != 0 {
		replay(t, sim.Options{})
		return
	}
	n := *seeds
	if n == 0 {
		n = 240
		if testing.Short() || raceEnabled {
			n = 12
		}
	}
	failed := 0
	var acknowledged, faults int
	var epochs int64
	for i := range uint64(n) {
		r := sim.Run(sim.Options{Seed: *from + i})
		acknowledged, faults, epochs = acknowledged+r.Acknowledged, faults+r.Faults, epochs+r.Epochs
		if r.Failure == nil {
			continue
		}
		failed++
		if failed == 1 {
			report(t, r)
		} else {
			t.Error(r.Failure)
		}
		if failed >= 20 {
			t.Fatal("20 seeds failed; the rest is not run")
		}
	}
	t.Logf("%d seeds: %d commits acknowledged, %d faults, %d epochs, %d seeds failed", n, acknowledged, faults, epochs, failed)
}

// replay runs the seed of the command line.
func replay(t *testing.T, opt sim.Options) {
	t.Helper()
	opt.Seed = *seed
	if *trace {
		opt.Trace = os.Stdout
	}
	report(t, sim.Run(opt))
}

func report(t *testing.T, r sim.Result) {
	t.Helper()
	if r.Failure == nil {
		t.Logf("held: %d commits acknowledged, %d faults, %d epochs in %s", r.Acknowledged, r.Faults, r.Epochs, r.Took)
		return
	}
	f := r.Failure
	name, _, _ := strings.Cut(t.Name(), "/")
	t.Errorf("%v\n\nto see all of it again:\n  go test ./sim -run '^%s$' -sim.seed=%d -sim.trace\n\nthe last of the trace:\n%s",
		f, name, f.Seed, strings.Join(f.Trace, "\n"))
}

// The same seed is the same world, line by line.
func TestSameSeedSameTrace(t *testing.T) {
	for s := range uint64(2) {
		t.Run(fmt.Sprintf("seed %d", s+1), func(t *testing.T) {
			a, b := sim.Run(sim.Options{Seed: s + 1}), sim.Run(sim.Options{Seed: s + 1})
			if a.Hash != b.Hash {
				t.Errorf("the traces differ: %x and %x", a.Hash, b.Hash)
			}
		})
	}
	if a, b := sim.Run(sim.Options{Seed: 1}), sim.Run(sim.Options{Seed: 2}); a.Hash == b.Hash {
		t.Error("two seeds made the same world: the seed is not used")
	}
}

// Disks are lost as often as anything else here, also the last copies. A database may then rightly wait for a
// person; but whatever it still says or does, it has forgotten nothing.
func TestSeedsThatLoseDisks(t *testing.T) {
	n := uint64(60)
	if testing.Short() || raceEnabled {
		n = 4
	}
	faults := []sim.FaultKind{sim.LoseDisk, sim.CrashServer, sim.CrashHost, sim.CutLink, sim.CutOneWay, sim.Switchover, sim.RestartAgent, sim.FreezeHost}
	opt := sim.Options{Faults: faults, NoLive: true}
	if *seed != 0 {
		replay(t, opt)
		return
	}
	for s := range n {
		opt.Seed = *from + s
		if r := sim.Run(opt); r.Failure != nil {
			report(t, r)
		}
	}
}
