package sim

import (
	"slices"
	"time"

	"holdfast/internal/cluster/memory"
	"holdfast/internal/database"
	"holdfast/internal/database/databasetest"
)

const databaseName = "orders"

// host is one machine: its disk and clock last, everything else ends with a crash.
type host struct {
	w       *World
	name    string
	index   int
	rest    []*host       // see others
	stretch float64       // virtual time for one second of its own clock
	origin  time.Duration // of its own clock
	up      bool
	boot    int
	frozen  bool
	freezes int           // so far: what undoes one of them leaves another alone
	held    []event       // what waits for the thaw
	thawed  time.Duration // virtual; when it was last let go, for checks that a freeze excuses
	resumed time.Duration // virtual; when it was last let go after its clock had stood
	wall    time.Duration // by how much its wall clock is wrong

	diskSlow  time.Duration
	diskHangs bool
	storeCut  bool
	watchHeld bool
	eatNext   bool          // the answer of the next write is lost, and so are the reads that follow
	eatUntil  time.Duration // virtual

	hooked time.Duration // virtual; when the plan's hook last began here; 0 = never

	srv     *databasetest.Server
	site    *site // whose agreed state it reads
	store   *memory.Store
	setting int // number of the newest that its driver was told of
	gate    gate
	misled  time.Duration // virtual; since when its listener for writes leads to a standby though it could know; 0 = it does not
	agent   *agentLife    // nil = no agent runs

	kept      database.Record // what is on the disk of its member of the store
	overruled int64           // the highest rebuilding that it heard of
	together  time.Duration   // virtual; since when it could hear of one without it; 0 = it could not
}

func newHost(w *World, index int, name string) *host {
	h := &host{
		w: w, name: name, index: index, stretch: 1 + (w.rng.Float64()-0.5)/100,
		origin: time.Duration(w.rng.Int64N(int64(1000 * time.Hour))), thawed: -time.Hour, resumed: -time.Hour,
	}
	h.enter(w.site)
	h.srv = databasetest.New(name, w, w.check, w.opt.Bugs)
	return h
}

// virtual is how long d of the host's own clock lasts.
func (h *host) virtual(d time.Duration) time.Duration { return time.Duration(float64(d) * h.stretch) }

// clock is the host's own monotonic clock.
func (h *host) clock() time.Duration {
	return h.origin + time.Duration(float64(h.w.now)/h.stretch)
}

// boot starts what the init system starts: gate and agent.
func (w *World) boot(h *host) {
	h.boot++
	h.up, h.frozen, h.held = true, false, nil
	h.gate = gate{}
	h.gate.heard = h.clock()
	h.gateBeats()
	h.gateAsks()
	h.startAgent()
}

func (h *host) powerCut() {
	h.stopAgent()
	h.up, h.frozen, h.held = false, false, nil
	h.boot++
	h.srv.PowerCut()
}

// freeze stops the host, and returns which time that is.
func (h *host) freeze() int {
	h.frozen = true
	h.freezes++
	return h.freezes
}

// thaw undoes that freeze: what waited happens now, in its order.
func (h *host) thaw(freeze int) {
	if !h.frozen || h.freezes != freeze {
		return
	}
	h.frozen, h.thawed = false, h.w.now
	held := h.held
	h.held = nil
	for _, e := range held {
		h.w.pushIn(0, h, e.life, e.f)
	}
}

// startAgent starts it, once the host is not frozen any more.
func (h *host) startAgent() {
	if h.frozen {
		h.w.push(0, h, h.startAgent)
		return
	}
	if h.agent == nil && h.up {
		h.agent = newAgentLife(h)
		h.agent.begin()
	}
}

// stopAgent is kill -9 of the agent: its memory and its actions end, what it started goes on.
func (h *host) stopAgent() {
	h.dropTasks()
	h.agent = nil
	h.srv.ForgetDriver()
}

func (h *host) dropTasks() {
	if h.agent == nil {
		return
	}
	for _, r := range h.agent.running {
		r.task.drop()
	}
	h.agent.running = nil
}

// gate is the host's listener process.
type gate struct {
	down   bool // its process does not run
	epoch  int64
	order  database.GateOrder
	number int // raised whenever sessions of before are cut
	reads  readGate
	heard  time.Duration // when the agent last gave an order, by the host's clock
}

// stop ends the process: its sessions are cut, and what it was told is forgotten.
func (g *gate) stop() {
	*g = gate{down: true, number: g.number + 1, reads: readGate{life: g.reads.life + 1}}
}

// start begins anew: it holds until it is told where to lead.
func (g *gate) start() { g.down = false }

// take follows an order unless it is older than the last, and reports whether it did.
func (g *gate) take(o database.GateOrder) bool {
	if o.Epoch < g.epoch || o.Epoch == g.epoch && o.Generation < g.order.Generation {
		return false
	}
	if o.Epoch > g.epoch || o.State == database.GateShut || o.State == database.GateOpen && o.Target.Host != g.order.Target.Host {
		g.number++
	}
	g.epoch, g.order = o.Epoch, o
	return true
}

const beatEvery = 250 * time.Millisecond

// gateBeats tells the others that the gate lives, whatever the agent does.
func (h *host) gateBeats() {
	h.w.After(h.name, beatEvery, func() {
		for _, to := range h.w.hosts {
			if to == h || h.gate.down {
				continue
			}
			h.w.beat(h, to, func() {
				if a := to.agent; a != nil {
					a.hold(func() { a.peers[h.index].gateAt = to.clock() })
				}
			})
		}
		h.gateBeats()
	})
}

const (
	askEvery    = time.Second
	agentSilent = 3 * time.Second
)

// gateAsks lets the gate of a silent agent ask the others, and follow an order that is newer than its own.
func (h *host) gateAsks() {
	h.w.After(h.name, askEvery, func() {
		if g := &h.gate; !g.down && h.clock()-g.heard > agentSilent && !h.w.opt.Planted.AskNobody {
			for _, other := range h.others() {
				o := other.gate.order
				newer := o.Epoch > g.order.Epoch || o.Epoch == g.order.Epoch && (o.Generation > g.order.Generation ||
					o.Generation == g.order.Generation && o.State == database.GateOpen && g.order.State != database.GateOpen)
				if newer && other.answersGates() && h.w.open(h, other) {
					g.take(o)
					h.w.note(h.name, "its gate hears nothing of its agent, and follows that of %s: %s in epoch %d", other.name, o.State, o.Epoch)
				}
			}
		}
		h.gateAsks()
	})
}

func (h *host) answersGates() bool { return h.up && !h.frozen && !h.gate.down }

// others are the hosts other than h, in order. Nobody may change the list.
func (h *host) others() []*host {
	if h.rest == nil {
		h.rest = slices.DeleteFunc(slices.Clone(h.w.hosts), func(x *host) bool { return x == h })
	}
	return h.rest
}
