package databasetest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/database"
)

// Recruit implements [database.Server].
func (s *Server) Recruit(ctx context.Context, epoch, generation int64) (database.Position, error) {
	switch {
	case s.d.state != database.DataPresent:
		return database.Position{}, errNoData
	case s.p != nil && s.p.role == database.Primary:
		return database.Position{}, errNoRole
	}
	if err := s.readsPromise(); err != nil {
		return database.Position{}, err
	}
	if !s.promiseOK() {
		if err := s.newIncarnation(ctx); err != nil {
			return database.Position{}, err
		}
		s.swear(database.Promise{Incarnation: s.d.incarnation})
	}
	if s.d.promise.Epoch > epoch || s.d.promise.Generation > generation {
		return database.Position{}, fmt.Errorf("%w: epoch %d, generation %d", database.ErrPromised, s.d.promise.Epoch, s.d.promise.Generation)
	}
	if err := s.fsync(ctx); err != nil {
		return database.Position{}, err
	}
	next := s.d.promise
	next.Epoch, next.Generation = epoch, generation
	s.swear(next)
	s.position = database.Position{}
	if err := s.cutStream(ctx); err != nil {
		return database.Position{}, err
	}
	at := s.end()
	if s.bugs.ReceiveLSN {
		at = s.believedEnd()
	}
	if err := s.fsync(ctx); err != nil {
		return database.Position{}, err
	}
	s.d.flushed = len(s.d.wal)
	next = s.d.promise
	next.Told = max(next.Told, at)
	s.swear(next)
	s.position = database.Position{Epoch: epoch, Timeline: s.timeline(), LSN: at}
	return s.position, nil
}

// cutStream forgets where to stream from and waits for the receiver's end: what had arrived is written still.
func (s *Server) cutStream(ctx context.Context) error {
	if s.bugs.NotFrozen {
		return nil
	}
	return s.endStream(ctx)
}

func (s *Server) endStream(ctx context.Context) error {
	s.d.following, s.d.source = 0, ""
	p := s.p
	if p == nil || p.receiver == nil {
		return nil
	}
	if err := s.w.Wait(ctx, s.host, s.between(2*time.Millisecond, 40*time.Millisecond)); err != nil {
		return err
	}
	if r := p.receiver; r != nil {
		p.receiver = nil
		s.hangUp(r)
	}
	return nil
}

// believedEnd is the planted bug: the receiver's word, which knows nothing of what was there before it.
func (s *Server) believedEnd() database.LSN {
	if s.p != nil && s.p.receivedFrom != 0 {
		return min(s.p.receivedFrom, s.end())
	}
	i := len(s.d.wal) - s.w.Rand().IntN(min(len(s.d.wal), 64)) // NULL: replay, which is behind
	return endOf(s.d.wal[:i])
}

// Remember implements [database.Server].
func (s *Server) Remember(ctx context.Context, epoch, generation int64) error {
	if s.d.state != database.DataPresent || s.d.promise.Epoch != epoch {
		return fmt.Errorf("remember generation %d of epoch %d: %w", generation, epoch, database.ErrStale)
	}
	if s.d.promise.Generation >= generation {
		return nil
	}
	if err := s.readsPromise(); err != nil {
		return err
	}
	if err := s.fsync(ctx); err != nil {
		return err
	}
	next := s.d.promise
	if next.Epoch != epoch {
		return database.ErrStale
	}
	next.Generation = generation
	s.swear(next)
	return nil
}

// Follow implements [database.Server].
func (s *Server) Follow(ctx context.Context, from database.Endpoint, epoch int64) error {
	switch {
	case s.d.state != database.DataPresent:
		return errNoData
	case s.d.promise.Epoch != epoch:
		return fmt.Errorf("follow in epoch %d: %w", epoch, database.ErrPromised)
	case s.p != nil && s.p.role == database.Primary:
		return errNoRole
	}
	if err := s.readsPromise(); err != nil {
		return err
	}
	if s.p != nil && !s.p.hot { // it was started to be promoted unseen: a standby answers queries
		if err := s.StopFast(ctx); err != nil {
			return err
		}
	}
	if err := s.fsync(ctx); err != nil {
		return err
	}
	if s.d.promise.Epoch != epoch {
		return database.ErrStale
	}
	peer := s.w.Server(from.Host)
	if _, ok := s.reaches(from.Host); !ok || peer.p == nil || peer.p.role != database.Primary || !peer.p.ready {
		return errStream // nobody to reserve a slot on
	}
	peer.reserve(s.d.incarnation)
	if s.p == nil {
		s.d.slots = nil // of its time as a primary
	}
	s.d.following, s.d.source = epoch, from.Host
	s.position = database.Position{}
	if p := s.p; p != nil && p.receiver != nil {
		r := p.receiver
		p.receiver = nil
		s.hangUp(r)
	}
	if s.p == nil {
		return s.start(ctx, true, false)
	}
	return nil
}

