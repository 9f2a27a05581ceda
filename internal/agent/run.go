package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/clock"
	"holdfast/internal/cluster"
	"holdfast/internal/database"
	"holdfast/internal/problem"
	"holdfast/internal/service"
)

// Beat is the last word of another process: its payload, and how long ago it came by our clock.
type Beat struct {
	Payload []byte
	Age     time.Duration
	Contact time.Duration // since the sending of our newest beat that it confirmed; database.Never if none
	Ahead   time.Duration // of its wall clock, compared to ours
}

// Beats are the direct heartbeats between hosts.
type Beats interface {
	// Publish replaces what our own beats carry, and sends it at once.
	Publish(payload []byte)
	// Latest gives the last beat of each agent (by host) and gate (by host/database) that was ever heard.
	Latest() map[string]Beat
	// Wake fires when a beat brought something new.
	Wake() <-chan struct{}
}

// Config is everything that [Run] stands on.
type Config struct {
	Self      string
	Version   string
	Plan      string   // hash of the plan's text
	Peers     []string // the other hosts, sorted
	Hosts     string   // names the list of hosts that Peers is from, for reports
	Databases []database.Policy
	Servers   map[string]database.Server // by database
	Gates     map[string]database.Gate
	Reach     func(name, host string) (database.Endpoint, error)
	// Trouble runs the plan's command for a primary in trouble, and tells its end in the history. nil = no plan has one.
	Trouble  func(ctx context.Context, name string, a database.Action) error
	Exits    map[string]<-chan struct{} // by database: fires when its server's process ends or appears
	Store    cluster.Store
	Beats    Beats
	Late     func() bool
	Clock    clock.Clock
	Log      *slog.Logger
	Diary    Diary
	Problems func() []problem.Problem // of the host itself; nil = none are looked for
	Votes    func() *bool             // for [Report]; nil = it is not known
	Services []ServicePolicy
	Runtime  service.Runtime // nil = this host runs no services
	Health   func() map[string]Checked
	Instance func(a service.Assignment) (service.Instance, error) // what an assignment means on this host
	// Adopt reads a plan that was applied, and gives the plan that counts then. A text that cannot be read leaves what
	// was. nil = the plan never changes. It is called by rounds alone.
	Adopt     func(text []byte) Adopted
	Recovery  int64                         // how often the agreed state that Store reads was rebuilt
	Overruled int64                         // the highest such number that was heard of in an earlier life
	Overrule  func(number int64, by string) // keeps a higher one for the next life; nil = nobody does
	Tend      func(now Snapshot)            // duties that hang on what is agreed; after each round, must not block
}

// Diary is told what is done and why.
type Diary interface {
	Note(room, subject, what string, because []string, took time.Duration)
}

// Snapshot is the newest round of a host, for status and for the duties around it.
type Snapshot struct {
	At      time.Time // when the facts were taken
	Facts   Facts
	Outcome Outcome
	Agreed  map[string]cluster.Entry // everything that the hosts agree on
}

// Agent runs the rounds of one host.
type Agent struct {
	cfg    Config
	origin time.Time
	board  *board
	loop   *Loop
	wake   chan struct{}
	slots  map[string]*slot

	planAt  int64    // revision of the plan that was adopted; only rounds use these two
	adopted *Adopted // nil = as at the start

	factsAt   time.Time // when the round's facts were taken; only rounds use it
	stopping  atomic.Bool
	overruled int64 // only rounds use it
	tending   *tending

	mu   sync.Mutex // guards last
	last Snapshot
}

const (
	readEvery    = 500 * time.Millisecond // linearizable reads: the contact that a primary's lease counts
	observeEvery = 500 * time.Millisecond
	observeBusy  = 100 * time.Millisecond // while a database is not steady
	// observeTarget is for the host that a switchover waits for: its word that it holds the last record.
	observeTarget = 15 * time.Millisecond
)

// New prepares an agent; nothing runs before Run.
func New(cfg Config) (*Agent, error) {
	var bad []error
	for _, p := range cfg.Databases {
		if cfg.Gates[p.Name] == nil {
			bad = append(bad, fmt.Errorf("database %s: no gate", p.Name))
		}
	}
	if cfg.Store == nil || cfg.Beats == nil || cfg.Clock == nil || cfg.Log == nil || cfg.Late == nil || cfg.Diary == nil {
		bad = append(bad, errors.New("store, beats, clock, log, late and diary are needed"))
	}
	if len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	a := &Agent{cfg: cfg, overruled: cfg.Overruled, origin: cfg.Clock.Now(), wake: make(chan struct{}, 1), slots: map[string]*slot{}}
	a.board = newBoard(cfg.Clock, a.Wake)
	a.loop = NewLoop(cfg.Self, cfg.Version, cfg.Plan, cfg.Databases, cfg.Services)
	a.tending = newTending(a)
	for _, p := range cfg.Databases {
		a.slots[p.Name] = &slot{agent: a, name: p.Name, moved: make(chan struct{}, 1)}
	}
	return a, nil
}

