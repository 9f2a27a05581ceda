package host

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/auth"
	"holdfast/internal/clock"
	"holdfast/internal/cluster"
	"holdfast/internal/cluster/etcd"
	"holdfast/internal/cluster/heartbeat"
	"holdfast/internal/cluster/members"
	"holdfast/internal/database"
	"holdfast/internal/database/gate"
	"holdfast/internal/database/postgres"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/service"
	"holdfast/internal/service/probe"
	"holdfast/internal/service/process"
	"holdfast/internal/vault"
)

// lateMax is how late this host's own timers may run before its word on others' silence counts for nothing.
const lateMax = 750 * time.Millisecond

// Host is one host that runs.
type Host struct {
	cfg       Config
	self      plan.Host
	clock     clock.Clock
	diary     *diary
	store     *etcd.Store
	founding  founding // only keepMembers uses it once the host runs
	recovery  int64    // its number
	saver     *saver
	keys      vault.Keyring // of the vaults, which are opened again and again
	copies    *copyWatch
	proofs    *keyWatch
	trial     chan struct{} // holds one token: one backup at a time is restored on trial here
	works     longWork      // trials, backups and chores
	streams   longWork      // archiving of logs, and savings
	comparers []*comparer
	joins     chan struct{}        // fires when an order to enter another cluster has been written
	yields    chan problem.Problem // fires when another agent turns out to run as this host
	beats     *beats
	late      *heartbeat.Lateness
	servers   map[string]*postgres.Server
	agent     *agent.Agent

	ends         chan error     // errHosts, errJoins or errLeft: this life is over
	stopElecting func()         // this host leads no more
	stopEtcd     func()         // its member is not kept alive any more; it waits until nobody does
	silentSeats  map[uint64]int // how often members in a row have not answered, by id; only keepMembers uses it
	learner      uint64         // this host's own seat that does not vote and that nobody has started here, and how often in a row
	learnerLooks int            // it was there; only keepMembers uses them

	etcd      *child  // nil = this host keeps no member
	children  []child // listeners
	edge      *child  // runs once the plan has routes
	listeners []*listening
	settings  *settings
	exits     []*exits

	disk        *disk
	paths       *paths
	ownSeat     *ownSeat
	certificate *certificate
	twins       *twins
	names       *etcd.Store // in which the name is asked for
	members     *members.List
	services    *services
	balancer    *balancer
	govern      *agent.Govern
	applied     *applied
	archives    []*archivist
	keepers     []*logKeeper
	storers     []*storer
	filers      []*filer
	salvages    salvages
	salvor      *salvor
	restored    *copyServers
}

// unknownHost refuses to be a host that the plan does not have.
func (c Config) unknownHost() error {
	p := api.UnknownHost(c.Self, c.Plan.HostNames())
	return &p
}

// Run runs the agent of one host until ctx ends. What it looks after goes on; [Host.Down] ends that too.
func Run(ctx context.Context, cfg Config, down <-chan struct{}) error {
	if a := newApplied(cfg); !hasHost(a.start, cfg.Self) && a.text == "" {
		return cfg.unknownHost()
	}
	if err := os.MkdirAll(runDir(cfg.Dir), 0o711); err != nil {
		return fmt.Errorf("run host %s: %w", cfg.Self, err)
	}
	held, err := lock(cfg.Dir)
	if err != nil {
		return err
	}
	defer func() { _ = held.Close() }() // gives the lock back
	if cfg.Running != nil {
		if err := cfg.Running(); err != nil {
			return fmt.Errorf("run host %s: %w", cfg.Self, err)
		}
	}
	for {
		waits, err := waitsForPlace(cfg)
		if err != nil {
			return fmt.Errorf("run host %s: %w", cfg.Self, err)
		}
		now := newApplied(cfg)
		self, ok := now.start.Host(cfg.Self)
		if waits || !ok {
			if came, err := awaitPlace(ctx, cfg, down); err != nil || !came {
				return err
			}
			cfg.former = judgedNow(cfg)
			continue
		}
		err = life(ctx, cfg, now, self, down)
		if !beginsAnew(err) {
			return err
		}
		cfg.former = now
		cfg.Log.Info("beginning anew", "because", err)
	}
}

// beginsAnew reports whether an agent goes on with another life after this end of one.
func beginsAnew(err error) bool {
	return errors.Is(err, errJoins) || errors.Is(err, errHosts) || errors.Is(err, errLeft) || errors.Is(err, errYields)
}

