package s3store

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/vault/attempt"
	"holdfast/internal/vault/store"
)

// Deleted implements [store.Trash] where the bucket keeps versions: what a deletion hides is there still, until the bucket's
// lifecycle rules remove it. Nothing of ours does.
func (s *Store) Deleted(ctx context.Context, prefix string, each func(store.Deleted) error) error {
	var versioned bool
	err := s.try(ctx, "ask for versions", func(ctx context.Context) error {
		ctx, done := context.WithTimeoutCause(ctx, s.patience.Silence, attempt.ErrSlow)
		defer done()
		conf, err := s.read.GetBucketVersioning(ctx, s.bucket)
		versioned = conf.Enabled() || conf.Suspended()
		return err
	})
	if err != nil {
		return err
	}
	if !versioned {
		return fmt.Errorf("list what was deleted in bucket %s: %w: it keeps no versions", s.bucket, store.ErrNoTrash)
	}
	var found []store.Deleted
	err = s.try(ctx, fmt.Sprintf("list what was deleted below %q", prefix), func(ctx context.Context) error {
		found = found[:0]
		var hidden minio.ObjectInfo // the deletion that hides what follows
		opts := minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, WithVersions: true}
		return s.listOn(ctx, opts, func(o minio.ObjectInfo) error {
			switch name := strings.TrimPrefix(o.Key, s.prefix); {
			case o.IsDeleteMarker && o.IsLatest:
				hidden = o
			case !o.IsDeleteMarker && hidden.Key == o.Key && name != probe: // the newest that it hides
				found = append(found, store.Deleted{
					Info: store.Info{Name: name, Size: o.Size, ModTime: o.LastModified}, At: hidden.LastModified, ID: o.VersionID,
				})
				hidden = minio.ObjectInfo{}
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, d := range found {
		if err := each(d); err != nil {
			return err
		}
	}
	return nil
}

// GetDeleted implements [store.Trash].
func (s *Store) GetDeleted(ctx context.Context, d store.Deleted, to io.Writer) error {
	key, err := s.key(d.Name)
	if err != nil {
		return err
	}
	r := attempt.Reading{Length: -1, To: to}
	err = r.Run(ctx, s.tries(), func(ctx context.Context, from, length int64, _ string) (attempt.Answer, error) {
		opts := minio.GetObjectOptions{VersionID: d.ID}
		if length >= 0 { // it was cut: the rest
			if err := opts.SetRange(from, from+length-1); err != nil {
				return attempt.Answer{}, attempt.Final{Err: err}
			}
		}
		body, info, header, err := s.read.GetObject(ctx, s.bucket, key, opts)
		if err != nil {
			return attempt.Answer{}, err
		}
		return attempt.Answer{Body: body, Size: info.Size, Range: header.Get("Content-Range")}, nil
	})
	if err != nil {
		return s.explain("read deleted "+d.Name, err)
	}
	return nil
}

var _ store.Trash = (*Store)(nil)
