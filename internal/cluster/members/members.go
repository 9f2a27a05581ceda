// Package members keeps the list of hosts that are around, by gossip (SWIM, through memberlist), and carries a
// small piece of text for each. It is for finding hosts and showing them. It is never a failure detector: it
// does not expose suspicion, and with three hosts the word of a single observer declares a death.
package members

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Config says who this host is and where it finds others.
type Config struct {
	Self  string   // the host's name in the plan
	Bind  string   // address to listen on, UDP and TCP, and to tell others
	Port  int      // 0 = one that is free, see Address
	Seeds []string // ADDRESS:PORT of hosts to ask; this one may be among them
	Key   []byte   // 32 bytes that every host of the application shares; encrypts all gossip
	Meta  []byte   // told to all, at most 512 bytes; SetMeta changes it
	Log   *slog.Logger
}

// Member is one host as gossip has it.
type Member struct {
	Name    string
	Address string // ADDRESS:PORT of its gossip
	Meta    []byte
}

// rejoin is how often a host that misses a seed asks again. Gossip heals a short absence by itself; a longer
// one (memberlist gives up on the dead) needs somebody to knock.
const rejoin = 5 * time.Second

// List takes part in gossip until Close.
type List struct {
	gossip  *memberlist.Memberlist
	self    string
	seeds   []string
	log     *slog.Logger
	changed chan struct{}
	cancel  context.CancelFunc
	wg      sync.WaitGroup // rejoining

	mu   sync.Mutex // guards what follows; taken under memberlist's own lock, so memberlist is never called with it
	meta []byte
	// here is kept from memberlist's events: the nodes that its own Members returns go on changing under the
	// reader's hands (the race detector found it in v0.7.0).
	here map[string]Member
}

// Open takes part at once; that no seed answers yet is no error, it is asked again.
func Open(cfg Config) (*List, error) {
	var bad []error
	if cfg.Self == "" {
		bad = append(bad, errors.New("this host has no name"))
	}
	if net.ParseIP(cfg.Bind) == nil {
		bad = append(bad, fmt.Errorf("%q is not an address", cfg.Bind))
	}
	if len(cfg.Key) != 32 {
		bad = append(bad, fmt.Errorf("the key has %d bytes instead of 32", len(cfg.Key)))
	}
	if len(cfg.Meta) > memberlist.MetaMaxSize {
		bad = append(bad, errMeta(cfg.Meta))
	}
	if cfg.Log == nil {
		bad = append(bad, errors.New("no logger is given"))
	}
	if err := errors.Join(bad...); err != nil {
		return nil, fmt.Errorf("open membership: %w", err)
	}
	l := &List{self: cfg.Self, seeds: cfg.Seeds, log: cfg.Log, changed: make(chan struct{}, 1), meta: slices.Clone(cfg.Meta), here: map[string]Member{}}

	mc := memberlist.DefaultLANConfig()
	mc.Name = cfg.Self
	mc.BindAddr, mc.BindPort = cfg.Bind, cfg.Port
	mc.AdvertiseAddr, mc.AdvertisePort = cfg.Bind, cfg.Port
	mc.SecretKey = cfg.Key // both GossipVerify settings default to true: plain text is refused
	mc.TCPTimeout = 2 * time.Second
	mc.PushPullInterval = 10 * time.Second
	mc.DeadNodeReclaimTime = time.Second // a host may come back under its name with another port
	mc.Delegate = delegate{l}
	mc.Events = events{l}
	mc.Logger = log.New(gossipLog{cfg.Log}, "", 0)
	gossip, err := memberlist.Create(mc)
	if err != nil {
		return nil, fmt.Errorf("open membership: %w", err)
	}
	l.gossip = gossip
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	l.wg.Go(func() { l.knock(ctx) })
	return l, nil
}

// Address is where this host gossips.
func (l *List) Address() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.here[l.self].Address
}

