package host

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/clock"
	"holdfast/internal/cluster"
	"holdfast/internal/database"
	"holdfast/internal/problem"
)

// told answers a question after the agreed state.
type told struct {
	entry cluster.Entry
	err   error
}

func (a told) Get(context.Context, string) (cluster.Entry, error) { return a.entry, a.err }

func TestAHostStopsAloneUnlessTheHostsAgreedToStop(t *testing.T) {
	known := agent.Snapshot{Agreed: map[string]cluster.Entry{agent.KeyStopping: {Key: agent.KeyStopping, Revision: 7}}}
	for _, c := range []struct {
		name   string
		answer told
		before agent.Snapshot
		alone  bool
	}{
		{"nothing is agreed", told{}, agent.Snapshot{}, true},
		{"the stop was agreed a moment ago, and no round has seen it", told{entry: cluster.Entry{Revision: 7}}, agent.Snapshot{}, false},
		{"the stop was taken back a moment ago", told{}, known, true},
		{"no majority answers, and a stop was agreed", told{err: errors.New("no majority")}, known, false},
		{"no majority answers, and nothing was agreed", told{err: errors.New("no majority")}, agent.Snapshot{}, true},
	} {
		if got := stopsAlone(t.Context(), c.answer, c.before); got != c.alone {
			t.Errorf("%s: alone %t, want %t", c.name, got, c.alone)
		}
	}
}

// records is what a host knows of its own copy while it stops.
func records(primary string, running bool) agent.Snapshot {
	return agent.Snapshot{Facts: agent.Facts{Known: true, Stopping: true, Databases: []agent.DatabaseFacts{
		{Name: "records", Record: database.Record{Primary: primary}, Local: database.Local{Known: true, Running: running}},
	}}}
}

// saying adds what the newest report of a peer says. Of b4 nothing was ever heard.
func saying(now agent.Snapshot, host string, codes ...string) agent.Snapshot {
	p := agent.PeerFacts{Host: host, Report: &agent.Report{Host: host}}
	for _, code := range codes {
		p.Report.Problems = append(p.Report.Problems, problem.Problem{Code: code})
	}
	now.Facts.Peers = append(now.Facts.Peers, agent.PeerFacts{Host: "b4"}, p)
	return now
}

func TestAStandbyIsEndedAndAPrimaryIsLeftToTheRounds(t *testing.T) {
	unread := records("", true)
	unread.Facts.Known = false
	working := records("b1", true)
	working.Facts.Stopping = false
	for name, c := range map[string]struct {
		now  agent.Snapshot
		want bool
	}{
		"its primary stops, too":                      {saying(records("b1", true), "b1", "disk.filling", "cluster.stopping"), false},
		"its primary has a problem and goes on":       {saying(records("b1", true), "b1", "cluster.unreachable"), true},
		"another standby stops, too":                  {saying(records("b1", true), "b3", "cluster.stopping"), true},
		"nothing was ever heard of its primary":       {saying(records("b4", true), "b3", "cluster.stopping"), true},
		"a standby that runs":                         {records("b1", true), true},
		"a standby that is gone":                      {records("b1", false), false},
		"the primary":                                 {records("b2", true), false},
		"rounds that would start it again":            {working, false},
		"nobody knows the primary":                    {unread, true},
		"a database that no round has looked at here": {agent.Snapshot{Facts: agent.Facts{Stopping: true}}, false},
	} {
		if got := mayStopNow(c.now, "b2", "records"); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}

// server counts how often it was ended in good order, and runs again once, as after an action that was under way.
type server struct {
	stops   atomic.Int32
	running atomic.Bool
}

func (s *server) StopFast(context.Context) error {
	if s.stops.Add(1) > 1 {
		s.running.Store(false)
	}
	return nil
}

func TestAStandbyThatIsStartedOnceMoreIsEndedOnceMore(t *testing.T) {
	h := &Host{cfg: Config{Self: "b2", Log: slog.New(slog.DiscardHandler)}, clock: clock.Real()}
	s := &server{}
	s.running.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.stopStandby(ctx, "records", s, func() agent.Snapshot { return records("b1", s.running.Load()) })
	}()
	for s.running.Load() && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	<-ended
	if n := s.stops.Load(); n != 2 || s.running.Load() {
		t.Errorf("it was ended %d times, and runs: %t", n, s.running.Load())
	}
}

// Hosts that are told to end together hear of it one after the other: a standby may be the first.
func TestAStandbyThatStopsFirstStillHearsOfItsPrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Host{cfg: Config{Self: "b2", Log: slog.New(slog.DiscardHandler)}, clock: clock.Real()}
		s, began := &server{}, time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), goodOrderMax)
		defer cancel()
		h.stopStandby(ctx, "records", s, func() agent.Snapshot {
			if time.Since(began) < hearStop/2 {
				return records("b1", true)
			}
			return saying(records("b1", true), "b1", "cluster.stopping")
		})
		if n := s.stops.Load(); n > 0 {
			t.Errorf("it was ended %d times though its primary stops", n)
		}
	})
}
