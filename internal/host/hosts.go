package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/auth"
	"holdfast/internal/cluster"
	"holdfast/internal/cluster/etcd"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// A plan that is applied may have a host more, or one less, or give etcd's members to others. Everything that an agent
// opens hangs on that list: whom it dials, whom its servers let in, which members it asks. So another list is taken over
// by another life of the agent in the same process, as after a restart: servers, services, listeners and the etcd
// member run on under their keepers. One host after the other does so. Meanwhile some have the old list and some the new
// one, and nothing that is agreed on hangs on who has which: records name hosts, and whoever is not known is not heard.

// errHosts ends a life of the agent whose list of hosts is another one now; errLeft the life of a host that the plan does
// not have any more.
var (
	errHosts = errors.New("the plan has other hosts now")
	errLeft  = errors.New("the plan does not have this host any more")
)

const (
	hostsEvery = time.Second
	// turnMax is how long a host waits for those before it: one that hangs in its old list must not keep the others in theirs.
	turnMax = time.Minute
	// heardLately is the age of a beat up to which a host is waited for.
	heardLately = 2500 * time.Millisecond
	// steadyMax is how long a host waits for its databases to be steady before it begins anew.
	steadyMax = time.Minute
)

func hasHost(p *plan.Plan, name string) bool { _, ok := p.Host(name); return ok }

// listOf is the plan with the hosts that this host is to follow; nil while nothing else was adopted.
func (a *applied) listOf() *plan.Plan {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wanted
}

// followHosts looks whether the plan that counts has another list of hosts, until it is this host's turn to begin anew
// with it, or until this host may leave.
func (h *Host) followHosts(ctx context.Context) error {
	var since time.Time
	resigned := false
	for h.sleep(ctx, h.hostsPace()) {
		next := h.applied.listOf()
		if next == nil || plan.SameHosts(h.cfg.Plan, next) {
			if resigned || h.works.ending() { // it stays after all, and leads, or works, again in another life alone
				if h.endLong() {
					return h.signal(ctx, errHosts)
				}
				continue
			}
			since = time.Time{}
			continue
		}
		if since.IsZero() {
			since = h.clock.Now()
		}
		waited := h.clock.Now().Sub(since)
		if !hasHost(next, h.cfg.Self) {
			h.stopElecting() // whoever leads from now on places nothing here
			resigned = true
			if h.mayLeave(ctx) {
				return h.signal(ctx, errLeft)
			}
			continue
		}
		now := h.agent.Last()
		steady := !slices.ContainsFunc(now.Facts.Databases, func(d agent.DatabaseFacts) bool { return d.Revision > 0 && !d.Record.Opened })
		if ourTurn(h.cfg.Self, h.cfg.Plan, next, now, waited) && (steady || waited > steadyMax) {
			if !h.works.ending() { // a plan that changes once more meanwhile waits for the life after the next
				if err := h.applied.store(); err != nil {
					h.cfg.Log.Error("applied plan not kept: this host goes on with the hosts of before", "err", err)
					continue
				}
			}
			if h.endLong() {
				return h.signal(ctx, errHosts)
			}
		}
	}
	return nil
}

// hostsPace is how long to wait before the next look at the list: a host whose turn it is waits only for what must end before.
func (h *Host) hostsPace() time.Duration {
	if h.works.ending() {
		return hostsEvery / 5
	}
	return hostsEvery
}

// signal ends this life with a reason.
func (h *Host) signal(ctx context.Context, why error) error {
	select {
	case h.ends <- why:
	case <-ctx.Done():
	}
	return nil
}

// ourTurn reports whether this host may begin anew with the list of next: by name, each waits for those before it that are
// heard and tell of another list. One of an earlier version tells of none.
func ourTurn(self string, old, next *plan.Plan, now agent.Snapshot, waited time.Duration) bool {
	if waited > turnMax {
		return true
	}
	want := plan.HostsDigest(next)
	for _, p := range now.Facts.Peers {
		if p.Host > self || !hasHost(old, p.Host) || !hasHost(next, p.Host) || p.Report == nil || p.AgentAge > heardLately {
			continue
		}
		if p.Report.Hosts != "" && p.Report.Hosts != want {
			return false
		}
	}
	return true
}

// mayLeave reports whether a host that the plan does not have any more holds nothing that the others need: no member of
// etcd, and no copy of a database that counts.
func (h *Host) mayLeave(ctx context.Context) bool {
	facts := h.agent.Last().Facts
	if !facts.Known {
		return false // nor does it know that, before its first round or without the agreed state
	}
	for _, d := range facts.Databases {
		if d.Record.Holds(h.cfg.Self) {
			return false // whoever applied the plan saw to it; but whatever is agreed counts
		}
	}
	if h.etcd == nil {
		return true
	}
	gone, err := h.seatGone(ctx)
	return err == nil && gone
}

// seatGone reports whether no member of the cluster is this host's.
func (h *Host) seatGone(ctx context.Context) (bool, error) {
	seats, err := h.store.Seats(ctx)
	if err != nil {
		return false, err
	}
	_, has := seatOf(seats, h.cfg.Self, peerURL(h.cfg.Plan, h.self))
	return !has, nil
}

// seatOf is a host's member: by its address, which no two hosts share.
func seatOf(seats []etcd.Seat, name, url string) (etcd.Seat, bool) {
	i := slices.IndexFunc(seats, func(s etcd.Seat) bool { return s.PeerURL == url || s.Name == name })
	if i < 0 {
		return etcd.Seat{}, false
	}
	return seats[i], true
}

