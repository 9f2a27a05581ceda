package s3store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/vault/store"
)

// reading is a Get on its way: what has come already is not asked for again.
type reading struct {
	key            string
	offset, length int64 // length below 0 = to the end, until the first answer says where that is
	done           int64 // bytes that were handed on
	etag           string
	to             io.Writer
}

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
	r := &reading{key: key, offset: offset, length: length, to: to}
	return s.tryOn(ctx, "read "+name, func(ctx context.Context) (bool, error) {
		before := r.done
		err := s.readOn(ctx, r)
		return r.done-before >= slowest, err
	})
}

// readOn asks for what is missing, once.
func (s *Store) readOn(ctx context.Context, r *reading) (err error) {
	ctx, end := context.WithCancelCause(ctx)
	late := time.AfterFunc(s.patience.Silence, func() { end(errSlow) })
	defer func() {
		late.Stop()
		if err != nil && ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		end(nil)
	}()
	var opts minio.GetObjectOptions
	from := r.offset + r.done
	ranged := r.length >= 0 || from > 0
	switch {
	case r.length >= 0:
		err = opts.SetRange(from, r.offset+r.length-1)
	case from > 0:
		err = opts.SetRange(from, 0)
	}
	if err == nil && r.etag != "" {
		err = opts.SetMatchETag(r.etag)
	}
	if err != nil {
		return final{err}
	}
	body, info, header, err := s.read.GetObject(ctx, s.bucket, r.key, opts)
	if err != nil {
		if says(err, "InvalidRange") && r.length < 0 && r.done == 0 { // from the very end on there is nothing
			if at, headErr := s.read.StatObject(ctx, s.bucket, r.key, minio.StatObjectOptions{}); headErr == nil && at.Size == r.offset {
				return nil
			}
		}
		return err
	}
	defer func() { _ = body.Close() }() // only read
	if ranged && !strings.HasPrefix(header.Get("Content-Range"), fmt.Sprintf("bytes %d-", from)) {
		return final{fmt.Errorf("the store was asked for the bytes from %d on and gave others (%q)", from, header.Get("Content-Range"))}
	}
	if r.length < 0 {
		r.length = r.done + info.Size
	}
	r.etag = info.ETag
	missing := r.length - r.done
	if info.Size != missing {
		return final{fmt.Errorf("%d bytes from %d on are not all there: %w", r.length, r.offset, io.ErrUnexpectedEOF)}
	}
	late.Reset(s.allow(missing))
	return r.take(body, missing)
}

// take hands the content on. A writer that refuses is no fault of the store.
func (r *reading) take(body io.Reader, missing int64) error {
	w := &watched{to: r.to}
	n, err := io.CopyN(w, body, missing)
	r.done += n
	if w.err != nil {
		return final{w.err}
	}
	return err
}

type watched struct {
	to  io.Writer
	err error
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	if err != nil {
		w.err = err
	}
	return n, err
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
	ctx, done := context.WithTimeoutCause(ctx, s.patience.Silence, errSlow)
	defer done()
	return s.read.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
}

// List implements [store.Store]. A list that is cut goes on behind the last name that came.
func (s *Store) List(ctx context.Context, prefix string, each func(store.Info) error) error {
	var after string
	var stopped error // by each, whose own error is given back as it is
	err := s.tryOn(ctx, fmt.Sprintf("list %q", prefix), func(ctx context.Context) (bool, error) {
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
			return false, final{stopped}
		}
		return after != before, err
	})
	if stopped != nil {
		return stopped
	}
	return err
}

// listOn lists once; the store has its silence for each page.
func (s *Store) listOn(ctx context.Context, opts minio.ListObjectsOptions, each func(minio.ObjectInfo) error) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	late := time.AfterFunc(s.patience.Silence, func() { end(errSlow) })
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
