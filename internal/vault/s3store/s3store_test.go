package s3store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"holdfast/internal/redact"
	"holdfast/internal/vault/s3store"
	"holdfast/internal/vault/s3store/s3test"
	"holdfast/internal/vault/store"
	"holdfast/internal/vault/store/storetest"
)

func open(t *testing.T, cfg s3store.Config) *s3store.Store {
	t.Helper()
	s, err := s3store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestAnS3BucketIsAStore(t *testing.T) {
	server := s3test.Start(t)
	server.Bucket(t, "whole", false)
	var n atomic.Int32
	storetest.Run(t, func(t *testing.T) store.Store {
		return open(t, server.Config("whole", fmt.Sprintf("a/%d", n.Add(1))))
	})
}

func TestAnS3BucketThatCannotBeUsedIsRefusedWithTheReason(t *testing.T) {
	server := s3test.Start(t)
	server.Bucket(t, "there", false)
	for name, c := range map[string]struct {
		change func(*s3store.Config)
		is     error
		says   string
	}{
		"a bucket that is not there":   {func(c *s3store.Config) { c.URL = "s3://missing/x" }, store.ErrNoPlace, "missing"},
		"an unknown account":           {func(c *s3store.Config) { c.Write.KeyID = "nobody" }, store.ErrDenied, "there at 127."},
		"a wrong secret":               {func(c *s3store.Config) { c.Write.Secret = redact.Secret("hunter2") }, store.ErrDenied, "there at 127."},
		"a lock without object lock":   {func(c *s3store.Config) { c.Lock = 1e9 }, s3store.ErrNoLock, "object lock"},
		"no credentials":               {func(c *s3store.Config) { c.Write = s3store.Access{} }, nil, "no credentials"},
		"an endpoint that is no URL":   {func(c *s3store.Config) { c.Endpoint = "ftp://x:hunter2@y" }, nil, "http(s)://"},
		"an address that is no bucket": {func(c *s3store.Config) { c.URL = "s3://UPPER" }, nil, "s3://bucket/prefix"},
		"a prefix that leads out":      {func(c *s3store.Config) { c.URL = "s3://there/a/../b" }, nil, "clean prefix"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := server.Config("there", "x")
			c.change(&cfg)
			_, err := s3store.Open(t.Context(), cfg)
			if err == nil {
				t.Fatal("opened")
			}
			if c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), s3test.Root().Secret.Reveal()) {
				t.Errorf("the secret is in %v", err)
			}
		})
	}
}

func TestAnS3LockKeepsWhatItNames(t *testing.T) {
	server := s3test.Start(t)
	there := server.Bucket(t, "locked", true)
	cfg := server.Config("locked", "v")
	cfg.Lock, cfg.Locks = 1<<40, func(name string) bool { return strings.HasPrefix(name, "wal/") }
	s := open(t, cfg)
	ctx := t.Context()
	for _, name := range []string{"wal/1", "other"} {
		if err := s.Put(ctx, name, store.Bytes("kept")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(ctx, "wal/1"); !errors.Is(err, store.ErrLocked) {
		t.Errorf("delete what is locked: %v", err)
	}
	if err := s.Delete(ctx, "other"); err != nil {
		t.Errorf("delete what is not locked: %v", err)
	}
	if err := s.Delete(ctx, "wal/none"); err != nil {
		t.Errorf("delete what is not there: %v", err)
	}
	if got, err := store.Read(ctx, s, "wal/1"); err != nil || string(got) != "kept" {
		t.Errorf("holds %q, %v", got, err)
	}
	// Whoever stole the account asks the server itself, for the version that is stored.
	if err := there.Remove(ctx, "v/wal/1"); !s3test.Refused(err) {
		t.Errorf("the server deleted a locked version for its own root account: %v", err)
	}
}

func TestS3CredentialsCanBeApart(t *testing.T) {
	server := s3test.Start(t)
	server.Bucket(t, "apart", false)
	cfg := server.Config("apart", "v")
	cfg.Delete = s3store.Access{KeyID: "nobody", Secret: redact.Secret("nothing")}
	s := open(t, cfg)
	if err := s.Put(t.Context(), "x", store.Bytes("1")); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "x"); !errors.Is(err, store.ErrDenied) {
		t.Errorf("delete without the right: %v", err)
	}
	cfg.Read = cfg.Delete
	if _, err := s3store.Open(t.Context(), cfg); !errors.Is(err, store.ErrDenied) {
		t.Errorf("open without the right to read: %v", err)
	}
}

func TestAnS3CallEndsWithItsContext(t *testing.T) {
	server := s3test.Start(t)
	server.Bucket(t, "ends", false)
	s := open(t, server.Config("ends", ""))
	server.Kill()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, "x", store.Bytes("1")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
