package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Seat is one member as the cluster knows it.
type Seat struct {
	Name    string // empty until the member has run for the first time
	PeerURL string
	// ClientURL is empty until the member has run for the first time.
	ClientURL string
	ID        uint64
	Learner   bool // receives everything and does not vote yet
}

// Seats lists the cluster's members, by id.
func (s *Store) Seats(ctx context.Context) ([]Seat, error) {
	ctx, cancel, err := s.bound(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the etcd members: %w", err)
	}
	defer cancel()
	r, err := s.client.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the etcd members: %w", s.explain(ctx, err))
	}
	if err := s.ours(r.Header); err != nil {
		return nil, fmt.Errorf("list the etcd members: %w", err)
	}
	var out []Seat
	for _, m := range r.Members {
		seat := Seat{Name: m.Name, ID: m.ID, Learner: m.IsLearner}
		if len(m.PeerURLs) > 0 {
			seat.PeerURL = m.PeerURLs[0]
		}
		if len(m.ClientURLs) > 0 {
			seat.ClientURL = m.ClientURLs[0]
		}
		out = append(out, seat)
	}
	slices.SortFunc(out, func(a, b Seat) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// Replace gives the place of a member whose data is lost to an empty one: the old member is removed, a learner
// with a new id is added at peerURL. Then the host's marker is deleted, the member started with Join, and in
// the end [Store.Promote]d. Repeated, it gives the place to another new id, for nobody can know whether the last one
// has run on a disk that is gone by now: a member that forgot is never started under the id it had. etcd refuses either
// step (ErrUnavailable; try again) while another member is away or has only just come back.
func (s *Store) Replace(ctx context.Context, name, peerURL string) error {
	seats, err := s.Seats(ctx)
	if err != nil {
		return fmt.Errorf("replace member %s: %w", name, err)
	}
	for _, seat := range seats {
		if seat.Name != name && seat.PeerURL != peerURL {
			continue
		}
		if err := s.remove(ctx, seat.ID); err != nil {
			return fmt.Errorf("replace member %s: %w", name, err)
		}
	}
	ctx, cancel, err := s.bound(ctx)
	if err != nil {
		return fmt.Errorf("replace member %s: %w", name, err)
	}
	defer cancel()
	if _, err := s.client.MemberAddAsLearner(ctx, []string{peerURL}); err != nil {
		return fmt.Errorf("replace member %s: %w", name, s.explain(ctx, err))
	}
	return nil
}

// Remove takes a member away; one that is gone already is no error. etcd refuses it (ErrUnavailable; try again) while
// another member is away or has only just come back.
func (s *Store) Remove(ctx context.Context, id uint64) error {
	if err := s.remove(ctx, id); err != nil {
		return fmt.Errorf("remove member %x: %w", id, err)
	}
	return nil
}

func (s *Store) remove(ctx context.Context, id uint64) error {
	ctx, cancel, err := s.bound(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	if _, err := s.client.MemberRemove(ctx, id); err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return s.explain(ctx, err)
	}
	return nil
}

// ErrBehind means that a learner has not caught up yet.
var ErrBehind = errors.New("the member has not caught up yet")

// Promote lets the learner called name vote; ErrBehind while it lacks entries. A member that votes already is
// no error.
func (s *Store) Promote(ctx context.Context, name string) error {
	seats, err := s.Seats(ctx)
	if err != nil {
		return fmt.Errorf("promote member %s: %w", name, err)
	}
	i := slices.IndexFunc(seats, func(seat Seat) bool { return seat.Name == name })
	if i < 0 {
		return fmt.Errorf("promote member %s: it has not run yet: %w", name, ErrBehind)
	}
	if !seats[i].Learner {
		return nil
	}
	ctx, cancel, err := s.bound(ctx)
	if err != nil {
		return fmt.Errorf("promote member %s: %w", name, err)
	}
	defer cancel()
	_, err = s.client.MemberPromote(ctx, seats[i].ID)
	switch {
	case errors.Is(err, rpctypes.ErrMemberLearnerNotReady):
		return fmt.Errorf("promote member %s: %w", name, ErrBehind)
	case errors.Is(err, rpctypes.ErrMemberNotLearner):
		return nil // another promoted it meanwhile
	case err != nil:
		return fmt.Errorf("promote member %s: %w", name, s.explain(ctx, err))
	}
	return nil
}

// Use makes these the endpoints that calls go to.
func (s *Store) Use(endpoints []string) { s.client.SetEndpoints(endpoints...) }

// Probe asks one member for itself: whether it serves, whether it leads, and how long the answer took.
type Probe struct {
	Leader    uint64 // member id of the leader, as it knows; 0 = none
	ID        uint64
	ClusterID uint64
	DBBytes   int64
	Learner   bool     // it follows without a vote
	Errors    []string // what it complains of
}

// Ask probes the member behind one client URL. It answers without a majority too.
func (s *Store) Ask(ctx context.Context, clientURL string) (Probe, error) {
	ctx, cancel, err := s.bound(ctx)
	if err != nil {
		return Probe{}, fmt.Errorf("ask the etcd member at %s: %w", clientURL, err)
	}
	defer cancel()
	r, err := s.client.Status(ctx, clientURL)
	if err != nil {
		return Probe{}, fmt.Errorf("ask the etcd member at %s: %w", clientURL, s.explain(ctx, err))
	}
	return Probe{Leader: r.Leader, ID: r.Header.GetMemberId(), ClusterID: r.Header.GetClusterId(), DBBytes: r.DbSize, Learner: r.IsLearner, Errors: r.Errors}, nil
}
