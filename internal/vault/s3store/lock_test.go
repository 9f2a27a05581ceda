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
	server.Bucket(t, "locked", true)
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
	if err := server.DeleteVersions(t.Context(), "locked", "v/wal/1"); err == nil {
		t.Error("the server deleted it")
	}
}
