// Package store keeps the clinic's practices, appointments, attachments and reminders in PostgreSQL. It is
// written for a database that fails over: every operation may be repeated without doing its work twice, so
// a lost connection is tried again until the caller's deadline. Start at [Open]; the rule is in retry.go.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrNotFound is returned when what was asked for by id is not there.
var ErrNotFound = errors.New("not found")

// Config says which database and how patiently. Zero fields mean the default in their comment.
type Config struct {
	URL         string        // postgres://...; required
	Application string        // shown in pg_stat_activity
	MaxConns    int32         // 8
	Attempt     time.Duration // longest single try of one operation (5 s); the caller's deadline bounds all tries
	Log         *slog.Logger  // slog.Default()
}

// Store is a pool of connections and what it last heard from the database. Safe for concurrent use.
type Store struct {
	pool    *pgxpool.Pool
	attempt time.Duration
	log     *slog.Logger

	mu       sync.Mutex // guards the fields below
	answered time.Time  // last time that an operation succeeded; zero = never
	trouble  error      // why the newest try failed; nil = it succeeded
}

// Open makes the pool without connecting: a database that is away now is waited for by each operation.
// The only errors are those of the URL.
func Open(cfg Config) (*Store, error) {
	pc, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("read the database URL: %w", err)
	}
	pc.MaxConns = cfg.MaxConns
	if pc.MaxConns == 0 {
		pc.MaxConns = 8
	}
	pc.HealthCheckPeriod = 5 * time.Second
	pc.MaxConnIdleTime = 5 * time.Minute
	pc.MaxConnLifetime = 30 * time.Minute
	pc.MaxConnLifetimeJitter = 5 * time.Minute
	pc.PingTimeout = 500 * time.Millisecond
	// Two seconds, not less: a listener may accept at once and hold the session while a primary is being made.
	pc.ConnConfig.ConnectTimeout = 2 * time.Second
	if cfg.Application != "" {
		pc.ConnConfig.RuntimeParams["application_name"] = cfg.Application
	}
	pc.ConnConfig.OnNotice = func(c *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			c.CustomData()[warningKey] = n.Message
		}
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), pc)
	if err != nil {
		return nil, fmt.Errorf("make the connection pool: %w", err)
	}
	s := &Store{pool: pool, attempt: cfg.Attempt, log: cfg.Log}
	if s.attempt == 0 {
		s.attempt = 5 * time.Second
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	return s, nil
}

// Close ends every connection, waiting for those in use.
func (s *Store) Close() { s.pool.Close() }

// Health is what the newest operations learnt about the database, without asking it anything.
type Health struct {
	Answered time.Time // zero = never
	Trouble  error     // nil = the newest try succeeded
}

// Health never blocks on the database.
func (s *Store) Health() Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Health{Answered: s.answered, Trouble: s.trouble}
}

// note remembers how a try ended, and logs the first failure of a row of them and the recovery.
func (s *Store) note(ctx context.Context, err error) {
	now := time.Now()
	s.mu.Lock()
	before, last := s.trouble, s.answered
	s.trouble = err
	if err == nil {
		s.answered = now
	}
	s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		s.log.WarnContext(ctx, "database does not answer, trying again", "err", err)
	case err == nil && before != nil && !last.IsZero():
		s.log.InfoContext(ctx, "database answers again", "gap", now.Sub(last))
	}
}
