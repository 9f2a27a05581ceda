package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/cluster"
	"holdfast/internal/database"
	"holdfast/internal/service"
)

// PlacedService is one service as the controller needs to know it.
type PlacedService struct {
	Name      string
	Instances int
	Hosts     []string
	Version   string
	Port      int // 0 = it does not listen
}

// ControllerConfig is what the controller's duty stands on.
type ControllerConfig struct {
	Self     string
	Life     string                    // unique to this process
	Hosts    func() []service.HostView // names and fault domains of all hosts, in the plan's order
	Services func() []PlacedService    // as the plan that counts wants them; nil = none
	Archives []string                  // databases that have a backup
	Plan     []byte                    // the plan file's text
	PlanHash string                    // of the plan that this host was started with
	// Replaces reports whether Plan may stand in place of the agreed text: what was applied to the running application
	// must not be taken back by hosts that start with an older file. nil = always.
	Replaces func(agreed []byte) bool
	Store    cluster.Store
	Snapshot func() Snapshot
	Clock    clock.Clock
	Log      *slog.Logger
	Diary    Diary
}

// placement is the agreed placement as it lies in the store.
type placement struct {
	Generation int64            `json:"generation"`
	Services   []service.Placed `json:"services"`
}

// Govern takes part in the election of the controller, and places what is not urgent while it is this host:
// service instances, and who archives a database. Every write is conditional on what it was judged from.
type Govern struct {
	cfg      ControllerConfig
	election *cluster.Election
	leadAt   time.Time                  // zero = not leading
	last     map[string]service.Report  // newest word about each instance, for hosts that fell silent
	failures map[string]time.Time       // by service, host and version
	failed   map[string]service.Failure // the same keys
	vacant   map[string]time.Time       // by database: since when no standby can archive it
}

// NewGovern prepares the duty.
func NewGovern(cfg ControllerConfig) *Govern {
	return &Govern{
		cfg: cfg, election: cluster.Campaign(cfg.Store, KeyController, cfg.Self+"/"+cfg.Life, controllerTTL, cfg.Clock, cfg.Log),
		last: map[string]service.Report{}, failures: map[string]time.Time{}, failed: map[string]service.Failure{}, vacant: map[string]time.Time{},
	}
}

// governEvery is the pace of the controller.
const governEvery = 250 * time.Millisecond

// Elect takes part in the election until ctx ends.
func (g *Govern) Elect(ctx context.Context) error { return g.election.Run(ctx) }

// Leading reports whether this host is the controller now, and knows enough to act as such.
func (g *Govern) Leading() bool {
	s := g.cfg.Snapshot()
	return g.election.Leading() && s.Facts.Known && !s.Facts.Stopping && s.Facts.WrittenOff() == "" && s.Facts.ContactAge <= contactMax
}

// Run places while this host is the controller, until ctx ends.
func (g *Govern) Run(ctx context.Context) error {
	t := g.cfg.Clock.NewTimer(governEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		}
		g.round(ctx)
		t.Reset(governEvery)
	}
}

func (g *Govern) round(ctx context.Context) {
	if !g.election.Leading() {
		g.leadAt = time.Time{}
		clear(g.vacant)
		return
	}
	if g.leadAt.IsZero() {
		g.leadAt = g.cfg.Clock.Now()
	}
	s := g.cfg.Snapshot()
	if !s.Facts.Known || s.Facts.Stopping || s.Facts.WrittenOff() != "" || s.Facts.ContactAge > contactMax {
		return
	}
	if err := g.publish(ctx, s); err != nil {
		g.complain("plan not published", err)
	}
	g.prune(ctx, s)
	for _, name := range g.cfg.Archives {
		if err := g.archiver(ctx, s, name); err != nil {
			g.complain("archiver not named", err)
		}
	}
	if err := g.place(ctx, s); err != nil {
		g.complain("services not placed", err)
	}
}

func (g *Govern) complain(what string, err error) {
	if !errors.Is(err, cluster.ErrConflict) && !errors.Is(err, context.Canceled) {
		g.cfg.Log.Warn(what, "err", err)
	}
}

// publish keeps the plan's text in the agreed state, once every host that is heard has the same one.
func (g *Govern) publish(ctx context.Context, s Snapshot) error {
	entry := s.Agreed[KeyPlan]
	if string(entry.Value) == string(g.cfg.Plan) {
		return nil
	}
	if entry.Revision != 0 && g.cfg.Replaces != nil && !g.cfg.Replaces(entry.Value) {
		return nil
	}
	ours := cmp.Or(s.Outcome.Report.Plan, g.cfg.PlanHash)
	for _, p := range s.Facts.Peers {
		if p.Report != nil && p.AgentAge < heardMax && p.Report.Plan != ours {
			return nil // status names the difference
		}
	}
	_, err := g.cfg.Store.Put(ctx, KeyPlan, g.cfg.Plan, entry.Revision)
	return err
}

