package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrUnavailable is returned when the deadline ended before the database gave an answer. Whether the last
// try was carried out is not known; repeating the request is safe.
var ErrUnavailable = errors.New("database unavailable")

// ErrUnacknowledged is returned when PostgreSQL committed but warned: above all when the wait for a
// synchronous standby was cancelled. The change is visible now, and a failover may take it back.
var ErrUnacknowledged = errors.New("commit not acknowledged by a standby")

// warningKey holds a connection's newest warning in its custom data. The handler runs in the goroutine that
// uses the connection, so no lock is needed.
const warningKey = "clinic.warning"

// read runs work, which only reads, until it succeeds, fails for good, or ctx ends.
func (s *Store) read(ctx context.Context, what string, work func(context.Context, *pgx.Conn) error) error {
	return s.do(ctx, what, false, work)
}

// write is read for work that changes something. Work must be idempotent, and must write even when it
// finds its work done: a transaction that writes nothing does not wait for standbys, so it would
// acknowledge a row that an earlier, cancelled try left on the primary alone.
func (s *Store) write(ctx context.Context, what string, work func(context.Context, *pgx.Conn) error) error {
	return s.do(ctx, what, true, work)
}

func (s *Store) do(ctx context.Context, what string, writes bool, work func(context.Context, *pgx.Conn) error) error {
	pause := 50 * time.Millisecond
	for tries := 1; ; tries++ {
		err := s.once(ctx, writes, work)
		if err == nil {
			s.note(ctx, nil)
			return nil
		}
		if ctx.Err() == nil && !Retryable(err) {
			return fmt.Errorf("%s: %w", what, err)
		}
		s.note(ctx, err)
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%s: %w (tries: %d): %w", what, ErrUnavailable, tries, err)
		case <-timer.C:
		}
		pause = min(2*pause, 500*time.Millisecond)
	}
}

// once makes one try on one connection, and throws the connection away when it is to blame.
func (s *Store) once(ctx context.Context, writes bool, work func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.attempt)
	defer cancel()
	c, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer c.Release()
	data := c.Conn().PgConn().CustomData()
	delete(data, warningKey)
	if err := work(ctx, c.Conn()); err != nil {
		if Retryable(err) {
			// The error that brought us here is the one to report; a failing goodbye adds nothing.
			_ = c.Conn().Close(ctx)
		}
		return err
	}
	if w, warned := data[warningKey]; writes && warned {
		return fmt.Errorf("%w: %v", ErrUnacknowledged, w)
	}
	return nil
}

// Retryable reports whether another try, on another connection, may succeed: the server is stopping,
// starting, or no longer the primary, or the connection broke before it answered.
func Retryable(err error) bool {
	if errors.Is(err, ErrUnacknowledged) || errors.Is(err, context.Canceled) {
		return false
	}
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pe.Code {
		case "57P01", "57P02", "57P03", // shut down by the administrator, crashed, cannot connect now
			"25006",          // read only: this server is a standby now
			"53300",          // too many connections: sessions of the old primary's clients arrive at once
			"40001", "40P01": // serialization failure, deadlock
			return true
		}
		return strings.HasPrefix(pe.Code, "08") // connection exceptions
	}
	_, isNet := errors.AsType[net.Error](err)
	_, isConnect := errors.AsType[*pgconn.ConnectError](err)
	return isNet || isConnect || pgconn.SafeToRetry(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, context.DeadlineExceeded)
}
