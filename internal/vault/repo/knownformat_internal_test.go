package repo

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/vault/repo/format"
	"holdfast/internal/vault/store"
)

// A backup that runs while the key is rotated goes on with the old one, which is good until it is retired; that is told once.
func TestAWriterOutlivesARotation(t *testing.T) {
	ctx := t.Context()
	x := newFormat(t)
	s := x.place(t)
	now := time.Now()
	r := x.at(t, s, &now)
	w, err := r.NewWriter(ctx, WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := r.Rewrapped("fresh")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Replace(ctx, blobDir+formatBlob, store.Bytes(raw)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		now = now.Add(16 * time.Minute)
		if err := errors.Join(storesA(ctx, w), w.Flush(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	other, err := Open(ctx, s, "fresh", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := other.Content(ctx, other.Name([]byte("a"))); err != nil || string(got) != "a" {
		t.Errorf("read with the new key: %q, %v", got, err)
	}
	if err := s.Replace(ctx, blobDir+formatBlob, store.Bytes(newFormat(t).raw)); err != nil {
		t.Fatal(err)
	}
	now = now.Add(16 * time.Minute)
	if _, err := r.NewWriter(ctx, WriteOptions{}); err == nil || !strings.Contains(err.Error(), "another repository") {
		t.Errorf("a writer to another repository: %v", err)
	}
}

// slowFormat is a place that gives the format when it is let.
type slowFormat struct {
	store.Store
	once     sync.Once
	in, gate chan struct{}
}

func (s *slowFormat) Get(ctx context.Context, name string, offset, length int64, to io.Writer) error {
	if name == blobDir+formatBlob {
		s.once.Do(func() { close(s.in) })
		<-s.gate
	}
	return s.Store.Get(ctx, name, offset, length, to)
}

// While the format is read again, and while it is told what came of that, the one that is known can be used.
func TestTheFormatIsThereWhileItIsReadAgain(t *testing.T) {
	ctx := t.Context()
	x := newFormat(t)
	here := x.place(t)
	s := &slowFormat{Store: here, in: make(chan struct{}), gate: make(chan struct{})}
	now := time.Now()
	used := make(chan error, 2)
	var r *Repository
	use := func() { _, err := r.DeriveKey("p", 32); used <- err }
	r, err := openWith(ctx, s, x.f, x.raw, testPassword, Options{Now: func() time.Time { return now }, Fatal: func(error) { use() }})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x.f.Demanding("time travel", testPassword)
	if err != nil {
		t.Fatal(err)
	}
	if err := here.Replace(ctx, blobDir+formatBlob, store.Bytes(raw)); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour)
	written := make(chan error, 1)
	go func() { _, err := r.NewWriter(ctx, WriteOptions{}); written <- err }()
	<-s.in
	go use()
	wait := func(what string, c <-chan error) error {
		t.Helper()
		select {
		case err := <-c:
			return err
		case <-time.After(2 * time.Minute):
			t.Fatalf("%s: nothing comes", what)
			return nil
		}
	}
	if err := wait("used while it is read", used); err != nil {
		t.Error(err)
	}
	close(s.gate)
	if err := wait("used by who is told", used); err != nil {
		t.Error(err)
	}
	if err := wait("a writer", written); !errors.Is(err, format.ErrTooNew) {
		t.Errorf("a writer to a format of the future: %v", err)
	}
}