// answersKept is how many settled requests stay readable.
const answersKept = 50

// prune removes the oldest settled requests: every host reads all of them with each contact.
func (g *Govern) prune(ctx context.Context, s Snapshot) {
	var settled []cluster.Entry
	for key, e := range s.Agreed {
		if strings.HasPrefix(key, KeyAnswers) {
			settled = append(settled, e)
		}
	}
	slices.SortFunc(settled, func(a, b cluster.Entry) int { return int(a.Revision - b.Revision) })
	for i := 0; i < len(settled)-answersKept; i++ {
		request := s.Agreed[KeyRequests+strings.TrimPrefix(settled[i].Key, KeyAnswers)]
		err := error(nil)
		if request.Revision != 0 { // first, or it would look unsettled
			err = g.cfg.Store.Delete(ctx, request.Key, request.Revision)
		}
		if err == nil {
			err = g.cfg.Store.Delete(ctx, settled[i].Key, settled[i].Revision)
		}
		if err != nil {
			g.complain("settled request not removed", err)
			return
		}
	}
}

// archiver keeps naming one host that takes a database's log into its vault.
func (g *Govern) archiver(ctx context.Context, s Snapshot, name string) error {
	i := slices.IndexFunc(s.Facts.Databases, func(d DatabaseFacts) bool { return d.Name == name })
	if i < 0 || s.Facts.Databases[i].Record.Phase != database.Steady {
		delete(g.vacant, name) // a standby is waited for anew once it serves
		return nil
	}
	key := KeyArchivers + name
	var now string
	entry := s.Agreed[key]
	if entry.Revision != 0 {
		if err := json.Unmarshal(entry.Value, &now); err != nil {
			return err
		}
	}
	record, heard := s.Facts.Databases[i].Record, func(host string) bool { return g.heard(s, host, 2*heardMax) }
	next := ChooseArchiver(record, now, heard)
	if next == "" && g.longVacant(name) && heard(record.Primary) {
		next = record.Primary
	}
	if next != "" {
		delete(g.vacant, name)
	}
	if next == "" || next == now {
		return nil
	}
	value, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if _, err = g.cfg.Store.Put(ctx, key, value, entry.Revision); err == nil {
		g.cfg.Diary.Note("backup", name, next+" archives the log", []string{"the controller named it"}, 0)
	}
	return err
}

// heardMax is the age of a beat up to which a host counts as there.
const heardMax = 2500 * time.Millisecond

func (g *Govern) heard(s Snapshot, host string, limit time.Duration) bool {
	if host == g.cfg.Self {
		return true
	}
	return slices.ContainsFunc(s.Facts.Peers, func(p PeerFacts) bool { return p.Host == host && p.AgentAge < limit })
}

// vacantMax is for how long a standby is waited for before the primary archives its own log. A standby's agent is started again within
// it; log waits on the servers meanwhile.
const vacantMax = 2 * time.Minute

// longVacant reports whether no standby could archive a database for [vacantMax], as far as this controller has seen.
func (g *Govern) longVacant(name string) bool {
	now := g.cfg.Clock.Now()
	since, ok := g.vacant[name]
	if !ok {
		g.vacant[name] = now
		return false
	}
	return now.Sub(since) >= vacantMax
}

// ChooseArchiver says who shall archive a database's log: the one that does, as long as it is heard; else a standby, so that the
// archive outlives the primary's host, and rather one that commits wait for. A primary that is the only member does it itself.
// "" = nobody: the primary can, if it stays so.
func ChooseArchiver(r database.Record, now string, heard func(host string) bool) string {
	if now != "" && r.Holds(now) && heard(now) {
		return now
	}
	for _, v := range r.Voters {
		if v.Host != r.Primary && heard(v.Host) {
			return v.Host
		}
	}
	for _, m := range r.Members { // one that joins as a voter holds nothing yet
		if m != r.Primary && heard(m) && (r.W == 0 || !r.Standing(m).Votes()) {
			return m
		}
	}
	if heard(r.Primary) && len(r.Members) == 1 {
		return r.Primary
	}
	return ""
}