// Promote implements [database.Server].
func (s *Server) Promote(ctx context.Context, epoch int64, timeline uint32, chain []database.Fork) error {
	p := s.p
	switch {
	case p == nil || p.role == database.NoRole:
		return errNoRole
	case p.role == database.Primary && s.timeline() == timeline && s.d.promise.Epoch == epoch:
		return nil
	case p.role == database.Primary || !s.bugs.NotFrozen && (s.d.following != 0 || p.receiver != nil):
		return errNoRole
	case s.d.promise.Epoch != epoch:
		return database.ErrPromised
	}
	if err := s.readsPromise(); err != nil {
		return err
	}
	if err := s.endStream(ctx); err != nil { // a promotion ends it in any case
		return err
	}
	if s.p != p {
		return errGone
	}
	if err := s.endReaders(ctx, p); err != nil {
		return err
	}
	for n := uint32(2); n < timeline; n++ {
		inChain := slices.ContainsFunc(chain, func(f database.Fork) bool { return f.Timeline == n })
		if _, there := s.d.files[n]; !there && !inChain {
			s.d.files[n] = commentFile
		} else if inChain {
			s.d.files[n] = realFile
		}
	}
	if err := s.fsync(ctx); err != nil {
		return err
	}
	if err := s.w.Wait(ctx, s.host, s.between(20*time.Millisecond, 400*time.Millisecond)); err != nil {
		s.w.After(s.host, 50*time.Millisecond, func() { s.switchTimeline(p, epoch) }) // the signal was sent
		return err
	}
	s.switchTimeline(p, epoch)
	if s.p != p {
		return errGone
	}
	if got := s.timeline(); got != timeline {
		return fmt.Errorf("promoted to timeline %d, not to %d: it stays closed", got, timeline)
	}
	return nil
}

// switchTimeline is what PostgreSQL does by itself once told to promote.
func (s *Server) switchTimeline(p *process, epoch int64) {
	if s.p != p || p.role != database.Standby || s.d.promise.Epoch != epoch {
		return
	}
	next := s.timeline() + 1
	for s.d.files[next] != "" { // it probes upward and stops at the first free number
		next++
	}
	fork := database.Fork{Timeline: next, Parent: s.timeline(), LSN: s.end()}
	s.d.files[next] = realFile
	s.d.history = append(slices.Clone(s.d.history), fork)
	s.d.wal = append(s.d.wal, Entry{Timeline: next, Start: fork.LSN, End: fork.LSN + 106, Epoch: epoch, Kind: Switch})
	s.d.flushed = len(s.d.wal)
	s.position = database.Position{}
	p.role = database.Primary
	s.d.control = p.setting // a record of it, that standbys replay
	s.versions++
	s.deadline = s.w.Now()
	s.extend(3 * time.Second)
	s.o.Promoted(s.host, fork)
	s.w.After(s.host, s.between(5*time.Millisecond, 100*time.Millisecond), func() { p.ready = s.p == p })
	s.tick(p)
}

// SetNames implements [database.Server].
func (s *Server) SetNames(ctx context.Context, n database.Names) error {
	p := s.p
	if p == nil || p.role != database.Primary {
		return errNoRole
	}
	if err := s.fsync(ctx); err != nil {
		return err
	}
	if s.p != p {
		return errGone
	}
	leavesNothing := p.names.W == 0 || p.names.IsClosed() && s.d.admits
	if n.W > 0 && leavesNothing && !s.bugs.Unproven {
		if err := s.putNames(ctx, p, database.Closed()); err != nil {
			return err
		}
		if err := s.seeCommitWait(ctx, p); err != nil {
			return err
		}
	}
	return s.putNames(ctx, p, n)
}

