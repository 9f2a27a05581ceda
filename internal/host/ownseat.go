package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"holdfast/internal/cluster/etcd"
	"holdfast/internal/problem"
)

const (
	// ownSeatEvery is how often a host asks its own etcd member.
	ownSeatEvery = 2 * time.Second
	// ownSeatAwayMax is how long a member may fail to serve before that is said: longer than it takes to start or to
	// elect a leader.
	ownSeatAwayMax = 10 * time.Second
)

// ownSeat watches this host's own etcd member, so that the host can say whether it votes: the agent reaches the agreed
// state through the other members as well, and would not miss its own.
type ownSeat struct {
	host *Host
	spec memberSpec // as this life of the agent began; who tends the members changes what it is made from

	mu     sync.Mutex // guards what follows
	served time.Time  // when it last did, or when the watching began
	voting *bool      // nil = not known yet
	wrong  *problem.Problem
}

func newOwnSeat(h *Host) *ownSeat {
	return &ownSeat{host: h, spec: h.founding.into(etcdSpec(h.cfg, h.self)), served: h.clock.Now()}
}

// run asks until ctx ends; not at all where the plan gives this host no member, or it has not got its place yet.
func (s *ownSeat) run(ctx context.Context) error {
	h := s.host
	if !h.self.Etcd {
		return nil
	}
	if h.etcd == nil { // it waits for its place, and says so itself
		s.mu.Lock()
		s.voting = new(false)
		s.mu.Unlock()
		return nil
	}
	for {
		p, err := h.askSeat(ctx, etcd.Seat{Name: h.self.Name, ClientURL: s.spec.ClientURL})
		if ctx.Err() != nil {
			return nil
		}
		why := notServing(p, err, h.store.ClusterID())
		var lost error
		if why != "" {
			lost = etcd.DataLost(s.spec.config(h.cfg.Log))
		}
		s.saw(h.clock.Now(), h.self.Name, why, p.Learner, lost)
		if !h.sleep(ctx, ownSeatEvery) {
			return nil
		}
	}
}

// notServing says why a member that answered so is of no use, or "". ours is the cluster that the store talks to; 0 = none yet.
func notServing(p etcd.Probe, err error, ours uint64) string {
	switch {
	case err != nil:
		return "it does not answer"
	case ours != 0 && p.ClusterID != ours:
		return "it belongs to another cluster than the one that answers this host"
	case p.Leader == 0:
		return "it reaches no majority of the others"
	}
	return ""
}

// saw takes in one look: why the member does not serve ("" = it does), and what is wrong with its data then.
func (s *ownSeat) saw(now time.Time, host, why string, learner bool, lost error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var p *problem.Problem
	switch {
	case why == "":
		s.served, s.voting, s.wrong = now, new(!learner), nil
	case errors.Is(lost, etcd.ErrDataLost) && errors.As(lost, &p):
		s.voting, s.wrong = new(false), p
	case now.Sub(s.served) >= ownSeatAwayMax:
		s.voting, s.wrong = new(false), &problem.Problem{
			Code: "cluster.member-away", Subject: host, Severity: problem.Degraded, Title: "its etcd member does not serve: " + why,
			Meaning: fmt.Sprintf("It has not for %s or longer. The others agree while a majority of them runs; this one does not count.", ownSeatAwayMax),
			Remedy: "none if this passes; else holdfast cluster status shows the members, and its words are in keep/etcd/output.log below the host's directory. " +
				"Is it none of the members any more, as after a replacement that was cut off: holdfast cluster replace " + host,
		}
	}
}

// votes reports whether the member serves and votes; nil = not known, or there is none.
func (s *ownSeat) votes() *bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.voting
}

func (s *ownSeat) problems() []problem.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wrong == nil {
		return nil
	}
	return []problem.Problem{*s.wrong}
}
