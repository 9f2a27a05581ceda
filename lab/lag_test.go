package lab_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/internal/api"
	"holdfast/lab"
)

// lagReader asks for the status all the time, and keeps what it says of the vault.
type lagReader struct {
	w *lab.World

	mu    sync.Mutex // guards what follows
	until time.Time  // the newest moment of which it was said that the vault has each commit from before it
	most  time.Duration
	known int // readings that told it
}

func (r *lagReader) run(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now() // what is said after this cannot be of a later moment
		st, err := r.w.Status()
		pauseFor(ctx, 100*time.Millisecond) // it takes a process each time
		if err != nil || len(st.Databases) == 0 || st.Databases[0].Archive == nil || st.Databases[0].Archive.Lag == nil {
			continue
		}
		lag := time.Duration(*st.Databases[0].Archive.Lag)
		r.mu.Lock()
		if until := began.Add(-lag); until.After(r.until) {
			r.until = until
		}
		r.known, r.most = r.known+1, max(r.most, lag)
		r.mu.Unlock()
	}
}

func (r *lagReader) said() (until time.Time, most time.Duration, known int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.until, r.most, r.known
}

// Every host of a plan that is written loses its power at a moment of chance, and every second time the vault was away before. The
// vault alone has each row that was acknowledged before what status had said of its lag, at any moment until then.
func TestNoMoreIsLostFromTheVaultThanStatusSays(t *testing.T) {
	lab.Long(t)
	w := lab.NewApartAs(t, lab.Shape{})
	w.Start()
	conn, err := w.Connect(t.Context(), "h1")
	if err == nil {
		_, err = conn.Exec(t.Context(), createAcks)
		err = errors.Join(err, conn.Close(t.Context()))
	}
	if err != nil {
		t.Fatal(err)
	}
	writer := w.Writer("client", "outside", "h2", 100)
	ctx, cancel := context.WithCancel(t.Context())
	r, ended := &lagReader{w: w}, make(chan struct{})
	go func() { defer close(ended); r.run(ctx) }()
	defer func() { cancel(); <-ended }()
	lost := 0
	for round := range 6 {
		began := time.Now()
		w.Await("the vault has what is written", 2*recoverMax, func(st api.Status) bool {
			until, _, _ := r.said()
			a := st.Databases[0].Archive
			return lab.Well(st) && a != nil && a.Last != nil && until.After(began) && len(acked(writer, began, until)) > 0
		})
		pauseFor(ctx, rand.N(3*time.Second))
		back := func() {}
		if round%2 == 1 {
			back = takeAway(t, filepath.Join(w.Root, "vault"))
			pauseFor(ctx, rand.N(10*time.Second))
		}
		w.PowerOffAll()
		back()
		until, most, known := r.said()
		safe := acked(writer, time.Time{}, until)
		missing := missingIn(t, w, filepath.Join(w.Root, "vault"), acked(writer, time.Time{}, time.Now()))
		lost += len(missing)
		t.Logf("round %d: %d rows were acknowledged, %d of them before what %d readings said, at most %s behind; the vault lacks %d", round+1, len(writer.Acks()), len(safe), known, most.Round(100*time.Millisecond), len(missing))
		for _, id := range missing {
			if slices.Contains(safe, id) {
				t.Fatalf("row %d is not in the vault, and was acknowledged before %s, until when all was said to be there", id, until)
			}
		}
		w.PowerOnAll()
	}
	if lost == 0 {
		t.Error("the vault never lacked anything: nothing was tried")
	}
}

// acked are the rows of which a client was told between two moments.
func acked(w *lab.Writer, from, until time.Time) (ids []int64) {
	for _, a := range w.Acks() {
		if a.Ended.After(from) && a.Ended.Before(until) {
			ids = append(ids, a.ID)
		}
	}
	return ids
}

// takeAway makes a vault unreachable until back is called.
func takeAway(t *testing.T, dir string) (back func()) {
	t.Helper()
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := os.Rename(dir+".away", dir); err != nil {
			t.Fatal(err)
		}
	}
}
