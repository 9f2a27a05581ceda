package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"holdfast/internal/cluster/etcd"
	"holdfast/internal/durable"
	"holdfast/internal/plan"
)

// founding is which cluster this host belongs to, as its own disk says. The first cluster of an application is
// founded from the plan alone; after the loss of a majority another takes its place (internal/rebuild), and a host
// must never take answers of the one for those of the other.
type founding struct {
	ClusterID uint64            `json:"cluster_id,string"` // 0 = none has answered yet
	Founding  string            `json:"founding,omitempty"`
	Recovery  int64             `json:"recovery,omitempty"`
	Members   map[string]string `json:"members,omitempty"`     // peer URLs with which our own member starts the first time; nil = the plan's
	Join      bool              `json:"join,omitempty"`        // our own member enters a cluster that runs
	Seat      uint64            `json:"seat,string,omitempty"` // the id of the member that it joined with: an order is carried out once
	Clients   []string          `json:"clients,omitempty"`     // where to ask, sorted; nil = where the plan says
}

func foundingFile(dir string) string { return filepath.Join(dir, "etcd.cluster") }

// readFounding gives the zero value on a host that has never reached a cluster.
func readFounding(dir string) (founding, error) {
	var f founding
	err := readJSON(foundingFile(dir), &f)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f, fmt.Errorf("read which cluster this host belongs to: %w", err)
	}
	return f, nil
}

func (f founding) write(dir string) error {
	if err := writeJSON(foundingFile(dir), f); err != nil {
		return fmt.Errorf("write which cluster this host belongs to: %w", err)
	}
	return nil
}

// endpoints are where the agreed state is asked for.
func (f founding) endpoints(p *plan.Plan) []string {
	if len(f.Clients) > 0 {
		return f.Clients
	}
	return etcdEndpoints(p)
}

// overruling is what this host has heard of a cluster that was rebuilt without it.
type overruling struct {
	Number int64  `json:"number"`
	By     string `json:"by"` // who told
}

func overruledFile(dir string) string { return filepath.Join(dir, "written-off") }

func readOverruling(dir string) (overruling, error) {
	var o overruling
	err := readJSON(overruledFile(dir), &o)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return o, fmt.Errorf("read whether this host was written off: %w", err)
	}
	return o, nil
}

// overrule keeps what was heard for the host's next life.
func (h *Host) overrule(number int64, by string) {
	if number <= h.recovery {
		return
	}
	if err := writeJSON(overruledFile(h.cfg.Dir), overruling{number, by}); err != nil {
		h.cfg.Log.Error("not kept that this host was written off", "err", err)
	}
	h.cfg.Log.Error("this host was written off: the others rebuilt the agreed state without it", "told_by", by, "recovery", number)
	h.diary.Note("cluster", h.cfg.Self, "written off", []string{by + " tells of a rebuilt agreed state"}, 0)
}

// membersEvery is how often a host looks whether the members' addresses have changed.
const membersEvery = 10 * time.Second

// keepMembers keeps on disk which cluster this is and where its members are, so that this host finds it again
// whatever the plan says by then.
func (h *Host) keepMembers(ctx context.Context) error {
	for {
		if err := h.learnMembers(ctx); err != nil && ctx.Err() == nil {
			h.cfg.Log.Debug("members not learnt", "err", err)
		}
		if h.govern.Leading() {
			if err := h.arrangeSeats(ctx); err != nil && ctx.Err() == nil {
				h.cfg.Log.Info("etcd's members are not those of the plan yet", "err", err)
			}
		}
		if err := h.keepSeat(ctx); err != nil && ctx.Err() == nil {
			h.cfg.Log.Info("this host's own member is not as the plan wants it yet", "err", err)
		}
		if !h.sleep(ctx, membersEvery) {
			return nil
		}
	}
}

func (h *Host) learnMembers(ctx context.Context) error {
	seats, err := h.store.Seats(ctx)
	if err != nil {
		return err
	}
	var clients []string
	for _, s := range seats {
		if !s.Learner && s.ClientURL != "" {
			clients = append(clients, s.ClientURL)
		}
	}
	slices.Sort(clients)
	now := h.founding
	if len(clients) == 0 || slices.Equal(clients, now.Clients) && now.ClusterID == h.store.ClusterID() {
		return nil
	}
	now.Clients, now.ClusterID = clients, h.store.ClusterID()
	if err := now.write(h.cfg.Dir); err != nil {
		return err
	}
	h.founding = now
	h.store.Use(clients)
	h.names.Use(clients)
	return nil
}