// Members lists the hosts that gossip believes alive, this one included, sorted by name.
func (l *List) Members() []Member {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := slices.SortedFunc(maps.Values(l.here), func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	for i := range out {
		out[i].Meta = slices.Clone(out[i].Meta)
	}
	return out
}

// Changes receives when a member came, left or changed its text; several such may make one wake-up.
func (l *List) Changes() <-chan struct{} { return l.changed }

// SetMeta replaces this host's text and waits up to a second for it to be on its way.
func (l *List) SetMeta(meta []byte) error {
	if len(meta) > memberlist.MetaMaxSize {
		return fmt.Errorf("set the member's text: %w", errMeta(meta))
	}
	l.mu.Lock()
	l.meta = slices.Clone(meta)
	l.mu.Unlock()
	if err := l.gossip.UpdateNode(time.Second); err != nil {
		return fmt.Errorf("set the member's text: %w", err)
	}
	return nil
}

// Leave tells the others that this host goes on purpose, and waits up to timeout for it to be on its way.
func (l *List) Leave(timeout time.Duration) error {
	l.cancel() // or it would knock again
	l.wg.Wait()
	if err := l.gossip.Leave(timeout); err != nil {
		return fmt.Errorf("leave the membership: %w", err)
	}
	return nil
}

// Close stops taking part. Without Leave before it the others take this host for lost.
func (l *List) Close() error {
	l.cancel()
	l.wg.Wait()
	if err := l.gossip.Shutdown(); err != nil {
		return fmt.Errorf("close the membership: %w", err)
	}
	return nil
}

// knock asks the seeds now, and again whenever one of them is not among the members.
func (l *List) knock(ctx context.Context) {
	wait := time.Duration(0)
	failed := false
	for {
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		wait = rejoin/2 + rand.N(rejoin)
		missing := l.missing()
		if len(missing) == 0 {
			continue
		}
		_, err := l.gossip.Join(missing)
		if (err != nil) != failed { // told when it begins and when it ends
			failed = err != nil
			l.log.DebugContext(ctx, "membership asked its seeds", "seeds", missing, "err", err)
		}
		if err != nil && len(missing) == len(l.seeds) {
			wait = 500*time.Millisecond + rand.N(time.Second) // alone: hosts that start together find each other soon
		}
	}
}

func (l *List) missing() []string {
	var here []string
	for _, m := range l.Members() {
		here = append(here, m.Address)
	}
	return slices.DeleteFunc(slices.Clone(l.seeds), func(s string) bool { return slices.Contains(here, s) })
}

func (l *List) wake() {
	select {
	case l.changed <- struct{}{}:
	default: // one wake-up is already waiting
	}
}

func errMeta(meta []byte) error {
	return errors.New("the text has " + strconv.Itoa(len(meta)) + " bytes, gossip carries " + strconv.Itoa(memberlist.MetaMaxSize))
}

// events takes memberlist's news. They come one at a time and under its lock, when a node may be read.
type events struct{ l *List }

// NotifyJoin implements memberlist.EventDelegate.
func (e events) NotifyJoin(n *memberlist.Node) { e.NotifyUpdate(n) }

// NotifyUpdate implements memberlist.EventDelegate.
func (e events) NotifyUpdate(n *memberlist.Node) {
	e.l.mu.Lock()
	e.l.here[n.Name] = Member{Name: n.Name, Address: n.Address(), Meta: slices.Clone(n.Meta)}
	e.l.mu.Unlock()
	e.l.wake()
}

// NotifyLeave implements memberlist.EventDelegate.
func (e events) NotifyLeave(n *memberlist.Node) {
	e.l.mu.Lock()
	delete(e.l.here, n.Name)
	e.l.mu.Unlock()
	e.l.wake()
}

// delegate gives memberlist the text; no other messages are sent.
type delegate struct{ l *List }

func (d delegate) NodeMeta(int) []byte {
	d.l.mu.Lock()
	defer d.l.mu.Unlock()
	return slices.Clone(d.l.meta)
}
func (delegate) NotifyMsg([]byte)                {}
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (delegate) LocalState(bool) []byte          { return nil }
func (delegate) MergeRemoteState([]byte, bool)   {}

// gossipLog passes memberlist's lines on for developers: what it warns of decides nothing here.
type gossipLog struct{ log *slog.Logger }

var _ io.Writer = gossipLog{}

func (g gossipLog) Write(line []byte) (int, error) {
	g.log.Debug("gossip", "says", strings.TrimSpace(string(line)))
	return len(line), nil
}