// errJoins ends a life of the agent that was told to enter another cluster; the next one does.
var errJoins = errors.New("this host enters another cluster")

// life is one life of the agent, from opening to closing.
func life(ctx context.Context, cfg Config, now *applied, self plan.Host, down <-chan struct{}) error {
	cfg.Plan = now.start
	h := &Host{cfg: cfg, self: self, clock: clock.Real(), servers: map[string]*postgres.Server{}, joins: make(chan struct{}, 1), yields: make(chan problem.Problem, 1), ends: make(chan error), applied: now, settings: newSettings()}
	h.saver = newSaver(h)
	h.copies = newCopyWatch(h)
	h.proofs = newKeyWatch(h.clock)
	h.restored = &copyServers{host: h}
	h.trial = make(chan struct{}, 1)
	h.salvages, h.salvor = salvages{h.servers, h, make(chan struct{}, 1)}, newSalvor(h)
	if err := join(ctx, cfg); err != nil {
		return fmt.Errorf("run host %s: %w", cfg.Self, err)
	}
	if err := h.claimName(ctx, down); err != nil {
		err = errors.Join(err, h.close())
		if errors.Is(err, errNoName) {
			return nil
		}
		return err
	}
	if err := h.open(ctx); err != nil {
		return errors.Join(err, h.close())
	}
	err := h.run(ctx, down)
	if closing := h.close(); closing != nil && beginsAnew(err) {
		cfg.Log.Warn("not everything was closed", "err", closing)
	} else {
		err = errors.Join(err, closing)
	}
	return err
}

// asApplied is the same with the plan that was applied last. A host that this does not have any more runs nothing: nil.
func (c Config) asApplied() (Config, *plan.Host, error) {
	if !hasHost(c.Plan, c.Self) {
		return c, nil, c.unknownHost()
	}
	c.Plan = newApplied(c).plan()
	self, ok := c.Plan.Host(c.Self)
	if !ok {
		return c, nil, nil
	}
	return c, &self, nil
}

// CheckPorts refuses a host whose ports somebody else holds. It changes nothing.
func CheckPorts(ctx context.Context, cfg Config) error {
	cfg, self, err := cfg.asApplied()
	if err != nil || self == nil {
		return err
	}
	return portsFree(ctx, cfg, *self)
}

// CheckServers refuses a host on which a database of the plan cannot run: no PostgreSQL, foreign data. It
// changes nothing.
func CheckServers(ctx context.Context, cfg Config) error {
	cfg, self, err := cfg.asApplied()
	if err != nil || self == nil {
		return err
	}
	var bad []error
	for _, d := range cfg.Plan.Databases {
		s, err := openServer(ctx, cfg, *self, d, nil, false)
		if s != nil {
			err = errors.Join(err, s.Close())
		}
		bad = append(bad, err)
	}
	return errors.Join(bad...)
}

// plan is the plan that counts now.
func (h *Host) plan() *plan.Plan { return h.applied.plan() }

// open makes everything ready that can refuse, before anything is started.
func (h *Host) open(ctx context.Context) error {
	cfg := h.cfg
	cfg.Plan = h.plan()
	if err := portsFree(ctx, cfg, h.self); err != nil {
		return err
	}
	diary, err := openDiary(cfg.Dir, cfg.Self, cfg.Log)
	if err != nil {
		return err
	}
	h.diary = diary
	for _, d := range cfg.Plan.Databases {
		s, err := openServer(ctx, cfg, h.self, d, copyVault{h, d.Name}, true)
		if err != nil {
			return err
		}
		if s != nil {
			h.servers[d.Name] = s
			if s.KnowsRoles() {
				h.settings.tookRoles(d)
			}
			h.comparers = append(h.comparers, newComparer(h, d.Name, s))
		}
	}
	client, err := auth.ClientTLS(certDir(cfg.Dir), "")
	if err != nil {
		return fmt.Errorf("read this host's certificate: %w", err)
	}
	h.store, err = openStore(context.WithoutCancel(ctx), cfg, h.founding, etcd.Config{TLS: client})
	if err != nil {
		return err
	}
	h.store.Shut(errNameUnclear)
	if err := h.openServices(ctx); err != nil {
		return err
	}
	h.beats = newBeats(cfg.Plan, cfg.Self, client, h.clock, cfg.Log)
	h.late = heartbeat.NewLateness(h.clock)
	h.disk = &disk{host: h}
	h.paths = &paths{host: h}
	h.ownSeat = newOwnSeat(h)
	h.certificate = &certificate{host: h}
	if h.members, err = openMembers(cfg, h.self); err != nil {
		return err
	}
	overruled, err := readOverruling(cfg.Dir)
	if err != nil {
		return err
	}
	conf := h.agentConfig()
	conf.Recovery, conf.Overruled, conf.Overrule = h.founding.Recovery, overruled.Number, h.overrule
	if h.agent, err = agent.New(conf); err != nil {
		return err
	}
	h.govern = agent.NewGovern(h.governConfig())
	for _, b := range cfg.Plan.Backups {
		if d, ok := cfg.Plan.DatabaseNamed(b.Of); ok && h.servers[d.Name] != nil {
			h.archives = append(h.archives, &archivist{host: h, db: d, plan: b})
		}
	}
	h.keepers = newLogKeepers(h)
	h.storers = newStorers(h)
	h.filers, err = h.newFilers()
	return err
}

