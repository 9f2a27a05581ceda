// Package etcd serves the cluster store from etcd: [Open] is a client, [RunMember] an embedded member. Both
// speak TLS 1.3 with certificates on both sides. No lease is ever taken (docs/decisions/0001).
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"holdfast/internal/cluster"
)

const (
	// timeoutDefault bounds one call: long enough that most calls begun in an etcd leader election (1 to 2 s)
	// still end well.
	timeoutDefault = 2 * time.Second
	// readAttempts is how often a read is asked within the first half of its timeout while nobody answers. The balancer
	// takes endpoints in turn: a member that takes connections and cannot answer yet, for its host has just come back,
	// costs a read an eighth of its time, and not its answer.
	readAttempts = 4
	// deadAfter is how long sent bytes may stay unacknowledged before the connection counts as gone.
	deadAfter = time.Second
	// closeMax is how long the client may take to end what it has begun: it waits for no member, only for its own
	// goroutines and at most a pause between two tries.
	closeMax = 20 * time.Second
)

// Config says how to reach the members.
type Config struct {
	Endpoints []string // https URLs of client ports
	// TLS is the client side; ServerName stays empty, it comes from each endpoint.
	TLS     *tls.Config
	Timeout time.Duration // of one call; 0 = 2 s
	Log     *slog.Logger
	// ClusterID is the id of the one cluster whose answers count; 0 = that of the first that answers.
	ClusterID uint64
	// Founding is what [Refound] was told when this cluster was founded anew; "" = it never was. A write reaches no
	// cluster of another founding.
	Founding string
}

// Store is a client; it implements [cluster.Store].
type Store struct {
	client  *clientv3.Client
	timeout time.Duration
	log     *slog.Logger
	founded clientv3.Cmp  // true in a cluster of our founding alone
	id      atomic.Uint64 // of the cluster whose answers count; 0 = none has answered yet
	shut    atomic.Pointer[error]

	ctx    context.Context // of the store's life: Close ends it, and with it every watch
	cancel context.CancelFunc
	wg     sync.WaitGroup // watches
}

var _ cluster.Store = (*Store)(nil)

// Open makes a client at once, whether or not a member answers; calls find out. ctx bounds nothing but the
// client's life: when it ends the store is as good as closed, Close is still due.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	var bad []error
	if len(cfg.Endpoints) == 0 {
		bad = append(bad, errors.New("no endpoint is given"))
	}
	if cfg.TLS == nil {
		bad = append(bad, errors.New("no TLS settings are given"))
	}
	if cfg.Log == nil {
		bad = append(bad, errors.New("no logger is given"))
	}
	if err := errors.Join(bad...); err != nil {
		return nil, fmt.Errorf("open the cluster store: %w", err)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = timeoutDefault
	}
	ctx, cancel := context.WithCancel(ctx)
	client, err := clientv3.New(clientv3.Config{
		Endpoints: cfg.Endpoints,
		TLS:       cfg.TLS,
		Context:   ctx,
		Logger:    zapTo(cfg.Log, slog.LevelError), // an unreachable member is told by the callers' errors
		// gRPC pings no more often than every 10 s; the socket options below are what notices sooner.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: deadAfter,
		DialOptions: []grpc.DialOption{
			grpc.WithContextDialer(dial),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
				MinConnectTimeout: deadAfter,
			}),
		},
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open the cluster store: %w", err)
	}
	s := &Store{client: client, timeout: cfg.Timeout, log: cfg.Log, founded: ofFounding(cfg.Founding), ctx: ctx, cancel: cancel}
	s.id.Store(cfg.ClusterID)
	return s, nil
}

// ErrOtherCluster means that a member of another cluster answered: one that was founded anew after a majority was
// lost, or the one before it. Its answer counts for nothing.
var ErrOtherCluster = errors.New("a member of another cluster answered")

// foundingKey names a cluster that was founded anew; absent in one that never was.
const foundingKey = "holdfast-founding"

