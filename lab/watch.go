package lab

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Watch asks one host's listener a question again and again, on that host itself, and remembers when it was answered:
// who is cut off together with a stale primary must not be served by it for long.
type Watch struct {
	t    testing.TB
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex // guards answers
	answers []Told
}

// Watch begins to ask, and returns when it was answered once; it ends with the test at the latest.
func (w *World) Watch(host string) *Watch {
	w.t.Helper()
	pc, err := pgx.ParseConfig(w.DSN(host))
	if err != nil {
		w.t.Fatal(err)
	}
	pc.DialFunc = w.Net.Dial(host)
	ctx, stop := context.WithCancel(context.WithoutCancel(w.t.Context()))
	watch := &Watch{t: w.t, stop: stop}
	watch.done.Go(func() { watch.run(ctx, pc) })
	w.t.Cleanup(watch.End)
	for deadline := time.Now().Add(servedMax); len(watch.Answers()) == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("the listener of %s did not answer within %s\n%s", host, servedMax, w.tail())
		}
	}
	return watch
}

// run keeps one session while it answers, and opens the next when it does not: both must end on a stale primary.
func (w *Watch) run(ctx context.Context, pc *pgx.ConnConfig) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		w.session(ctx, pc, tick)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (w *Watch) session(ctx context.Context, pc *pgx.ConnConfig, tick *time.Ticker) {
	opening, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := pgx.ConnectConfig(opening, pc)
	if err != nil {
		return // no answer is what is looked for
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // broken, or done with
	for {
		began := time.Now()
		one, cancel := context.WithTimeout(ctx, patience)
		var recovering bool
		err := conn.QueryRow(one, "SELECT pg_is_in_recovery()").Scan(&recovering)
		cancel()
		if err != nil {
			return
		}
		w.mu.Lock()
		w.answers = append(w.answers, Told{began, time.Now()})
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Answers lists what was answered up to now.
func (w *Watch) Answers() []Told {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.answers)
}

// End stops asking.
func (w *Watch) End() {
	w.stop()
	w.done.Wait()
}