// openServices makes this host ready to run services: its own copy of the release, and what runs and checks.
func (h *Host) openServices(ctx context.Context) error {
	r, err := takeRelease(h.cfg.Dir, h.cfg.Plan.Release)
	if err != nil {
		return err
	}
	runtime, err := process.New(filepath.Join(h.cfg.Dir, "svc"), h.cfg.Executable, h.cfg.Self)
	if err != nil {
		return err
	}
	account, err := unprivileged()
	if err != nil {
		return err
	}
	if err := showAuthority(h.cfg.Dir); err != nil {
		return err
	}
	h.services = &services{user: account, cfg: h.cfg, plan: h.plan, self: h.self, release: r, runtime: runtime, prober: probe.New(h.clock), ctx: context.WithoutCancel(ctx)}
	h.balancer = newBalancer(h)
	return nil
}

func (h *Host) governConfig() agent.ControllerConfig {
	life := make([]byte, 6)
	_, _ = rand.Read(life) // never fails (crypto/rand)
	c := agent.ControllerConfig{
		Self: h.cfg.Self, Plan: h.cfg.Plan.Source, PlanHash: planHash(h.cfg.Plan), Replaces: h.applied.replaces, Life: hex.EncodeToString(life), Services: h.services.wanted, Hosts: h.hostViews, Store: h.store, Snapshot: h.agent.Last,
		Clock: h.clock, Log: h.cfg.Log, Diary: h.diary,
	}
	for _, b := range h.cfg.Plan.Backups {
		c.Archives = append(c.Archives, b.Of)
	}
	return c
}

// hostViews are the hosts that services may be placed on.
func (h *Host) hostViews() []service.HostView {
	var out []service.HostView
	for _, x := range h.plan().HomeSite().Hosts {
		out = append(out, service.HostView{Name: x.Name, FaultDomain: x.FaultDomain})
	}
	return out
}

func (h *Host) agentConfig() agent.Config {
	p := h.plan()
	c := agent.Config{
		Self: h.cfg.Self, Version: h.cfg.Version, Plan: h.applied.named(), Hosts: plan.HostsDigest(h.cfg.Plan), Store: h.store, Beats: h.beats, Clock: h.clock, Log: h.cfg.Log, Diary: h.diary,
		Servers: map[string]database.Server{}, Gates: map[string]database.Gate{}, Exits: map[string]<-chan struct{}{},
		Services: h.services.policies(), Runtime: h.services.runtime, Health: h.services.health, Instance: h.services.instance,
		Tend: h.tend, Adopt: h.adopt, Problems: h.problems, Votes: h.ownSeat.votes,
		Late: func() bool { return h.late.Worst() > lateMax }, Trouble: h.trouble,
		Reach: func(name, host string) (database.Endpoint, error) {
			d, okD := p.DatabaseNamed(name)
			to, okH := p.Host(host)
			if !okD || !okH {
				return database.Endpoint{}, fmt.Errorf("reach database %s on %s: the plan has no such host or database", name, host)
			}
			return endpoint(to, p, d), nil
		},
	}
	for _, other := range p.AllHosts() {
		if other.Name != h.cfg.Self {
			c.Peers = append(c.Peers, other.Name)
		}
	}
	for _, d := range p.Databases {
		c.Databases = append(c.Databases, policy(p, d))
		c.Gates[d.Name] = listener{gate.Dial(gateSocket(h.cfg.Dir, d.Name))}
		if s := h.servers[d.Name]; s != nil {
			c.Servers[d.Name] = s
			e := newExits(filepath.Join(databaseDir(h.cfg.Dir, d.Name), "keep"), h.clock, h.cfg.Log.With("database", d.Name))
			h.exits = append(h.exits, e)
			c.Exits[d.Name] = e.tell
		}
	}
	return c
}

