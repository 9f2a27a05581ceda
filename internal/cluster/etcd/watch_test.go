package etcd

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// stuck is what etcd's client becomes when its member ends between the opening of a stream and its first message: the
// message waits for a member to come back, and the channels of its watches stay open until the client is closed.
type stuck struct {
	clientv3.Watcher
	opened chan struct{} // a watch was asked for
	end    chan struct{} // closed = Close comes to its end
}

func (s stuck) Watch(context.Context, string, ...clientv3.OpOption) clientv3.WatchChan {
	s.opened <- struct{}{}
	return make(chan clientv3.WatchResponse)
}

func (s stuck) Close() error {
	<-s.end
	return nil
}

func stuckStore(t *testing.T) (*Store, stuck) {
	ctx, cancel := context.WithCancel(t.Context())
	w := stuck{opened: make(chan struct{}), end: make(chan struct{})}
	client := clientv3.NewCtxClient(ctx)
	client.Watcher = w
	return &Store{client: client, timeout: timeoutDefault, log: slog.New(slog.DiscardHandler), ctx: ctx, cancel: cancel}, w
}

func TestAWatchEndsWithItsContextThoughTheClientIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := stuckStore(t)
		ctx, cancel := context.WithCancel(t.Context())
		changes := s.Watch(ctx, "/k", 0)
		<-w.opened
		cancel()
		for range changes {
			t.Error("a change came from nowhere")
		}
		close(w.end)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestAStoreIsClosedThoughTheClientIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := stuckStore(t)
		changes := s.Watch(t.Context(), "/k", 0)
		<-w.opened
		if err := s.Close(); err == nil {
			t.Error("a client that was left behind is no error")
		}
		for range changes {
			t.Error("a change came from nowhere")
		}
		close(w.end)
	})
}
