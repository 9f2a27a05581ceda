// Package memory is the cluster store's in-memory twin: linearizable, watched, and breakable on demand. Get,
// List, Put, Set and Delete use no goroutine and no time, so the simulator calls them in its own order, and
// reads changes with [Store.Since]; Watch, for ordinary tests, runs a goroutine that ends with its context.
package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"holdfast/internal/cluster"
)

// Shared is one store that several clients see, each through a view of its own.
type Shared struct {
	mu        sync.Mutex // guards everything below
	rev       int64      // of the last write; the first write makes 1
	keys      map[string]cluster.Entry
	history   []cluster.Change // ascending revisions, all above compacted
	compacted int64            // changes at or below it are forgotten
	down      bool
	clients   map[string]*faults
	moved     chan struct{} // closed and replaced whenever a watch may have news
}

// faults is what goes wrong for one client.
type faults struct {
	cut          bool
	watchHeld    bool
	answersToEat int
}

// New makes an empty store.
func New() *Shared {
	return &Shared{keys: map[string]cluster.Entry{}, clients: map[string]*faults{}, moved: make(chan struct{})}
}

// Open gives client's view. Views of the same client share its faults.
func (s *Shared) Open(client string) *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults(client)
	ctx, cancel := context.WithCancel(context.Background())
	return &Store{shared: s, client: client, ctx: ctx, cancel: cancel}
}

// Unavailable makes every call of every client fail, and every watch silent, until called with false.
func (s *Shared) Unavailable(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	s.stir()
}

// Partition does the same to one client.
func (s *Shared) Partition(client string, cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults(client).cut = cut
	s.stir()
}

// HoldWatch delays changes on their way to one client's watches and Since, while its calls work.
func (s *Shared) HoldWatch(client string, held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults(client).watchHeld = held
	s.stir()
}

// LoseAnswers lets the client's next n writes happen and answers them with ErrUnavailable.
func (s *Shared) LoseAnswers(client string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults(client).answersToEat = n
}

// Compact forgets changes up to and including rev.
func (s *Shared) Compact(rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compacted = max(s.compacted, min(rev, s.rev))
	s.history = slices.DeleteFunc(s.history, func(c cluster.Change) bool { return c.Revision <= s.compacted })
	s.stir()
}

// Revision is the revision of the last write.
func (s *Shared) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rev
}

// faults needs mu.
func (s *Shared) faults(client string) *faults {
	f := s.clients[client]
	if f == nil {
		f = &faults{}
		s.clients[client] = f
	}
	return f
}

// stir needs mu.
func (s *Shared) stir() {
	close(s.moved)
	s.moved = make(chan struct{})
}

var (
	errDown   = errors.New("the store is down")
	errCut    = errors.New("the client is cut off")
	errLost   = errors.New("the answer was lost")
	errClosed = errors.New("the store is closed")
)

// Store is one client's view; it implements [cluster.Store].
type Store struct {
	shared *Shared
	client string
	ctx    context.Context // of the view's life: Close ends it, and with it every watch
	cancel context.CancelFunc
	wg     sync.WaitGroup // watches
}

var _ cluster.Store = (*Store)(nil)

// Get implements [cluster.Store].
func (v *Store) Get(ctx context.Context, key string) (cluster.Entry, error) {
	s := v.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := v.reach(ctx); err != nil {
		return cluster.Entry{}, fmt.Errorf("get %s: %w", key, err)
	}
	e, ok := s.keys[key]
	if !ok {
		return cluster.Entry{Key: key}, nil
	}
	return clone(e), nil
}

// List implements [cluster.Store].
func (v *Store) List(ctx context.Context, prefix string) ([]cluster.Entry, int64, error) {
	s := v.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := v.reach(ctx); err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", prefix, err)
	}
	var out []cluster.Entry
	for k, e := range s.keys {
		if strings.HasPrefix(k, prefix) {
			out = append(out, clone(e))
		}
	}
	slices.SortFunc(out, func(a, b cluster.Entry) int { return strings.Compare(a.Key, b.Key) })
	return out, s.rev, nil
}

// Put implements [cluster.Store].
func (v *Store) Put(ctx context.Context, key string, value []byte, ifRevision int64) (int64, error) {
	return v.write(ctx, "put", key, value, &ifRevision, false)
}

