package s3store

import (
	"context"
	"fmt"
	"time"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/vault/attempt"
)

// Locked reports whether the bucket keeps an object still, so that it cannot be deleted. What is not there is not locked.
func (s *Store) Locked(ctx context.Context, name string) (bool, error) {
	if !s.locked(name) {
		return false, nil
	}
	key, err := s.key(name)
	if err != nil {
		return false, err
	}
	locked := false
	err = s.try(ctx, "ask for the lock of "+name, func(ctx context.Context) error {
		ctx, done := context.WithTimeoutCause(ctx, s.patience.Silence, attempt.ErrSlow)
		defer done()
		info, err := s.head(ctx, key)
		if says(err, minio.NoSuchKey) {
			return nil
		}
		locked = err == nil && s.lockedUntil(info).After(s.clock.Now())
		return err
	})
	return locked, err
}

// Renew sets the lock of an object that is locked for less than half of its time to the whole time from now on. It reports
// whether it did; an object that is not to be locked is left alone. stored is when the object was stored, so that young ones
// cost no request. A lock can only be made longer: nobody can use this to free anything.
func (s *Store) Renew(ctx context.Context, name string, stored time.Time) (bool, error) {
	now := s.clock.Now()
	if !s.locked(name) || now.Sub(stored) < s.lock/2 {
		return false, nil
	}
	key, err := s.key(name)
	if err != nil {
		return false, err
	}
	renewed := false
	err = s.try(ctx, "renew the lock of "+name, func(ctx context.Context) error {
		ctx, done := context.WithTimeoutCause(ctx, s.patience.Silence, attempt.ErrSlow)
		defer done()
		info, err := s.write.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
		if err != nil {
			return err
		}
		until := info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date")
		if at, err := time.Parse(time.RFC3339, until); err == nil && at.After(now.Add(s.lock/2)) {
			return nil
		} else if until != "" && err != nil {
			return attempt.Final{Err: fmt.Errorf("read its date %q: %w", until, err)}
		}
		mode, to := minio.Compliance, now.Add(s.lock).UTC()
		if err := s.write.PutObjectRetention(ctx, s.bucket, key, minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &to, VersionID: info.VersionID}); err != nil {
			return err
		}
		renewed = true
		return nil
	})
	return renewed, err
}