// run starts the children, serves peers and operators, and judges until ctx ends or down fires.
func (h *Host) run(ctx context.Context, down <-chan struct{}) error {
	if err := h.prepareChildren(); err != nil {
		return err
	}
	server, err := h.serve()
	if err != nil {
		return err
	}
	keep, stopKeeping := context.WithCancel(context.WithoutCancel(ctx))
	defer stopKeeping()
	electing, stopElecting := context.WithCancel(ctx)
	defer stopElecting()
	h.stopElecting = stopElecting
	keepEtcd, endEtcd := context.WithCancel(keep)
	etcdEnded := make(chan struct{})
	h.stopEtcd = func() { endEtcd(); <-etcdEnded }
	defer endEtcd()
	told := ctx
	g, ctx := errgroup.WithContext(context.WithoutCancel(ctx))
	g.Go(func() error { return h.endsWith(ctx, told) })
	defer context.AfterFunc(ctx, stopKeeping)() // whoever fails ends the keeping of children too, or Wait would wait for it
	g.Go(func() error { return server(ctx) })
	g.Go(func() error { return h.beats.run(ctx) })
	g.Go(func() error { return h.late.Run(ctx) })
	g.Go(func() error { return h.agent.Run(ctx) })
	g.Go(func() error { return h.disk.run(ctx) })
	g.Go(func() error { return h.paths.run(ctx) })
	g.Go(func() error { return h.ownSeat.run(ctx) })
	g.Go(func() error { return h.certificate.run(ctx) })
	g.Go(func() error {
		agreed := func() map[string]cluster.Entry { return h.agent.Last().Agreed }
		return h.twins.run(ctx, h.sleep, agreed, func(err error) { h.cfg.Log.Debug("who runs as this host is not known", "err", err) })
	})
	for _, l := range h.listeners {
		g.Go(func() error { return l.run(ctx) })
	}
	g.Go(func() error { return h.keepMembers(ctx) })
	g.Go(func() error { return h.streams.do(ctx, h.saver.run) })
	g.Go(func() error { return h.works.do(ctx, h.salvor.run) })
	g.Go(func() error { return h.works.do(ctx, h.sweepTrials) })
	g.Go(func() error { return h.restored.run(ctx) })
	g.Go(func() error { return h.changes(ctx) })
	g.Go(func() error { return h.settle(ctx) })
	g.Go(func() error { return h.keepRules(ctx) })
	g.Go(func() error { return h.noteSettled(ctx) })
	for _, c := range h.comparers {
		g.Go(func() error { return c.run(ctx) })
	}
	defer context.AfterFunc(ctx, stopElecting)()
	g.Go(func() error { return h.govern.Elect(electing) })
	g.Go(func() error { return h.followHosts(ctx) })
	g.Go(func() error { return h.followJoins(ctx) })
	g.Go(func() error { return h.govern.Run(ctx) })
	for _, a := range h.archives {
		g.Go(func() error { return h.streams.do(ctx, a.run) })
		g.Go(func() error { return a.watchQueue(ctx) })
		g.Go(func() error { return a.keepSaying(ctx) })
	}
	for _, k := range h.keepers {
		g.Go(func() error { return k.run(ctx) })
	}
	for _, s := range h.storers {
		g.Go(func() error { return s.run(ctx) })
	}
	for _, f := range h.filers {
		g.Go(func() error { return h.works.do(ctx, f.run) })
	}
	for _, c := range h.custodians() {
		g.Go(func() error { return h.works.do(ctx, c.run) })
	}
	g.Go(func() error { return h.balancer.run(ctx) })
	g.Go(func() error { return h.keepEdge(ctx, keep) })
	for _, e := range h.exits {
		g.Go(func() error { return e.run(ctx) })
	}
	for _, c := range h.children {
		g.Go(func() error { return c.run(keep) })
	}
	g.Go(func() error {
		defer close(etcdEnded)
		if h.etcd == nil {
			return nil
		}
		return h.etcd.run(keepEtcd)
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case p := <-h.yields:
			return errors.Join(h.giveWay(ctx, p, stopKeeping, g.Go), errYields)
		case why := <-h.ends:
			if errors.Is(why, errLeft) {
				if err := h.leave(ctx, stopKeeping, g.Go); err != nil {
					return err
				}
			}
			return why
		case <-down:
		}
		err := h.goDown(ctx, stopKeeping, g.Go)
		return errors.Join(err, errDown)
	})
	err = g.Wait()
	if errors.Is(err, errDown) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// tend passes each round's snapshot on to what follows from it here.