// Set implements [cluster.Store].
func (v *Store) Set(ctx context.Context, key string, value []byte) (int64, error) {
	return v.write(ctx, "set", key, value, nil, false)
}

// Delete implements [cluster.Store].
func (v *Store) Delete(ctx context.Context, key string, ifRevision int64) error {
	_, err := v.write(ctx, "delete", key, nil, &ifRevision, true)
	return err
}

func (v *Store) write(ctx context.Context, verb, key string, value []byte, ifRevision *int64, remove bool) (int64, error) {
	s := v.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	if key == "" {
		return 0, fmt.Errorf("%s: the key is empty", verb)
	}
	if err := v.reach(ctx); err != nil {
		return 0, fmt.Errorf("%s %s: %w", verb, key, err)
	}
	have := s.keys[key].Revision
	if ifRevision != nil && have != *ifRevision {
		return 0, fmt.Errorf("%s %s: %w", verb, key, cluster.ErrConflict)
	}
	if !remove || have != 0 {
		s.rev++
		e := cluster.Entry{Key: key, Value: slices.Clone(value), Revision: s.rev}
		if remove {
			delete(s.keys, key)
		} else {
			s.keys[key] = e
		}
		s.history = append(s.history, cluster.Change{Entry: e, Deleted: remove})
		s.stir()
	}
	if f := s.faults(v.client); f.answersToEat > 0 {
		f.answersToEat--
		return 0, fmt.Errorf("%s %s: %w: %w", verb, key, cluster.ErrUnavailable, errLost)
	}
	return s.rev, nil
}

// reach needs the shared mu.
func (v *Store) reach(ctx context.Context) error {
	var cause error
	switch {
	case v.ctx.Err() != nil:
		cause = errClosed
	case ctx.Err() != nil:
		cause = ctx.Err()
	case v.shared.down:
		cause = errDown
	case v.shared.faults(v.client).cut:
		cause = errCut
	default:
		return nil
	}
	return fmt.Errorf("%w: %w", cluster.ErrUnavailable, cause)
}

// Since is the simulator's watch: every change under prefix after revision `after`, in order. Nothing comes
// while the client is cut off or its watches are held. A compacted `after` gives a Lost change first.
func (v *Store) Since(prefix string, after int64) []cluster.Change {
	v.shared.mu.Lock()
	defer v.shared.mu.Unlock()
	out, _ := v.since(prefix, after)
	return out
}

// since needs the shared mu. The second result is the revision to continue after.
func (v *Store) since(prefix string, after int64) ([]cluster.Change, int64) {
	s := v.shared
	f := s.faults(v.client)
	if v.ctx.Err() != nil || s.down || f.cut || f.watchHeld {
		return nil, after
	}
	var out []cluster.Change
	if after < s.compacted {
		out = append(out, cluster.Change{Entry: cluster.Entry{Revision: s.compacted}, Lost: true})
		after = s.compacted
	}
	from, _ := slices.BinarySearchFunc(s.history, after+1, func(c cluster.Change, rev int64) int {
		return int(c.Revision - rev)
	})
	for _, c := range s.history[from:] {
		if strings.HasPrefix(c.Key, prefix) {
			out = append(out, cluster.Change{Entry: clone(c.Entry), Deleted: c.Deleted})
		}
	}
	return out, max(after, s.rev)
}

// Watch implements [cluster.Store].
func (v *Store) Watch(ctx context.Context, prefix string, after int64) <-chan cluster.Change {
	out := make(chan cluster.Change)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(v.ctx, cancel)
	v.wg.Go(func() {
		defer close(out)
		defer cancel()
		defer stop()
		for {
			v.shared.mu.Lock()
			moved := v.shared.moved
			var news []cluster.Change
			news, after = v.since(prefix, after)
			v.shared.mu.Unlock()
			for _, c := range news {
				select {
				case out <- c:
				case <-ctx.Done():
					return
				}
			}
			if len(news) > 0 {
				continue
			}
			select {
			case <-moved:
			case <-ctx.Done():
				return
			}
		}
	})
	return out
}

// Close implements [cluster.Store].
func (v *Store) Close() error {
	v.cancel()
	v.wg.Wait()
	return nil
}

func clone(e cluster.Entry) cluster.Entry {
	e.Value = slices.Clone(e.Value)
	return e
}
