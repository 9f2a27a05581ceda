package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/cluster/etcd"
	"holdfast/internal/event"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// fsyncTries is how many syncs a status measures; the slowest is told.
const fsyncTries = 5

var _ api.Cluster = (*Host)(nil)

// Describe implements api.Cluster.
func (h *Host) Describe(ctx context.Context) api.ClusterStatus {
	snap := h.agent.Last()
	st := api.ClusterStatus{Host: h.cfg.Self, Reachable: true, WrittenOff: snap.Facts.WrittenOff()}
	if id := h.store.ClusterID(); id != 0 {
		st.ClusterID = fmt.Sprintf("%x", id)
	}
	var asked sync.WaitGroup
	asked.Go(func() {
		if _, err := h.store.Get(ctx, agent.KeyPlan); err != nil {
			st.Reachable, st.Trouble = false, err.Error()
		}
	})
	asked.Go(func() { st.Seats = h.seats(ctx) })
	asked.Wait()
	if h.self.Etcd {
		st.Fsync = h.fsync()
	}
	for _, v := range h.cfg.Plan.Vaults {
		var s agent.Saved
		if e, ok := snap.Agreed[agent.KeySaved+v.Name]; ok && json.Unmarshal(e.Value, &s) == nil {
			st.Saved = append(st.Saved, s)
		}
	}
	var r agent.Recovery
	if e, ok := snap.Agreed[agent.KeyRecovery]; ok && json.Unmarshal(e.Value, &r) == nil {
		st.Recovery = &r
	}
	for _, d := range snap.Facts.Databases {
		if p := d.Local.Promise; p.Epoch > 0 {
			st.Promised = append(st.Promised, api.PromisedEpoch{Database: d.Name, Epoch: p.Epoch, Generation: p.Generation})
		}
	}
	return st
}

// seats asks each member for itself. Without a majority the list is the plan's.
func (h *Host) seats(ctx context.Context) []api.SeatStatus {
	listing, cancel := context.WithTimeout(ctx, seatMax)
	defer cancel()
	known, err := h.store.Seats(listing)
	if err != nil {
		for _, x := range h.cfg.Plan.HomeSite().EtcdHosts() {
			known = append(known, etcd.Seat{Name: x.Name, ClientURL: "https://" + hostPort(x.Address, h.cfg.Plan.Ports.EtcdClient)})
		}
	}
	out := make([]api.SeatStatus, len(known))
	var asked sync.WaitGroup
	for i, s := range known {
		asked.Go(func() { out[i] = h.seat(ctx, s) })
	}
	asked.Wait()
	slices.SortFunc(out, func(a, b api.SeatStatus) int { return strings.Compare(a.Host, b.Host) })
	return out
}

// seat is one member as it answers for itself.
func (h *Host) seat(ctx context.Context, s etcd.Seat) api.SeatStatus {
	x := api.SeatStatus{Host: h.seatHost(s), Role: "voter"}
	if s.Learner {
		x.Role = "learner"
	}
	switch p, err := h.askSeat(ctx, s); {
	case err != nil:
		x.Trouble = err.Error()
	case p.ClusterID != h.store.ClusterID() && h.store.ClusterID() != 0:
		x.Trouble = fmt.Sprintf("a member of another cluster answers there (%x)", p.ClusterID)
	default:
		// A member without a majority answers for itself, and names no leader.
		x.Serves, x.Leader, x.Bytes, x.Trouble = p.Leader != 0, p.Leader == p.ID, p.DBBytes, strings.Join(p.Errors, "; ")
	}
	return x
}

// seatMax bounds how long one member may take to answer for itself.
const seatMax = time.Second

func (h *Host) askSeat(ctx context.Context, s etcd.Seat) (etcd.Probe, error) {
	if s.ClientURL == "" {
		return etcd.Probe{}, errors.New("it has not run yet")
	}
	ctx, cancel := context.WithTimeout(ctx, seatMax)
	defer cancel()
	return h.store.Ask(ctx, s.ClientURL)
}

