// Package client is the measuring client of the clinic: it writes numbered rows through the edge and
// through the database's listener, remembers each acknowledgement, and tells afterwards what users saw and
// whether anything they were promised is gone. Start at [New]; account.go holds the arithmetic.
package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// Config says whom to write to. Zero fields mean the default in their comment.
type Config struct {
	EdgeURL   string      // https://clinic.example:8443, no path; "" = do not use the edge
	TLS       *tls.Config // the authorities to trust; nil = the machine's own
	ResolveTo []string    // the edges' addresses, host:port, tried in turn; empty = resolve EdgeURL's host
	Listeners []string    // connection strings, one for each host's listener, tried in turn; empty = do not use them
	Dial      Dial        // how every connection is made (as a net.Dialer does)

	EdgeWrites     float64 // a second (20)
	EdgeReads      float64 // a second (50)
	ListenerWrites float64 // a second, in one session (50)

	Client  string        // name of this client's rows, never used before (random)
	LogFile string        // each outcome is appended as one line; "" = memory only
	Timeout time.Duration // a request without an answer fails after this (15 s)
	Log     *slog.Logger  // slog.Default()
}

// Dial makes a connection, as [net.Dialer.DialContext] does.
type Dial = func(ctx context.Context, network, address string) (net.Conn, error)

// Client writes, reads and counts. Make it with [New], let it work with [Client.Run].
type Client struct {
	cfg       Config
	edge      *http.Client // nil = no edge path
	listeners []*pgx.ConnConfig
	begun     time.Time // with a monotonic reading; all durations count from here

	mu             sync.Mutex // guards the fields below
	marks          []Mark
	outcomes       []Outcome
	sent           map[Path]int64 // highest number sent
	failedConnects int            // sessions that could not be opened; no request was on its way
	ended          time.Duration  // 0 = not ended
	ran            bool
	changed        chan struct{} // closed and replaced with each outcome
	journal        *os.File      // nil = none
	journalErr     error         // the first failure to write it
	uploads        []upload
}

