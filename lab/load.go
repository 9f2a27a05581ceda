package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/examples/clinic/client"
)

// Load writes and reads through the application and through the listener, and remembers every acknowledgement.
type Load struct {
	t      testing.TB
	w      *World
	Client *client.Client
	log    string
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// Load starts a client of every edge and listener; it ends with the test at the latest.
func (w *World) Load(name string) *Load {
	w.t.Helper()
	if w.Net != nil {
		return w.loadAll(name, patience)
	}
	return w.loadAll(name, 0)
}

// PatientLoad is [World.Load] whose requests wait for a minute: for hosts that are apart and whose links all hold, where a
// request that fails was refused, and not late.
func (w *World) PatientLoad(name string) *Load {
	w.t.Helper()
	return w.loadAll(name, time.Minute)
}

func (w *World) loadAll(name string, timeout time.Duration) *Load {
	w.t.Helper()
	cfg := client.Config{EdgeURL: "https://clinic.localhost:8443", TLS: w.TLS(), Client: name, Timeout: timeout}
	for _, h := range w.Hosts {
		cfg.ResolveTo = append(cfg.ResolveTo, w.Address[h]+":8443")
		cfg.Listeners = append(cfg.Listeners, w.DSN(h))
	}
	if w.Net != nil {
		cfg.Dial = w.Net.Dial(outside)
	}
	return w.load(cfg)
}

// LoadOn starts a client that runs on one host and writes through that host's listener alone. Hosts must be apart.
func (w *World) LoadOn(host, name string) *Load {
	w.t.Helper()
	return w.load(client.Config{Listeners: []string{w.DSN(host)}, Client: name, Dial: w.Net.Dial(host), Timeout: patience})
}

// patience is how long clients wait for an answer where links break: nobody tells them that none will come.
const patience = 5 * time.Second

func (w *World) load(cfg client.Config) *Load {
	w.t.Helper()
	cfg.LogFile = filepath.Join(filepath.Dir(w.Plan), cfg.Client+".acknowledged")
	c, err := client.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(w.t.Context()))
	l := &Load{t: w.t, w: w, Client: c, log: cfg.LogFile, stop: stop}
	l.done.Go(func() {
		if err := c.Run(ctx); err != nil {
			w.t.Errorf("the client ended: %v", err)
		}
	})
	w.t.Cleanup(l.end)
	l.Recovered()
	return l
}

// servedMax is how long any fault here may keep clients waiting on a busy machine.
const servedMax = 2 * time.Minute

func (l *Load) end() {
	l.stop()
	l.done.Wait()
}

// Recovered waits until every path has acknowledged something new.
func (l *Load) Recovered() {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), servedMax)
	defer cancel()
	if err := l.Client.Recovered(ctx); err != nil {
		l.t.Fatalf("%s was not served again: %v\n%s", l.Client.Name(), err, l.w.tail())
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

// Told is one acknowledgement: when its request was sent, and when the client had the answer.
type Told struct{ Began, Ended time.Time }

// Acknowledged lists what the client was told up to now, in the order of the answers.
func (l *Load) Acknowledged(path client.Path) []Told {
	l.t.Helper()
	text, err := os.ReadFile(l.log)
	if err != nil {
		l.t.Fatal(err)
	}
	var out []Told
	for line := range strings.Lines(string(text)) {
		var at, word, took string
		var of client.Path
		var number int64
		if !strings.HasSuffix(line, "\n") {
			break // being written
		}
		if _, err := fmt.Sscanf(line, "%s %s %q %d %s", &at, &word, &of, &number, &took); err != nil {
			l.t.Fatalf("read %q of the client's log: %v", line, err)
		}
		ended, err := time.Parse(time.RFC3339Nano, at)
		if err != nil {
			l.t.Fatal(err)
		}
		d, err := time.ParseDuration(took)
		if err != nil {
			l.t.Fatal(err)
		}
		if word == "acknowledged" && of == path {
			out = append(out, Told{ended.Add(-d), ended})
		}
	}
	return out
}
