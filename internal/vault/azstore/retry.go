package azstore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"holdfast/internal/vault/attempt"
	"holdfast/internal/vault/store"
)

// try repeats f while what it says may pass, and gives its last error with container and endpoint.
func (s *Store) try(ctx context.Context, do string, f func(context.Context) error) error {
	if err := s.tries().Do(ctx, f); err != nil {
		return s.explain(do, err)
	}
	return nil
}

func (s *Store) tries() attempt.Tries {
	return attempt.Tries{Patience: s.patience, Clock: s.clock, Passes: passes}
}

// passes reports whether another attempt may go better: the service is in trouble, the connection broke, or the content
// was damaged on its way. What the service judged is final.
func passes(err error) bool {
	r, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		return true // no answer at all, or not all of it
	}
	switch bloberror.Code(r.ErrorCode) {
	case bloberror.MD5Mismatch, bloberror.CRC64Mismatch, bloberror.OperationTimedOut, bloberror.ServerBusy:
		return true
	}
	switch r.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented:
		return false
	}
	return r.StatusCode < 300 || r.StatusCode >= 500
}

// explain says where it happened and, in the words of the store's contract, what it means. What the library says of an
// address is left out: the signature is part of it.
func (s *Store) explain(do string, err error) error {
	place := s.container + " of account " + s.account + " at " + s.endpoint
	r, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		return fmt.Errorf("%s in container %s: %w", do, place, withoutAddress(err))
	}
	said := r.ErrorCode
	if said == "" {
		said = http.StatusText(r.StatusCode)
	}
	switch {
	case says(err, bloberror.BlobNotFound):
		return fmt.Errorf("%s in container %s: %w", do, place, store.ErrNotFound)
	case says(err, bloberror.ContainerNotFound, bloberror.ContainerBeingDeleted, bloberror.ContainerDisabled):
		return fmt.Errorf("%s in container %s: %w: %s", do, place, store.ErrNoPlace, said)
	case says(err, bloberror.BlobImmutableDueToPolicy):
		return fmt.Errorf("%s in container %s: %w: %s", do, place, store.ErrLocked, said)
	case r.StatusCode == http.StatusForbidden, r.StatusCode == http.StatusUnauthorized, says(err, bloberror.InvalidAuthenticationInfo, bloberror.NoAuthenticationInformation):
		return fmt.Errorf("%s in container %s: %w: %s", do, place, store.ErrDenied, said)
	case r.StatusCode == http.StatusNotFound && r.ErrorCode == "":
		return fmt.Errorf("%s in container %s: %w", do, place, store.ErrNotFound)
	}
	return fmt.Errorf("%s in container %s: %s (HTTP status %d)", do, place, said, r.StatusCode)
}

// withoutAddress gives an error that does not repeat a request's address.
func withoutAddress(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		if cause := errors.Join(named(err)...); cause != nil {
			return errors.Join(cause, u.Err)
		}
		return u.Err
	}
	return err
}

// named are the known errors that err is beside what the library said.
func named(err error) (all []error) {
	for _, known := range []error{attempt.ErrSlow, attempt.ErrUnread, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, known) {
			all = append(all, known)
		}
	}
	return all
}

// says reports whether the service answered with one of the codes.
func says(err error, codes ...bloberror.Code) bool { return bloberror.HasCode(err, codes...) }

// missing reports whether a blob is not there. A look without a body carries its code in a header, which a proxy may drop.
func missing(err error) bool {
	r, ok := errors.AsType[*azcore.ResponseError](err)
	return ok && (says(err, bloberror.BlobNotFound) || r.StatusCode == http.StatusNotFound && r.ErrorCode == "")
}
