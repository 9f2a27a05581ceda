package s3store_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/vault/s3store/s3test"
	"holdfast/internal/vault/store"
)

// later is a clock that is ahead.
type later time.Duration

func (l later) Now() time.Time { return time.Now().Add(time.Duration(l)) }

func (l later) NewTimer(d time.Duration) clock.Timer { return clock.Real().NewTimer(d) }

// What is still kept stays locked: a lock is made longer when half of it is over, and not before.
func TestAnS3LockIsRenewed(t *testing.T) {
	server := s3test.Start(t)
	there := server.Bucket(t, "locked", true)
	cfg := server.Config("locked", "v")
	cfg.Lock, cfg.Locks = 48*time.Hour, func(name string) bool { return strings.HasPrefix(name, "wal/") }
	s := open(t, cfg)
	stored := time.Now()
	for _, n := range []string{"wal/1", "free"} {
		if err := s.Put(t.Context(), n, store.Bytes("kept")); err != nil {
			t.Fatal(err)
		}
	}
	if did, err := s.Renew(t.Context(), "wal/1", stored); did || err != nil {
		t.Errorf("a young lock was renewed: %v, %v", did, err)
	}
	cfg.Clock = later(30 * time.Hour)
	ahead := open(t, cfg)
	for name, want := range map[string]bool{"wal/1": true, "free": false} {
		if did, err := ahead.Renew(t.Context(), name, stored); did != want || err != nil {
			t.Errorf("%s: renewed %v, %v", name, did, err)
		}
	}
	if did, err := ahead.Renew(t.Context(), "wal/1", stored); did || err != nil {
		t.Errorf("renewed twice: %v, %v", did, err)
	}
	until := stored.Add(78 * time.Hour).UTC().Format("2006-01-02")
	if err := s.Delete(t.Context(), "wal/1"); !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), until) {
		t.Errorf("deleted: %v, want it locked until %s", err, until)
	}
	if err := there.Remove(t.Context(), "v/wal/1"); !s3test.Refused(err) {
		t.Errorf("the server deleted it: %v", err)
	}
}

// What is locked is not hidden under other bytes either, whether the store heeds conditions in a bucket of versions or not.
func TestAnS3LockKeepsTheNewestVersion(t *testing.T) {
	server := s3test.Start(t)
	for bucket, f := range map[string]s3test.Faults{"unheeded": {}, "heeded": {Heeds: true}} {
		t.Run(bucket, func(t *testing.T) {
			there := server.Bucket(t, bucket, true).Below("v")
			p := server.Worse(t, 1)
			p.Set(f)
			cfg := server.Config(bucket, "v")
			cfg.Endpoint = "http://" + p.Address
			cfg.Lock, cfg.Locks = 48*time.Hour, func(string) bool { return true }
			s := open(t, cfg)
			for range 2 {
				if err := s.Put(t.Context(), "wal/1", store.Bytes("first")); err != nil {
					t.Fatal(err)
				}
			}
			before := p.Asked()
			if err := s.Put(t.Context(), "wal/1", store.Bytes("other")); !errors.Is(err, store.ErrDiffers) {
				t.Errorf("other bytes: %v", err)
			}
			if n := p.Asked() - before; n != 2 { // an upload that is refused, or a look; then what is stored is read
				t.Errorf("it took %d requests", n)
			}
			if got, err := there.Read(t.Context(), "wal/1"); err != nil || string(got) != "first" {
				t.Errorf("holds %q, %v", got, err)
			}
			if n, err := there.Versions(t.Context(), "wal/1"); err != nil || n != 1 {
				t.Errorf("%d versions, %v", n, err)
			}
		})
	}
}

// In a bucket of versions a deletion hides, and what it hides can be read.
func TestAnS3BucketOfVersionsKeepsWhatIsDeleted(t *testing.T) {
	server := s3test.Start(t)
	server.Bucket(t, "versions", true)
	s, ctx := open(t, server.Config("versions", "v")), t.Context()
	for _, content := range []string{"older", "newer"} {
		if err := s.Replace(ctx, "wal/1", store.Bytes(content)); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"wal/2", "other"} {
		if err := s.Put(ctx, n, store.Bytes("kept")); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"wal/1", "other"} {
		if err := s.Delete(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	err := s.Deleted(ctx, "wal/", func(d store.Deleted) error {
		n++
		var b strings.Builder
		if err := s.GetDeleted(ctx, d, &b); err != nil || b.String() != "newer" || d.Name != "wal/1" || d.Size != 5 || d.At.IsZero() {
			t.Errorf("%+v holds %q, %v", d, b.String(), err)
		}
		return nil
	})
	if err != nil || n != 1 {
		t.Errorf("%d were deleted, %v", n, err)
	}
	server.Bucket(t, "plain", false)
	err = open(t, server.Config("plain", "v")).Deleted(ctx, "", func(store.Deleted) error { return nil })
	if !errors.Is(err, store.ErrNoTrash) {
		t.Errorf("a bucket without versions: %v", err)
	}
}