func (h *Host) tend(now agent.Snapshot) {
	h.services.tend(now)
	h.balancer.tend(now)
}

// problems are those of the host itself, for its report.
func (h *Host) problems() []problem.Problem {
	all := slices.Concat(h.disk.problems(), h.paths.problems(), h.certificate.problems(), h.ownSeat.problems(), h.twins.problems(), h.saver.problems(), h.copies.problems(), h.proofs.problems(), h.salvor.problems(), h.applied.problems(), h.restored.problems())
	for _, l := range h.listeners {
		all = append(all, l.problems()...)
	}
	for _, s := range h.servers {
		if p := s.SpaceProblem(); p != nil {
			all = append(all, *p)
		}
	}
	for _, f := range h.filers {
		all = append(all, f.problems()...)
	}
	for _, a := range h.archives {
		all = append(all, a.problems()...)
	}
	for _, k := range h.keepers {
		all = append(all, k.problems()...)
	}
	for _, s := range h.storers {
		all = append(all, s.problems()...)
	}
	all = append(all, h.settings.problems()...)
	if p := clocksApart(h.cfg.Self, h.agent.Last().Facts.Peers); p != nil {
		all = append(all, *p)
	}
	all = append(all, h.seatProblems()...)
	for _, c := range h.comparers {
		all = append(all, c.problems()...)
	}
	return all
}

// errDown ends the group when everything of this host has been stopped.
var errDown = errors.New("this host has been stopped")

// serve opens the port for peers and operators.
func (h *Host) serve() (func(ctx context.Context) error, error) {
	conf, err := auth.ServerTLS(certDir(h.cfg.Dir))
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", hostPort(h.self.Address, h.cfg.Plan.Ports.Agent))
	if err != nil {
		return nil, fmt.Errorf("listen for other hosts: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle(heartbeat.Path, h.beats.publisher)
	mux.Handle("/v1/", api.Handler(api.Source{
		Plan: h.cfg.Plan, Applied: h.applied.plan, Check: h.checkApply, Prepare: h.cfg.Prepare, Self: h.cfg.Self, Store: h.store, Members: h.memberNames, Policy: h.policy, Snapshot: h.agent.Last, Events: h.diary.Recent, Note: h.diary.Record, Log: h.cfg.Log, Cluster: h,
		Salvage: h.salvages,
	}))
	srv := &http.Server{Handler: mux, TLSConfig: conf, ReadHeaderTimeout: 5 * time.Second, ErrorLog: nil}
	return func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() {
			h.beats.publisher.Close()
			_ = srv.Close() // long answers would be waited for
		})
		defer stop()
		err := srv.ServeTLS(l, "", "")
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	}, nil
}

// close ends what open began; nothing of it lives in another process.
func (h *Host) close() error {
	var errs []error
	for _, s := range h.servers {
		errs = append(errs, s.Close())
	}
	if h.services != nil {
		h.services.prober.Close()
		errs = append(errs, h.services.runtime.Close())
	}
	if h.members != nil {
		if err := h.members.Leave(leaveMax); err != nil { // the others end too, perhaps; else they take this host for lost
			h.cfg.Log.Info("nobody heard that this host leaves", "err", err)
		}
		errs = append(errs, h.members.Close())
	}
	for _, s := range []*etcd.Store{h.store, h.names} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	if h.diary != nil {
		errs = append(errs, h.diary.Close())
	}
	return errors.Join(errs...)
}

func etcdEndpoints(p *plan.Plan) []string {
	var out []string
	for _, h := range p.HomeSite().EtcdHosts() {
		out = append(out, "https://"+hostPort(h.Address, p.Ports.EtcdClient))
	}
	return out
}
