package backup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/vault"
)

const (
	// lookEvery is how often the server is asked while its files are read whether it is still what the backup began with.
	// Reading may take hours, and what is read from a server that crashed or followed another primary is worth nothing.
	lookEvery = 2 * time.Second
	// answerMax is how long its answer may take.
	answerMax = time.Minute
)

// errServerChanged ends a base backup whose server is not any more what it was when the backup began.
var errServerChanged = errors.New("the server changed while it was backed up")

// Interrupted reports whether an attempt at a base backup came to nothing because of its server: that crashed, was restarted,
// was promoted, follows another primary, or does not answer. Nothing is wrong with what it would have read: it is for beginning again.
func Interrupted(err error) bool {
	if errors.Is(err, errServerChanged) {
		return true
	}
	if says, answered := errors.AsType[*pgconn.PgError](err); answered {
		return strings.HasPrefix(says.Code, "57P") // shut down, crashed, or starting; anything else is a refusal that stays
	}
	_, unreached := errors.AsType[*pgconn.ConnectError](err)
	return unreached
}

// stopped says of a backup that could not be ended whether the server has changed since it was last asked.
func stopped(err error, b vault.Backup) error {
	says, answered := errors.AsType[*pgconn.PgError](err)
	if !answered || b.FromStandby && says.Code == "55000" { // promoted meanwhile
		return fmt.Errorf("%w: %w", errServerChanged, err)
	}
	return err
}

// whileItHolds runs do, and ends it as soon as the session that is the backup has ended, or the server has become another
// one. Nothing else may use conn meanwhile.
func (r *baseRun) whileItHolds(ctx context.Context, conn *pgx.Conn, b vault.Backup, do func(context.Context) error) error {
	doing, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	end, looked := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(looked)
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-doing.Done():
				return
			case <-tick.C:
			}
			// Not with the context of what is done: a question that is cut off would end the session.
			if err := stillTheSame(ctx, conn, b); err != nil {
				cancel(err)
				return
			}
		}
	}()
	err := do(doing)
	close(end)
	<-looked
	if why := context.Cause(doing); why != nil && ctx.Err() == nil {
		return why
	}
	return err
}

// stillTheSame asks whether the server is what b was begun on: a primary that still is one, or a standby that still
// follows the timeline on which b's recovery begins. One that was promoted, or follows a new primary, has pages that no
// log of that timeline leads to, and a primary that parted from it may have written log beyond them that would.
func stillTheSame(ctx context.Context, conn *pgx.Conn, b vault.Backup) error {
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	var standby bool
	var timeline uint32 // of the last page that a standby wrote; 0 on a primary
	if err := conn.QueryRow(ctx, "select pg_is_in_recovery(), (select coalesce(min_recovery_end_timeline, 0) from pg_control_recovery())").Scan(&standby, &timeline); err != nil {
		return fmt.Errorf("%w: its session has ended: %w", errServerChanged, err)
	}
	switch {
	case standby != b.FromStandby && b.FromStandby:
		return fmt.Errorf("%w: it was a standby, and has been promoted", errServerChanged)
	case standby != b.FromStandby:
		return fmt.Errorf("%w: it was the primary, and is a standby", errServerChanged)
	case standby && timeline != b.Timeline:
		return fmt.Errorf("%w: it followed timeline %d, and follows %d", errServerChanged, b.Timeline, timeline)
	}
	return nil
}
