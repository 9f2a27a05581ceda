package backup

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/vault/wal"
)

func TestWhenTheVaultMayVote(t *testing.T) {
	history := wal.History{{Timeline: 1, End: 100}, {Timeline: 2, Begin: 100}}
	for name, c := range map[string]struct {
		from place
		late bool
		base place
		want bool
	}{
		"the stream went on where the vault's log ended":            {place{2, 150}, false, place{2, 120}, true},
		"the base backup is of an earlier timeline":                 {place{2, 150}, false, place{1, 50}, true},
		"there is no base backup":                                   {place{2, 150}, false, place{}, false},
		"the base backup is of a branch that was left":              {place{2, 150}, false, place{1, 120}, false},
		"the stream is of an earlier timeline of the server":        {place{1, 50}, false, place{1, 20}, false},
		"what comes before is missing behind the base":              {place{2, 150}, true, place{2, 120}, false},
		"what comes before is missing, and a base begins behind it": {place{2, 150}, true, place{2, 160}, true},
	} {
		v := votes{begun: make(chan struct{}, 1)}
		v.begins(history, c.from, c.late)
		vote := Vote{Asked: true, Timeline: c.base.timeline, Base: c.base.lsn}
		if got := v.ask(2, vote); (got == 2) != c.want || v.standing() != c.want {
			t.Errorf("%s: %d votes, standing: %v", name, got, v.standing())
		}
		v.ends()
		if v.standing() || v.ask(2, vote) != 0 {
			t.Errorf("%s: votes are given when the stream has ended", name)
		}
	}
	v := votes{begun: make(chan struct{}, 1)}
	if v.ask(2, Vote{Asked: true, Timeline: 1, Base: 20}) != 0 {
		t.Error("votes are given before the stream runs")
	}
	v.begins(history, place{2, 150}, false)
	for _, vote := range []Vote{{Asked: false, Timeline: 2, Base: 120}, {Asked: true}} {
		if v.ask(2, vote) != 0 || v.standing() {
			t.Errorf("votes are given for %+v", vote)
		}
	}
	if v.ask(0, Vote{Asked: true, Timeline: 2, Base: 120}) != 0 || v.standing() {
		t.Error("votes are given that nobody asks for")
	}
}

// What the second place held, or lost, need not follow what the vault holds. Until the whole log was looked through again no
// vote tells a position behind it.
func TestNoVoteTellsAPositionBehindAHole(t *testing.T) {
	const size = 16 << 20
	history := wal.History{{Timeline: 1}}
	made := func(lost func(*GapError, error)) *stream {
		r := &Receiver{o: ReceiverOptions{Clock: clock.Real(), Lost: lost}, log: slog.New(slog.DiscardHandler)}
		r.status = Status{Timeline: 1, Archived: 5 * size}
		s := &stream{r: r, segmentSize: size, votes: votes{begun: make(chan struct{}, 1)}, spill: &spill{dir: t.TempDir()}}
		s.votes.begins(history, place{1, 3 * size}, false)
		s.votes.ask(2, Vote{Asked: true, Timeline: 1, Base: 2 * size})
		return s
	}
	s := made(nil)
	if at := s.storedTo(); at != 5*size {
		t.Fatalf("a vote tells %s", at)
	}
	name := wal.SegmentName(1, 5*size, size) + "-" + strings.Repeat("0", 64) + ".zst.aes"
	s.spill.held = []spilledSegment{{object: name, bytes: 1}}
	if at := s.storedTo(); at != 0 {
		t.Errorf("while log waits in the second place a vote tells %s", at)
	}
	heard := false
	s = made(func(g *GapError, _ error) {
		heard = true
		if at := s.storedTo(); at != 0 {
			t.Errorf("when %v is told as lost a vote tells %s", g, at)
		}
	})
	s.spill.held = []spilledSegment{{object: name, bytes: 1}} // and nothing lies there: it cannot be read
	s.spill.unread = time.Now().Add(-unreadFor)
	if empty, err := s.drainSpill(t.Context(), func() bool { return true }); !empty {
		t.Fatalf("the second place is not empty: %v", err)
	}
	s.r.update(func(st *Status) { st.Archived = 9 * size }) // what follows
	if at := s.storedTo(); at != 0 || !heard {
		t.Errorf("behind lost log (heard %v) a vote tells %s", heard, at)
	}
	s.votes.begins(history, place{1, 9 * size}, false) // another stream does not know what was lost
	s.votes.ask(2, Vote{Asked: true, Timeline: 1, Base: 2 * size})
	if at := s.storedTo(); at != 0 {
		t.Errorf("before the log was looked through again a vote tells %s", at)
	}
	s.votes.ask(2, Vote{Asked: true, Timeline: 1, Base: 2 * size, Doubts: s.r.Status().Doubts})
	if at := s.storedTo(); at != 9*size {
		t.Errorf("once the log was looked through a vote tells %s", at)
	}
	s.r.update(func(st *Status) { st.Doubts++ })
	if at := s.storedTo(); at != 0 {
		t.Errorf("when more is doubted a vote tells %s", at)
	}
}

// Votes begin and tell where the vault is while the stream goes from one timeline of the server to the next.
func TestVotesAreGivenWhileTheServersTimelineChanges(t *testing.T) {
	r := &Receiver{o: ReceiverOptions{Clock: clock.Real()}, log: slog.New(slog.DiscardHandler)}
	s := &stream{r: r, votes: votes{begun: make(chan struct{}, 1)}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for n := range uint32(500) {
			s.srv = server{timeline: n + 1} // receiveAll's alone
			s.votes.begins(wal.History{{Timeline: n + 1}}, place{n + 1, 100}, false)
			s.r.update(func(st *Status) { st.Archived = wal.LSN(n + 1) })
			s.votes.ends()
		}
	}()
	for last := uint32(0); last < 500; {
		now := s.votes.timeline()
		if now < last {
			t.Fatalf("timeline %d behind %d", now, last)
		}
		last = now
		s.votes.ask(1, Vote{Asked: true, Timeline: now, Base: 50})
		if at := s.storedTo(); at > 500 {
			t.Fatalf("a vote tells %s", at)
		}
	}
	<-ended
	if s.votes.standing() || s.storedTo() != 0 {
		t.Error("votes are given when the stream has ended")
	}
}