func ofFounding(founding string) clientv3.Cmp {
	if founding == "" {
		return clientv3.Compare(clientv3.Version(foundingKey), "=", 0)
	}
	return clientv3.Compare(clientv3.Value(foundingKey), "=", founding)
}

// ours accepts an answer's cluster: the first one that answers, and then no other.
func (s *Store) ours(h *etcdserverpb.ResponseHeader) error {
	got := h.GetClusterId()
	if got == 0 || s.id.CompareAndSwap(0, got) {
		return nil
	}
	if want := s.id.Load(); got != want {
		return fmt.Errorf("%w: %w: %x instead of %x", cluster.ErrUnavailable, ErrOtherCluster, got, want)
	}
	return nil
}

// ClusterID is the cluster whose answers count; 0 = none has answered yet.
func (s *Store) ClusterID() uint64 { return s.id.Load() }

// Shut makes every reading and writing of keys fail with why, wrapped beside [cluster.ErrUnavailable], until [Store.Admit].
// Watches that were begun go on; the members can be asked for all the same.
func (s *Store) Shut(why error) { s.shut.Store(&why) }

// Admit ends what [Store.Shut] began.
func (s *Store) Admit() { s.shut.Store(nil) }

// isShut is why keys are neither read nor written; nil = they are.
func (s *Store) isShut() error {
	if why := s.shut.Load(); why != nil {
		return fmt.Errorf("%w: %w", cluster.ErrUnavailable, *why)
	}
	return nil
}

// dial opens a connection whose kernel side notices a dead host: within deadAfter while something is being
// sent (TCP_USER_TIMEOUT), within about two seconds while idle (keepalive probes).
func dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{
		Timeout:         deadAfter,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2},
		Control: func(_, _ string, c syscall.RawConn) error {
			var set error
			if err := c.Control(func(fd uintptr) {
				set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter.Milliseconds()))
			}); err != nil {
				return err
			}
			return set
		},
	}
	return d.DialContext(ctx, "tcp", address)
}

// Get implements [cluster.Store].
func (s *Store) Get(ctx context.Context, key string) (cluster.Entry, error) {
	r, err := s.read(ctx, key)
	if err != nil {
		return cluster.Entry{}, fmt.Errorf("get %s: %w", key, err)
	}
	if len(r.Kvs) == 0 {
		return cluster.Entry{Key: key}, nil
	}
	return cluster.Entry{Key: key, Value: r.Kvs[0].Value, Revision: r.Kvs[0].ModRevision}, nil
}

// List implements [cluster.Store].
func (s *Store) List(ctx context.Context, prefix string) ([]cluster.Entry, int64, error) {
	// A range is sorted by key without being asked to.
	r, err := s.read(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", prefix, err)
	}
	out := make([]cluster.Entry, 0, len(r.Kvs))
	for _, kv := range r.Kvs {
		out = append(out, cluster.Entry{Key: string(kv.Key), Value: kv.Value, Revision: kv.ModRevision})
	}
	return out, r.Header.Revision, nil
}

// read is asked again while no answer has come, for a read may be; the first answer counts.
func (s *Store) read(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if err := s.isShut(); err != nil {
		return nil, err
	}
	ctx, cancel, err := s.bound(ctx)
	if err != nil {
		return nil, err
	}
	type result struct {
		r   *clientv3.GetResponse
		err error
	}
	results := make(chan result, readAttempts) // so that a late answer waits for nobody
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	again := time.NewTicker(s.timeout / (2 * readAttempts))
	defer again.Stop()
	asked, failed := 0, 0
	ask := func() {
		asked++
		asking.Go(func() {
			r, err := s.client.Get(ctx, key, opts...)
			if err == nil {
				err = s.ours(r.Header)
			}
			results <- result{r, err}
		})
	}
	for ask(); ; {
		more := again.C
		if asked == readAttempts {
			more = nil
		}
		select {
		case x := <-results:
			if x.err == nil {
				return x.r, nil
			}
			err = x.err
			if errors.Is(err, ErrOtherCluster) && asked < readAttempts {
				ask() // another endpoint may be of ours
			}
			if failed++; failed < asked {
				continue
			}
			if errors.Is(err, ErrOtherCluster) {
				return nil, err
			}
			return nil, s.explain(ctx, err)
		case <-more:
			ask()
		}
	}
}