// seatNow names the learners to let vote: one when the voters are even, else two or none.
func seatNow(seats []etcd.Seat) []string {
	voters := 0
	var learners []string
	for _, s := range seats {
		switch {
		case !s.Learner:
			voters++
		case s.Name != "":
			learners = append(learners, s.Name)
		}
	}
	slices.Sort(learners)
	want := 1 + voters%2
	if len(learners) < want {
		return nil
	}
	return learners[:want]
}

// joinOrder makes a host enter a cluster as an empty member. It is carried out by the next start of the agent.
type joinOrder struct {
	Founding founding `json:"founding"`
}

func joinFile(dir string) string { return filepath.Join(dir, "etcd.join") }

// join carries out an order to enter another cluster, if there is one: our own member ends, what it held is put aside,
// and nothing of its old life is left that could start again. Each step may be repeated.
func join(ctx context.Context, cfg Config) error {
	var order joinOrder
	err := readJSON(joinFile(cfg.Dir), &order)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the order to join: %w", err)
	}
	now, err := readFounding(cfg.Dir)
	if err != nil {
		return err
	}
	if !now.same(order.Founding) {
		if err := newChild(cfg, "etcd", "etcd-member").stop(ctx, stopGrace); err != nil {
			return fmt.Errorf("stop the etcd member before it joins anew: %w", err)
		}
		if err := putAside(cfg.Dir, time.Now()); err != nil {
			return err
		}
		if err := order.Founding.write(cfg.Dir); err != nil {
			return err
		}
	}
	for _, path := range []string{overruledFile(cfg.Dir), joinFile(cfg.Dir)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("join the cluster: %w", err)
		}
	}
	cfg.Log.Info("joining the cluster with an empty member", "founding", order.Founding.Founding)
	return durable.SyncDir(cfg.Dir)
}

// same reports whether a host has entered with this very order already. Its member may have run by now, and must not
// begin empty under the same id once more. An order to a host that keeps no member says nothing but which cluster it is and
// who is asked.
func (f founding) same(order founding) bool {
	if f.Seat == 0 && order.Seat == 0 && f.Join && order.Join {
		return f.ClusterID == order.ClusterID && f.Recovery == order.Recovery && slices.Equal(f.Clients, order.Clients)
	}
	return f.Seat != 0 && f.Seat == order.Seat && f.ClusterID == order.ClusterID
}

// memberFiles are a member's data and its marker, below a host's directory.
func memberFiles(dir string) (data, marker string) {
	return filepath.Join(dir, "etcd"), filepath.Join(dir, "etcd.member")
}

// putAside keeps a member's data under another name, for whoever must look later, and removes its marker: an empty
// member may be born in its place.
func putAside(dir string, now time.Time) error {
	_, marker := memberFiles(dir)
	if err := os.Remove(marker); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("put the member's data aside: %w", err)
	}
	return keepAside(dir, now)
}

// keepAside is putAside that leaves the marker: no member starts before that is gone.
func keepAside(dir string, now time.Time) error {
	data, _ := memberFiles(dir)
	aside := data + ".before-" + now.UTC().Format("20060102T150405.000")
	if err := os.Rename(data, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("put the member's data aside: %w", err)
	}
	return durable.SyncDir(dir)
}

// into puts what belongs to a cluster into the orders of this host's member.
func (f founding) into(s memberSpec) memberSpec {
	if f.Members != nil {
		s.Cluster, s.Founding, s.Join = maps.Clone(f.Members), f.Founding, f.Join
	}
	return s
}

func openStore(ctx context.Context, cfg Config, f founding, conf etcd.Config) (*etcd.Store, error) {
	conf.Endpoints, conf.ClusterID, conf.Founding, conf.Log = f.endpoints(cfg.Plan), f.ClusterID, f.Founding, cfg.Log
	return etcd.Open(ctx, conf)
}

func readJSON(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, from any) error {
	b, err := json.MarshalIndent(from, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(b, '\n'), 0o600)
}
