package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// A gate outlives its agent and goes on with its last order. While the agent is silent somebody else may have
// become the primary, and the server that the order names may be a standby that lets readers in: so the gate asks
// the gates of the other hosts for the orders that their agents gave them, and follows one that is newer than its
// own. An order of a higher epoch is true on every host, whoever gave it; when nobody answers, what runs goes on.

// Other is the gate of the same database on another host.
type Other struct {
	Host    string `json:"host"` // its certificate carries this name
	Address string `json:"address"`
}

// orderPath is where a gate tells its order, beside its heartbeat.
const orderPath = "/gate/order"

const (
	askEvery   = time.Second
	askTimeout = time.Second
)

// told is what one gate tells another.
type told struct {
	Database string `json:"database"`
	Order    Order  `json:"order"` // epoch 0 = it has none
}

// tellOrder answers other gates.
func (g *Gate) tellOrder(w http.ResponseWriter, _ *http.Request) {
	g.mu.Lock()
	t := told{Database: g.cfg.Database, Order: g.led.Last}
	g.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(t); err != nil {
		g.log.Debug("order not told", "err", err) // the other one asks again
	}
}

// heard notes that the agent gave an order that is no older than the last. One that still lives by an older agreement,
// for it cannot read the agreed state, is as good as silent: what others know goes on being asked for.
func (g *Gate) heard() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.heardAt = g.cfg.Clock.Now()
}

func (g *Gate) agentSilent() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cfg.Clock.Now().Sub(g.heardAt) > time.Duration(g.cfg.AgentSilent)
}

// askAround asks the other gates while the agent is silent, until ctx ends.
func (g *Gate) askAround(ctx context.Context) error {
	clients := map[string]*http.Client{}
	defer func() {
		for _, c := range clients {
			c.CloseIdleConnections()
		}
	}()
	t := g.cfg.Clock.NewTimer(askEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		}
		if g.agentSilent() {
			g.mu.Lock()
			others := g.spec.Others
			g.mu.Unlock()
			for _, p := range others {
				if clients[p.Host] == nil {
					conf := g.cfg.OthersTLS.Clone()
					conf.ServerName = p.Host
					clients[p.Host] = &http.Client{Transport: &http.Transport{TLSClientConfig: conf, MaxIdleConns: 1, IdleConnTimeout: 10 * time.Second}}
				}
			}
			g.followOthers(ctx, others, clients)
		}
		t.Reset(min(askEvery, time.Duration(g.cfg.AgentSilent)))
	}
}

// followOthers takes the newest order of the other gates, if it is newer than ours.
func (g *Gate) followOthers(ctx context.Context, others []Other, clients map[string]*http.Client) {
	orders := make([]Order, len(others))
	var asked sync.WaitGroup
	for i, p := range others {
		c := clients[p.Host]
		asked.Go(func() {
			o, err := g.ask(ctx, c, p)
			if err != nil {
				g.log.DebugContext(ctx, "another gate not asked", "peer", p.Host, "err", err)
				return
			}
			orders[i] = o
		})
	}
	asked.Wait()
	g.mu.Lock()
	newest := g.led.Last
	g.mu.Unlock()
	from := ""
	for i, o := range orders {
		if newer(o, newest) {
			newest, from = o, others[i].Host
		}
	}
	if from == "" || !g.agentSilent() { // it may have come back meanwhile
		return
	}
	if err := g.Obey(ctx, newest); err != nil {
		g.log.WarnContext(ctx, "order of another gate not followed", "peer", from, "err", err)
		return
	}
	g.log.WarnContext(ctx, "agent silent: order of another gate followed", "peer", from, "epoch", newest.Epoch, "state", newest.State)
}

// newer reports whether a is a later word than b. In one generation a gate may hold for a reason of its own host's,
// and who is open there knows no less.
func newer(a, b Order) bool {
	switch {
	case a.Epoch != b.Epoch:
		return a.Epoch > b.Epoch
	case a.Generation != b.Generation:
		return a.Generation > b.Generation
	}
	return a.Epoch != 0 && a.State == Open && b.State != Open
}

func (g *Gate) ask(ctx context.Context, c *http.Client, p Other) (Order, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+p.Address+orderPath, nil)
	if err != nil {
		return Order{}, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return Order{}, err
	}
	defer func() { _ = resp.Body.Close() }() // read as far as it matters
	if resp.StatusCode != http.StatusOK {
		return Order{}, fmt.Errorf("it answers %s", resp.Status)
	}
	var t told
	if err := json.NewDecoder(io.LimitReader(resp.Body, lineMax)).Decode(&t); err != nil {
		return Order{}, fmt.Errorf("read its answer: %w", err)
	}
	if t.Database != g.cfg.Database {
		return Order{}, fmt.Errorf("it is the gate of database %s", t.Database)
	}
	if t.Order.Epoch == 0 {
		return Order{}, nil
	}
	return t.Order, t.Order.check()
}

// beats serves the heartbeat, and the order beside it.
func (g *Gate) beats() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+orderPath, g.tellOrder)
	mux.Handle("/", g.cfg.Beats)
	return mux
}
