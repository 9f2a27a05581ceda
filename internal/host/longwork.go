package host

import (
	"context"
	"sync"
	"time"
)

// What takes long to end must have ended before a life's rounds do. A trial ends its server and removes all that was restored, a
// vault that is closed is written to first; without rounds meanwhile no lease is extended, and every primary of this host is fenced.
// So every end of a life that leaves the servers running ends such work first: another list of hosts, a member of etcd that this host
// gets or loses, and the end of the process. The log is archived on until trials and backups have ended. No time bounds that: the life's
// end would wait for it anyway.

// longWork is work that may take long to end. Its zero value is ready.
type longWork struct {
	mu    sync.Mutex // guards what follows
	over  bool       // nothing begins any more
	last  int        // number of the last that began
	under map[int]context.CancelFunc
}

// do does f with a context that ends with ctx, and when this work is to end; an end for that reason is no error of f's. Once it is
// to end, f is not begun.
func (l *longWork) do(ctx context.Context, f func(context.Context) error) error {
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	l.mu.Lock()
	if l.over {
		l.mu.Unlock()
		return nil
	}
	if l.under == nil {
		l.under = map[int]context.CancelFunc{}
	}
	l.last++
	id := l.last
	l.under[id] = cancel
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.under, id)
	}()
	err := f(run)
	if ctx.Err() == nil && run.Err() != nil {
		return nil
	}
	return err
}

// end tells all of it to end, and reports whether it has.
func (l *longWork) end() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	for _, cancel := range l.under {
		cancel()
	}
	return len(l.under) == 0
}

// ending reports whether it was told to end.
func (l *longWork) ending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

// endEvery is how often it is looked whether long work has ended.
const endEvery = 50 * time.Millisecond

// endLong tells what takes long to end that it must, the archiving of logs last, and reports whether all of it has ended.
func (h *Host) endLong() bool { return h.works.end() && h.streams.end() }

// endsWith ends this life, whose context is ctx, when told ends: its rounds go on until what takes long to end has ended.
func (h *Host) endsWith(ctx, told context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-told.Done():
	}
	if !h.longEnded(ctx) {
		return nil
	}
	return context.Canceled
}

// longEnded returns once what takes long to end has ended; false = ctx ended before.
func (h *Host) longEnded(ctx context.Context) bool {
	for !h.endLong() {
		if !h.sleep(ctx, endEvery) {
			return false
		}
	}
	return true
}

// endLife ends this life with a reason, once what takes long to end has ended.
func (h *Host) endLife(ctx context.Context, why error) error {
	if !h.longEnded(ctx) {
		return nil
	}
	return h.signal(ctx, why)
}

// followJoins ends this life once an order to enter another cluster has been written.
func (h *Host) followJoins(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-h.joins:
	}
	return h.endLife(ctx, errJoins)
}
