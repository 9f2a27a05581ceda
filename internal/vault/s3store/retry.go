package s3store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/vault/store"
)

// errSlow ends an attempt whose answer does not come, or comes slower than 64 KiB a second.
var errSlow = errors.New("it answers too slowly")

// errUnread is a store that took an object and does not give it back.
var errUnread = errors.New("it was stored, and is not there when it is looked up")

// final marks an error that no repeat can mend.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// slowest is the rate that content must have, in bytes per second.
const slowest = 64 << 10

// allow is the time that an attempt with so much content has.
func (s *Store) allow(size int64) time.Duration {
	return s.patience.Silence + time.Duration(size/slowest)*time.Second
}

// try repeats f while what it says may pass, and gives its last error with bucket and endpoint.
func (s *Store) try(ctx context.Context, do string, f func(context.Context) error) error {
	return s.tryOn(ctx, do, func(ctx context.Context) (bool, error) { return false, f(ctx) })
}

// tryOn is try for what goes on where it was cut: an attempt that got further does not count.
func (s *Store) tryOn(ctx context.Context, do string, f func(context.Context) (further bool, err error)) error {
	var err error
	for attempt := 1; ; attempt++ {
		var further bool
		further, err = f(ctx)
		if err == nil {
			return nil
		}
		if further {
			attempt = 1
		}
		if ctx.Err() != nil || attempt >= s.patience.Attempts || !passes(err) {
			break
		}
		if s.pause(ctx, attempt) != nil {
			break
		}
	}
	if ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	return s.explain(do, err)
}

// pause waits before the next attempt: at least half of the step, so that a store in trouble gets some rest, and not
// all writers at once.
func (s *Store) pause(ctx context.Context, attempt int) error {
	step := min(s.patience.Wait<<min(attempt-1, 20), s.patience.WaitMax)
	t := s.clock.NewTimer(step/2 + rand.N(step/2+1))
	defer t.Stop()
	select {
	case <-t.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// passes reports whether another attempt may go better: the server is in trouble, the connection broke, or the
// content was damaged on its way. What the server judged is final.
func passes(err error) bool {
	if _, ok := errors.AsType[final](err); ok || errors.Is(err, store.ErrDiffers) || errors.Is(err, ErrNoLock) {
		return false
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return false
	}
	r, ok := errors.AsType[minio.ErrorResponse](err)
	if !ok {
		return true // no answer at all, or not all of it
	}
	switch r.Code {
	case "BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "RequestTimeout", "SlowDown", "OperationAborted", "ConditionalRequestConflict":
		return true
	case "NotImplemented":
		return false
	}
	switch r.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusConflict, 499:
		return true
	case http.StatusNotImplemented:
		return false
	}
	return r.StatusCode < 300 || r.StatusCode >= 500
}

// explain says where it happened and, in the words of the store's contract, what it means.
func (s *Store) explain(do string, err error) error {
	place := s.bucket + " at " + s.endpoint
	r, ok := errors.AsType[minio.ErrorResponse](err)
	if !ok {
		return fmt.Errorf("%s in bucket %s: %w", do, place, err)
	}
	said := r.Code
	if r.Message != "" && r.Message != r.Code {
		said += " (" + strings.TrimSuffix(r.Message, ".") + ")"
	}
	switch {
	case r.Code == minio.NoSuchKey:
		return fmt.Errorf("%s in bucket %s: %w", do, place, store.ErrNotFound)
	case r.Code == minio.NoSuchBucket:
		return fmt.Errorf("%s in bucket %s: %w: %s", do, place, store.ErrNoPlace, said)
	case r.Code == "RequestTimeTooSkewed":
		return fmt.Errorf("%s in bucket %s: this host's clock is not the store's: %s", do, place, said)
	case r.StatusCode == http.StatusForbidden, r.StatusCode == http.StatusUnauthorized, r.Code == "InvalidAccessKeyId", r.Code == "SignatureDoesNotMatch":
		return fmt.Errorf("%s in bucket %s: %w: %s", do, place, store.ErrDenied, said)
	}
	return fmt.Errorf("%s in bucket %s: %s (HTTP status %d)", do, place, said, r.StatusCode)
}

// says reports whether the server answered with one of the codes.
func says(err error, codes ...string) bool {
	r, ok := errors.AsType[minio.ErrorResponse](err)
	if !ok {
		return false
	}
	for _, c := range codes {
		if r.Code == c {
			return true
		}
	}
	return false
}
