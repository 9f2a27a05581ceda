package host

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"holdfast/internal/auth"
	"holdfast/internal/clock"
	"holdfast/internal/cluster"
	"holdfast/internal/cluster/etcd"
	"holdfast/internal/problem"
)

// errNoName ends a life that was told to end while it waited for its name.
var errNoName = errors.New("told to end before it began")

// claimName waits until this host's name is ours, or nobody can be asked for it.
func (h *Host) claimName(ctx context.Context, down <-chan struct{}) error {
	cfg := h.cfg
	client, err := auth.ClientTLS(certDir(cfg.Dir), "")
	if err != nil {
		return fmt.Errorf("read this host's certificate: %w", err)
	}
	if h.founding, err = readFounding(cfg.Dir); err != nil {
		return err
	}
	h.recovery = h.founding.Recovery
	if h.names, err = openStore(context.WithoutCancel(ctx), cfg, h.founding, etcd.Config{TLS: client}); err != nil {
		return err
	}
	own := newMark(cfg.Dir, hostPort(h.self.Address, cfg.Plan.Ports.Agent), h.clock.Now())
	h.twins = newTwins(cfg.Self, own, h.names, h.clock)
	ctx, end := context.WithCancel(ctx)
	defer end()
	go func() { // ends with ctx
		select {
		case <-down:
			end()
		case <-ctx.Done():
		}
	}()
	if err := h.twins.waitForName(ctx, cfg, h.founding.endpoints(cfg.Plan), h.sleep); err != nil {
		return errors.Join(errNoName, err)
	}
	h.twins.begin(h.admit, func(p problem.Problem) { h.yields <- p })
	return nil
}

// place is where this life runs.
func (t *twins) place() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.own.place()
}

// begin notes that the host runs from now on: admit is called when the name is known to be ours, yield once it is known not to be.
func (t *twins) begin(admit func(), yield func(problem.Problem)) {
	t.admit, t.yield, t.runs = admit, yield, true
}

// admit lets this host take part in what is agreed.
func (h *Host) admit() {
	h.store.Admit()
	if err := keepPlace(h.cfg.Dir, h.twins.place()); err != nil {
		h.cfg.Log.Warn("the next start of this host will ask for its name first", "err", err)
	}
}

// giveWay ends everything of this host, because another agent runs as it.
func (h *Host) giveWay(ctx context.Context, p problem.Problem, stopKeeping func(), begin func(func() error)) error {
	h.store.Shut(errYields)
	h.cfg.Log.Error(p.Text())
	return errors.Join(forgetPlace(h.cfg.Dir), h.goDown(ctx, stopKeeping, begin))
}

// nameBackMax bounds the giving back of a name.
const nameBackMax = time.Second

// releaseName gives the name back: an agent elsewhere, say on the machine that this disk goes to next, need not wait for it.
func (h *Host) releaseName(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, nameBackMax)
	defer cancel()
	if err := h.twins.release(ctx); err != nil {
		h.cfg.Log.Debug("the host's name was not given back", "err", err)
	}
}

// freeName removes the mark of a host that an operator gives up, unless an agent answers under it.
func freeName(ctx context.Context, store cluster.Store, host string, c clock.Clock, sleep func(context.Context, time.Duration) bool) error {
	marks := marksOf(host)
	now, revision, err := marks.Load(ctx, store)
	if err != nil || revision == 0 {
		return err
	}
	if _, err := questionsTo(host).Set(ctx, store, question{Number: rand.Text()}); err != nil {
		return err
	}
	for until := c.Now().Add(twinAnswer); c.Now().Before(until) && sleep(ctx, twinPace); {
		again, at, err := marks.Load(ctx, store)
		if err != nil {
			return err
		}
		if at != revision || again.Life != now.Life {
			return nil // it lives
		}
	}
	if err := store.Delete(ctx, string(marks), revision); err != nil && !errors.Is(err, cluster.ErrConflict) {
		return fmt.Errorf("free the name of %s: %w", host, err)
	}
	return ctx.Err()
}

// place is where a life runs: who is there has no other beside it, for the directory's lock says so.
func (m mark) place() string {
	if m.Kernel == "" {
		return m.Life // unlike any other
	}
	return m.Kernel + " " + m.Dir
}

func placeFile(dir string) string { return filepath.Join(dir, "name.held") }

// keptPlace is where the last life that had the name ran, as it noted in the host's directory; "" = nowhere.
func keptPlace(dir string) string {
	var p struct {
		Place string `json:"place"`
	}
	if err := readJSON(placeFile(dir), &p); err != nil {
		return "" // then it is asked for
	}
	return p.Place
}

// keepPlace notes that the name is held from here.
func keepPlace(dir, place string) error {
	if keptPlace(dir) == place {
		return nil
	}
	if err := writeJSON(placeFile(dir), map[string]string{"place": place}); err != nil {
		return fmt.Errorf("note that this host's name is held: %w", err)
	}
	return nil
}

func forgetPlace(dir string) error {
	if err := os.Remove(placeFile(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("note that this host's name is another's: %w", err)
	}
	return nil
}
