// Package gate is the fixed address of one database on one host: clients connect to it for ever, and it
// leads them to whichever server is the primary now. It is the body of `holdfast gate SPECFILE`, a process
// of its own under a keeper, so that an agent may come and go and no client notices: without an agent the
// gate goes on with its last order.
//
// Start at [Run]. order.go holds the only judgement there is, that an epoch never falls; act.go carries
// orders out; shortcut.go makes rules in the kernel for those who may do without the
// gate. door.go and straight.go let clients in and lead them where there is nothing to wait for, listener.go finds the way
// of all others, and loop.go moves the bytes; control.go takes orders over a private Unix socket,
// and client.go gives them. The gate never sees what it passes on: TLS is between client and server.
//
// A client that connects while there is no primary is held, not refused, for up to HoldMax, because most
// primaries are back before that. Connections that lead to a former primary are reset, so that their
// clients know at once instead of waiting for an answer that cannot come.
package gate

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/clock"
	"holdfast/internal/durable"
	"holdfast/internal/event"
	"holdfast/internal/orders"
)

// Spec is the file that `holdfast gate` is started with.
type Spec struct {
	Database   string         `json:"database"`
	Host       string         `json:"host"`
	Listen     []string       `json:"listen"`                // addr:port where clients connect; at least one
	ReadListen []string       `json:"read_listen,omitempty"` // addr:port that leads to standbys; none = no such address
	Control    string         `json:"control"`               // path of the Unix socket; its folder should be private
	BeatListen string         `json:"beat_listen,omitempty"` // addr:port of the heartbeat; "" = none
	CertDir    string         `json:"cert_dir,omitempty"`    // for whoever makes Config.BeatsTLS and OthersTLS
	StateFile  string         `json:"state_file"`            // where the highest order is kept
	HoldMax    event.Duration `json:"hold_max,omitempty"`    // longest wait of a client for a primary (default 10 s)
	ReadHold   event.Duration `json:"read_hold,omitempty"`   // longest wait of a reader for a server (default 2 s)
	HeldMax    int            `json:"held_max,omitempty"`    // most clients that wait at once (default 1000)
	ConnMax    int            `json:"conn_max,omitempty"`    // most clients at once (default 10000)

	// Others are asked for their orders while the agent is silent: for AgentSilent (default 3 s; it repeats its order
	// each second).
	Others      []Other        `json:"others,omitempty"`
	AgentSilent event.Duration `json:"agent_silent,omitempty"`

	Path        string   `json:"path,omitempty"`        // of this host's own clients: "proxy" (default) or "kernel"
	Application string   `json:"application,omitempty"` // in the name of what the kernel path makes
	Peers       []string `json:"peers,omitempty"`       // addresses of the database's hosts, which are cut by their own gates

	Former []Former `json:"former,omitempty"` // where clients connected by an earlier plan
}

// Former is an address that a plan gave up. It is served for a while, so that nobody is cut by a change of ports; then
// it is only remembered, for what the kernel led from it may live on.
type Former struct {
	Address string `json:"address"`
	Reads   bool   `json:"reads,omitempty"`
	Until   int64  `json:"until"` // seconds of Unix time, for whoever writes the spec; the gate does not read it
	Ended   bool   `json:"ended,omitempty"`
}

// ReadSpec reads a spec file.
func ReadSpec(path string) (Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Spec{}, fmt.Errorf("read gate spec: %w", err)
	}
	var s Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return Spec{}, fmt.Errorf("read gate spec %s: %w", path, err)
	}
	return s, nil
}

// Config is a spec and what only code can give.
type Config struct {
	Spec
	Log      *slog.Logger
	Clock    clock.Clock  // nil = the machine's
	Beats    http.Handler // answers on BeatListen; needed when BeatListen is set
	BeatsTLS *tls.Config  // mutual TLS for BeatListen; needed when BeatListen is set

	OthersTLS *tls.Config // mutual TLS towards Others; needed when there are any
}

const (
	defaultHoldMax = 10 * time.Second
	defaultHeldMax = 1000
	// A standby that follows a new primary is back within it, and who only reads can be told to come again.
	defaultReadHold = 2 * time.Second
	defaultConnMax  = 10000

	defaultAgentSilent = 3 * time.Second
)

