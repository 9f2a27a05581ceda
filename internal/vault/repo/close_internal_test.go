package repo

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/vault/store"
)

// gated is a place that stores the first blob of a kind when it is let.
type gated struct {
	store.Store
	kind     string
	once     sync.Once
	in, gate chan struct{}
}

func (x fixed) gated(t *testing.T, kind string) *gated {
	return &gated{Store: x.place(t), kind: kind, in: make(chan struct{}), gate: make(chan struct{})}
}

func (g *gated) Put(ctx context.Context, name string, data store.Data) error {
	if strings.HasPrefix(name, blobDir+g.kind) {
		g.once.Do(func() { close(g.in); <-g.gate })
	}
	return g.Store.Put(ctx, name, data)
}

// storing begins to store a content that fills a pack, and comes back when the place has it at the gate.
func (g *gated) storing(t *testing.T, w *Writer) <-chan error {
	w.packSize = 100
	done := make(chan error, 1)
	go func() { _, err := w.Store(t.Context(), noise(1, 1000), "", false); done <- err }()
	<-g.in
	return done
}

// A session that is closed while another goroutine stores leaves no pack without a marker, and tells that goroutine.
func TestASessionIsClosedWhileItStores(t *testing.T) {
	for _, kind := range []string{markerPrefix, packData} {
		x := newFormat(t)
		s := x.gated(t, kind)
		r := x.open(t, s)
		w, err := r.NewWriter(t.Context(), WriteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		done, closed := s.storing(t, w), make(chan error, 1)
		go func() { closed <- w.Close(t.Context()) }()
		for over := false; !over; time.Sleep(time.Millisecond) { // until it is closed, though that may wait for the marker
			w.mu.Lock()
			over = w.closed
			w.mu.Unlock()
		}
		close(s.gate)
		if err := <-done; !errors.Is(err, errClosed) {
			t.Errorf("at the gate of %s: stored in a closed session: %v", kind, err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if packs, markers := blobsOf(t, r, packData), blobsOf(t, r, markerPrefix); len(packs) > 0 && len(markers) == 0 {
			t.Errorf("at the gate of %s: packs %v without a marker", kind, packs)
		}
	}
}

// A flush whose context ends does not wait for what another goroutine stores.
func TestAFlushEndsWithItsContext(t *testing.T) {
	x := newFormat(t)
	s := x.gated(t, packData)
	w, err := x.open(t, s).NewWriter(t.Context(), WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	done := s.storing(t, w)
	ctx, cancel := context.WithCancel(t.Context())
	flushed := make(chan error, 1)
	go func() { flushed <- w.Flush(ctx) }()
	for waits := false; !waits; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		waits = len(w.old) > 0
		w.mu.Unlock()
	}
	cancel()
	select {
	case err := <-flushed:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("flushed: %v", err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("it waits for ever")
	}
	close(s.gate)
	if err := errors.Join(<-done, w.Flush(t.Context()), w.Close(t.Context())); err != nil {
		t.Errorf("and then: %v", err)
	}
}
