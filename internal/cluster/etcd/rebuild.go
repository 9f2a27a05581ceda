package etcd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/wal"

	"holdfast/internal/cluster"
	"holdfast/internal/durable"
)

// What is done when most members are gone for good. Nothing here waits for another member, and nothing changes the
// data of a member that may still be needed: what is left is read from a copy, and a new cluster is founded in an
// empty folder. It is a new one, with an id of its own, on purpose: members of the former cluster cannot talk to it,
// nor can clients of the one take answers of the other for theirs ([ErrOtherCluster]).

// ErrNoData means that a folder holds no member's log.
var ErrNoData = errors.New("no etcd data")

// aloneMax is how long a member by itself may take to serve: it elects itself after at most two timeouts, and reads
// its log first.
const aloneMax = time.Minute

// Left is what one member's disk holds of a cluster that may have no majority any more.
type Left struct {
	ClusterID uint64
	Revision  int64
	Entries   []cluster.Entry
}

// ReadLeft reads what the member in cfg.Dir has on its disk, from a copy in scratch, which it removes. The member
// must not run. Entries that the member had stored and did not know to be agreed on are not among it: a follower
// learns that a moment after the leader, so the last write before the loss may be missing.
func ReadLeft(ctx context.Context, cfg MemberConfig, scratch, prefix string) (Left, error) {
	if !wal.Exist(filepath.Join(cfg.Dir, "data", "member", "wal")) {
		return Left{}, fmt.Errorf("read what is left of member %s in %s: %w", cfg.Name, cfg.Dir, ErrNoData)
	}
	unlock, err := lock(cfg.Dir)
	if err != nil {
		return Left{}, fmt.Errorf("read what is left of member %s: %w", cfg.Name, err)
	}
	defer unlock()
	if err := os.RemoveAll(scratch); err != nil {
		return Left{}, fmt.Errorf("read what is left of member %s: %w", cfg.Name, err)
	}
	defer func() { _ = os.RemoveAll(scratch) }() // a copy; the next reading removes what is left of it
	if err := os.CopyFS(scratch, os.DirFS(filepath.Join(cfg.Dir, "data"))); err != nil {
		return Left{}, fmt.Errorf("copy what is left of member %s: %w", cfg.Name, err)
	}
	var left Left
	err = alone(ctx, cfg, scratch, true, func(e *embed.Etcd, c *clientv3.Client) error {
		r, err := c.Get(ctx, prefix, clientv3.WithPrefix())
		if err != nil {
			return err
		}
		left = leftOf(r)
		left.ClusterID = uint64(e.Server.Cluster().ID())
		return nil
	})
	if err != nil {
		return Left{}, fmt.Errorf("read what is left of member %s: %w", cfg.Name, err)
	}
	return left, nil
}

// ReadServing reads what a member that runs holds, without asking for a majority: the rest of its cluster may have moved
// on. conf names that member's client URL alone.
func ReadServing(ctx context.Context, conf Config, prefix string) (Left, error) {
	s, err := Open(ctx, conf)
	if err != nil {
		return Left{}, err
	}
	defer func() { _ = s.Close() }() // nothing was written
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	r, err := s.client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithSerializable())
	if err != nil {
		return Left{}, fmt.Errorf("read what the member at %s holds: %w", conf.Endpoints[0], s.explain(ctx, err))
	}
	return leftOf(r), nil
}

func leftOf(r *clientv3.GetResponse) Left {
	left := Left{ClusterID: r.Header.ClusterId, Revision: r.Header.Revision}
	for _, kv := range r.Kvs {
		left.Entries = append(left.Entries, cluster.Entry{Key: string(kv.Key), Value: kv.Value, Revision: kv.ModRevision})
	}
	return left
}

// Refound makes, in cfg.Dir, the data of a cluster of which cfg's member is the only one, holding entries (their
// revisions are not kept), and gives its id. cfg.Dir must be absent or the rest of an earlier try. founding must be
// unlike that of every earlier cluster of the application: it makes the id another one, and clients are told it
// ([Config.Founding]). The member is not running when Refound returns; what it made is on the disk.
func Refound(ctx context.Context, cfg MemberConfig, founding string, entries []cluster.Entry) (uint64, error) {
	fail := func(err error) (uint64, error) {
		return 0, fmt.Errorf("found the cluster anew with member %s: %w", cfg.Name, err)
	}
	if err := os.RemoveAll(cfg.Dir); err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return fail(err)
	}
	cfg.Cluster = map[string]string{cfg.Name: cfg.PeerURL}
	if err := writeLife(filepath.Join(cfg.Dir, "life"), newLife(cfg)); err != nil {
		return fail(err)
	}
	var id uint64
	data := filepath.Join(cfg.Dir, "data")
	cfg.Founding = founding
	err := alone(ctx, cfg, data, false, func(e *embed.Etcd, c *clientv3.Client) error {
		id = uint64(e.Server.Cluster().ID())
		if _, err := c.Put(ctx, foundingKey, founding); err != nil {
			return fmt.Errorf("name the founding: %w", err)
		}
		for _, x := range entries {
			if _, err := c.Put(ctx, x.Key, string(x.Value)); err != nil {
				return fmt.Errorf("write %s: %w", x.Key, err)
			}
		}
		return nil
	})
	if err != nil {
		return fail(err)
	}
	return id, syncTree(cfg.Dir)
}

// syncTree makes sure that the names in a folder and below are on the disk; etcd sees to the contents.
func syncTree(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return durable.SyncDir(path)
	})
	if err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(dir))
}

// alone runs a member by itself on data, on loopback ports that nobody is told and that ask for a certificate, while
// do works with it through its own process. forget drops every other member from the data.
func alone(ctx context.Context, cfg MemberConfig, data string, forget bool, do func(*embed.Etcd, *clientv3.Client) error) error {
	ec, err := cfg.embed()
	if err != nil {
		return err
	}
	anywhere := url.URL{Scheme: "https", Host: "127.0.0.1:0"}
	ec.Dir, ec.ForceNewCluster = data, forget
	ec.ListenPeerUrls, ec.ListenClientUrls = []url.URL{anywhere}, []url.URL{anywhere}
	// What it says of members that are gone, and of its own end, helps nobody; its failures are returned.
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapTo(slog.New(slog.DiscardHandler), slog.LevelError))
	e, err := embed.StartEtcd(ec)
	if err != nil {
		return err
	}
	defer stop(e)
	ctx, cancel := context.WithTimeout(ctx, aloneMax)
	defer cancel()
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait until it serves: %w", ctx.Err())
	}
	c := v3client.New(e.Server)
	return errors.Join(do(e, c), ignoreCanceled(c.Close()))
}

// ignoreCanceled is for a client whose closing ends its own context.
func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
