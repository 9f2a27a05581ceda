package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/internal/database/kernelpath"
	"holdfast/internal/edge/proxy"
	"holdfast/internal/keeper"
	"holdfast/internal/plan"
)

// stopGrace is how long a child may take to end by itself before its tree is killed.
const stopGrace = 10 * time.Second

// prepareChildren writes the orders of this host's own long-lived processes.
func (h *Host) prepareChildren() error {
	keeps, err := keepsMember(h.cfg, h.founding, h.self.Etcd)
	if err != nil {
		return err
	}
	if keeps {
		c := newChild(h.cfg, "etcd", "etcd-member")
		if err := c.writeSpec(h.founding.into(etcdSpec(h.cfg, h.self))); err != nil {
			return err
		}
		h.etcd = &c
	}
	var served []string
	for _, d := range h.plan().Databases {
		served = append(served, d.Name)
		l, err := h.prepareListener(d)
		if err != nil {
			return err
		}
		h.listeners = append(h.listeners, l)
		h.children = append(h.children, l.child)
	}
	if err := kernelpath.Sweep(h.cfg.Plan.Application, h.self.Name, served...); err != nil {
		h.cfg.Log.Error("rules of a database that the plan no longer has are not removed", "err", err)
	}
	c := newChild(h.cfg, "edge", "edge")
	h.edge = &c
	return c.writeSpec(proxy.Spec{Host: h.self.Name, Control: edgeSocket(h.cfg.Dir), StateFile: edgeState(h.cfg.Dir)})
}

// keepEdge waits until the plan that counts has a route, or an edge has one that must end, and keeps the balancer's process alive from then on, until
// keep ends.
func (h *Host) keepEdge(ctx, keep context.Context) error {
	for !hasRoutes(h.plan()) && !h.balancer.served() {
		if !h.sleep(ctx, listeningEvery) {
			return nil
		}
	}
	return h.edge.run(keep)
}

// portsFree refuses to begin where somebody else listens on a port that a child of ours does not hold yet.
func portsFree(ctx context.Context, cfg Config, self plan.Host) error {
	p, bad := cfg.Plan, []error(nil)
	check := func(what, child string, port int) {
		if child != "" {
			_, state, err := keeper.Find(keepDir(cfg.Dir, child))
			if err == nil && state.Condition == keeper.Alive {
				return
			}
		}
		if err := portFree(ctx, what, self.Address, port); err != nil {
			bad = append(bad, err)
		}
	}
	check("the agent of "+self.Name, "", p.Ports.Agent)
	if self.Etcd {
		check("etcd on "+self.Name, "etcd", p.Ports.EtcdClient)
		check("etcd on "+self.Name, "etcd", p.Ports.EtcdPeer)
	}
	for _, s := range p.Services {
		if s.Route != nil {
			check(fmt.Sprintf("the route of %s on %s", s.Name, self.Name), "edge", s.Route.Port)
		}
	}
	for _, d := range p.Databases {
		check(fmt.Sprintf("the listener of %s on %s", d.Name, self.Name), "gate-"+d.Name, d.WritePort)
		if d.ReadPort != 0 {
			check(fmt.Sprintf("the read-only listener of %s on %s", d.Name, self.Name), "gate-"+d.Name, d.ReadPort)
		}
	}
	return errors.Join(bad...)
}
