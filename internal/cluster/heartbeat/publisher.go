package heartbeat

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"holdfast/internal/auth"
	"holdfast/internal/clock"
)

// sentKept is how many sending times are remembered: about half a minute with eight peers.
const sentKept = 1024

// Publisher serves this sender's beats to every host that asks. It is an [http.Handler] for [Path]; each stream
// lives in the goroutine of its request and ends with it or with Close.
type Publisher struct {
	sender string
	life   string
	clock  clock.Clock

	mu      sync.Mutex // guards what follows; Listener.mu may be taken inside it, never the other way
	payload []byte
	version uint64
	changed chan struct{} // closed and replaced on every change, closed for good by Close
	closed  bool
	seq     uint64
	sent    [sentKept]time.Time // when beat seq left, at seq % sentKept
	ears    *Listener           // nil: beats confirm nothing
}

// NewPublisher makes a publisher whose report is null until the first Publish. host is the plan's name of this
// host; a second sender on it adds a suffix: "b1/gate".
func NewPublisher(host string, c clock.Clock) *Publisher {
	return &Publisher{sender: host, life: rand.Text(), clock: c, payload: []byte("null"), version: 1, changed: make(chan struct{})}
}

// Publish replaces the report, one JSON value, and sends it at once to every listener if it differs.
func (p *Publisher) Publish(payload []byte) error {
	if !json.Valid(payload) {
		return errors.New("publish a report: it is not JSON")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || bytes.Equal(p.payload, payload) {
		return nil
	}
	p.payload = slices.Clone(payload)
	p.version++
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

// Close ends every stream; an HTTP server's Shutdown would wait for them for ever.
func (p *Publisher) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		close(p.changed)
	}
}

// next makes one beat for reader and tells when to send another before its time.
func (p *Publisher) next(reader string, told uint64) (b beat, changed <-chan struct{}, open bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return beat{}, nil, false
	}
	b = beat{Sender: p.sender, Life: p.life, Version: p.version}
	// What is confirmed is read before the report, both under one lock: a report is at least as new as the
	// confirmation beside it.
	if p.ears != nil && reader != "" {
		b.Heard = p.ears.heardOf(reader)
	}
	if p.version != told {
		b.Payload = p.payload
	}
	p.seq++
	b.Seq = p.seq
	now := p.clock.Now()
	p.sent[p.seq%sentKept], b.Clock = now, now.UnixMilli()
	return b, p.changed, true
}

// sentAt tells when beat h left; false if it is not ours, or too long ago to know.
func (p *Publisher) sentAt(h heard) (time.Time, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.Life != p.life || h.Seq == 0 || h.Seq > p.seq || p.seq-h.Seq >= sentKept {
		return time.Time{}, false
	}
	return p.sent[h.Seq%sentKept], true
}

// ServeHTTP streams beats until the reader leaves. The query tells who reads ("from", checked against the
// reader's certificate) and how often ("interval").
func (p *Publisher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	peer, _, err := auth.PeerName(r.TLS)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	from := r.URL.Query().Get("from")
	if from != "" && hostOf(from) != peer {
		http.Error(w, fmt.Sprintf("%s may not read as %s", peer, from), http.StatusForbidden)
		return
	}
	interval := Interval
	if s := r.URL.Query().Get("interval"); s != "" {
		if interval, err = time.ParseDuration(s); err != nil {
			http.Error(w, fmt.Sprintf("interval %q is not a duration", s), http.StatusBadRequest)
			return
		}
		interval = min(max(interval, 10*time.Millisecond), 2*time.Second)
	}
	w.Header().Set("Content-Type", "application/jsonl")
	out := http.NewResponseController(w)
	if err := out.SetReadDeadline(time.Time{}); err != nil { // the server's own bounds are for short requests
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	p.stream(r, w, out, from, interval)
}

// stream returns when the reader is gone: it dials again, so there is nothing to report.
func (p *Publisher) stream(r *http.Request, w http.ResponseWriter, out *http.ResponseController, from string, interval time.Duration) {
	var told uint64
	t := p.clock.NewTimer(interval)
	defer t.Stop()
	for {
		b, changed, open := p.next(from, told)
		if !open {
			return
		}
		line, err := json.Marshal(b)
		if err != nil {
			return // Publish checked the report, so the reader sees a broken stream and not a wrong one
		}
		if out.SetWriteDeadline(time.Now().Add(silenceMin+4*interval)) != nil {
			return
		}
		if _, err := w.Write(append(line, '\n')); err != nil || out.Flush() != nil {
			return
		}
		told = b.Version
		t.Reset(interval)
		select {
		case <-t.C():
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}