// Put implements [cluster.Store].
func (s *Store) Put(ctx context.Context, key string, value []byte, ifRevision int64) (int64, error) {
	r, err := s.swap(ctx, key, ifRevision, clientv3.OpPut(key, string(value)))
	if err != nil {
		return 0, fmt.Errorf("put %s: %w", key, err)
	}
	return r.Header.Revision, nil
}

// Set implements [cluster.Store].
func (s *Store) Set(ctx context.Context, key string, value []byte) (int64, error) {
	r, err := s.write(ctx, clientv3.OpPut(key, string(value)))
	if err != nil {
		return 0, fmt.Errorf("set %s: %w", key, err)
	}
	return r.Header.Revision, nil
}

// Delete implements [cluster.Store].
func (s *Store) Delete(ctx context.Context, key string, ifRevision int64) error {
	if _, err := s.swap(ctx, key, ifRevision, clientv3.OpDelete(key)); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// swap does op if the key is still at ifRevision.
func (s *Store) swap(ctx context.Context, key string, ifRevision int64, op clientv3.Op) (*clientv3.TxnResponse, error) {
	return s.write(ctx, op, clientv3.Compare(clientv3.ModRevision(key), "=", ifRevision))
}

// write does op where the conditions hold, in a cluster of our founding alone. The client library repeats a
// transaction with a write in it only while it has not left this host.
func (s *Store) write(ctx context.Context, op clientv3.Op, conditions ...clientv3.Cmp) (*clientv3.TxnResponse, error) {
	if err := s.isShut(); err != nil {
		return nil, err
	}
	ctx, cancel, err := s.bound(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	r, err := s.client.Txn(ctx).If(append(conditions, s.founded)...).Then(op).Else(clientv3.OpTxn([]clientv3.Cmp{s.founded}, nil, nil)).Commit()
	switch {
	case err != nil:
		return nil, s.explain(ctx, err)
	case !r.Succeeded && !r.Responses[0].GetResponseTxn().Succeeded:
		return nil, fmt.Errorf("%w: %w", cluster.ErrUnavailable, ErrOtherCluster)
	case !r.Succeeded:
		return nil, cluster.ErrConflict
	}
	return r, s.ours(r.Header)
}

// bound gives the context of one call.
func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if s.ctx.Err() != nil {
		return nil, nil, fmt.Errorf("%w: the store is closed", cluster.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	return ctx, cancel, nil
}

// explain tells "no answer" from "refused". A refusal is certain: nothing was written.
func (s *Store) explain(ctx context.Context, err error) error {
	for _, refusal := range []error{rpctypes.ErrEmptyKey, rpctypes.ErrNoSpace, rpctypes.ErrRequestTooLarge, rpctypes.ErrPermissionDenied} {
		if errors.Is(err, refusal) {
			return err
		}
	}
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		// gRPC answers with a status of its own; callers look for the context's error.
		return fmt.Errorf("%w: %w: %w", cluster.ErrUnavailable, cause, err)
	}
	return fmt.Errorf("%w: %w", cluster.ErrUnavailable, err)
}

// Close implements [cluster.Store]. It ends every watch and waits for them; on the client itself, whose goroutines are
// not ours, it waits no longer than closeMax, for a host that stops must come to its end.
func (s *Store) Close() error {
	s.cancel()
	closed := make(chan error, 1)
	go func() { closed <- s.client.Close() }() // nobody can wait longer for it than is done below
	s.wg.Wait()
	late := time.NewTimer(closeMax)
	defer late.Stop()
	select {
	case err := <-closed:
		if err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("close the cluster store: %w", err)
		}
		return nil
	case <-late.C:
		s.log.Warn("the etcd client does not end; it is left to itself", "waited", closeMax)
		return fmt.Errorf("close the cluster store: its client did not end within %s", closeMax)
	}
}
