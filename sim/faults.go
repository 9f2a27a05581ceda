package sim

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/database/databasetest"
)

// FaultKind names one thing that goes wrong.
type FaultKind string

// The faults, each undone by the world after a while.
const (
	CrashServer  FaultKind = "crash server"    // kill -9 of the whole tree
	CrashAgent   FaultKind = "crash agent"     // its memory is lost; keeper, gate and server go on
	CrashHost    FaultKind = "crash host"      // everything; the disk stays as far as it was synced
	LoseDisk     FaultKind = "lose disk"       // crash host, and an empty disk comes back
	FreezeHost   FaultKind = "freeze host"     // nothing runs, then everything goes on
	PauseAgent   FaultKind = "pause agent"     // SIGSTOP
	Partition    FaultKind = "partition"       // one host from all others
	CutLink      FaultKind = "cut link"        // between two hosts
	CutOneWay    FaultKind = "cut one way"     // from one host to another
	SlowNetwork  FaultKind = "slow network"    // every link, up to half a second
	LoseBeats    FaultKind = "lose beats"      // every second one
	StoreDown    FaultKind = "store down"      // for everybody
	StoreCut     FaultKind = "store cut"       // for one host
	StorePause   FaultKind = "store pause"     // its leader: every call takes long
	HoldWatch    FaultKind = "hold watch"      // changes come only with the steady reads
	LoseAnswer   FaultKind = "lose an answer"  // of the next write: it happens, and its writer does not hear
	SlowDisk     FaultKind = "slow disk"       // one host
	HangDisk     FaultKind = "hang disk"       // one host
	Switchover   FaultKind = "switchover"      // an operator asks
	RestartAgent FaultKind = "restart agent"   // an upgrade: back within a second
	CrashBoth    FaultKind = "crash two hosts" // at once
	CrashAll     FaultKind = "crash all hosts" // a power cut; they come back one after another
	LoseAgent    FaultKind = "lose agent"      // for good: not before all faults end; keeper and gate go on
	RestartGate  FaultKind = "restart gate"    // it comes back holding and knows nothing
	LoseTarget   FaultKind = "lose target"     // a switchover, and the chosen host dies before it serves
	LoseReads    FaultKind = "lose reads"      // the answer of the next write, and what is read after it
	HideFile     FaultKind = "hide file"       // something of the data directory cannot be read
	PauseMoves   FaultKind = "pause moves"     // an operator wants nothing to move by itself
	HoldReplay   FaultKind = "hold replay"     // of one standby; only in worlds with readers
	RestartRoll  FaultKind = "restart roll"    // the plan has another setting, and an operator asks for the restarts
	BreakDisk    FaultKind = "break disk"      // it refuses to be written to, read-only or with errors
)

// ChangePlan is an operator who applies another plan; the one of before comes back at the end.
const ChangePlan FaultKind = "change plan"

// Faults that no seed chooses: people make them, and then refusing is all that can be asked.
const (
	RestoreStore FaultKind = "restore store" // to an older state of the same epoch
	RestoreEpoch FaultKind = "restore epoch" // to one of an older epoch
)

// AllFaults are those that a seed chooses from.
func AllFaults() []FaultKind {
	return []FaultKind{
		CrashServer, CrashAgent, CrashHost, LoseDisk, FreezeHost, PauseAgent, Partition, CutLink, CutOneWay, SlowNetwork,
		LoseBeats, StoreDown, StoreCut, StorePause, HoldWatch, LoseAnswer, SlowDisk, HangDisk, Switchover, RestartAgent, CrashBoth, CrashAll,
		LoseAgent, RestartGate, LoseTarget, LoseReads, HideFile, PauseMoves, RestartRoll, ChangePlan, BreakDisk,
		FillDisk, StopKeeper, SuspendHost, JumpClock, ApplySetting, RevokeLease,
	}
}

