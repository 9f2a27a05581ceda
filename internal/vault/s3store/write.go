package s3store

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/vault/attempt"
	"holdfast/internal/vault/store"
)

// probe is the object by which the store shows whether it refuses to replace one when it is asked to. It stays, so
// that the question costs one request each time; lists do not show it.
const probe = "holdfast.probe"

// Put implements [store.Store]. Where the store offers it, "only if there is none" is part of the request. Elsewhere
// it is looked up before and compared after: between the two another writer may win, and is then told so, unless it
// reads its own bytes back before ours come; blobs whose names hold their hash cannot be hurt by that.
func (s *Store) Put(ctx context.Context, name string, data store.Data) error {
	key, err := s.key(name)
	if err != nil {
		return err
	}
	u, err := attempt.Digest(data)
	if err != nil {
		return err
	}
	conditional, err := s.conditionally(ctx)
	if err != nil {
		return err
	}
	return s.try(ctx, "store "+name, func(ctx context.Context) error {
		if !conditional {
			switch _, err := s.head(ctx, key); {
			case err == nil:
				return u.Compare(ctx, s, name)
			case !says(err, minio.NoSuchKey):
				return err
			}
		}
		err := s.send(ctx, key, u, conditional)
		switch {
		case conditional && refused(err): // an attempt of ours whose answer was lost, or another's
			return u.Compare(ctx, s, name)
		case err != nil:
			return err
		case !conditional:
			return u.Compare(ctx, s, name)
		}
		return s.confirm(ctx, key, u)
	})
}

// Replace implements [store.Store].
func (s *Store) Replace(ctx context.Context, name string, data store.Data) error {
	key, err := s.key(name)
	if err != nil {
		return err
	}
	u, err := attempt.Digest(data)
	if err != nil {
		return err
	}
	return s.try(ctx, "replace "+name, func(ctx context.Context) error {
		if err := s.send(ctx, key, u, false); err != nil {
			return err
		}
		return s.confirm(ctx, key, u)
	})
}

// send puts once. The server checks the content by both sums before it answers.
func (s *Store) send(ctx context.Context, key string, u attempt.Upload, onlyNew bool) error {
	ctx, done := context.WithTimeoutCause(ctx, s.patience.Allow(u.Size()), attempt.ErrSlow)
	defer done()
	opts := minio.PutObjectOptions{DisableContentSha256: true} // it is given, and signed, instead of made on the way
	if onlyNew {
		opts.SetMatchETagExcept("*")
	}
	if name := key[len(s.prefix):]; s.locked(name) {
		opts.Mode, opts.RetainUntilDate = minio.Compliance, s.clock.Now().Add(s.lock).UTC()
	}
	in := u.Body()
	_, err := s.write.PutObject(ctx, s.bucket, key, in, u.Size(),
		base64.StdEncoding.EncodeToString(u.MD5), hex.EncodeToString(u.SHA), opts)
	err = errors.Join(err, in.Close())
	if err != nil && ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	return err
}

// confirm sees that everybody can find what was stored.
func (s *Store) confirm(ctx context.Context, key string, u attempt.Upload) error {
	info, err := s.head(ctx, key)
	switch {
	case says(err, minio.NoSuchKey):
		return attempt.ErrUnread
	case err != nil:
		return err
	case info.Size != u.Size():
		return attempt.Final{Err: fmt.Errorf("%d bytes were stored, and %d are there", u.Size(), info.Size)}
	}
	return nil
}

// refused reports whether an object was there already.
func refused(err error) bool {
	r, ok := errors.AsType[minio.ErrorResponse](err)
	return ok && (r.StatusCode == http.StatusPreconditionFailed || r.Code == minio.PreconditionFailed)
}

// conditionally tries once whether the store keeps an object when it is asked to store only a new one: some refuse
// the question, and some take it and replace the object all the same.
func (s *Store) conditionally(ctx context.Context) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conditional != nil {
		return *s.conditional, nil
	}
	u, err := attempt.Digest(store.Bytes("holdfast asks whether this store keeps what it has\n"))
	if err != nil {
		return false, err
	}
	var keeps bool
	for range 2 { // the first may be the one that makes it
		err := s.try(ctx, "ask for conditional writes", func(ctx context.Context) error {
			err := s.send(ctx, s.prefix+probe, u, true)
			switch r, answered := errors.AsType[minio.ErrorResponse](err); {
			case refused(err):
				keeps = true
				return nil
			case answered && (r.StatusCode == http.StatusNotImplemented || r.Code == "NotImplemented"):
				return nil
			}
			return err
		})
		if err != nil {
			return false, err
		}
		if keeps {
			break
		}
	}
	s.conditional = &keeps
	return keeps, nil
}

// Delete implements [store.Store]. What the bucket keeps under lock is refused as store.ErrLocked: a deletion would
// hide it from every reader and give no room back.
func (s *Store) Delete(ctx context.Context, name string) error {
	key, err := s.key(name)
	if err != nil {
		return err
	}
	return s.try(ctx, "delete "+name, func(ctx context.Context) error {
		ctx, done := context.WithTimeoutCause(ctx, s.patience.Silence, attempt.ErrSlow)
		defer done()
		if s.locked(name) {
			switch info, err := s.head(ctx, key); {
			case says(err, minio.NoSuchKey):
				return nil
			case err != nil:
				return err
			case s.lockedUntil(info).After(s.clock.Now()):
				return attempt.Final{Err: fmt.Errorf("%w until %s", store.ErrLocked, s.lockedUntil(info).Format("2006-01-02 15:04 UTC"))}
			}
		}
		err := s.remove.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{})
		if says(err, minio.NoSuchKey) {
			return nil
		}
		return err
	})
}

func (s *Store) locked(name string) bool { return s.lock > 0 && s.locks != nil && s.locks(name) }

// lockedUntil is what the store says, where these credentials may know it, and what was asked for otherwise.
func (s *Store) lockedUntil(o minio.ObjectInfo) time.Time {
	if until, err := time.Parse(time.RFC3339, o.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date")); err == nil {
		return until.UTC()
	}
	return o.LastModified.Add(s.lock).UTC()
}