func (s *Server) putNames(ctx context.Context, p *process, n database.Names) error {
	s.d.names = n
	err := s.w.Wait(ctx, s.host, s.between(5*time.Millisecond, 50*time.Millisecond))
	s.reload(p)
	return err
}

// seeCommitWait returns once the checkpointer has set the flag that makes commits wait at all.
func (s *Server) seeCommitWait(ctx context.Context, p *process) error {
	for !p.defined {
		if err := s.w.Wait(ctx, s.host, 10*time.Millisecond); err != nil {
			return err
		}
		if s.p != p {
			return errGone
		}
	}
	return nil
}

// reload lets sessions, walsenders and the checkpointer take the file's names, each in its own time.
func (s *Server) reload(p *process) {
	if s.p != p {
		return
	}
	n := s.d.names
	p.names = n
	s.versions++
	s.w.After(s.host, s.between(time.Millisecond, 3*time.Second), func() {
		if s.p != p {
			return
		}
		p.defined = s.d.names.W > 0
		if !p.defined {
			p.release(s, s.flushedLSN())
		}
	})
	for _, x := range p.senders {
		// A walsender that is busy takes the reload late; meanwhile it releases by its old copy.
		s.w.After(s.host, s.between(time.Millisecond, time.Second), func() {
			x.names = s.d.names
			s.versions++
			x.releaseWaiters()
		})
	}
}

// Barrier implements [database.Server].
func (s *Server) Barrier(ctx context.Context, epoch int64) error {
	p := s.p
	if p == nil || p.role != database.Primary || s.d.promise.Epoch != epoch {
		return errNoRole
	}
	n := p.names
	old := slices.Clone(p.senders)
	if s.bugs.OldWalsenders {
		old = nil
	}
	for _, x := range old {
		s.closeSender(x)
	}
	after := p.connections
	if s.bugs.OldWalsenders {
		after = -1
	}
	if err := s.w.Wait(ctx, s.host, s.between(5*time.Millisecond, 50*time.Millisecond)); err != nil {
		return err
	}
	if s.p != p || !p.names.Equal(n) {
		return errGone
	}
	s.write(Tick, 0)
	if err := s.fsync(ctx); err != nil {
		return err
	}
	if s.p != p {
		return errGone
	}
	s.d.flushed = len(s.d.wal)
	s.flushedMore()
	s.force, s.forceAfter = database.Force{Names: n, Epoch: epoch, Mark: s.flushedLSN()}, after
	return nil
}

// Admit implements [database.Server].
func (s *Server) Admit(ctx context.Context, clients bool) error {
	p := s.p
	if p == nil {
		return errNoRole
	}
	if err := s.fsync(ctx); err != nil {
		return err
	}
	if s.p != p {
		return errGone
	}
	s.d.admits = clients
	if !clients {
		p.drop()
	}
	return nil
}

// EnsureRoles implements [database.Server]. Roles are written with synchronous_commit=local: nobody may have
// connected yet.
func (s *Server) EnsureRoles(ctx context.Context) error {
	p := s.p
	if p == nil || p.role != database.Primary || !p.ready {
		return errNoRole
	}
	if !s.hasRoles() {
		s.write(Roles, 0)
		s.flush()
	}
	return s.fsync(ctx)
}

// Checkpoint implements [database.Server].
func (s *Server) Checkpoint(ctx context.Context) error {
	if s.p == nil {
		return errNoRole
	}
	if err := s.w.Wait(ctx, s.host, s.between(20*time.Millisecond, 500*time.Millisecond)); err != nil {
		return err
	}
	return s.fsync(ctx)
}

// Extend implements [database.Server].
func (s *Server) Extend(_ context.Context, epoch int64, remainingMillis int64) error {
	if e, ok := s.RunsAsPrimary(); !ok || e != epoch {
		return database.ErrStale
	}
	s.extend(time.Duration(remainingMillis) * time.Millisecond)
	return nil
}

// extend moves the fence deadline; the keeper holds it, and the agent's end does not stop it.
func (s *Server) extend(d time.Duration) {
	at := s.w.Now() + d
	if at <= s.deadline || s.bugs.NoFence {
		return
	}
	if s.keeper.stopped {
		s.hearLater(at)
		return
	}
	s.deadline = at
	p := s.p
	s.w.After(s.host, d, func() {
		if s.p == p && p != nil && s.deadline <= at {
			s.pass(p)
		}
	})
}
