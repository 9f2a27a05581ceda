package backup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"holdfast/internal/database/stored"
	"holdfast/internal/vault/wal"
)

// A receiver that is asked to votes for the vault: beside its stream it holds connections that stand in the server's
// synchronous_standby_names (package stored says how many and why). They read what the server sends and drop it, and say how
// far the vault has the log. Each streams through a temporary slot of its own name: a slot serves one connection at a time,
// so no vote is ever counted twice, whoever else votes or lives on.

const (
	votePace  = 200 * time.Millisecond // how often it is looked whether votes are asked for
	voteAgain = 100 * time.Millisecond // pause before a vote that ended is begun again
	voteWait  = 5 * time.Second        // how long the server may take to let one begin, to take a word, or to say how many it waits for
)

// Vote is how a receiver is to vote for the vault.
type Vote struct {
	Asked    bool // it is: the plan asks for it, or it is agreed that commits wait for the vault
	Standbys int  // for how many the plan counts the votes out; < 0 = it does not ask for them any more

	Timeline uint32  // where the base backup begins that the log in the vault leads on from;
	Base     wal.LSN // 0 = there is none

	Doubts int // [Status.Doubts] as it stood when that log was found to be whole
}

// votes are those of one stream.
type votes struct {
	system uint64 // the cluster that is voted for

	mu      sync.Mutex  // guards what follows
	whole   bool        // what the vault takes now counts: it is of the server's own timeline
	late    bool        // the vault has nothing before from that this stream goes on from
	from    place       // where this stream began
	history wal.History // of the server
	asked   bool        // votes are asked for and may be given
	doubts  int         // as in Vote
	begun   chan struct{}
	wakes   map[int]chan struct{} // of those that stand, by number
}

// begins notes where a stream that runs went on. late = what comes before is not in the vault.
func (v *votes) begins(history wal.History, from place, late bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.history, v.from, v.late = history, from, late
	v.whole = from.timeline == history[len(history)-1].Timeline
}

// ends notes that what the vault takes says nothing of the server's log any more.
func (v *votes) ends() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.whole, v.asked = false, false
}

// may reports whether the vault's position may be told, when there is a base backup that begins at base.
func (v *votes) may(base place) bool {
	return v.whole && base.lsn > 0 && reaches(v.history, base) &&
		(!v.late || v.from.timeline == base.timeline && v.from.lsn <= base.lsn)
}

// ask keeps whether votes are given, and how many.
func (v *votes) ask(wanted int, vote Vote) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked = vote.Asked && wanted > 0 && v.may(place{vote.Timeline, vote.Base})
	v.doubts = vote.Doubts
	if !v.asked {
		return 0
	}
	signal(v.begun)
	return wanted
}

// timeline is that of the server; 0 = not known.
func (v *votes) timeline() uint32 {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.history) == 0 {
		return 0
	}
	return v.history[len(v.history)-1].Timeline
}

// judgedAt is what is doubted no more; ok = votes stand.
func (v *votes) judgedAt() (doubts int, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.doubts, v.asked
}

// standing reports whether commits may be waiting for the vault.
func (v *votes) standing() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.asked
}

// wakeAll makes each vote tell the vault's position.
func (v *votes) wakeAll() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, wake := range v.wakes {
		signal(wake)
	}
}

func (v *votes) add(i int) (wake chan struct{}, n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.wakes == nil {
		v.wakes = map[int]chan struct{}{}
	}
	wake = make(chan struct{}, 1)
	v.wakes[i] = wake
	return wake, len(v.wakes)
}

func (v *votes) remove(i int) (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.wakes, i)
	return len(v.wakes)
}

// voteAll keeps as many votes as are asked for until ctx ends, and returns when the last has.
func (s *stream) voteAll(ctx context.Context) {
	if s.r.o.Votes == nil {
		return
	}
	var g sync.WaitGroup
	defer g.Wait()
	var ends []context.CancelFunc
	defer func() {
		for _, end := range ends {
			end()
		}
	}()
	var server *asker // nil while votes are not asked for
	defer func() {
		if server != nil {
			server.end()
		}
	}()
	for {
		vote := s.r.o.Votes()
		switch {
		case vote.Asked && server == nil:
			server = newAsker(s.cfg, s.r.log, s.r.o.Clock, vote.Standbys).begin(ctx)
		case !vote.Asked && server != nil:
			server.end()
			server = nil
		}
		wanted := s.votes.ask(server.wanted(vote.Standbys), vote)
		for len(ends) > wanted {
			ends[len(ends)-1]()
			ends = ends[:len(ends)-1]
		}
		for len(ends) < wanted {
			one, end := context.WithCancel(ctx)
			ends = append(ends, end)
			i := len(ends)
			g.Go(func() { s.keepVote(one, i) })
		}
		if s.nextLook(ctx, server) != nil {
			return
		}
	}
}

