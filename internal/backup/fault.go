package backup

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// faulty tells whether this host ended a server or something that it did.
type faulty interface{ HostFault() error }

// faultMax is how long a server may take to write down why a session died: it learns of it after the session's client.
const faultMax = 5 * time.Second

// hostFault is this host's fault behind err, which a session with server ended in; nil = it is none of this host's. A session
// that was killed says nothing itself, so the server's log is asked, for a while.
func hostFault(ctx context.Context, server faulty, err error) error {
	_, says := errors.AsType[*pgconn.PgError](err)
	_, answered := errors.AsType[shapeError](err)
	for deadline := time.Now().Add(faultMax); ; {
		if host := server.HostFault(); host != nil {
			return host
		}
		if says || answered || !time.Now().Before(deadline) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
