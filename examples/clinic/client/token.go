package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Token is a position in the database's log. Who has replayed it shows everything that was committed before.
type Token string

// ErrBehind says that a standby had not replayed a token within the limit: read from the primary instead.
var ErrBehind = errors.New("the standby has not replayed it")

// tokenPause is the time between two questions to a standby.
const tokenPause = 5 * time.Millisecond

// TokenOf asks for a token on the session that has just committed. It stays good when the primary changes: an
// acknowledged commit is in the log of every later primary, at the same position.
func TokenOf(ctx context.Context, write *pgx.Conn) (Token, error) {
	var t Token
	if err := write.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&t); err != nil {
		return "", fmt.Errorf("ask for a token: %w", err)
	}
	return t, nil
}

// WaitForToken returns once the server behind a session of the read-only listener shows what was committed before
// t, and with [ErrBehind] when that takes longer than limit. A primary, to which the listener may fall back, shows
// it always.
func WaitForToken(ctx context.Context, read *pgx.Conn, t Token, limit time.Duration) error {
	for end := time.Now().Add(limit); ; {
		var shows bool
		if err := read.QueryRow(ctx, "SELECT NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= $1::pg_lsn", string(t)).Scan(&shows); err != nil {
			return fmt.Errorf("ask whether a standby has replayed %s: %w", t, err)
		}
		if shows {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("wait for %s: %w within %s", t, ErrBehind, limit)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(tokenPause):
		}
	}
}
