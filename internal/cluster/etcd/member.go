package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

// MemberConfig is one embedded member. Every field but Founding, Join and Ready is needed.
type MemberConfig struct {
	Name        string // the host's name; unique in the cluster
	Application string // tells clusters apart: a member refuses one of another application
	Dir         string // its folder on the volume that holds its data
	Marker      string // a file outside Dir, best on another volume: says that the member was born
	PeerURL     string // https://ADDRESS:PORT, listened on and told to the others
	ClientURL   string // likewise, for clients
	// Cluster is every founding member, this one included: name to peer URL. Read on the first start alone.
	Cluster map[string]string
	// Founding tells a cluster that was founded anew from the ones before it; "" = it never was. Read on the first
	// start alone.
	Founding string
	// Join makes the first start enter a cluster that runs and has added this member already.
	Join bool

	CertFile, KeyFile, CAFile string // mutual TLS for peers and clients; read again for each handshake

	Log *slog.Logger
	// Ready is called once, when the member takes part and serves clients; nil = nobody asks.
	Ready func()
}

// Limits of a member. The store holds records and orders, no bulk: hundreds of keys of a few kilobytes.
const (
	quotaBytes   = 512 << 20
	historyKept  = "10m" // a watch may be away this long and resume without a gap
	snapshotRaft = 5000  // entries kept in memory before a snapshot
	catchUpRaft  = 1000  // and after it, for a follower that is behind
	learnersMax  = 8     // hosts that join at one time
)

// RunMember runs the member until ctx ends (then nil, after a clean stop) or it breaks. It refuses to start
// where it could harm: on data of another application, twice on the same data ([ErrInUse]), or without the
// data of an earlier life ([ErrDataLost]).
func RunMember(ctx context.Context, cfg MemberConfig) error {
	ec, err := cfg.embed()
	if err != nil {
		return fmt.Errorf("run etcd member %s: %w", cfg.Name, err)
	}
	unlock, err := lock(cfg.Dir)
	if err != nil {
		return fmt.Errorf("run etcd member %s: %w", cfg.Name, err)
	}
	defer unlock()
	seat, err := takeSeat(cfg, ec.Dir)
	if err != nil {
		return fmt.Errorf("run etcd member %s: %w", cfg.Name, err)
	}
	e, err := embed.StartEtcd(ec)
	if err != nil {
		return fmt.Errorf("run etcd member %s: %w", cfg.Name, err)
	}
	defer stop(e)
	if err := seat.confirm(e.Server.MemberID().String()); err != nil {
		return fmt.Errorf("run etcd member %s: %w", cfg.Name, err)
	}
	watching, end := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { watchPeers(watching, cfg, e) })
	defer watch.Wait()
	defer end()
	ready := e.Server.ReadyNotify()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ready:
			ready = nil
			cfg.Log.InfoContext(ctx, "etcd member ready", "member", e.Server.MemberID().String())
			if cfg.Ready != nil {
				cfg.Ready()
			}
		case err := <-e.Err():
			return fmt.Errorf("run etcd member %s: %w", cfg.Name, err)
		case <-e.Server.StopNotify():
			return fmt.Errorf("run etcd member %s: it stopped by itself; was it removed from the cluster?", cfg.Name)
		}
	}
}

// stop ends the member and waits for all its goroutines. Close alone would wait for ever on a member that was
// never ready (no majority yet): its client listeners wait for readiness or for the server to stop.
func stop(e *embed.Etcd) {
	select {
	case <-e.Server.ReadyNotify():
	default:
		e.Server.Stop()
	}
	e.Close()
}

// embed checks every field and reports all mistakes at once.
func (cfg MemberConfig) embed() (*embed.Config, error) {
	var bad []error
	for name, v := range map[string]string{
		"Name": cfg.Name, "Application": cfg.Application, "Dir": cfg.Dir, "Marker": cfg.Marker,
		"CertFile": cfg.CertFile, "KeyFile": cfg.KeyFile, "CAFile": cfg.CAFile,
	} {
		if v == "" {
			bad = append(bad, fmt.Errorf("%s is empty", name))
		}
	}
	if cfg.Log == nil {
		bad = append(bad, errors.New("no logger is given"))
	}
	if rel, err := filepath.Rel(cfg.Dir, cfg.Marker); err != nil || !strings.HasPrefix(rel, "..") {
		bad = append(bad, fmt.Errorf("the marker %s lies inside %s, so both would be lost together", cfg.Marker, cfg.Dir))
	}
	peer, err := httpsURL(cfg.PeerURL)
	bad = append(bad, err)
	client, err := httpsURL(cfg.ClientURL)
	bad = append(bad, err)
	if cfg.Cluster[cfg.Name] != cfg.PeerURL {
		bad = append(bad, fmt.Errorf("the cluster knows %s under peer URL %q, not %q", cfg.Name, cfg.Cluster[cfg.Name], cfg.PeerURL))
	}
	var founders []string
	for _, name := range slices.Sorted(maps.Keys(cfg.Cluster)) {
		_, err := httpsURL(cfg.Cluster[name])
		bad = append(bad, err)
		founders = append(founders, name+"="+cfg.Cluster[name])
	}
	if n := len(cfg.Cluster); n > 1 && n%2 == 0 && !cfg.Join {
		bad = append(bad, fmt.Errorf("%d members survive no more than %d do; use an odd number", n, n-1))
	}
	if err := errors.Join(bad...); err != nil {
		return nil, err
	}

	ec := embed.NewConfig()
	ec.Name = cfg.Name
	ec.Dir = filepath.Join(cfg.Dir, "data")
	ec.ListenPeerUrls, ec.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	ec.ListenClientUrls, ec.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	ec.InitialCluster = strings.Join(founders, ",")
	ec.InitialClusterToken = cfg.Application
	if cfg.Founding != "" {
		ec.InitialClusterToken += "/" + cfg.Founding
	}
	ec.ClusterState = embed.ClusterStateFlagNew
	if cfg.Join {
		ec.ClusterState = embed.ClusterStateFlagExisting
	}
	ec.TickMs, ec.ElectionMs = 100, 1000
	ec.PreVote, ec.StrictReconfigCheck = true, true
	ec.AutoCompactionMode, ec.AutoCompactionRetention = embed.CompactorModePeriodic, historyKept
	ec.QuotaBackendBytes = quotaBytes
	ec.MaxLearners = learnersMax
	ec.SnapshotCount, ec.SnapshotCatchUpEntries = snapshotRaft, catchUpRaft
	ec.EnableGRPCGateway = false
	info := transport.TLSInfo{
		CertFile: cfg.CertFile, KeyFile: cfg.KeyFile, TrustedCAFile: cfg.CAFile, ClientCertAuth: true,
		// Who dials is known by the authority that signed, not by the address it comes from: on one machine
		// every member comes from 127.0.0.1, and behind NAT from the gateway.
		SkipClientSANVerify: true,
	}
	ec.PeerTLSInfo, ec.ClientTLSInfo = info, info
	ec.TlsMinVersion = "TLS1.3"
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapTo(cfg.Log, slog.LevelWarn))
	return ec, nil
}

func httpsURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" {
		return nil, fmt.Errorf("%q is not of the form https://ADDRESS:PORT", s)
	}
	return u, nil
}

// ErrInUse means that another process runs on the same folder.
var ErrInUse = errors.New("another process uses this folder")

// lock makes dir and holds it for this process alone; the kernel lets go when the process ends.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		_ = f.Close() // nothing was written to it
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil // closing lets go of the lock, and nothing was written
}