// nextLook waits until it is to be looked again how many votes are given.
func (s *stream) nextLook(ctx context.Context, server *asker) error {
	var news chan struct{}
	if server != nil {
		news = server.news
	}
	t := s.r.o.Clock.NewTimer(votePace)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-news:
	case <-t.C():
	}
	return nil
}

// keepVote gives vote i, again whenever it is ended, until ctx ends.
func (s *stream) keepVote(ctx context.Context, i int) {
	said := ""
	for ctx.Err() == nil {
		err := s.vote(ctx, i)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			s.r.log.InfoContext(ctx, "vote for the vault ended", "vote", i, "err", err)
		}
		if s.pause(ctx, voteAgain) != nil {
			return
		}
	}
}

// vote begins vote i and keeps it until it is ended.
func (s *stream) vote(ctx context.Context, i int) error {
	begin, cancel := context.WithTimeout(ctx, voteWait)
	defer cancel()
	sess, err := dialAs(begin, s.cfg, stored.VoteName(i))
	if err != nil {
		return err
	}
	open := true
	defer func() {
		if open {
			sess.close()
		}
	}()
	srv, err := sess.identify(begin)
	if err != nil {
		return err
	}
	if timeline := s.votes.timeline(); srv.systemID != s.votes.system || srv.timeline != timeline {
		return fmt.Errorf("vote %d: the server of cluster %d on timeline %d is of cluster %d on timeline %d", i, s.votes.system, timeline, srv.systemID, srv.timeline)
	}
	slot := fmt.Sprintf("holdfast_vault_%d", i)
	if _, err := sess.conn.Exec(begin, fmt.Sprintf("CREATE_REPLICATION_SLOT %q TEMPORARY PHYSICAL", slot)).ReadAll(); err != nil {
		return fmt.Errorf("vote %d: take its slot: %w", i, err)
	}
	if err := sess.start(begin, slot, srv.timeline, srv.flushed); err != nil {
		return fmt.Errorf("vote %d: %w", i, err)
	}
	conn, err := sess.conn.Hijack()
	if err != nil {
		return fmt.Errorf("vote %d: %w", i, err)
	}
	open = false
	return s.tellVault(ctx, i, conn)
}

// tellVault says on a connection how far the vault is, whenever that changes and when the server asks, until either side ends it.
func (s *stream) tellVault(ctx context.Context, i int, conn *pgconn.HijackedConn) error {
	wake, n := s.votes.add(i)
	s.r.update(func(st *Status) { st.Votes = n })
	ended := make(chan error, 1)
	go func() { ended <- dropAll(conn.Frontend, wake) }()
	defer func() {
		n := s.votes.remove(i)
		s.r.update(func(st *Status) { st.Votes = n })
		_ = conn.Conn.Close() // the server lets go of the slot; nothing is lost with it
		<-ended
	}()
	tick := s.r.o.Clock.NewTimer(replyEvery)
	defer tick.Stop()
	for {
		at := s.storedTo()
		if err := conn.Conn.SetWriteDeadline(time.Now().Add(voteWait)); err != nil { // of a socket: its own clock
			return err
		}
		word, err := (&pgproto3.CopyData{Data: statusUpdate(at, at, false, s.r.o.Clock.Now())}).Encode(nil)
		if err != nil {
			return fmt.Errorf("vote %d: %w", i, err)
		}
		if _, err := conn.Conn.Write(word); err != nil {
			return fmt.Errorf("vote %d: tell how far the vault is: %w", i, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			ended <- err // for the one that waits for it
			return fmt.Errorf("vote %d: %w", i, err)
		case <-wake:
		case <-tick.C():
			tick.Reset(replyEvery)
		}
	}
}

// storedTo is what a vote says: the end of what the vault has without a hole, 0 = nothing can be said. What follows the second
// place is not in the vault while something waits there; and what was brought from there, or lost there, is doubted until the
// whole log was looked through again.
func (s *stream) storedTo() wal.LSN {
	s.r.mu.Lock()
	at, doubts := s.r.status.Archived, s.r.status.Doubts
	s.r.mu.Unlock()
	judged, ok := s.votes.judgedAt() // after the position: what ends the votes comes before a position that is none
	if !ok || judged != doubts || !s.spill.empty() {
		return 0
	}
	return at
}

// dropAll reads what the server sends until it ends the stream, and wakes when it asks for an answer.
func dropAll(f *pgproto3.Frontend, wake chan<- struct{}) error {
	for {
		msg, err := f.Receive()
		if err != nil {
			return err
		}
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			if len(m.Data) >= 18 && m.Data[0] == keepalive && m.Data[17] != 0 {
				signal(wake)
			}
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return errors.New("the server has ended the stream")
		}
	}
}