func (c *Config) fill() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("gate spec: "+what))
		}
	}
	need(c.Database != "", "database is missing")
	need(len(c.Listen) > 0, "listen is empty")
	need(c.Control != "", "control is missing")
	need(c.StateFile != "", "state_file is missing")
	need(c.HoldMax >= 0 && c.ReadHold >= 0 && c.HeldMax >= 0 && c.ConnMax >= 0, "hold_max, read_hold, held_max and conn_max are not negative")
	need(c.BeatListen == "" || (c.Beats != nil && c.BeatsTLS != nil), "beat_listen needs a handler and certificates")
	need(len(c.Others) == 0 || c.OthersTLS != nil, "others need certificates")
	need(c.AgentSilent >= 0, "agent_silent is not negative")
	need(c.Log != nil, "a logger is missing")
	need(c.Path == "" || c.Path == PathProxy || c.Path == PathKernel, "path is proxy or kernel")
	need(c.Path != PathKernel || c.Application != "", "path kernel needs an application")
	if c.HoldMax == 0 {
		c.HoldMax = event.Duration(defaultHoldMax)
	}
	if c.AgentSilent == 0 {
		c.AgentSilent = event.Duration(defaultAgentSilent)
	}
	if c.ReadHold == 0 {
		c.ReadHold = event.Duration(defaultReadHold)
	}
	if c.HeldMax == 0 {
		c.HeldMax = defaultHeldMax
	}
	if c.ConnMax == 0 {
		c.ConnMax = defaultConnMax
	}
	if c.Clock == nil {
		c.Clock = clock.Real()
	}
	return errors.Join(errs...)
}

// Gate is one running gate.
type Gate struct {
	cfg Config
	log *slog.Logger

	orders sync.Mutex // one order at a time; taken before mu, and held while an order is written to disk
	kept   ledger     // what is on disk; guarded by orders

	kernel sync.Mutex // one talk with the kernel about rules at a time: milliseconds, 2 s at most; taken after orders and before mu

	mu       sync.Mutex // guards what follows; held across nothing that waits, for the loops that pass bytes take it too
	spec     Spec       // as read last; what [Gate.Reread] cannot change is the same in cfg
	led      ledger
	state    State
	target   string
	road     road // to the target of the last order to open
	reason   string
	since    time.Time     // of state
	changed  chan struct{} // closed and replaced whenever state or target changes
	links    map[*link]struct{}
	dialled  map[*link]struct{} // whose server has not answered yet
	read     reading
	heardAt  time.Time // when the agent last gave an order
	cuts     uint64    // rises with every fence, so that an order half-way through notices
	unkept   bool      // a fence is not on disk yet
	drainAt  time.Time // zero = nothing drains
	fenceAt  time.Time // the deadline of the primary on this host; zero = none
	fenced   string    // why the gate fenced by itself, "" = it has not since the last order
	rules    rules
	alarmSet chan struct{}

	doors  map[string]*entrance // by address; guarded by orders
	accept func(*entrance)      // begins to take clients; set by run before anybody orders

	loops    []*loop        // set by run before anybody is accepted
	conns    sync.WaitGroup // clients: until they are refused, or their links have ended
	clients  atomic.Int64
	held     atomic.Int64
	refusing atomic.Int64
	accepted atomic.Int64
	refused  atomic.Int64
	bytesIn  atomic.Int64 // from clients
	bytesOut atomic.Int64 // to clients
}

// Run serves until ctx ends, and returns when its last connection has. It begins in Hold, with the
// highest epoch it ever took.
func Run(ctx context.Context, cfg Config) error {
	g, err := open(cfg)
	if err != nil {
		return err
	}
	return g.run(ctx)
}

func open(cfg Config) (*Gate, error) {
	asWritten := cfg.Spec
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	g := &Gate{
		cfg:      cfg,
		log:      cfg.Log.With("database", cfg.Database, "host", cfg.Host),
		spec:     asWritten,
		doors:    map[string]*entrance{},
		led:      ledger{Database: cfg.Database, Host: cfg.Host},
		state:    Hold,
		reason:   "started: no order yet",
		since:    cfg.Clock.Now(),
		heardAt:  cfg.Clock.Now(),
		changed:  make(chan struct{}),
		links:    map[*link]struct{}{},
		dialled:  map[*link]struct{}{},
		read:     reading{changed: make(chan struct{})},
		alarmSet: make(chan struct{}, 1),
	}
	data, err := os.ReadFile(cfg.StateFile)
	if errors.Is(err, os.ErrNotExist) {
		return g, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the highest order: %w", err)
	}
	var led ledger
	if err := json.Unmarshal(data, &led); err != nil {
		return nil, fmt.Errorf("read the highest order in %s: %w", cfg.StateFile, err)
	}
	if led.Database != cfg.Database || led.Host != cfg.Host {
		return nil, fmt.Errorf("read the highest order: %s belongs to database %q on host %q, this is %q on %q",
			cfg.StateFile, led.Database, led.Host, cfg.Database, cfg.Host)
	}
	g.led, g.kept = led, led
	return g, nil
}

