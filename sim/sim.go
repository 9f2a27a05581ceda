// Package sim is a deterministic world for the database room: hosts with clocks, disks and links that fail,
// the cluster store, clients, and checkers that know every acknowledged commit. Each host runs the agent's own
// [agent.Loop] and the room's own [database.Decide] and [database.Act] over the model server of databasetest.
// Start at [Run]: one seed makes one world, and the same seed makes the same world again.
//
// Everything happens in virtual time, one event after another. An action that takes time is a coroutine
// ([iter.Pull]): it runs only while the event queue resumes it, so there is never a second thing going on.
package sim

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/database/databasetest"
)

// Options say what a world is like. The zero value lets the seed choose everything.
type Options struct {
	Seed    uint64
	Bugs    databasetest.Bugs
	Planted Planted
	Trace   io.Writer // every line of the trace as it happens; nil = only kept for a failure

	Hosts     int                    // 0 = by the seed
	Standbys  int                    // 0 = by the seed
	W         int                    // 0 = by the seed; below 0 = none
	Faults    []FaultKind            // nil = a mix chosen by the seed
	FaultTime time.Duration          // how long faults go on; 0 = by the seed
	Script    []Step                 // faults at given times, in place of random ones
	Readers   bool                   // the plan has a read-only listener, and clients read through it
	Operator  bool                   // somebody forces a failover when nobody is served, and settles what it left behind
	Salvage   database.SalvagePolicy // what the plan wants done with commits that were given up
	AllAtOnce bool                   // who takes in the hosts that were written off does so with all that are there
	NoLive    bool                   // do not demand progress at the end: what happened may rightly need a person
	Hook      bool                   // the plan has a command for a primary in trouble
	Vault     bool                   // the plan lets copies be made of what the vault holds
}

// Planted are defects of the agent, for tests that prove that they would be found, as [databasetest.Bugs] are of
// the server and its driver.
type Planted struct {
	AskNobody         bool // the gate of a silent agent goes on with its order for ever
	BehindIsHeard     bool // a gate takes the word of an agent that lives by an older agreement for news
	NoNameOfSettings  bool // a look does not say by which plan it judged what waits for a restart
	KeepMembers       bool // a read-only listener goes on with its last order for ever
	OrderOnce         bool // a listener is given an order once, and not again while it stands
	NoCompare         bool // a record is written whatever there is by then: two runners both win
	AnyRevision       bool // names and barriers are carried out on whatever record there is now
	NamesBeforeRecord bool // W is lowered in the server before the record has the larger E
	NoBarrier         bool // W is raised and E lowered without a barrier
	AsyncCounts       bool // the names hold asynchronous standbys too
	HearsNoRebuilding bool // who was written off does not take it from the others
	ObeysBackup       bool // no generation is compared: an agreed state of the same epoch is obeyed however old it is
}

// Step is one fault of a script.
type Step struct {
	At    time.Duration
	Kind  FaultKind
	Host  string // or "primary", "standby": chosen when it happens
	To    string // the other end of a link; "" = chosen by the seed
	Lasts time.Duration
}

// Result is what one run came to.
type Result struct {
	Failure      *Failure // nil = every rule held
	Acknowledged int
	Read         int // answers of read-only listeners
	Epochs       int64
	Faults       int
	RestartsDone int
	Halts        int           // that automatic moves ended because they did not help
	HaltedMoves  int           // most promotions within one of these times
	Forced       int           // failovers that an operator forced, and that were confirmed
	GivenUp      int           // acknowledged commits that these lost, and rebuildings
	Rebuilt      int           // clusters that were founded anew
	TakenIn      int           // hosts that were taken in again after that
	Hooks        int           // runs of the plan's command for a primary in trouble
	Refills      int           // copies that were made of what the vault holds
	Took         time.Duration // virtual
	Opened       time.Duration // virtual, from the last fault to the first acknowledged commit
	LongestWait  time.Duration // virtual, between two acknowledged commits
	Hash         uint64        // of the trace: equal seeds give equal hashes
}

// Failure is a broken rule.
type Failure struct {
	Seed  uint64
	At    time.Duration
	Rule  string
	Text  string
	Trace []string // the last lines before it
}

func (f *Failure) Error() string {
	return fmt.Sprintf("seed %d, at %s: %s: %s", f.Seed, f.At, f.Rule, f.Text)
}

// World is one simulated site.
type World struct {
	opt    Options
	rng    *rand.Rand
	now    time.Duration
	serial uint64
	queue  queue
	task   *task // that runs now

	policy  database.Policy // as it was applied last
	planned int             // how often one was applied

	hosts   []*host
	net     network
	site    *site         // the newest
	slow    time.Duration // extra time of every store call
	hooks   int           // runs of the plan's hook
	refills int           // copies made from the vault

	poisoned  bool // some primary was poisoned in this world
	poisonous bool // each primary is, now
	restoring bool // the next change of the store is an older state

	requests []*request
	clients  []*writer
	nextID   int
	wants    int // changes of the plan's setting
	setting  wanted
	faults   faults
	archive  archive
	check    *checker
	trace    trace
	failure  *Failure
}