// place lets the service room judge, and stores what it says if that differs.
func (g *Govern) place(ctx context.Context, s Snapshot) error {
	entry := s.Agreed[KeyAssignments]
	var now placement
	if entry.Revision != 0 {
		if err := json.Unmarshal(entry.Value, &now); err != nil {
			return err
		}
	}
	wanted := g.wanted()
	if len(wanted) == 0 && len(now.Services) == 0 {
		return nil
	}
	d := service.Place(service.PlacementPolicy{SingletonGoneAfter: singletonGone}, g.view(s, now, wanted))
	if !d.Changed {
		return nil
	}
	value, err := json.Marshal(placement{Generation: now.Generation + 1, Services: d.Services})
	if err != nil {
		return err
	}
	if _, err = g.cfg.Store.Put(ctx, KeyAssignments, value, entry.Revision); err == nil {
		g.cfg.Diary.Note("service", "", "placement changed", d.Because, 0)
		g.cfg.Log.Info("services placed", "generation", now.Generation+1, "because", d.Because)
	}
	return err
}

// wanted are the services as the plan that counts wants them.
func (g *Govern) wanted() []PlacedService {
	if g.cfg.Services == nil {
		return nil
	}
	return g.cfg.Services()
}

// view is everything that service.Place judges from.
func (g *Govern) view(s Snapshot, now placement, wanted []PlacedService) service.PlacementView {
	v := service.PlacementView{Generation: now.Generation + 1}
	leading := g.cfg.Clock.Now().Sub(g.leadAt)
	for _, h := range g.cfg.Hosts() {
		h.Silence = silence(s, g.cfg.Self, h.Name)
		if h.Silence > leading || h.Silence < 0 && leading > neverHeard {
			h.Silence = leading // nobody is given up for a silence that this controller did not watch
		}
		v.Hosts = append(v.Hosts, h)
	}
	for _, want := range wanted {
		v.Services = append(v.Services, service.ServiceView{
			Name: want.Name, Instances: want.Instances, Hosts: want.Hosts, Version: want.Version, Port: want.Port,
			Placed: placedOf(now.Services, want.Name),
		})
	}
	for _, p := range now.Services {
		if !slices.ContainsFunc(wanted, func(w PlacedService) bool { return w.Name == p.Service }) {
			v.Services = append(v.Services, service.ServiceView{Name: p.Service, Placed: p})
		}
	}
	v.Reports = g.reports(s, now)
	v.Failures = g.remember(v.Reports, now)
	return v
}

// neverHeard is how long a controller waits for the first word of a host before its silence begins to count.
const neverHeard = 6 * time.Second

func placedOf(all []service.Placed, name string) service.Placed {
	for _, p := range all {
		if p.Service == name {
			return p
		}
	}
	return service.Placed{Service: name}
}

func silence(s Snapshot, self, host string) time.Duration {
	if host == self {
		return 0
	}
	for _, p := range s.Facts.Peers {
		if p.Host == host {
			if p.AgentAge == database.Never {
				return -1
			}
			return p.AgentAge
		}
	}
	return -1
}

// reports are what hosts say of the instances that are placed; a host that fell silent is still believed where
// it said that an instance is gone or given up.
func (g *Govern) reports(s Snapshot, now placement) []service.Report {
	heard := map[string]service.Report{}
	add := func(r *Report) {
		if r == nil {
			return
		}
		for _, x := range r.Instances {
			heard[x.ID] = x
			g.last[x.ID] = x
		}
	}
	add(&s.Outcome.Report)
	for _, p := range s.Facts.Peers {
		if p.AgentAge < heardMax {
			add(p.Report)
		}
	}
	var out []service.Report
	placed := map[string]bool{}
	for _, p := range now.Services {
		for _, a := range p.Assignments {
			placed[a.ID] = true
			r, ok := heard[a.ID]
			if !ok {
				r, ok = g.last[a.ID]
				ok = ok && (r.State == service.Gone || r.State == service.Failed)
			}
			if ok {
				out = append(out, r)
			}
		}
	}
	for id := range g.last {
		if !placed[id] {
			delete(g.last, id)
		}
	}
	return out
}

// remember keeps on which hosts a version was given up, and for how long that was so.
func (g *Govern) remember(reports []service.Report, now placement) []service.Failure {
	clock := g.cfg.Clock.Now()
	for _, p := range now.Services {
		for _, a := range p.Assignments {
			i := slices.IndexFunc(reports, func(r service.Report) bool { return r.ID == a.ID && r.State == service.Failed })
			if i < 0 {
				continue
			}
			key := strings.Join([]string{a.Service, a.Host, a.Version}, "\x00")
			g.failures[key] = clock
			g.failed[key] = service.Failure{Service: a.Service, Host: a.Host, Version: a.Version}
		}
	}
	var out []service.Failure
	for key, at := range g.failures {
		f := g.failed[key]
		f.Age = clock.Sub(at)
		if f.Age > time.Hour {
			delete(g.failures, key)
			delete(g.failed, key)
			continue
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b service.Failure) int {
		return strings.Compare(a.Service+a.Host+a.Version, b.Service+b.Host+b.Version)
	})
	return out
}
