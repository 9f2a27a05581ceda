package etcd

import (
	"context"
	"math/rand/v2"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"holdfast/internal/cluster"
)

// Watch implements [cluster.Store]. etcd's client resumes a watch over a lost connection by itself; what ends
// it all the same (a member without a leader, compacted history) is begun again here after the last revision
// that the reader was given.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) <-chan cluster.Change {
	out := make(chan cluster.Change)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.ctx, cancel)
	s.wg.Go(func() {
		defer close(out)
		defer cancel()
		defer stop()
		for ctx.Err() == nil {
			after = s.follow(ctx, prefix, after, out)
			pause(ctx, 50*time.Millisecond, 200*time.Millisecond)
		}
	})
	return out
}

// follow relays one etcd watch until it breaks, and returns the revision up to which the reader knows all.
func (s *Store) follow(ctx context.Context, prefix string, after int64, out chan<- cluster.Change) int64 {
	// A member that is cut off from the majority would go on silently; required to have a leader, it ends the
	// watch, and the next one goes to another member.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	tell := func(c cluster.Change) bool {
		select {
		case out <- c:
			after = max(after, c.Revision)
			return true
		case <-ctx.Done():
			return false
		}
	}
	answers := s.client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(after+1))
	for {
		// The client closes its channel only when its stream gets round to it, and a stream that waits for a member
		// to take its first message does not until Close. It needs nobody who reads once ctx has ended.
		var r clientv3.WatchResponse
		select {
		case <-ctx.Done():
			return after
		case answer, ok := <-answers:
			if !ok {
				return after
			}
			r = answer
		}
		if err := s.ours(r.Header); err != nil {
			s.log.DebugContext(ctx, "watch ended", "prefix", prefix, "err", err)
			return after
		}
		for _, ev := range r.Events {
			if ev.Kv.ModRevision <= after {
				continue // told already, before the connection broke
			}
			if !tell(change(ev)) {
				return after
			}
		}
		if r.CompactRevision > after {
			tell(cluster.Change{Entry: cluster.Entry{Revision: r.CompactRevision}, Lost: true})
		}
		if err := r.Err(); err != nil {
			s.log.DebugContext(ctx, "watch begun again", "prefix", prefix, "after", after, "err", err)
			return after
		}
	}
}

func change(ev *clientv3.Event) cluster.Change {
	e := cluster.Entry{Key: string(ev.Kv.Key), Revision: ev.Kv.ModRevision}
	if ev.Type == clientv3.EventTypeDelete {
		return cluster.Change{Entry: e, Deleted: true}
	}
	e.Value = ev.Kv.Value
	return cluster.Change{Entry: e}
}

// pause waits between low and high, or until ctx ends. The spread keeps hosts from asking in step.
func pause(ctx context.Context, low, high time.Duration) {
	t := time.NewTimer(low + rand.N(high-low))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