// faults decides what goes wrong when.
type faults struct {
	w     *World
	kinds []FaultKind
	until time.Duration
	pace  time.Duration
	count int
	heals []*heal
	traps []*trap
	first database.Policy // before any other was applied
}

// heal undoes one fault, once.
type heal struct {
	f    func()
	done bool
}

func (h *heal) run() {
	if !h.done {
		h.done = true
		h.f()
	}
}

// begin starts the faults once the database has had time to be made.
func (f *faults) begin(w *World) {
	f.w, f.first = w, w.policy
	f.kinds = w.opt.Faults
	if f.kinds == nil {
		dice := rand.New(rand.NewPCG(w.opt.Seed, 0xfa017)) // its own, so that a new fault changes no scripted world
		all := AllFaults()
		if w.opt.Readers {
			all = append(all, HoldReplay)
		}
		if w.opt.Vault {
			all = append(all, VaultAway)
		}
		dice.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		f.kinds = all[:2+dice.IntN(len(all)-2)]
	}
	f.pace = w.between(500*time.Millisecond, 12*time.Second)
	start := 20 * time.Second
	if w.chance(8) {
		start = w.between(0, 5*time.Second) // also while the database is being made
	}
	f.until = start + w.opt.FaultTime
	w.note("", "seed %d: %d hosts, %d standbys, W=%d, faults %v every %s", w.opt.Seed, w.opt.Hosts, w.opt.Standbys, w.opt.W, f.kinds, f.pace)
	for _, s := range w.opt.Script {
		w.at(s.At, func() { f.happen(s.Kind, f.pick(s.Host), w.host(s.To), s.Lasts) })
		f.until = max(f.until, s.At+s.Lasts)
	}
	if w.opt.Script == nil {
		w.at(start, f.next)
	}
	w.at(f.until, f.stop)
}

func (f *faults) next() {
	if f.w.now >= f.until {
		return
	}
	kind := f.kinds[f.w.rng.IntN(len(f.kinds))]
	lasts := f.w.between(100*time.Millisecond, 2*time.Second)
	switch f.w.rng.IntN(4) {
	case 0:
		lasts = f.w.between(2*time.Second, 8*time.Second)
	case 1:
		lasts = f.w.between(5*time.Second, 30*time.Second)
	}
	where := ""
	if f.w.chance(2) {
		where = "primary"
	}
	f.happen(kind, f.pick(where), nil, lasts)
	f.w.at(f.w.between(f.pace/10, 2*f.pace), f.next)
}

// pick finds the host of a step.
func (f *faults) pick(where string) *host {
	w := f.w
	switch where {
	case "primary":
		if h := w.host(w.check.record.Primary); h != nil {
			return h
		}
	case "standby":
		for _, v := range w.check.record.Voters {
			return w.host(v.Host)
		}
	case "":
	default:
		return w.host(where)
	}
	return w.hosts[w.rng.IntN(len(w.hosts))]
}

// stop undoes what still lasts, in the order in which it happened.
func (f *faults) stop() {
	for _, h := range f.heals {
		h.run()
	}
	f.w.at(5*time.Second, f.w.check.heal) // hosts that start again take up to that long
}

// happen makes one fault, and undoes it after a while. to is the other end of a link, nil = any.
func (f *faults) happen(kind FaultKind, h, to *host, lasts time.Duration) {
	w := f.w
	if kind == LoseDisk && !w.opt.NoLive && (w.check.missing() != "" || w.check.record.W == 0) {
		return // with less than full redundancy it may rightly be the last copy
	}
	switch kind {
	case LoseAgent:
		lasts = max(lasts, f.until-w.now)
	case LoseTarget:
		lasts += 5 * time.Second // the switchover takes a while to begin
	}
	f.count++
	w.note(h.name, "FAULT %s for %s", kind, lasts.Round(time.Millisecond))
	undo := f.do(kind, h, to, lasts)
	if undo == nil {
		return
	}
	heal := &heal{f: func() {
		w.note(h.name, "over: %s", kind)
		undo()
	}}
	f.heals = append(f.heals, heal)
	w.at(lasts, heal.run)
}