// Wake asks for a round soon.
func (a *Agent) Wake() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Last is the newest round's snapshot.
func (a *Agent) Last() Snapshot {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// Run judges until ctx ends, and returns when its last goroutine has. What it started in other processes goes on.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.readStore(ctx) })
	g.Go(func() error { return a.watchStore(ctx) })
	for _, p := range a.cfg.Databases {
		if a.cfg.Servers[p.Name] != nil {
			g.Go(func() error { return a.observe(ctx, p.Name) })
		}
	}
	if a.cfg.Runtime != nil {
		g.Go(func() error { return a.observeServices(ctx) })
	}
	g.Go(func() error {
		defer a.endSlots()
		return a.rounds(ctx)
	})
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// rounds is the thin loop: a round at each wake-up, and when the last one asked for it.
func (a *Agent) rounds(ctx context.Context) error {
	timer := a.cfg.Clock.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.wake:
		case <-a.cfg.Beats.Wake():
		case <-timer.C():
		}
		wake := a.round(ctx)
		timer.Stop()
		timer.Reset(max(wake, 10*time.Millisecond))
	}
}

func (a *Agent) round(ctx context.Context) time.Duration {
	a.factsAt = a.cfg.Clock.Now()
	facts := a.facts()
	a.bringLooksForward(facts)
	out := a.loop.Round(facts, hands{agent: a, ctx: ctx})
	out.Report.Hosts = a.cfg.Hosts
	if a.cfg.Problems != nil {
		out.Problems = append(out.Problems, a.cfg.Problems()...)
		out.Report.Problems = out.Problems
	}
	if a.cfg.Votes != nil {
		out.Report.Votes = a.cfg.Votes()
	}
	a.board.decorate(&out.Report) // before the snapshot: this host's own status is made from it
	a.publish(out.Report)
	snap := Snapshot{At: a.factsAt, Facts: facts, Outcome: out, Agreed: a.board.entries()}
	a.mu.Lock()
	a.last = snap
	a.mu.Unlock()
	if a.cfg.Tend != nil {
		a.cfg.Tend(snap)
	}
	return out.Wake
}

func (a *Agent) publish(r Report) {
	payload, err := json.Marshal(r)
	if err != nil {
		a.cfg.Log.Error("report not written", "err", err)
		return
	}
	a.cfg.Beats.Publish(payload)
}

// facts is the snapshot that a round reads.
func (a *Agent) facts() Facts {
	now := a.cfg.Clock.Now()
	f := Facts{Now: now.Sub(a.origin), Late: a.cfg.Late()}
	a.board.fill(&f, a.cfg.Databases, now)
	f.Adopted = a.adopt()
	f.Stopping = f.Stopping || a.stopping.Load()
	for i := range f.Databases {
		f.Databases[i].Busy = a.slots[f.Databases[i].Name].busy()
	}
	if a.cfg.Health != nil {
		f.Services.Health = a.cfg.Health()
	}
	beats := a.cfg.Beats.Latest()
	for _, host := range a.cfg.Peers {
		p := a.peer(host, beats)
		if p.Report != nil && p.Report.Recovery > a.overruled {
			a.overruled = p.Report.Recovery
			if a.cfg.Overrule != nil {
				a.cfg.Overrule(a.overruled, host)
			}
		}
		f.Peers = append(f.Peers, p)
	}
	f.Recovery, f.Overruled = a.cfg.Recovery, a.overruled
	return f
}

// adopt takes over a plan that was applied since the last round.
func (a *Agent) adopt() *Adopted {
	e := a.board.entries()[KeyPlan]
	if a.cfg.Adopt != nil && e.Revision != 0 && e.Revision != a.planAt {
		a.planAt = e.Revision
		next := a.cfg.Adopt(e.Value)
		next.Revision = e.Revision
		a.adopted = &next
	}
	return a.adopted
}

func (a *Agent) peer(host string, beats map[string]Beat) PeerFacts {
	p := PeerFacts{Host: host, AgentAge: database.Never, Contact: database.Never, GateAge: map[string]time.Duration{}}
	if b, ok := beats[host]; ok {
		p.AgentAge, p.Contact, p.Ahead = b.Age, b.Contact, b.Ahead
		var r Report
		if err := json.Unmarshal(b.Payload, &r); err != nil {
			a.cfg.Log.Warn("beat not understood", "host", host, "err", err)
		} else if r.Host == host {
			p.Report = &r
		}
	}
	for _, d := range a.cfg.Databases {
		p.GateAge[d.Name] = database.Never
		if b, ok := beats[host+"/"+d.Name]; ok {
			p.GateAge[d.Name] = b.Age
		}
	}
	return p
}