// leave ends what runs here, and keeps the plan without this host beside its data: from then on no start of the agent
// does anything but wait for a place. No data are removed.
func (h *Host) leave(ctx context.Context, stopKeeping func(), begin func(func() error)) error {
	h.cfg.Log.Warn("the plan does not have this host any more: everything of it ends here, and its data stay")
	h.diary.Note("plan", h.cfg.Self, "this host is not of the plan any more", []string{"the applied plan does not have it", "its data are kept"}, 0)
	if err := h.goDown(ctx, stopKeeping, begin); err != nil {
		return err
	}
	if err := forgetMember(h.cfg.Dir, h.clock.Now()); err != nil {
		return err
	}
	h.applied.mu.Lock()
	text := h.applied.text
	h.applied.mu.Unlock()
	return h.applied.storeText(text)
}

// notOfThePlan says that an agent has nothing to do.
func notOfThePlan(self, application string) *problem.Problem {
	return &problem.Problem{
		Code: "plan.host-not-in-it", Subject: self, Severity: problem.Degraded,
		Title:   "the plan that the application of " + application + " follows does not have this host",
		Meaning: "Nothing of the application runs here, and nothing here is touched: data that lie here stay.",
		Remedy:  "to have it, apply a plan with it on another host (holdfast apply PLAN), and this agent takes part by itself; else end this agent",
	}
}

// placeEvery is how often an agent without a place looks whether the plan has it.
const placeEvery = 3 * time.Second

// awaitPlace waits until the plan that the others follow has this host; came = it has. It runs nothing. Whom it asks may all be
// gone by now: where those that it knew do not answer, it asks the members that its plan file names, and those again.
func awaitPlace(ctx context.Context, cfg Config, down <-chan struct{}) (came bool, err error) {
	p := notOfThePlan(cfg.Self, cfg.Plan.Application)
	cfg.Log.Warn(p.Title, "meaning", p.Meaning, "remedy", p.Remedy)
	conf, err := auth.ClientTLS(certDir(cfg.Dir), "")
	if err != nil {
		return false, fmt.Errorf("read this host's certificate: %w", err)
	}
	own, err := readFounding(cfg.Dir)
	if err != nil {
		return false, err
	}
	store, err := openStore(context.WithoutCancel(ctx), cfg, own, etcd.Config{TLS: conf})
	if err != nil {
		return false, err
	}
	defer func() { _ = store.Close() }() // only read from
	asked, next := own.endpoints(cfg.Plan), etcdEndpoints(cfg.Plan)
	told := map[string]bool{} // what to do where it is not known, since it was known last
	for {
		e, err := store.Get(ctx, agent.KeyPlan)
		if err != nil {
			if do := placeUnknown(cfg, err); ctx.Err() == nil && !told[do] {
				told[do] = true
				cfg.Log.Warn("whether the plan has this host is not known", "asked", asked, "err", err, "remedy", do)
			}
			asked, next = next, asked
			store.Use(asked)
		} else if clear(told); placed(cfg, e.Value) {
			if err := takePlace(ctx, cfg, store, e.Value); err == nil {
				cfg.Log.Info("the plan has this host")
				return true, nil
			} else if !errors.Is(err, cluster.ErrUnavailable) {
				return false, err
			}
		}
		t := time.NewTimer(placeEvery)
		select {
		case <-ctx.Done():
			t.Stop()
			return false, nil
		case <-down:
			t.Stop()
			return false, nil
		case <-t.C:
		}
	}
}

// placeUnknown is what to do where nobody says whether the plan has this host.
func placeUnknown(cfg Config, err error) string {
	if errors.Is(err, etcd.ErrOtherCluster) {
		return "the others have founded a cluster anew since this host was one of them, and it takes no answers of that one: end this agent, move all of " +
			cfg.Dir + " but " + certDir(cfg.Dir) + " away, and start it again"
	}
	return "see that the members of etcd run, and that the plan file of this host names some of them"
}

// takePlace keeps the plan that has this host. One that never was of any cluster is of the one that answers from now on, however often
// that was rebuilt: it has nothing from before which could be overruled.
func takePlace(ctx context.Context, cfg Config, store *etcd.Store, text []byte) error {
	if !Founded(cfg.Dir) {
		r, _, err := cluster.Key[agent.Recovery](agent.KeyRecovery).Load(ctx, store)
		if err != nil {
			return err
		}
		if r.Number > 0 {
			if err := (founding{ClusterID: store.ClusterID(), Founding: r.Founding, Recovery: r.Number}).write(cfg.Dir); err != nil {
				return err
			}
		}
	}
	return newApplied(cfg).storeText(string(text))
}

// judgedNow says of the file that this host was started with whether it is as the plan that was just read: what is applied
// from now on does not make it older than that.
func judgedNow(cfg Config) *applied {
	cfg.former = nil
	now := newApplied(cfg)
	return &applied{stale: now.hash != canonicalHash(cfg.Plan, nil, nil)}
}

// placed reports whether an applied text has this host.
func placed(cfg Config, text []byte) bool {
	p, _ := plan.Parse(cfg.Plan.File, text)
	return p != nil && len(text) > 0 && hasHost(p, cfg.Self)
}

// waitsForPlace reports whether this host must not begin before it knows that the plan has it: it was taken in by none yet,
// and founds nothing.
func waitsForPlace(cfg Config) (bool, error) {
	if _, err := os.Lstat(appliedFile(cfg.Dir)); err == nil || Founded(cfg.Dir) {
		return false, nil
	}
	founders, err := ReadFounders(certDir(cfg.Dir))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && !slices.Contains(founders, cfg.Self), err
}
