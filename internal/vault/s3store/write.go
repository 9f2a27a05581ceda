package s3store

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/vault/store"
)

// probe is the object by which the store shows whether it refuses to replace one when it is asked to. It stays, so
// that the question costs one request each time; lists do not show it.
const probe = "holdfast.probe"

// upload is content with what the server checks it by.
type upload struct {
	data     store.Data
	sha, md5 []byte
}

func digest(data store.Data) (upload, error) {
	sha, sum := sha256.New(), md5.New() // not for safety: a store that does not check the signed SHA-256 checks this
	in := data.Reader()
	n, err := io.Copy(io.MultiWriter(sha, sum), in)
	err = errors.Join(err, in.Close())
	if err == nil && n != int64(data.Length()) {
		err = fmt.Errorf("%d bytes were announced, %d came", data.Length(), n)
	}
	if err != nil {
		return upload{}, fmt.Errorf("read what is to be stored: %w", err)
	}
	return upload{data: data, sha: sha.Sum(nil), md5: sum.Sum(nil)}, nil
}

// Put implements [store.Store]. Where the store offers it, "only if there is none" is part of the request. Elsewhere
// it is looked up before and compared after: between the two another writer may win, and is then told so, unless it
// reads its own bytes back before ours come; blobs whose names hold their hash cannot be hurt by that.
func (s *Store) Put(ctx context.Context, name string, data store.Data) error {
	key, err := s.key(name)
	if err != nil {
		return err
	}
	u, err := digest(data)
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
				return s.compare(ctx, name, u)
			case !says(err, minio.NoSuchKey):
				return err
			}
		}
		err := s.send(ctx, key, u, conditional)
		switch {
		case conditional && refused(err): // an attempt of ours whose answer was lost, or another's
			return s.compare(ctx, name, u)
		case err != nil:
			return err
		case !conditional:
			return s.compare(ctx, name, u)
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
	u, err := digest(data)
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
func (s *Store) send(ctx context.Context, key string, u upload, onlyNew bool) error {
	ctx, done := context.WithTimeoutCause(ctx, s.allow(int64(u.data.Length())), errSlow)
	defer done()
	opts := minio.PutObjectOptions{DisableContentSha256: true} // it is given, and signed, instead of made on the way
	if onlyNew {
		opts.SetMatchETagExcept("*")
	}
	if name := key[len(s.prefix):]; s.locked(name) {
		opts.Mode, opts.RetainUntilDate = minio.Compliance, s.clock.Now().Add(s.lock).UTC()
	}
	in := &body{in: u.data.Reader()}
	_, err := s.write.PutObject(ctx, s.bucket, key, in, int64(u.data.Length()),
		base64.StdEncoding.EncodeToString(u.md5), hex.EncodeToString(u.sha), opts)
	err = errors.Join(err, in.Close())
	if err != nil && ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	return err
}

// body is content on its way. A server that answers early leaves the library's connection reading on behind our back,
// while the content's owner may use its memory for something else: after Close nobody reads any more.
type body struct {
	mu    sync.Mutex // guards both, and is held while the content is read
	in    io.ReadSeekCloser
	ended bool
}

var errEnded = errors.New("the request has ended")

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return 0, errEnded
	}
	return b.in.Read(p)
}

func (b *body) Seek(offset int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return 0, errEnded
	}
	return b.in.Seek(offset, whence)
}

func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return nil
	}
	b.ended = true
	return b.in.Close()
}

// confirm sees that everybody can find what was stored.
func (s *Store) confirm(ctx context.Context, key string, u upload) error {
	info, err := s.head(ctx, key)
	switch {
	case says(err, minio.NoSuchKey):
		return errUnread
	case err != nil:
		return err
	case info.Size != int64(u.data.Length()):
		return final{fmt.Errorf("%d bytes were stored, and %d are there", u.data.Length(), info.Size)}
	}
	return nil
}

// compare holds what is stored under name against what was offered. What vanished meanwhile may be stored again.
func (s *Store) compare(ctx context.Context, name string, u upload) error {
	there := sha256.New()
	size := &counted{to: there}
	err := s.Get(ctx, name, 0, -1, size)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return errUnread
	case err != nil:
		return final{err}
	case string(there.Sum(nil)) != string(u.sha):
		return fmt.Errorf("%w (%d bytes there, %d offered)", store.ErrDiffers, size.n, u.data.Length())
	}
	return nil
}

type counted struct {
	to io.Writer
	n  int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	return n, err
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
	u, err := digest(store.Bytes("holdfast asks whether this store keeps what it has\n"))
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
		ctx, done := context.WithTimeoutCause(ctx, s.patience.Silence, errSlow)
		defer done()
		if s.locked(name) {
			switch info, err := s.head(ctx, key); {
			case says(err, minio.NoSuchKey):
				return nil
			case err != nil:
				return err
			case s.lockedUntil(info).After(s.clock.Now()):
				return final{fmt.Errorf("%w until %s", store.ErrLocked, s.lockedUntil(info).Format("2006-01-02 15:04 UTC"))}
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