func (f *faults) do(kind FaultKind, h, to *host, lasts time.Duration) func() {
	w := f.w
	switch kind {
	case RebuildCluster:
		f.rebuild(h)
		return nil
	case Poison:
		return f.poison(f.pick("primary"))
	case CrashServer:
		h.srv.Crash("signal 9")
		return nil
	case CrashAgent, RestartAgent, LoseAgent:
		h.stopAgent()
		return h.startAgent
	case CrashHost, LoseDisk:
		return f.crash(h, kind == LoseDisk)
	case CrashBoth:
		a, b := f.crash(h, false), f.crash(w.hosts[(h.index+1)%len(w.hosts)], false)
		return func() { a(); b() }
	case CrashAll:
		return f.crashAll()
	case FreezeHost:
		if h.frozen || !h.up {
			return nil
		}
		freeze := h.freeze()
		return func() { h.thaw(freeze) }
	case PauseAgent:
		if h.agent == nil || h.agent.paused {
			return nil
		}
		a := h.agent
		a.paused = true
		return a.unpause
	case SlowDisk:
		h.diskSlow = w.between(10*time.Millisecond, 800*time.Millisecond)
		return func() { h.diskSlow = 0 }
	case BreakDisk:
		kinds := []database.DiskFault{database.FaultReadOnly, database.FaultIO}
		h.srv.BreakDisk(kinds[w.rng.IntN(2)], databasetest.Refusal(w.rng.IntN(3)))
		return func() { h.srv.BreakDisk("", databasetest.Panics) }
	case HangDisk:
		h.diskHangs = true
		return func() { h.diskHangs = false }
	case Switchover:
		f.askSwitchover(to)
		return nil
	case RestartRoll:
		f.restartRoll()
		return nil
	case PauseMoves:
		return f.pauseMoves(lasts)
	case ChangePlan:
		return f.changePlan()
	case ApplySetting:
		return f.applySetting()
	case RevokeLease:
		h.srv.Revoke()
		return nil
	case LoseTarget:
		return f.setTrap()
	case RestartGate:
		h.gate.stop()
		return h.gate.start
	case VaultAway:
		w.archive.Away = true
		return func() { w.archive.Away = false }
	case HoldReplay:
		h.srv.HoldReplay(true)
		return func() { h.srv.HoldReplay(false) }
	case HideFile:
		what := []databasetest.Unread{
			databasetest.UnreadPromise, databasetest.UnreadIncarnation, databasetest.UnreadTimeline, databasetest.UnreadDirectory,
		}[w.rng.IntN(4)]
		w.note(h.name, "its %s cannot be read", what)
		h.srv.CannotRead(what)
		return func() { h.srv.CannotRead(databasetest.ReadsAll) }
	case RestoreStore, RestoreEpoch:
		f.restore(kind == RestoreEpoch)
		return nil
	case StoreDown, StoreCut, StorePause, HoldWatch, LoseAnswer, LoseReads:
		return f.store(kind, h)
	case FillDisk, StopKeeper, SuspendHost, JumpClock:
		return f.machine(kind, h)
	}
	return f.network(kind, h, to)
}

func (f *faults) crash(h *host, disk bool) func() {
	if !h.up {
		return func() {}
	}
	h.powerCut()
	if disk {
		h.srv.LoseDisk()
		h.kept = database.Record{}
	}
	return func() {
		if !h.up {
			f.w.boot(h)
		}
	}
}

// crashAll is a power cut. The power comes back, and each host takes its own time to start.
func (f *faults) crashAll() func() {
	w := f.w
	for _, h := range w.hosts {
		f.crash(h, false)
	}
	return func() {
		for _, h := range w.hosts {
			w.at(w.between(0, 5*time.Second), func() {
				if !h.up {
					w.boot(h)
				}
			})
		}
	}
}

