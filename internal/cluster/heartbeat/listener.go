package heartbeat

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"holdfast/internal/clock"
)

// Beat is what is known of one peer.
type Beat struct {
	// Payload is its newest report; nil if it was never heard.
	Payload []byte
	// Age is the time since its newest beat arrived, on this host's monotonic clock; for a peer never heard,
	// since listening for it began.
	Age time.Duration
	// Seq and Life name that beat. Life is new for each life of the peer's process; "" = never heard.
	Seq  uint64
	Life string
	// Contact is the time since the sending of our newest beat that the peer confirmed, so everything in
	// Payload was true at some moment since then. Negative = none confirmed yet, or not [Pair]ed.
	Contact time.Duration
	// Ahead is by how much the peer's wall clock was ahead of ours when that beat arrived, less what it took to come: good to
	// seconds, not to milliseconds. 0 also when the peer does not tell.
	Ahead time.Duration
}

// Listener reads the beats of every peer.
type Listener struct {
	tls      *tls.Config
	clock    clock.Clock
	interval time.Duration
	log      *slog.Logger
	connect  connecting
	wake     chan struct{}
	replan   chan struct{} // the set of peers changed

	mu    sync.Mutex // guards what follows
	peers map[string]*peer
	mouth *Publisher // nil: not paired
}

// peer is one sender; its fields are guarded by the listener's mu, but for url, which never changes.
type peer struct {
	url     string
	since   time.Time // of the newest beat, or when listening began
	life    string
	seq     uint64
	version uint64
	payload []byte
	echo    *heard // our newest beat that it confirmed
	ahead   time.Duration
	try     int // the newest one that brought a beat: what older ones still bring is late
}

// NewListener prepares to read peers: sender name to base URL (https://ADDRESS:PORT). A name is a host's, or a
// host's with a suffix ("b1/gate"); either way the far certificate must be that host's. interval is the
// distance of beats that peers are asked for; 0 = [Interval]. conf is a client configuration as from
// [auth.ClientTLS]; its ServerName is replaced.
func NewListener(peers map[string]string, conf *tls.Config, c clock.Clock, interval time.Duration, log *slog.Logger) *Listener {
	if interval <= 0 {
		interval = Interval
	}
	l := &Listener{
		tls: conf, clock: c, interval: interval, log: log, peers: map[string]*peer{}, connect: (&net.Dialer{Timeout: connectTimeout}).DialContext,
		wake: make(chan struct{}, 1), replan: make(chan struct{}, 1),
	}
	l.SetPeers(peers)
	return l
}

// Pair joins the two halves of one process before they run: its beats then confirm what it heard, and so it
// learns which of its own beats arrived ([Beat.Contact]).
func Pair(p *Publisher, l *Listener) {
	p.mu.Lock()
	p.ears = l
	p.mu.Unlock()
	l.mu.Lock()
	l.mouth = p
	l.mu.Unlock()
}

// SetPeers replaces the set of peers. One that stays under the same URL keeps its stream and its age.
func (l *Listener) SetPeers(peers map[string]string) {
	now := l.clock.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	next := map[string]*peer{}
	for name, u := range peers {
		if p := l.peers[name]; p != nil && p.url == u {
			next[name] = p
			continue
		}
		next[name] = &peer{url: u, since: now}
	}
	l.peers = next
	signal(l.replan)
}

// Latest tells what is known of every peer now.
func (l *Listener) Latest() map[string]Beat {
	type known struct {
		Beat
		echo *heard
	}
	l.mu.Lock()
	now, mouth := l.clock.Now(), l.mouth
	all := make(map[string]known, len(l.peers))
	for name, p := range l.peers {
		all[name] = known{Beat{Payload: p.payload, Age: now.Sub(p.since), Seq: p.seq, Life: p.life, Contact: -1, Ahead: p.ahead}, p.echo}
	}
	l.mu.Unlock() // before the publisher's lock, which comes first in the order
	out := make(map[string]Beat, len(all))
	for name, k := range all {
		if mouth != nil && k.echo != nil {
			if at, ok := mouth.sentAt(*k.echo); ok {
				k.Contact = now.Sub(at)
			}
		}
		out[name] = k.Beat
	}
	return out
}

// Wake receives when a changed report arrived or a stream broke; several such may make one wake-up.
func (l *Listener) Wake() <-chan struct{} { return l.wake }

// heardOf names the newest beat of sender, for our publisher to confirm; nil if there is none.
func (l *Listener) heardOf(sender string) *heard {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.peers[sender]
	if p == nil || p.life == "" {
		return nil
	}
	return &heard{Life: p.life, Seq: p.seq}
}

// Run listens until ctx ends, and returns when its last stream has.
func (l *Listener) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stops := map[*peer]context.CancelFunc{}
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	for {
		l.mu.Lock()
		wanted := map[*peer]string{}
		for name, p := range l.peers {
			wanted[p] = name
		}
		l.mu.Unlock()
		for p, stop := range stops {
			if _, stays := wanted[p]; !stays {
				stop()
				delete(stops, p)
			}
		}
		for p, name := range wanted {
			if _, runs := stops[p]; !runs {
				follow, stop := context.WithCancel(ctx)
				stops[p] = stop
				wg.Go(func() { l.follow(follow, name, p) })
			}
		}
		select {
		case <-l.replan:
		case <-ctx.Done():
			return nil
		}
	}
}

// errOvertaken ends a stream that a newer one has taken the place of.
var errOvertaken = errors.New("a newer connection has taken its place")

// take notes one beat of a try. The first of a stream carries the report.
func (l *Listener) take(p *peer, try int, b beat, first bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if try < p.try {
		return errOvertaken
	}
	if b.Life == "" || first && b.Payload == nil {
		return errors.New("a beat without a life or a first one without a report")
	}
	changed := p.life != b.Life || p.version != b.Version
	if changed && b.Payload == nil {
		return errors.New("the report changed and was not told")
	}
	if changed {
		p.payload = slices.Clone(b.Payload)
	}
	if p.life != b.Life {
		p.echo = nil
	}
	if b.Heard != nil {
		p.echo = b.Heard
	}
	p.since, p.life, p.seq, p.version, p.try, p.ahead = l.clock.Now(), b.Life, b.Seq, b.Version, try, 0
	if b.Clock != 0 {
		p.ahead = time.UnixMilli(b.Clock).Sub(p.since)
	}
	if changed {
		signal(l.wake)
	}
	return nil
}

func (l *Listener) request(ctx context.Context, base string) (*http.Request, error) {
	q := url.Values{"interval": {l.interval.String()}}
	l.mu.Lock()
	if l.mouth != nil {
		q.Set("from", l.mouth.sender)
	}
	l.mu.Unlock()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+Path+"?"+q.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask for beats: %w", err)
	}
	return req, nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is waiting already
	}
}