// seatHost is the host of a member; one that has not run yet is known by its address alone.
func (h *Host) seatHost(s etcd.Seat) string {
	if s.Name != "" {
		return s.Name
	}
	for _, x := range h.cfg.Plan.AllHosts() {
		if peerURL(h.cfg.Plan, x) == s.PeerURL {
			return x.Name
		}
	}
	return s.PeerURL
}

func peerURL(p *plan.Plan, x plan.Host) string {
	return "https://" + hostPort(x.Address, p.Ports.EtcdPeer)
}

// fsync is the slowest of a few writes beside our member's data that were asked to be on the disk; 0 = not measured.
func (h *Host) fsync() event.Duration {
	f, err := os.CreateTemp(h.cfg.Dir, ".fsync-")
	if err != nil {
		return 0
	}
	defer func() { _ = errors.Join(f.Close(), os.Remove(f.Name())) }() // nothing is kept in it
	var worst time.Duration
	for range fsyncTries {
		began := h.clock.Now()
		if _, err := f.WriteAt(make([]byte, 2048), 0); err != nil || f.Sync() != nil {
			return 0
		}
		worst = max(worst, h.clock.Now().Sub(began))
	}
	return event.Duration(worst)
}

// MayReplace implements api.Cluster.
func (h *Host) MayReplace(ctx context.Context, name string) error {
	_, _, err := h.replaceable(ctx, name)
	return err
}

// replaceable is a host whose place may be given away, or that keeps none, with the seats that there are.
func (h *Host) replaceable(ctx context.Context, name string) (plan.Host, []etcd.Seat, error) {
	to, ok := h.cfg.Plan.Host(name)
	if !ok {
		p := api.UnknownHost(name, h.cfg.Plan.HostNames())
		return to, nil, &p
	}
	seats, err := h.store.Seats(ctx)
	switch {
	case err != nil:
	case to.Etcd:
		err = h.mayReplace(ctx, to, seats)
	case slices.ContainsFunc(seats, func(s etcd.Seat) bool { return h.seatHost(s) == to.Name }):
		p := stillSeated(to.Name)
		err = &p
	}
	return to, seats, err
}

func stillSeated(host string) problem.Problem {
	return problem.Problem{
		Code: "cluster.seat-lives", Subject: host, Severity: problem.Note,
		Title:   "the plan gives it no etcd member any more, and its member has not left yet",
		Meaning: "Nothing was changed. An empty member under that one's id would have forgotten what it voted for.",
		Remedy:  "see that the host which takes its place runs: holdfast cluster status; the member leaves by itself then, and this host can be replaced",
	}
}

// admits reports whether an order to join fits this host: one that keeps a member is told its place, and any other none.
func (f founding) admits(self plan.Host, peerURL string) bool {
	want := ""
	if self.Etcd {
		want = peerURL
	}
	return f.ClusterID != 0 && len(f.Clients) > 0 && f.Members[self.Name] == want
}

// Replace implements api.Cluster.
func (h *Host) Replace(ctx context.Context, name string) (api.JoinOrder, error) {
	to, seats, err := h.replaceable(ctx, name)
	if err != nil {
		return nil, err
	}
	order, err := h.giveSeat(ctx, to, seats, "an operator asked for it")
	if err != nil {
		return nil, err
	}
	return order, freeName(ctx, h.names, to.Name, h.clock, h.sleep)
}

// giveSeat gives a host's place to an empty member, where the plan gives it one, and says what the host must be told.
func (h *Host) giveSeat(ctx context.Context, to plan.Host, seats []etcd.Seat, because string) (api.JoinOrder, error) {
	var err error
	if to.Etcd {
		if err := h.store.Replace(ctx, to.Name, peerURL(h.cfg.Plan, to)); err != nil {
			return nil, err
		}
		if seats, err = h.store.Seats(ctx); err != nil {
			return nil, err
		}
		h.diary.Note("cluster", to.Name, "its place among etcd's members is an empty one's", []string{because}, 0)
	}
	next := founding{ClusterID: h.store.ClusterID(), Recovery: h.recovery, Join: true, Members: map[string]string{}}
	own, err := readFounding(h.cfg.Dir)
	if err != nil {
		return nil, err
	}
	next.Founding = own.Founding
	for _, s := range seats {
		next.Members[h.seatHost(s)] = s.PeerURL
		if to.Etcd && s.PeerURL == peerURL(h.cfg.Plan, to) {
			next.Seat = s.ID
		}
		if s.ClientURL != "" && !s.Learner {
			next.Clients = append(next.Clients, s.ClientURL)
		}
	}
	slices.Sort(next.Clients)
	b, err := json.Marshal(joinOrder{Founding: next})
	return api.JoinOrder(b), err
}