// Run makes a world and lets it live until its faults are over and it is whole again, or a rule is broken.
func Run(opt Options) Result {
	w := &World{opt: opt, rng: rand.New(rand.NewPCG(opt.Seed, 0x5eed)), site: newSite(nil, 0)}
	w.trace = trace{hash: fnv.New64a(), out: opt.Trace}
	w.check = newChecker(w)
	w.build()
	defer w.end()
	for w.failure == nil && !w.check.finished && len(w.queue) > 0 {
		e := w.queue.pop()
		w.now = e.at
		w.happen(e)
		w.check.step()
	}
	return Result{
		Failure: w.failure, Acknowledged: w.check.acknowledged, Read: w.check.answered, Epochs: w.check.record.Epoch, Faults: w.faults.count,
		RestartsDone: w.check.restarts, Halts: w.check.haltsSeen, HaltedMoves: w.check.mostMoves, Forced: len(w.check.losses), GivenUp: w.check.given,
		Rebuilt: w.check.rebuilt, TakenIn: w.check.takenIn, Hooks: w.hooks, Refills: w.refills,
		Took: w.now, Opened: max(0, w.check.openedAt-w.check.healed), LongestWait: w.check.longest, Hash: w.trace.hash.Sum64(),
	}
}

func (w *World) happen(e event) {
	h := e.host
	switch {
	case h == nil:
		e.run()
	case h.boot != e.boot || !h.up:
	case h.frozen:
		h.held = append(h.held, e)
	default:
		e.run()
	}
}

// build makes the hosts by the seed or the options.
func (w *World) build() {
	o := w.opt
	if o.Hosts == 0 {
		o.Hosts = 3
		if w.rng.IntN(6) == 0 {
			o.Hosts = 5
		}
	}
	if o.Standbys == 0 {
		o.Standbys = o.Hosts - 1
		if w.rng.IntN(6) == 0 {
			o.Standbys = 1 + w.rng.IntN(o.Hosts-1)
		}
	}
	if o.W == 0 {
		o.W = 1
		if o.Standbys > 2 {
			o.W = 2
		} else if o.Standbys == 2 && w.rng.IntN(8) == 0 {
			o.W = 2
		}
	}
	o.W = max(o.W, 0)
	if o.FaultTime == 0 {
		o.FaultTime = time.Duration(40+w.rng.IntN(100)) * time.Second
	}
	w.opt = o
	w.policy = database.Policy{Name: databaseName, Standbys: o.Standbys, AcknowledgedBy: o.W, Salvage: o.Salvage, Times: database.DefaultTimes()}
	w.policy.DiskFull = diskPolicy(o.Seed)
	if o.Hook {
		w.policy.OnTrouble = hookLimit
	}
	if o.Readers {
		w.policy.Reads = database.Reads{MaxLag: readLagMax}
	}
	for i := range o.Hosts {
		w.policy.Hosts = append(w.policy.Hosts, fmt.Sprintf("h%d", i+1))
	}
	w.net = newNetwork(o.Hosts)
	for i, name := range w.policy.Hosts {
		w.hosts = append(w.hosts, newHost(w, i, name))
	}
	w.site.members = slices.Clone(w.hosts)
	for _, h := range w.hosts {
		w.boot(h)
	}
	for i := range 2 + w.rng.IntN(2) {
		w.startWriter(i)
	}
	w.startReader()
	if o.Readers {
		w.startMisled()
		for range 3 {
			w.startStandbyReader(nil)
		}
	}
	if o.Operator {
		w.startOperator()
	}
	if o.Vault {
		w.startVault()
	}
	w.faults.begin(w)
}

// end lets go of every coroutine.
func (w *World) end() {
	for _, h := range w.hosts {
		h.dropTasks()
	}
}

// at runs f later, whatever becomes of the hosts.
func (w *World) at(d time.Duration, f func()) { w.push(d, nil, f) }

func (w *World) push(d time.Duration, h *host, f func()) { w.pushIn(d, h, nil, f) }

// pushIn is [World.push] of something that an agent does.
func (w *World) pushIn(d time.Duration, h *host, life *agentLife, f func()) {
	w.serial++
	e := event{at: w.now + max(d, 0), serial: w.serial, host: h, life: life, f: f}
	if h != nil {
		e.boot = h.boot
	}
	w.queue.push(e)
}

func (w *World) fail(rule, format string, args ...any) {
	if w.failure != nil {
		return
	}
	text := fmt.Sprintf(format, args...)
	w.note("", "BROKEN %s: %s", rule, text)
	w.failure = &Failure{Seed: w.opt.Seed, At: w.now, Rule: rule, Text: text, Trace: slices.Clone(w.trace.last)}
}

// between is a duration in [lo, hi).
func (w *World) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)))
}

func (w *World) chance(oneIn int) bool { return w.rng.IntN(oneIn) == 0 }

func (w *World) host(name string) *host {
	for _, h := range w.hosts {
		if h.name == name {
			return h
		}
	}
	return nil
}

// Now implements [databasetest.World].
func (w *World) Now() time.Duration { return w.now }

// Rand implements [databasetest.World].
func (w *World) Rand() *rand.Rand { return w.rng }

// Wait implements [databasetest.World].
func (w *World) Wait(ctx context.Context, _ string, d time.Duration) error {
	return w.task.wait(ctx, d)
}

// After implements [databasetest.World].
func (w *World) After(name string, d time.Duration, f func()) {
	h := w.host(name)
	w.push(h.virtual(d), h, f)
}

// Link implements [databasetest.World].
func (w *World) Link(from, to string) (time.Duration, bool) {
	return w.link(w.host(from), w.host(to))
}

// Fsync implements [databasetest.World].
func (w *World) Fsync(name string) (time.Duration, bool) {
	h := w.host(name)
	if h.diskHangs {
		return 0, false
	}
	d := w.between(100*time.Microsecond, 3*time.Millisecond)
	if h.diskSlow > 0 {
		d += time.Duration(w.rng.Int64N(int64(h.diskSlow)))
	}
	return d, true
}

// Server implements [databasetest.World].
func (w *World) Server(name string) *databasetest.Server { return w.host(name).srv }
