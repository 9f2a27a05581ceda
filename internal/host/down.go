package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/cluster"
	"holdfast/internal/database/kernelpath"
	"holdfast/internal/problem"
)

const (
	// goodOrderMax is how long what runs on this host may take to end by itself before it is killed.
	goodOrderMax = time.Minute
	// askStopMax bounds the question whether the whole application stops: the answer of before serves too.
	askStopMax = 2 * time.Second
	stopAgain  = 200 * time.Millisecond
	// hearStop is how long a standby listens for its primary's stop before it ends: hosts that are told to end together hear of it
	// one after the other, each asks whether it was agreed, and a report takes a round and a beat.
	hearStop = time.Second
)

// goDown ends everything of this host: services first, then the databases, then listeners, at last the etcd member. keep
// is ended first so that nothing comes back. Where the whole application stops, a standby waits for its primary, so that
// it has all of its log; where nothing says so, it waits only if its primary says that it stops, too. begin starts what is waited
// for after goDown, too: a stop of a server may wait for work that only the end of the agent's rounds interrupts.
func (h *Host) goDown(ctx context.Context, stopKeeping func(), begin func(func() error)) error {
	stopKeeping()
	alone := stopsAlone(ctx, h.store, h.agent.Last())
	h.agent.Stop()
	ordered, orderEnds := context.WithTimeout(ctx, goodOrderMax)
	defer orderEnds()
	if alone {
		h.cfg.Log.Info("this host stops, the others go on")
		for name, s := range h.servers {
			begin(func() error { h.stopStandby(ordered, name, s, h.agent.Last); return nil })
		}
	}
	err := h.agent.WaitStopped(ordered, goodOrderMax)
	orderEnds()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	errs := []error{err}
	for name, s := range h.servers {
		if e := s.Kill(ctx, "the host is stopped"); e != nil {
			errs = append(errs, fmt.Errorf("stop database %s: %w", name, e))
		}
	}
	for _, c := range append(slices.Clone(h.children), *h.edge) {
		if e := c.stop(ctx, stopGrace); e != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", c.name, e))
		}
	}
	errs = append(errs, h.restored.stop(ctx))
	h.releaseName(ctx)
	errs = append(errs, kernelpath.Sweep(h.cfg.Plan.Application, h.self.Name)) // of listeners that were killed
	if h.etcd != nil {
		if e := h.etcd.stop(ctx, stopGrace); e != nil {
			errs = append(errs, fmt.Errorf("stop etcd: %w", e))
		}
	}
	return errors.Join(errs...)
}

// reader reads what the hosts agree on.
type reader interface {
	Get(ctx context.Context, key string) (cluster.Entry, error)
}

// stopsAlone reports whether nothing says that the whole application stops. It asks, for whoever stops everything says so
// just before the agents are told to end; without an answer, what was known before counts.
func stopsAlone(ctx context.Context, agreed reader, last agent.Snapshot) bool {
	ctx, cancel := context.WithTimeout(ctx, askStopMax)
	defer cancel()
	if e, err := agreed.Get(ctx, agent.KeyStopping); err == nil {
		return e.Revision == 0
	}
	_, all := last.Agreed[agent.KeyStopping]
	return !all
}

// fastStopper is a database's server on this host, as far as ending it goes.
type fastStopper interface {
	StopFast(ctx context.Context) error
}

// stopStandby ends a server that is no primary in good order, and looks again until ctx ends: an action of a round that
// was under way may start it once more.
func (h *Host) stopStandby(ctx context.Context, name string, s fastStopper, last func() agent.Snapshot) {
	if !h.sleep(ctx, hearStop) {
		return
	}
	for {
		if mayStopNow(last(), h.cfg.Self, name) {
			if err := s.StopFast(ctx); err != nil && ctx.Err() == nil {
				h.cfg.Log.Info("standby not stopped yet", "database", name, "err", err)
			}
		}
		if !h.sleep(ctx, stopAgain) {
			return
		}
	}
}

// mayStopNow reports whether this host's own server of a database is to be ended here: the rounds start nothing any more,
// it runs, and it is no primary, which the rounds end themselves. A standby whose primary stops, too, is left to them as well:
// they end it once the primary has ended or is silent, and so it gets all of the log. Hosts that were all told to end without a
// majority stop so, for nothing could be agreed.
func mayStopNow(now agent.Snapshot, self, name string) bool {
	if !now.Facts.Stopping {
		return false
	}
	for _, d := range now.Facts.Databases {
		if d.Name == name {
			return d.Local.Running && (!now.Facts.Known || d.Record.Primary != self && !saysItStops(now, d.Record.Primary))
		}
	}
	return false
}

// saysItStops reports whether a peer's newest report tells of a stop. Reports have one code for it, whatever stops; the API words
// it for people.
func saysItStops(now agent.Snapshot, host string) bool {
	return slices.ContainsFunc(now.Facts.Peers, func(p agent.PeerFacts) bool {
		return p.Host == host && p.Report != nil &&
			slices.ContainsFunc(p.Report.Problems, func(x problem.Problem) bool { return x.Code == "cluster.stopping" })
	})
}