func (f *faults) askSwitchover(target *host) {
	w := f.w
	to := ""
	if target != nil {
		to = target.name
	} else if w.chance(2) {
		to = w.hosts[w.rng.IntN(len(w.hosts))].name
	}
	q := w.ask(database.Request{Kind: "switchover", To: to})
	w.at(20*time.Second, func() { q.settled = true }) // the operator gives up
}

func (f *faults) store(kind FaultKind, h *host) func() {
	w := f.w
	switch kind {
	case StoreDown:
		for _, x := range w.hosts {
			x.storeCut = true
		}
		return func() {
			for _, x := range w.hosts {
				x.storeCut = false
			}
		}
	case StoreCut:
		h.storeCut = true
		return func() { h.storeCut = false }
	case StorePause:
		w.slow = w.between(200*time.Millisecond, 3*time.Second)
		return func() { w.slow = 0 }
	case LoseReads:
		h.eatNext = true
		return func() { h.eatNext, h.eatUntil = false, 0 }
	case HoldWatch:
		h.watchHeld = true
		return func() { h.watchHeld = false }
	default:
		s := h.site.store
		s.LoseAnswers(h.name, 1)
		return func() { s.LoseAnswers(h.name, 0) }
	}
}

func (f *faults) network(kind FaultKind, h, other *host) func() {
	w := f.w
	if other == nil {
		other = w.hosts[(h.index+1+w.rng.IntN(len(w.hosts)-1))%len(w.hosts)]
	}
	switch kind {
	case Partition:
		f.cut(h, w.hosts, true, true)
		return func() { f.cut(h, w.hosts, false, true) }
	case CutLink:
		f.cut(h, []*host{other}, true, true)
		return func() { f.cut(h, []*host{other}, false, true) }
	case CutOneWay:
		f.cut(h, []*host{other}, true, false)
		return func() { f.cut(h, []*host{other}, false, false) }
	case SlowNetwork:
		extra := w.between(5*time.Millisecond, 500*time.Millisecond)
		for i := range w.net.slow {
			for j := range w.net.slow[i] {
				w.net.slow[i][j] = extra
			}
		}
		return func() {
			for i := range w.net.slow {
				clear(w.net.slow[i])
			}
		}
	case LoseBeats:
		for i := range w.net.loss {
			for j := range w.net.loss[i] {
				w.net.loss[i][j] = 2
			}
		}
		return func() {
			for i := range w.net.loss {
				clear(w.net.loss[i])
			}
		}
	}
	panic("sim: no such fault: " + string(kind))
}

func (f *faults) cut(h *host, from []*host, cut, both bool) {
	for _, x := range slices.DeleteFunc(slices.Clone(from), func(x *host) bool { return x == h }) {
		f.w.net.cut[h.index][x.index] = cut
		if both {
			f.w.net.cut[x.index][h.index] = cut
		}
	}
}

// restore puts an older state into the store, as a person does who restores a backup of it. Its revisions go on
// rising: etcd's own rule for a restored member that has watchers.
func (f *faults) restore(older bool) {
	w := f.w
	now := w.check.record
	fit := slices.DeleteFunc(slices.Clone(w.check.history), func(r database.Record) bool {
		return (r.Epoch < now.Epoch) != older || r.Generation >= now.Generation
	})
	if len(fit) == 0 {
		return
	}
	value, err := json.Marshal(fit[w.rng.IntN(len(fit))])
	if err != nil {
		panic("sim: a record cannot be written: " + err.Error())
	}
	w.restoring, w.check.restored = true, true
	if _, err := w.site.store.Open("restore").Set(context.Background(), agent.RecordKey(databaseName), value); err != nil {
		panic("sim: the store cannot be restored: " + err.Error())
	}
}
