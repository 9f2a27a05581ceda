package databasetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/database"
)

// process is a running server: what a crash forgets.
type process struct {
	role     database.Role
	hot      bool
	ready    bool
	stopping bool
	flushing bool
	setting  int // its max_connections

	stalled   bool // a flush waits for a disk that hangs
	stalledAt time.Duration

	names       database.Names // as a new session shows them
	defined     bool           // the flag that only the checkpointer sets: commits wait at all
	connections int
	senders     []*stream
	waiters     []*waiter

	receiver     *stream
	receivedFrom database.LSN // what pg_last_wal_receive_lsn would say; 0 = NULL

	readers int // raised whenever the sessions of those who read are ended
	stands  int // standby: records that are replayed and no more, plus one; 0 = replay goes on
}

// Start implements [database.Server].
func (s *Server) Start(ctx context.Context, hot bool) error {
	if s.p != nil {
		return nil
	}
	if s.d.state != database.DataPresent {
		return errNoData
	}
	return s.start(ctx, hot, true)
}

// start waits for the old tree to be gone, then for recovery. cut = forget where to stream from.
func (s *Server) start(ctx context.Context, hot, cut bool) error {
	for s.lingering {
		if err := s.w.Wait(ctx, s.host, 20*time.Millisecond); err != nil {
			return err
		}
	}
	if s.noRoom() {
		return errFull
	}
	if err := s.fsync(ctx); err != nil { // configuration, and what recovery syncs
		return err
	}
	if s.p != nil {
		return errRunning
	}
	s.d.flushed = len(s.d.wal)
	s.d.names, s.d.admits, s.d.clean, s.d.readOnly = s.atStart(), false, false, false
	if cut {
		s.d.following, s.d.source = 0, ""
	}
	p := &process{hot: hot, names: s.d.names, defined: s.d.names.W > 0, setting: s.settingAtStart(hot)}
	s.lives++
	s.p, s.exit, s.words, s.attested = p, "", nil, false
	s.versions++
	if err := s.w.Wait(ctx, s.host, s.between(50*time.Millisecond, 600*time.Millisecond)); err != nil {
		s.settle(p) // PostgreSQL goes on without the one who started it
		return err
	}
	s.ready(p)
	if s.p != p {
		return errGone
	}
	return nil
}

// settle finishes a start that nobody waits for any more.
func (s *Server) settle(p *process) {
	s.w.After(s.host, 200*time.Millisecond, func() { s.ready(p) })
}

func (s *Server) ready(p *process) {
	if s.p != p || p.role != database.NoRole {
		return
	}
	p.role, p.ready = database.Standby, p.hot
	s.versions++
	s.dial(p)
	s.reap(p)
}

func (s *Server) atStart() database.Names {
	if s.bugs.OpenAtStart {
		return database.Names{}
	}
	return database.Closed()
}

// Crash ends the process tree at once, as SIGKILL does: what was written and not synced may or may not be
// there later.
func (s *Server) Crash(why string) {
	p := s.p
	if p == nil {
		return
	}
	s.p = nil
	s.exit = why
	s.lingering, s.left = true, p.role
	s.versions++
	s.letGo(s.between(5*time.Millisecond, 300*time.Millisecond), p.stalled && s.w.Rand().IntN(2) == 0, why)
	p.drop()
	senders := p.senders
	p.senders = nil
	for _, x := range senders {
		s.closeSender(x)
	}
	if r := p.receiver; r != nil {
		s.hangUp(r)
	}
	s.truncate(s.d.flushed + s.w.Rand().IntN(len(s.d.wal)-s.d.flushed+1))
}

// Panic ends the process tree with the server's own last words.
func (s *Server) Panic(sign string) {
	if s.p == nil {
		return
	}
	s.Crash(sign)
	s.words = &database.LastWords{Life: fmt.Sprintf("%s-%d", s.host, s.lives), Sign: sign, Text: sign}
}

// letGo ends what lingers of a dead tree. A process that is stuck in the kernel cannot be killed before the disk
// answers it.
func (s *Server) letGo(after time.Duration, stuck bool, why string) {
	s.w.After(s.host, after, func() {
		if stuck {
			if _, ok := s.w.Fsync(s.host); !ok {
				s.letGo(100*time.Millisecond, stuck, why)
				return
			}
		}
		s.lingering, s.attested = false, true
		s.o.Exited(s.host, why)
	})
}

