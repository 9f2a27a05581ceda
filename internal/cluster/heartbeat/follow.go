package heartbeat

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/auth"
)

// A link that was cut for a moment must be heard over as soon as it is back: silence of 2.5 s costs a failover. TCP is slow
// to notice. A connection that stood meanwhile sends again only when its timer says so, after 3 s when the cut lasted 1.5 s,
// and the first packet of a new one is sent again after a second. So nothing waits for what hangs: while a peer is silent,
// another connection is tried every quarter of a second beside those that have had no answer, and the first that brings a
// beat is kept.
const (
	retryEvery = 250 * time.Millisecond
	retryLong  = time.Second            // the same once a peer has been silent for longAfter
	longAfter  = 10 * time.Second       // nobody waits for a few milliseconds of such a one
	quietMin   = 600 * time.Millisecond // silence after which a stream that stands is not trusted alone
	greetFor   = 500 * time.Millisecond // one that has connected is given this long alone: a busy peer is not helped by more of them
	triesMax   = 5
)

// try is one connection to a peer, from its dial to its end.
type try struct {
	number    int
	stop      context.CancelFunc
	connected atomic.Int64 // when TCP had it, in nanoseconds since follow began, plus one; 0 = not yet
	heard     atomic.Bool
	err       error // once it has ended
}

// follow keeps one stream open. Its end is told once per outage, not once per attempt.
func (l *Listener) follow(ctx context.Context, name string, p *peer) {
	log := l.log.With("peer", name)
	began := l.clock.Now()
	var running sync.WaitGroup
	defer running.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ends, heard := make(chan *try, triesMax), make(chan *try, triesMax)
	var tries []*try
	silent, number := false, 0
	begin := func() {
		number++
		c, cancel := context.WithCancel(ctx)
		t := &try{number: number, stop: cancel}
		tries = append(tries, t)
		running.Go(func() {
			defer cancel()
			t.err = l.stream(c, name, p, t, began, heard)
			ends <- t
		})
	}
	defer func() { // whoever ends finds room, for there are never more than triesMax
		for _, t := range tries {
			t.stop()
		}
	}()
	begin()
	timer := l.clock.NewTimer(retryEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case t := <-heard:
			if l.hears(p, t) {
				continue // a newer one was heard meanwhile, and stays
			}
			for _, x := range tries {
				if x != t {
					x.stop()
				}
			}
			silent = false
		case t := <-ends:
			tries = without(tries, t)
			if t.heard.Load() && !errors.Is(t.err, errOvertaken) && !l.hears(p, t) {
				signal(l.wake)
			}
			if t.heard.Load() || !silent {
				log.DebugContext(ctx, "beats broken off", "err", t.err)
				silent = true
			}
		case <-timer.C():
			age := l.silence(p)
			if len(tries) == 0 || age >= max(quietMin, 3*l.interval) && len(tries) < triesMax && !greets(tries, l.clock.Now().Sub(began)) {
				begin()
			}
			every := retryEvery
			if age > longAfter {
				every = retryLong
			}
			timer.Reset(every/2 + rand.N(every))
		}
	}
}

// greets reports whether a connection that stands has been given no time yet to bring its first beat.
func greets(tries []*try, now time.Duration) bool {
	for _, t := range tries {
		at := t.connected.Load()
		if at > 0 && !t.heard.Load() && now-time.Duration(at-1) < greetFor {
			return true
		}
	}
	return false
}

func without(tries []*try, t *try) []*try {
	var left []*try
	for _, x := range tries {
		if x != t {
			left = append(left, x)
		}
	}
	return left
}

// silence is how long nothing was heard of a peer.
func (l *Listener) silence(p *peer) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clock.Now().Sub(p.since)
}

// hears reports whether a newer try than t brings beats.
func (l *Listener) hears(p *peer, t *try) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return p.try > t.number
}

// stream reads one connection until it breaks.
func (l *Listener) stream(ctx context.Context, name string, p *peer, t *try, began time.Time, heard chan<- *try) error {
	conn, err := l.dial(ctx, name, p.url, func() { t.connected.Store(int64(l.clock.Now().Sub(began)) + 1) })
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // read from alone; the stream's error is the one wanted
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()

	req, err := l.request(ctx, p.url)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(connectTimeout)); err != nil {
		return err
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // the connection goes with it
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("read the beats of %s: it answers %s", name, res.Status)
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, lineMax)
	silence := max(silenceMin, 4*l.interval)
	for {
		if err := conn.SetDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
		if !lines.Scan() {
			return errors.Join(lines.Err(), errors.New("the stream ended"))
		}
		var b beat
		if err := json.Unmarshal(lines.Bytes(), &b); err != nil {
			return fmt.Errorf("read the beats of %s: %w", name, err)
		}
		if b.Sender != name {
			return fmt.Errorf("read the beats of %s: %s answers at %s", name, b.Sender, p.url)
		}
		if err := l.take(p, t.number, b, !t.heard.Load()); err != nil {
			return fmt.Errorf("read the beats of %s: %w", name, err)
		}
		if !t.heard.Swap(true) {
			select {
			case heard <- t:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// dial connects and checks who answers. up is called once the network has the connection.
func (l *Listener) dial(ctx context.Context, name, base string, up func()) (*tls.Conn, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("dial %s: %q is not of the form https://ADDRESS:PORT", name, base)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	raw, err := l.connect(ctx, "tcp", u.Host)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", name, err)
	}
	up()
	conf := l.tls.Clone()
	conf.ServerName = hostOf(name)
	conn := tls.Client(raw, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // nothing was sent on it
		return nil, fmt.Errorf("dial %s: %w", name, err)
	}
	cs := conn.ConnectionState()
	if got, role, err := auth.PeerName(&cs); err != nil || got != hostOf(name) || role != auth.Host {
		_ = conn.Close() // nothing was sent on it
		return nil, errors.Join(fmt.Errorf("dial %s: %s %q answers", name, role, got), err)
	}
	return conn, nil
}

// connecting is what makes a connection of the network.
type connecting func(ctx context.Context, network, address string) (net.Conn, error)
