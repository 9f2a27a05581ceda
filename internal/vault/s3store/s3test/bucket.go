package s3test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/redact"
	"holdfast/internal/vault/s3store"
)

// Bucket is what lies below a prefix of a bucket, reached past the driver: as whoever runs the server does, or a thief. Names are
// those below the prefix.
type Bucket struct {
	name, prefix string // the prefix is empty or ends in a slash
	own          *minio.Client
}

// Bucket makes a bucket, with object lock (and so with versions) or without.
func (s *Server) Bucket(t *testing.T, name string, lock bool) *Bucket {
	t.Helper()
	c, err := s.client()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MakeBucket(t.Context(), name, minio.MakeBucketOptions{ObjectLocking: lock}); err != nil {
		t.Fatal(err)
	}
	return &Bucket{name: name, own: c}
}

// Reach gives what lies where a driver stores that is opened so.
func Reach(t *testing.T, cfg s3store.Config) *Bucket {
	t.Helper()
	name, prefix, err := s3store.Split(cfg.URL)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(cfg.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client(u.Host, cfg.Write)
	if err != nil {
		t.Fatal(err)
	}
	return (&Bucket{name: name, own: c}).Below(prefix)
}

// Below is a part of the bucket.
func (b *Bucket) Below(prefix string) *Bucket {
	if prefix != "" {
		prefix += "/"
	}
	return &Bucket{b.name, b.prefix + prefix, b.own}
}

// Names lists the objects whose names begin so.
func (b *Bucket) Names(ctx context.Context, beginning string) ([]string, error) {
	var names []string
	for o := range b.own.ListObjectsIter(ctx, b.name, minio.ListObjectsOptions{Prefix: b.prefix + beginning, Recursive: true}) {
		if o.Err != nil {
			return nil, o.Err
		}
		names = append(names, strings.TrimPrefix(o.Key, b.prefix))
	}
	return names, nil
}

// Read gives what an object holds.
func (b *Bucket) Read(ctx context.Context, name string) ([]byte, error) {
	o, err := b.own.GetObject(ctx, b.name, b.prefix+name, minio.GetObjectOptions{})
	if err != nil {
		return nil, err
	}
	defer func() { _ = o.Close() }() // only read
	return io.ReadAll(o)
}

// Write stores an object, or other bytes in the place of what one held.
func (b *Bucket) Write(ctx context.Context, name string, content []byte) error {
	_, err := b.own.PutObject(ctx, b.name, b.prefix+name, bytes.NewReader(content), int64(len(content)), minio.PutObjectOptions{})
	return err
}

// Remove deletes every version of an object.
func (b *Bucket) Remove(ctx context.Context, name string) error {
	all, err := b.versions(ctx, name)
	if err != nil {
		return err
	}
	for _, o := range all {
		if err := b.own.RemoveObject(ctx, b.name, o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID}); err != nil {
			return err
		}
	}
	return nil
}

// Refused reports whether the server refused what was asked for, as it does for what is locked.
func Refused(err error) bool { return minio.ToErrorResponse(err).Code == minio.AccessDenied }

// Versions counts the versions of an object, deletions among them.
func (b *Bucket) Versions(ctx context.Context, name string) (int, error) {
	all, err := b.versions(ctx, name)
	return len(all), err
}

func (b *Bucket) versions(ctx context.Context, name string) ([]minio.ObjectInfo, error) {
	var all []minio.ObjectInfo
	for o := range b.own.ListObjectsIter(ctx, b.name, minio.ListObjectsOptions{Prefix: b.prefix + name, WithVersions: true, Recursive: true}) {
		if o.Err != nil {
			return nil, o.Err
		}
		if o.Key == b.prefix+name { // others may begin so
			all = append(all, o)
		}
	}
	return all, nil
}

// ReadOnly makes an account of the server's that may list and get what is in a bucket, and nothing else.
func (s *Server) ReadOnly(t *testing.T, bucket string) s3store.Access {
	t.Helper()
	reader := s3store.Access{KeyID: "reader", Secret: redact.Secret("secret-of-the-reader")}
	if err := s.space.account(t.Context(), "reader", reader); err != nil {
		t.Fatal(err)
	}
	c, err := s.client()
	if err != nil {
		t.Fatal(err)
	}
	policy := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["arn:aws:iam:::user/reader"]},
		"Action":["s3:GetObject","s3:ListBucket"],"Resource":["arn:aws:s3:::%s","arn:aws:s3:::%[1]s/*"]}]}`, bucket)
	if err := c.SetBucketPolicy(t.Context(), bucket, policy); err != nil {
		t.Fatal(err)
	}
	return reader
}
