package sim_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/sim"
)

var (
	seeds = flag.Int("sim.seeds", 0, "how many seeds TestSeeds runs; 0 = a few hundred, fewer when testing is short or slow")
	hours = flag.Float64("sim.hours", 0, "run seeds on every core until so many hours have been simulated, in place of sim.seeds")
	out   = flag.String("sim.out", "", "a file that says how far TestSeeds has come, and at the end what it came to")
	from  = flag.Uint64("sim.from", 1, "the first seed of TestSeeds")
	seed  = flag.Uint64("sim.seed", 0, "run only this seed")
	trace = flag.Bool("sim.trace", false, "with -sim.seed: print the whole trace as it happens")
)

// Whatever happens to hosts, links, disks and clocks, no acknowledged commit is lost, nobody writes in an epoch
// but its primary, and once the faults are over the database is whole again by itself.
func TestSeeds(t *testing.T) {
	if *seed != 0 {
		replay(t, chosen(*seed))
		return
	}
	n := *seeds
	if n == 0 {
		n = 240
		if testing.Short() || raceEnabled {
			n = 12
		}
	}
	sum := total{t: t, begin: time.Now(), n: n, limit: time.Duration(*hours * float64(time.Hour))}
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for seed, more := sum.next(); more; seed, more = sum.next() {
				sum.add(seed, sim.Run(chosen(seed)))
			}
		})
	}
	workers.Wait()
	t.Log(sum.String())
	sum.write("done: ")
}

// chosen is the world of a seed. Every third plan has a read-only listener, every fourth a command for a primary in trouble,
// every fifth a vault that copies may come from.
func chosen(seed uint64) sim.Options {
	return sim.Options{Seed: seed, Readers: seed%3 == 0, Hook: seed%4 == 1, Vault: seed%5 == 2}
}

// total adds up what many seeds came to.
type total struct {
	t     *testing.T
	begin time.Time
	n     int           // seeds to run
	limit time.Duration // > 0: simulated time to reach, in place of n

	mu           sync.Mutex // guards all below
	started      int
	failed       int
	acknowledged int
	read         int
	faults       int
	epochs       int64
	took         time.Duration // simulated
	opened       time.Duration // at most, after the last fault
	openedIn     uint64        // that seed
	told         time.Time
}

// next is the seed that is run next, if there is another.
func (s *total) next() (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed >= failedMax || s.limit == 0 && s.started >= s.n || s.limit > 0 && s.took >= s.limit {
		return 0, false
	}
	s.started++
	return *from + uint64(s.started-1), true
}

// failedMax ends a run that has found enough.
const failedMax = 20

func (s *total) add(seed uint64, r sim.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read += r.Read
	if r.Opened > s.opened {
		s.opened, s.openedIn = r.Opened, seed
	}
	s.acknowledged, s.faults, s.epochs, s.took = s.acknowledged+r.Acknowledged, s.faults+r.Faults, s.epochs+r.Epochs, s.took+r.Took
	if s.limit > 0 && time.Since(s.told) > time.Minute {
		s.told = time.Now()
		fmt.Fprintln(os.Stderr, s.progress()+s.String())
		s.write(s.progress())
	}
	if r.Failure == nil {
		return
	}
	s.failed++
	if s.failed == 1 {
		report(s.t, r)
	} else {
		s.t.Error(r.Failure)
	}
}

// progress says how much of a long run is done, and about how long the rest takes.
func (s *total) progress() string {
	done := float64(s.took) / float64(s.limit)
	left := time.Duration(float64(time.Since(s.begin)) * (1 - done) / done)
	return fmt.Sprintf("%.1f%% of %.0f hours, about %s to go: ", 100*done, s.limit.Hours(), left.Round(time.Minute))
}

// write says the same to the file that was asked for.
func (s *total) write(how string) {
	if *out == "" {
		return
	}
	if err := os.WriteFile(*out, []byte(how+s.String()+"\n"), 0o644); err != nil {
		s.t.Errorf("say how far it is: %v", err)
	}
}

func (s *total) String() string {
	return fmt.Sprintf("%.1f hours simulated in %s: %d seeds from %d, %d commits acknowledged, %d answers of standbys, %d faults, %d epochs, %d seeds failed; writes went on at most %s after the last fault (seed %d)",
		s.took.Hours(), time.Since(s.begin).Round(time.Second), s.started, *from, s.acknowledged, s.read, s.faults, s.epochs, s.failed,
		s.opened.Round(100*time.Millisecond), s.openedIn)
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