// mayReplace refuses to take the seat of a member that serves, and one whose loss would leave no majority.
func (h *Host) mayReplace(ctx context.Context, to plan.Host, seats []etcd.Seat) error {
	if to.Name == h.cfg.Self {
		return &problem.Problem{
			Code: "cluster.seat-lives", Subject: to.Name, Severity: problem.Note, Title: "its own member is the one that was asked",
			Meaning: "Nothing was changed.", Remedy: "ask again: another host's agent carries it out",
		}
	}
	for _, s := range seats {
		if s.Name != to.Name || s.Learner {
			continue
		}
		p, err := h.askSeat(ctx, s)
		if err == nil && p.ClusterID == h.store.ClusterID() && p.Leader != 0 {
			return &problem.Problem{
				Code: "cluster.seat-lives", Subject: to.Name, Severity: problem.Note, Title: "its etcd member serves, so there is nothing to replace",
				Meaning: "Nothing was changed. Its place is only given away when its data are gone, or when it was written off.",
				Remedy:  "holdfast cluster status shows the members; to move it to another disk, stop the host first",
			}
		}
	}
	return nil
}

// Join implements api.Cluster.
func (h *Host) Join(ctx context.Context, raw api.JoinOrder) error {
	var order joinOrder
	if err := json.Unmarshal(raw, &order); err != nil {
		return fmt.Errorf("read the order to join: %w", err)
	}
	next := order.Founding
	switch {
	case !next.admits(h.self, peerURL(h.cfg.Plan, h.self)):
		return &problem.Problem{
			Code: "api.bad-request", Subject: h.cfg.Self, Severity: problem.Note, Title: "the order to join names no cluster with a place for this host",
			Meaning: "Nothing was changed.", Remedy: "use a command line of the same version as the agents",
		}
	case next.Recovery < h.recovery:
		return &problem.Problem{
			Code: "cluster.older", Subject: h.cfg.Self, Severity: problem.Critical,
			Title:   fmt.Sprintf("it was told to join a cluster that was rebuilt %d times; its own was rebuilt %d times", next.Recovery, h.recovery),
			Meaning: "The order came from a host that was written off. Nothing was changed.", Remedy: "holdfast cluster status shows who goes on",
		}
	}
	now, err := readFounding(h.cfg.Dir)
	if err != nil {
		return err
	}
	if now.same(next) {
		return nil // the answer to the first time was lost
	}
	if h.passed(ctx, next) {
		return &problem.Problem{
			Code: "api.bad-request", Subject: h.cfg.Self, Severity: problem.Note, Title: "the order to join names a place that was given to another empty member since",
			Meaning: "Nothing was changed here.", Remedy: "holdfast cluster status; if it does not take part, once more: holdfast cluster replace " + h.cfg.Self,
		}
	}
	if err := writeJSON(joinFile(h.cfg.Dir), order); err != nil {
		return fmt.Errorf("keep the order to join: %w", err)
	}
	select {
	case h.joins <- struct{}{}:
	default: // told already
	}
	return nil
}

// passed reports whether the place that an order names is certainly not there any more: two may have asked for one at a time, and only
// the last order holds. A member with a former one would never be let in.
func (h *Host) passed(ctx context.Context, order founding) bool {
	if order.Seat == 0 || order.ClusterID != h.store.ClusterID() {
		return false
	}
	seats, err := h.store.Seats(ctx)
	return err == nil && !slices.ContainsFunc(seats, func(s etcd.Seat) bool { return s.ID == order.Seat })
}
