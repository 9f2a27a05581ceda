package lab

import (
	"context"
	"path/filepath"
	"sync"
	"testing"

	"holdfast/examples/clinic/client"
)

// Load writes and reads through the application and through the listener, and remembers every acknowledgement.
type Load struct {
	t      testing.TB
	w      *World
	Client *client.Client
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// Load starts a client; it ends with the test at the latest.
func (w *World) Load(name string) *Load {
	w.t.Helper()
	var edges, dsns []string
	for _, h := range w.Hosts {
		edges = append(edges, w.Address[h]+":8443")
		dsns = append(dsns, w.DSN(h))
	}
	c, err := client.New(client.Config{
		EdgeURL: "https://clinic.localhost:8443", TLS: w.TLS(), ResolveTo: edges, Listeners: dsns, Client: name,
		LogFile: filepath.Join(filepath.Dir(w.Plan), name+".acknowledged"),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(w.t.Context()))
	l := &Load{t: w.t, w: w, Client: c, stop: stop}
	l.done.Go(func() {
		if err := c.Run(ctx); err != nil {
			w.t.Errorf("the client ended: %v", err)
		}
	})
	w.t.Cleanup(l.end)
	l.Recovered()
	return l
}

func (l *Load) end() {
	l.stop()
	l.done.Wait()
}

// Recovered waits until every path has acknowledged something new.
func (l *Load) Recovered() {
	l.t.Helper()
	if err := l.Client.Recovered(l.t.Context()); err != nil {
		l.t.Fatalf("the client was not served again: %v", err)
	}
}

// End stops the client, and checks that the database has every acknowledged row.
func (l *Load) End() []client.Phase {
	l.t.Helper()
	l.end()
	v, err := l.Client.Verify(l.t.Context(), l.w.DSN(l.w.Hosts[0]))
	if err != nil {
		l.t.Fatalf("verify: %v", err)
	}
	if err := v.Err(); err != nil {
		l.t.Errorf("acknowledged and lost: %v", err)
	}
	if v.Acknowledged() == 0 {
		l.t.Error("nothing was acknowledged, so nothing was checked")
	}
	return l.Client.Phases()
}
