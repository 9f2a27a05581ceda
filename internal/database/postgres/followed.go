package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/walscan"
	"holdfast/internal/durable"
	"holdfast/internal/pgcontrol"
)

// A standby's data can be started by hand as a primary without a promotion, by taking its standby.signal away. Then its
// log goes another way on the same timeline: no history file tells of it, so it would follow again, count for commits that it
// does not hold, and win an election by a position that means nothing. pg_control tells: whoever follows is "in archive
// recovery", and stays that, or "shut down in recovery", until it is promoted, which takes a new timeline. So the
// driver keeps beside the data the timeline that it last saw them follow; data that pg_control calls a primary's on that
// very timeline were written by somebody else.

// followed is the timeline that data were last seen to follow.
type followed struct {
	Incarnation string `json:"incarnation"`
	Timeline    uint32 `json:"timeline"`
}

// following is what is known of that file. Its lock is taken within Server.mu as well, and takes none itself.
type following struct {
	mu    sync.Mutex // guards what follows
	read  bool       // the file was
	known followed
}

// followPace is how often a standby is asked for the timeline that it follows.
const followPace = time.Second

// observeFollowing notes the timeline that a running standby follows.
func (s *Server) observeFollowing(l *database.Local) error {
	if !l.Running || l.Role != database.Standby || l.Incarnation == "" || time.Since(s.watch.followingAt) < followPace {
		return nil
	}
	s.watch.followingAt = time.Now()
	c, err := pgcontrol.Read(s.at.data)
	if err != nil || c.State != pgcontrol.ArchiveRecovery {
		return err
	}
	// Not by the files: a promotion makes those of its timeline, and names it in pg_control's recovery point, while the server
	// still calls itself a standby. What it received, and the checkpoint that it replayed, are of the timeline before.
	now := followed{Incarnation: l.Incarnation, Timeline: max(c.Timeline, s.watch.receives)}
	if was, err := s.readFollowed(); err != nil || was == now {
		return err
	}
	b, err := json.Marshal(now)
	if err != nil {
		return fmt.Errorf("keep which timeline is followed: %w", err)
	}
	if err := durable.WriteFile(s.at.followed, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("keep which timeline is followed: %w", err)
	}
	s.following.mu.Lock()
	defer s.following.mu.Unlock()
	s.following.known, s.following.read = now, true
	return nil
}

// readFollowed gives what is kept; zero = nothing that can be understood, and then nothing is said of the data.
func (s *Server) readFollowed() (followed, error) {
	s.following.mu.Lock()
	defer s.following.mu.Unlock()
	if s.following.read {
		return s.following.known, nil
	}
	b, err := os.ReadFile(s.at.followed)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return followed{}, fmt.Errorf("read which timeline was followed: %w", err)
	}
	var f followed
	if json.Unmarshal(b, &f) != nil {
		f = followed{}
	}
	s.following.known, s.following.read = f, true
	return f, nil
}

// forked says why data of an incarnation are no copy any more: a primary ran on them that was never promoted. "" = nothing
// says so.
func (s *Server) forked(incarnation string) (string, error) {
	f, err := s.readFollowed()
	if err != nil || f.Timeline == 0 || f.Incarnation != incarnation {
		return "", err
	}
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return "", nil // whoever needs it says so
	}
	if c.State != pgcontrol.ShutDown && c.State != pgcontrol.ShuttingDown && c.State != pgcontrol.Production || c.Timeline > f.Timeline {
		return "", nil
	}
	// Read after pg_control: a promotion makes its timeline's files before it calls itself a primary.
	newest, err := walscan.Newest(s.at.wal(), c.Timeline, c.SegSize)
	if err != nil || newest != f.Timeline {
		return "", err
	}
	return fmt.Sprintf("%s followed timeline %d, and was then run as a primary of it by hand, without a promotion: its log may go another way than the database's",
		s.at.data, f.Timeline), nil
}
