package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/clock"
	"holdfast/internal/database/stored"
)

// asker asks the server how many votes it waits for, for as long as votes are asked for. It does so on a replication connection
// of its own: the stream's can only stream, and an ordinary one has no room left when clients that wait for the vault have
// taken all there is. Nobody waits for an answer.
type asker struct {
	cfg   *pgconn.Config
	log   *slog.Logger
	clock clock.Clock
	news  chan struct{} // an answer may be another one
	end   func()        // returns when it asks no more

	sess *session // run's alone
	said string   // run's alone

	mu       sync.Mutex // guards what follows
	standbys int        // of the last vote
	known    bool       // it has answered
	last     int        // as many as it asked for last
	failed   bool       // it could not be asked
}

func newAsker(cfg *pgconn.Config, log *slog.Logger, c clock.Clock, standbys int) *asker {
	return &asker{cfg: cfg, log: log, clock: c, news: make(chan struct{}, 1), standbys: standbys}
}

// begin asks until ctx ends, or end is called.
func (a *asker) begin(ctx context.Context) *asker {
	ctx, cancel := context.WithCancel(ctx)
	var g sync.WaitGroup
	g.Go(func() { a.run(ctx) })
	a.end = func() {
		cancel()
		g.Wait()
	}
	return a
}

func (a *asker) run(ctx context.Context) {
	defer a.close()
	for {
		a.ask(ctx)
		t := a.clock.NewTimer(votePace)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C():
		}
	}
}

func (a *asker) close() {
	if a.sess != nil {
		a.sess.close() // nothing was written
		a.sess = nil
	}
}

// wanted is how many votes are given to a server of a plan with so many standbys. What is not learnt stays as it was; where
// nothing could be learnt yet, it is as many as such a plan may ask for: what stands in no names counts for nothing.
func (a *asker) wanted(standbys int) int {
	if a == nil {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.standbys = standbys
	if !a.known && a.failed && standbys >= 0 {
		return max(1, standbys) // W = 1 asks for as many; a larger W, and none, for fewer
	}
	return a.last
}

// ask asks once.
func (a *asker) ask(ctx context.Context) {
	value, err := a.names(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		a.close()
	}
	a.mu.Lock()
	failed, known, last := a.failed, a.known, a.last
	a.failed = err != nil
	if n, ok := stored.Wanted(value, a.standbys); err == nil && ok {
		a.known, a.last = true, n
	}
	if failed != a.failed || known != a.known || last != a.last {
		signal(a.news)
	}
	known, last = a.known, a.last
	a.mu.Unlock()
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != "" && said != a.said {
		a.log.InfoContext(ctx, "not known how many votes for the vault the server waits for", "known", known, "votes", last, "err", err)
	}
	a.said = said
}

func (a *asker) names(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, voteWait)
	defer cancel()
	if a.sess == nil {
		sess, err := dial(ctx, a.cfg)
		if err != nil {
			return "", fmt.Errorf("ask what commits wait for: %w", err)
		}
		a.sess = sess
	}
	res, err := a.sess.conn.Exec(ctx, "SHOW synchronous_standby_names").ReadAll()
	if err == nil && (len(res) != 1 || len(res[0].Rows) != 1) {
		err = errors.New("no single answer")
	}
	if err != nil {
		return "", fmt.Errorf("ask what commits wait for: %w", err)
	}
	return string(res[0].Rows[0][0]), nil
}
