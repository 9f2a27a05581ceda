package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// errUnacknowledged is a commit that came back with a warning: a cancelled wait for a standby.
var errUnacknowledged = errors.New("commit not acknowledged by a standby")

// kindOf sorts an error into the few kinds that a table can show; "" for nil.
func kindOf(err error) string {
	if err == nil {
		return ""
	}
	if se, ok := errors.AsType[*statusError](err); ok {
		return fmt.Sprintf("HTTP %d", se.status)
	}
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		return "SQLSTATE " + pe.Code
	}
	_, isTLS := errors.AsType[*tls.CertificateVerificationError](err)
	ne, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, errUnacknowledged):
		return "unacknowledged"
	case isTLS:
		return "certificate refused"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), isNet && ne.Timeout():
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection lost"
	}
	return "other"
}