// New checks cfg, reporting every bad field at once, and opens the log file.
func New(cfg Config) (*Client, error) {
	var bad []error
	def := func(rate *float64, value float64, name string) {
		if *rate == 0 {
			*rate = value
		}
		if *rate < 0 || *rate > 10000 {
			bad = append(bad, fmt.Errorf("%s: %g is not a rate (0 to 10000 a second)", name, *rate))
		}
	}
	def(&cfg.EdgeWrites, 20, "EdgeWrites")
	def(&cfg.EdgeReads, 50, "EdgeReads")
	def(&cfg.ListenerWrites, 50, "ListenerWrites")
	if cfg.Timeout == 0 {
		cfg.Timeout = 15 * time.Second
	}
	if cfg.Client == "" {
		cfg.Client = "load-" + rand.Text()[:8]
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	c := &Client{cfg: cfg, begun: time.Now(), sent: map[Path]int64{}, changed: make(chan struct{})}
	c.marks = []Mark{{Name: "start"}}
	if cfg.EdgeURL == "" && len(cfg.Listeners) == 0 {
		bad = append(bad, errors.New("at least one of EdgeURL and Listeners is needed"))
	}
	if cfg.EdgeURL != "" {
		u, err := url.Parse(cfg.EdgeURL)
		if err != nil || u.Host == "" || u.Path != "" || u.Scheme != "http" && u.Scheme != "https" {
			bad = append(bad, fmt.Errorf("%q (EdgeURL) is not scheme://host:port", cfg.EdgeURL))
		} else {
			c.edge = newEdge(cfg)
		}
	}
	for i, dsn := range cfg.Listeners {
		pc, err := listenerConfig(dsn, cfg.Dial)
		if err != nil {
			bad = append(bad, fmt.Errorf("listener %d (Listeners): %w", i+1, err))
			continue
		}
		c.listeners = append(c.listeners, pc)
	}
	if len(bad) > 0 {
		return nil, fmt.Errorf("make the client: %w", errors.Join(bad...))
	}
	if cfg.LogFile != "" {
		f, err := os.OpenFile(cfg.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, fmt.Errorf("open the client's log: %w", err)
		}
		c.journal = f
	}
	return c, nil
}

// Name is the name of this client's rows.
func (c *Client) Name() string { return c.cfg.Client }

// Paths lists the paths that this client uses and measures.
func (c *Client) Paths() []Path {
	var list []Path
	if c.edge != nil {
		list = append(list, EdgeWrite, EdgeRead)
	}
	if len(c.listeners) > 0 {
		list = append(list, ListenerWrite)
	}
	return list
}

// Run writes and reads until ctx ends, lets what is on its way come to its end, and returns the first
// failure to keep the log file. What goes wrong on the paths is counted, never returned. Call it once.
func (c *Client) Run(ctx context.Context) error {
	c.mu.Lock()
	if c.ran {
		c.mu.Unlock()
		return errors.New("run the client: it ran already")
	}
	c.ran = true
	// The first phase, and so the first gap, begins here, unless a mark was set before.
	if len(c.marks) == 1 {
		c.marks[0].At = c.now()
	}
	c.mu.Unlock()

	g, ctx := errgroup.WithContext(ctx)
	if c.edge != nil {
		g.Go(func() error { c.paced(ctx, c.cfg.EdgeWrites, c.writeEdge); return nil })
		g.Go(func() error { c.paced(ctx, c.cfg.EdgeReads, c.readEdge); return nil })
	}
	if len(c.listeners) > 0 {
		g.Go(func() error { c.runListener(ctx); return nil })
	}
	err := g.Wait()
	if c.edge != nil {
		c.edge.CloseIdleConnections()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = c.now()
	close(c.changed)
	c.changed = make(chan struct{})
	if c.journal != nil {
		if e := c.journal.Close(); e != nil && c.journalErr == nil {
			c.journalErr = fmt.Errorf("close the client's log: %w", e)
		}
		c.journal = nil
	}
	return errors.Join(err, c.journalErr)
}

// Mark begins a phase: call it right before the fault.
func (c *Client) Mark(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.marks = append(c.marks, Mark{Name: name, At: c.now()})
}

// Phases tells what clients saw in each phase up to now. A gap that is still open counts.
func (c *Client) Phases() []Phase {
	c.mu.Lock()
	marks, outcomes, end := slices.Clone(c.marks), slices.Clone(c.outcomes), c.ended
	if end == 0 {
		end = c.now()
	}
	c.mu.Unlock()
	return Account(marks, c.Paths(), outcomes, end)
}

// FailedConnects counts sessions that the listener path could not open, one for each address tried. They are
// kept apart from failed requests: an application with several addresses hides them.
func (c *Client) FailedConnects() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failedConnects
}

// Recovered returns once each path had an acknowledgement for a request that began after the call, or with
// ctx's error.
func (c *Client) Recovered(ctx context.Context) error {
	c.mu.Lock()
	since, next := c.now(), len(c.outcomes)
	c.mu.Unlock()
	waiting := map[Path]bool{}
	for _, p := range c.Paths() {
		waiting[p] = true
	}
	for {
		c.mu.Lock()
		for ; next < len(c.outcomes); next++ {
			if o := c.outcomes[next]; o.Acknowledged() && o.Began >= since {
				delete(waiting, o.Path)
			}
		}
		changed, ended := c.changed, c.ended != 0
		c.mu.Unlock()
		if len(waiting) == 0 {
			return nil
		}
		if ended {
			return errors.New("wait for acknowledgements: the client has ended")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for acknowledgements on %d paths: %w", len(waiting), ctx.Err())
		}
	}
}

// now is the time since the client was made.
func (c *Client) now() time.Duration { return time.Since(c.begun) }

// number takes the path's next row number.
func (c *Client) number(p Path) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent[p]++
	return c.sent[p]
}

// record keeps one outcome, in memory and in the log file.
func (c *Client) record(p Path, number int64, began time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := Outcome{Path: p, Number: number, Began: began, Ended: c.now(), Kind: kindOf(err)}
	c.outcomes = append(c.outcomes, o)
	close(c.changed)
	c.changed = make(chan struct{})
	if c.journal == nil || c.journalErr != nil {
		return
	}
	word, why := "acknowledged", ""
	if err != nil {
		word, why = "failed", fmt.Sprintf(" %q", err)
	}
	at := c.begun.Add(o.Ended).UTC().Format("2006-01-02T15:04:05.000000Z")
	if _, e := fmt.Fprintf(c.journal, "%s %s %q %d %s%s\n", at, word, p, number, o.Ended-began, why); e != nil {
		c.journalErr = fmt.Errorf("write the client's log: %w", e)
	}
}

// paced starts work at a steady rate until ctx ends, without waiting for the work before it: users do not
// stop coming because others wait. It returns when the last piece has ended; each has a deadline of its own.
func (c *Client) paced(ctx context.Context, rate float64, work func(context.Context)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		wg.Go(func() {
			one, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.Timeout)
			defer cancel()
			work(one)
		})
	}
}