// PowerCut is the end of the whole host: only what was synced stays. Call it after the world forgot the host's
// events.
func (s *Server) PowerCut() {
	if p := s.p; p != nil {
		s.p = nil
		p.drop()
		for _, x := range p.senders {
			x.open = false
		}
		s.versions++
	}
	s.lingering, s.attested, s.exit, s.words = false, true, "the host was off", nil
	s.truncate(s.d.flushed + s.w.Rand().IntN(len(s.d.wal)-s.d.flushed+1))
	if s.bugs.PromiseUnsynced && s.d.promise.Incarnation == s.synced.Incarnation {
		s.d.promise = s.synced
	}
	s.ForgetDriver()
}

// LoseDisk is a new, empty disk after a power cut.
func (s *Server) LoseDisk() {
	s.d, s.shelf, s.fault = disk{state: database.DataAbsent}, nil, ""
	s.synced = database.Promise{}
}

// Kill implements [database.Server].
func (s *Server) Kill(ctx context.Context, why string) error {
	if s.p != nil {
		s.d.admits = false
		s.p.drop() // the cut comes first
		if err := s.w.Wait(ctx, s.host, s.between(5*time.Millisecond, 100*time.Millisecond)); err != nil {
			s.Crash("killed: " + why)
			return err
		}
		s.Crash("killed: " + why)
	}
	for s.lingering {
		if err := s.w.Wait(ctx, s.host, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// StopFast implements [database.Server]: sessions end, then everything is sent, the shutdown checkpoint too.
func (s *Server) StopFast(ctx context.Context) error {
	p := s.p
	if p == nil {
		return nil
	}
	p.stopping = true
	p.drop()
	if p.role == database.Primary {
		for _, x := range slices.Clone(p.senders) { // lagging standbys would hold the stop
			if x.state != "streaming" {
				s.closeSender(x)
			}
		}
		if err := s.w.Wait(ctx, s.host, s.between(20*time.Millisecond, 300*time.Millisecond)); err != nil {
			return err
		}
		if s.p != p {
			return errGone
		}
		s.write(Shutdown, 0)
		if err := s.fsync(ctx); err != nil {
			return err
		}
		if s.p != p {
			return errGone
		}
		s.d.flushed = len(s.d.wal)
		s.flushedMore()
		if err := s.drain(ctx, p); err != nil {
			return err
		}
	}
	if s.p != p {
		return errGone
	}
	wasPrimary := p.role == database.Primary
	s.d.flushed = len(s.d.wal)
	s.Crash("")
	s.exit = "stopped"
	s.d.clean, s.d.checkpoint = wasPrimary, s.end()
	for s.lingering {
		if err := s.w.Wait(ctx, s.host, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// drain waits until every connected standby has flushed all, or is gone.
func (s *Server) drain(ctx context.Context, p *process) error {
	for s.p == p && slices.ContainsFunc(p.senders, func(x *stream) bool { return x.flushed < s.end() }) {
		if err := s.w.Wait(ctx, s.host, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// Init implements [database.Server].
func (s *Server) Init(ctx context.Context, epoch int64) error {
	switch s.d.state {
	case database.DataPresent:
		return nil
	case database.DataForeign:
		return fmt.Errorf("init: %s holds data of something else", s.host)
	}
	s.d = disk{state: database.DataPartial}
	if err := s.w.Wait(ctx, s.host, s.between(200*time.Millisecond, time.Second)); err != nil {
		return err
	}
	if err := s.newIncarnation(ctx); err != nil {
		return err
	}
	s.d.systemID = 1 + s.w.Rand().Uint64N(1<<40)
	s.d.files = map[uint32]fileOf{}
	s.swear(database.Promise{Epoch: epoch, Incarnation: s.d.incarnation})
	s.d.wal = []Entry{{Timeline: 1, Start: walStart, End: walStart + 400, Kind: Tick}}
	s.d.flushed, s.d.names, s.d.state, s.d.control = 1, s.atStart(), database.DataPresent, s.plan.good()
	return nil
}

// Clone implements [database.Server].
func (s *Server) Clone(ctx context.Context, from, primary database.Endpoint, epoch int64) error {
	s.failedFrom = from.Host
	peer := s.w.Server(primary.Host)
	if _, ok := s.reaches(primary.Host); !ok || peer.p == nil || peer.p.role != database.Primary { // it must keep the log
		return s.remember(database.KindClone, errStream)
	}
	s.lead = peer
	return s.remember(database.KindClone, s.copyFrom(ctx, from.Host, epoch, s.between(500*time.Millisecond, 6*time.Second), false))
}

// Rewind implements [database.Server].
func (s *Server) Rewind(ctx context.Context, from database.Endpoint, epoch int64) error {
	if s.d.state == database.DataPresent && s.w.Rand().IntN(8) == 0 {
		return s.remember(database.KindRewind, database.ErrNeedsClone)
	}
	s.lead = nil
	return s.remember(database.KindRewind, s.copyFrom(ctx, from.Host, epoch, s.between(200*time.Millisecond, 2*time.Second), true))
}

func (s *Server) remember(kind database.Kind, err error) error {
	s.failed, s.failedKind = "", ""
	if err != nil {
		s.failed, s.failedKind = err.Error(), kind
		if errors.Is(err, context.Canceled) { // overtaken, and no source's fault
			s.failedFrom = ""
		}
	}
	return err
}

// copyFrom replaces our data by those of another server. Killed in the middle it leaves a partial directory. A rewound
// log may end anywhere from the last common checkpoint, some way before the histories parted, to where the source
// was: the rest is streamed later.
func (s *Server) copyFrom(ctx context.Context, source string, epoch int64, took time.Duration, rewind bool) error {
	if s.d.state == database.DataForeign {
		return fmt.Errorf("copy: %s holds data of something else", s.host)
	}
	if s.d.state == database.DataPresent && s.d.promise.Epoch > epoch {
		return database.ErrPromised
	}
	peer := s.w.Server(source)
	if _, ok := s.reaches(source); !ok || peer.p == nil || peer.p.role == database.NoRole || rewind && peer.p.role != database.Primary {
		return errStream
	}
	role := peer.p.role
	if err := s.Kill(ctx, "its data are made anew"); err != nil {
		return err
	}
	before, promised := s.d.incarnation, s.d.promise
	if err := s.newIncarnation(ctx); err != nil {
		return err
	}
	if s.d.state == database.DataPresent { // from here on nobody can read what was there
		s.discards(peer)
	}
	s.d.state = database.DataPartial
	s.position = database.Position{}
	process := peer.p
	peer.giving++
	defer func() { peer.giving-- }()
	for left := took; left > 0; left -= 100 * time.Millisecond {
		if err := s.w.Wait(ctx, s.host, 100*time.Millisecond); err != nil {
			return err
		}
		if _, ok := s.reaches(source); !ok || peer.p != process || process == nil || process.role != role { // promoted in between: the copy would have a gap
			return errStream
		}
	}
	wal := slices.Clip(peer.d.wal[:peer.d.flushed])
	if rewind {
		common := 0
		for common < min(len(wal), len(s.d.wal)) && wal[common] == s.d.wal[common] {
			common++
		}
		common -= s.w.Rand().IntN(min(common, 30))
		wal = slices.Clip(wal[:common+s.w.Rand().IntN(len(wal)-common+1)])
	}
	next := disk{
		state: database.DataPresent, systemID: peer.d.systemID, incarnation: s.d.incarnation, wal: wal, flushed: len(wal),
		history: slices.Clone(peer.d.history), files: map[uint32]fileOf{}, names: s.atStart(), control: peer.d.control, oldest: peer.d.oldest,
	}
	for _, f := range next.history {
		next.files[f.Timeline] = realFile
	}
	if s.bugs.OldIncarnation && before != "" {
		next.incarnation = before
	}
	if err := s.fsync(ctx); err != nil {
		return err
	}
	s.d = next
	s.trimHistory()
	promise := database.Promise{Epoch: epoch, Incarnation: s.d.incarnation}
	if s.bugs.OldIncarnation && promised.Epoch == epoch {
		promise.Generation = promised.Generation
	}
	s.swear(promise)
	s.versions++
	return nil
}

// reaches reports whether another host answers now.
func (s *Server) reaches(host string) (time.Duration, bool) {
	out, up := s.w.Link(s.host, host)
	back, down := s.w.Link(host, s.host)
	return out + back, up && down
}

// swear writes a promise whose fsync has been waited for.
func (s *Server) swear(p database.Promise) {
	s.d.promise = p
	if !s.bugs.PromiseUnsynced {
		s.synced = p
		return
	}
	incarnation := p.Incarnation
	s.w.After(s.host, 5*time.Second, func() { // the kernel writes it back at its leisure
		if s.d.promise.Incarnation == incarnation {
			s.synced = s.d.promise
		}
	})
	if s.synced.Incarnation != incarnation {
		s.synced = database.Promise{Epoch: 0, Incarnation: incarnation}
	}
}
