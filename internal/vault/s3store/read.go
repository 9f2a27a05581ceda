package s3store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/vault/attempt"
	"holdfast/internal/vault/store"
)

// Get implements [store.Store]. A connection that breaks is taken up where it broke, and only of the same object.
func (s *Store) Get(ctx context.Context, name string, offset, length int64, to io.Writer) error {
	key, err := s.key(name)
	if err != nil {
		return err
	}
	if length == 0 {
		_, err := s.Stat(ctx, name)
		return err
	}
	r := attempt.Reading{Offset: offset, Length: length, To: to}
	err = r.Run(ctx, s.tries(), func(ctx context.Context, from, length int64, etag string) (attempt.Answer, error) {
		return s.ask(ctx, key, from, length, etag)
	})
	if err != nil {
		return s.explain("read "+name, err)
	}
	return nil
}

// ask asks for a part of an object, once.
func (s *Store) ask(ctx context.Context, key string, from, length int64, etag string) (attempt.Answer, error) {
	var opts minio.GetObjectOptions
	var err error
	switch {
	case length >= 0:
		err = opts.SetRange(from, from+length-1)
	case from > 0:
		err = opts.SetRange(from, 0)
	}
	if err == nil && etag != "" {
		err = opts.SetMatchETag(etag)
	}
	if err != nil {
		return attempt.Answer{}, attempt.Final{Err: err}
	}
	body, info, header, err := s.read.GetObject(ctx, s.bucket, key, opts)
	if err != nil {
		if says(err, "InvalidRange") && length < 0 && etag == "" { // from the very end on there is nothing
			if at, headErr := s.read.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{}); headErr == nil && at.Size == from {
				return attempt.Nothing(from), nil
			}
		}
		if says(err, "InvalidRange") {
			err = attempt.Final{Err: fmt.Errorf("%d bytes from %d on are not all there: %w", length, from, store.ErrShort)}
		}
		return attempt.Answer{}, err
	}
	return attempt.Answer{Body: body, Size: info.Size, ETag: info.ETag, Range: header.Get("Content-Range")}, nil
}

// Stat implements [store.Store].
func (s *Store) Stat(ctx context.Context, name string) (store.Info, error) {
	key, err := s.key(name)
	if err != nil {
		return store.Info{}, err
	}
	var info minio.ObjectInfo
	err = s.try(ctx, "look up "+name, func(ctx context.Context) (err error) {
		info, err = s.head(ctx, key)
		return err
	})
	if err != nil {
		return store.Info{}, err
	}
	return store.Info{Name: name, Size: info.Size, ModTime: info.LastModified}, nil
}

// head looks an object up, once.
func (s *Store) head(ctx context.Context, key string) (minio.ObjectInfo, error) {
	ctx, done := context.WithTimeoutCause(ctx, s.patience.Silence, attempt.ErrSlow)
	defer done()
	return s.read.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
}

// List implements [store.Store]. A list that is cut goes on behind the last name that came.
func (s *Store) List(ctx context.Context, prefix string, each func(store.Info) error) error {
	var after string
	var stopped error // by each, whose own error is given back as it is
	err := s.tries().Further(ctx, func(ctx context.Context) (bool, error) {
		before := after
		opts := minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, StartAfter: after}
		err := s.listOn(ctx, opts, func(o minio.ObjectInfo) error {
			after = o.Key
			if name := strings.TrimPrefix(o.Key, s.prefix); name != probe && !strings.HasSuffix(name, "/") {
				stopped = each(store.Info{Name: name, Size: o.Size, ModTime: o.LastModified})
			}
			return stopped
		})
		if stopped != nil {
			return false, attempt.Final{Err: stopped}
		}
		return after != before, err
	})
	switch {
	case stopped != nil:
		return stopped
	case err != nil:
		return s.explain(fmt.Sprintf("list %q", prefix), err)
	}
	return nil
}

// listOn lists once; the store has its silence for each page.
func (s *Store) listOn(ctx context.Context, opts minio.ListObjectsOptions, each func(minio.ObjectInfo) error) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	late := time.AfterFunc(s.patience.Silence, func() { end(attempt.ErrSlow) })
	defer late.Stop()
	for o := range s.read.ListObjectsIter(ctx, s.bucket, opts) {
		if o.Err != nil {
			return errors.Join(o.Err, context.Cause(ctx))
		}
		late.Stop()
		if err := each(o); err != nil {
			return err
		}
		late.Reset(s.patience.Silence)
	}
	return context.Cause(ctx) // the library ends a list quietly when its context ends
}

// Names implements [store.Store].
func (s *Store) Names(ctx context.Context, dir string) ([]string, error) {
	prefix := s.prefix
	if dir != "" {
		key, err := s.key(dir)
		if err != nil {
			return nil, err
		}
		prefix = key + "/"
	}
	var names []string
	err := s.try(ctx, fmt.Sprintf("list %q", dir), func(ctx context.Context) error {
		names = nil
		return s.listOn(ctx, minio.ListObjectsOptions{Prefix: prefix}, func(o minio.ObjectInfo) error {
			name := strings.TrimSuffix(strings.TrimPrefix(o.Key, prefix), "/")
			if name != "" && (dir != "" || name != probe) {
				names = append(names, name)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return names, nil
}
