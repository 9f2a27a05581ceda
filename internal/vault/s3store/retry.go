package s3store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/vault/attempt"
	"holdfast/internal/vault/store"
)

// try repeats f while what it says may pass, and gives its last error with bucket and endpoint.
func (s *Store) try(ctx context.Context, do string, f func(context.Context) error) error {
	if err := s.tries().Do(ctx, f); err != nil {
		return s.explain(do, err)
	}
	return nil
}

func (s *Store) tries() attempt.Tries {
	return attempt.Tries{Patience: s.patience, Clock: s.clock, Passes: passes}
}

// passes reports whether another attempt may go better: the server is in trouble, the connection broke, or the
// content was damaged on its way. What the server judged is final.
func passes(err error) bool {
	if errors.Is(err, ErrNoLock) {
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
