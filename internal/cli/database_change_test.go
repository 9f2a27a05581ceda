package cli

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/problem"
)

// fakeAgent is an application with one agent that answers as it is told.
func fakeAgent(t *testing.T, answer http.HandlerFunc) *api.Client {
	t.Helper()
	srv := httptest.NewTLSServer(answer)
	t.Cleanup(srv.Close)
	c := api.NewClient([]string{strings.TrimPrefix(srv.URL, "https://")}, srv.Client().Transport.(*http.Transport).TLSClientConfig)
	t.Cleanup(c.Close)
	return c
}

// unsettled is an agent that settles nothing until it is asked to cancel; what it answers then, cancel says.
func unsettled(t *testing.T, looked func(), cancel func(w http.ResponseWriter) (agent.Settled, bool)) *api.Client {
	t.Helper()
	var mu sync.Mutex
	var done *agent.Settled // guarded by mu
	return fakeAgent(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		var answer any = agent.Asked{ID: "q"}
		switch {
		case r.Method == http.MethodDelete:
			if s, ok := cancel(w); ok {
				done = &s
			}
			return
		case done != nil:
			answer = done
		default:
			w.WriteHeader(http.StatusAccepted)
			looked()
		}
		_ = json.NewEncoder(w).Encode(answer) // a client that left needs none
	})
}

// A change of primary that its command gives up is cancelled, in whatever way the command gives up, and is told by its id.
func TestAChangeThatIsGivenUpIsCancelled(t *testing.T) {
	asked := agent.Asked{ID: "q", Subject: "records", Kind: "switchover"}
	for name, why := range map[string]string{"its time is over": "was not carried out in time", "Ctrl-C": "was interrupted"} {
		t.Run(name, func(t *testing.T) {
			cancelled, once := 0, sync.Once{}
			looked := func() {}
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			if name == "Ctrl-C" {
				looked = func() { once.Do(func() { _ = syscall.Kill(os.Getpid(), syscall.SIGINT) }) }
			} else {
				ctx, stop = context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer stop()
			}
			client := unsettled(t, looked, func(w http.ResponseWriter) (agent.Settled, bool) {
				cancelled++
				_ = json.NewEncoder(w).Encode(asked) // a client that left needs none
				return agent.Settled{}, false
			})
			_, err := awaitChange(ctx, client, asked)
			var p *problem.Problem
			if !errors.As(err, &p) || p.Code != "database.not-awaited" || !strings.Contains(p.Title, why) || !strings.Contains(p.Title, "is cancelled (request q)") {
				t.Errorf("%v", err)
			}
			if cancelled != 1 {
				t.Errorf("cancelled %d times", cancelled)
			}
		})
	}
}

// One that is under way when its command would give up comes to its end, and that end is what the command tells.
func TestAChangeUnderWayIsWaitedFor(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	client := unsettled(t, func() {}, func(w http.ResponseWriter) (agent.Settled, bool) {
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(problem.Problem{Code: "api.not-cancelled", Title: "it is under way"}) // a client that left needs none
		return agent.Settled{ID: "q", OK: true, Text: "b2 is the primary"}, true
	})
	if done, err := awaitChange(ctx, client, agent.Asked{ID: "q", Kind: "switchover"}); err != nil || !done.OK || done.Text != "b2 is the primary" {
		t.Errorf("%+v, %v", done, err)
	}
}

// The command that a dry run names carries out what was shown.
func TestADryRunNamesTheWholeCommand(t *testing.T) {
	for want, w := range map[string]failoverWish{
		"holdfast database failover records --force":                          {name: "records"},
		"holdfast database failover records --force --to b3 --root /srv/data": {name: "records", to: "b3", root: "/srv/data", dryRun: true},
	} {
		if got := w.forced(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// A primary that is gone is told as such, and nobody is called so many bytes behind it.
func TestAPrimaryThatIsGoneIsTold(t *testing.T) {
	st := api.Status{Databases: []api.DatabaseStatus{{Name: "records", Phase: "steady", Open: true, Primary: "b1",
		Planned: []api.PlannedMove{{ID: "q7", To: "b2", By: "ann"}},
		Servers: []api.ServerStatus{{Host: "b1", Role: "stopped", State: "signal 9"}, {Host: "b2", Role: "standby", State: "does not stream"}}}}}
	var out, explained strings.Builder
	if err := errors.Join(writeStatus(&out, st), writeExplanation(&explained, st.Databases[0], api.Candidates{}, nil)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"steady, but its primary's server does not run", "unknown", "planned: switchover to b2 at ", "holdfast database cancel q7"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing:\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "0 bytes") || strings.Contains(explained.String(), "open to clients") || !strings.Contains(explained.String(), "does not run") {
		t.Errorf("%s\n%s", &out, &explained)
	}
}