// readStore reads everything agreed, linearizably and at a steady pace: this is the contact with the agreed
// state. The age of a contact counts from the moment its request was sent.
func (a *Agent) readStore(ctx context.Context) error {
	for {
		sent := a.cfg.Clock.Now()
		entries, revision, err := a.cfg.Store.List(ctx, keyRoot)
		if err == nil {
			a.board.agreed(entries, revision, sent)
		} else if ctx.Err() == nil {
			a.cfg.Log.Debug("agreed state not read", "err", err)
		}
		if err := a.pause(ctx, readEvery, nil); err != nil {
			return err
		}
	}
}

// watchStore brings changes at once; the steady reads make it no more than a shortcut.
func (a *Agent) watchStore(ctx context.Context) error {
	for {
		for change := range a.cfg.Store.Watch(ctx, keyRoot, a.board.revision()) {
			if !change.Lost {
				a.board.change(change)
			}
		}
		if err := a.pause(ctx, readEvery, nil); err != nil {
			return err
		}
	}
}

// observe keeps what is known of one local server.
func (a *Agent) observe(ctx context.Context, name string) error {
	for {
		a.look(ctx, name)
		every := observeEvery
		switch record := a.board.record(name); {
		case record.Phase == database.Switching && record.SwitchTo == a.cfg.Self:
			every = observeTarget
		case record.Phase != database.Steady || !record.Opened:
			every = observeBusy
		}
		if err := a.pauseLook(ctx, every, a.cfg.Exits[name], a.slots[name].moved); err != nil {
			return err
		}
	}
}

// pauseLook waits for the next look, which an exit of the server or a change of what is agreed brings forward: else
// a switchover would wait for a look that is due half a second later.
func (a *Agent) pauseLook(ctx context.Context, d time.Duration, exits, moved <-chan struct{}) error {
	t := a.cfg.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C():
	case <-exits:
	case <-moved:
	}
	return nil
}

// bringLooksForward tells the observers of databases whose phase is another than in the round before.
func (a *Agent) bringLooksForward(f Facts) {
	for _, d := range f.Databases {
		s := a.slots[d.Name]
		if s.phase == d.Record.Phase {
			continue
		}
		s.phase = d.Record.Phase
		select {
		case s.moved <- struct{}{}:
		default:
		}
	}
}

// observeServices keeps what is known of this host's instances.
func (a *Agent) observeServices(ctx context.Context) error {
	for {
		observed, err := a.cfg.Runtime.Observe(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			a.cfg.Log.Warn("services not observed", "err", err)
		}
		a.board.served(observed, err == nil)
		if err := a.pause(ctx, observeEvery, a.tending.look); err != nil {
			return err
		}
	}
}

// pause waits for d, or for early.
func (a *Agent) pause(ctx context.Context, d time.Duration, early <-chan struct{}) error {
	t := a.cfg.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C():
	case <-early:
	}
	return nil
}

// Files takes how this host's directory of a file set is backed up.
func (a *Agent) Files(name string, f Files) { a.board.fileSet(name, f) }

// Archive takes how far this host has a database's log in its vault; ok false = it is not this host's duty.
func (a *Agent) Archive(name string, at Archive, ok bool) { a.board.archive(name, at, ok) }

// Restored takes how the restored copies on this host stand.
func (a *Agent) Restored(copies []Restored) { a.board.restored(copies) }

// Planned takes when a chore of this host runs next ([Chore.Name]); zero = it is not this host's duty, or never runs.
func (a *Agent) Planned(name string, next time.Time) { a.board.plan(name, next) }

// Stop makes this host's rounds end what it runs, in good order; it cannot be taken back.
func (a *Agent) Stop() {
	a.stopping.Store(true)
	a.Wake()
}

// WaitStopped waits until no database server of this host runs, or for at most limit.
func (a *Agent) WaitStopped(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		if name := a.stillRuns(); name == "" {
			return nil
		} else if err := a.pause(ctx, observeBusy, nil); err != nil {
			return fmt.Errorf("%s did not stop within %s", name, limit)
		}
	}
}

func (a *Agent) stillRuns() string {
	for name := range a.cfg.Servers {
		if !a.board.stopped(name) {
			return "database " + name
		}
	}
	if a.cfg.Runtime != nil {
		return a.board.servesStill()
	}
	return ""
}