func (g *Gate) run(ctx context.Context) (err error) {
	var open []net.Listener
	defer func() {
		for _, l := range open {
			_ = l.Close() // closed twice after a regular end, which is harmless
		}
	}()
	defer func() {
		for _, d := range g.doors {
			_ = d.listener.Close() // closed twice after a regular end, which is harmless
		}
	}()
	if err := g.openDoors(ctx, g.cfg.Spec); err != nil {
		return err
	}
	stop, err := g.startLoops()
	if err != nil {
		return err
	}
	defer stop()
	control, err := orders.Listen(ctx, g.cfg.Control)
	if err != nil {
		return err
	}
	open = append(open, control)

	// Only who has the listener's address may judge rules: another gate of this database may still be ending.
	if err := g.openShortcut(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.closeShortcut()) }()
	g.log.InfoContext(ctx, "gate serves", "listen", g.cfg.Listen, "read_listen", g.cfg.ReadListen, "epoch", g.led.Last.Epoch)
	grp, ctx := errgroup.WithContext(ctx)
	if g.cfg.BeatListen != "" {
		lc := net.ListenConfig{KeepAliveConfig: keepAlive}
		l, err := lc.Listen(ctx, "tcp", g.cfg.BeatListen)
		if err != nil {
			return fmt.Errorf("listen for heartbeats: %w", err)
		}
		open = append(open, l)
		grp.Go(func() error { return g.beat(ctx, l) })
	}
	g.orders.Lock()
	g.accept = func(e *entrance) { grp.Go(func() error { return g.attend(ctx, e) }) }
	for _, d := range g.doors {
		g.accept(d)
	}
	g.orders.Unlock()
	grp.Go(func() error { return g.serveControl(ctx, control) })
	grp.Go(func() error { return g.keepTime(ctx) })
	if g.cfg.OthersTLS != nil {
		grp.Go(func() error { return g.askAround(ctx) })
	}
	err = grp.Wait()

	cut := g.leave()
	g.conns.Wait()
	return errors.Join(err, cut, g.keepFence())
}

// leave cuts every link, and lets none begin: a client whose server has just answered would be led by a process that no
// order and no fence reaches any more.
func (g *Gate) leave() error {
	g.mu.Lock()
	g.set(Shut, "", "the gate ends")
	g.closeLinks()
	for _, m := range g.read.members {
		m.cut()
	}
	g.read.members = nil
	g.mu.Unlock()
	return g.follow()
}

// loopCount is how many threads pass bytes: one until there are eight cores, for on two cores a second one gained
// nothing and took time from the server.
func loopCount() int { return min(4, max(1, runtime.NumCPU()/4)) }

// startLoops sets g.loops. The function that it returns ends them, and waits for that.
func (g *Gate) startLoops() (stop func(), err error) {
	var running sync.WaitGroup
	stop = func() {
		for _, l := range g.loops {
			l.stop()
		}
		running.Wait()
	}
	for range loopCount() {
		l, err := newLoop()
		if err != nil {
			stop()
			return nil, err
		}
		l.spare = runtime.GOMAXPROCS(0) > loopCount()
		g.loops = append(g.loops, l)
		running.Go(l.run)
	}
	return stop, nil
}

// beat serves the heartbeat until ctx ends.
func (g *Gate) beat(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler: g.beats(), TLSConfig: g.cfg.BeatsTLS, ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 2 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve heartbeats: %w", err)
	}
	return nil
}

// keep has the ledger on disk: an order that is only repeated is there already. Callers hold g.orders.
func (g *Gate) keep(led ledger) error {
	if led == g.kept {
		return nil
	}
	g.kept = ledger{} // whatever a failure leaves behind is written over next time
	data, err := json.Marshal(led)
	if err != nil {
		return fmt.Errorf("keep the highest order: %w", err)
	}
	if err := durable.WriteFile(g.cfg.StateFile, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep the highest order: %w", err)
	}
	g.kept = led
	return nil
}
