package sim

import (
	"context"
	"fmt"
	"strings"
	"time"

	"holdfast/internal/database"
)

// ask is an operator's request as it comes into the store.
func (w *World) ask(q database.Request) *request {
	q.ID, q.By = fmt.Sprintf("q%d", len(w.requests)+1), "operator"
	asked := &request{Request: q, at: w.now, in: w.site}
	w.requests = append(w.requests, asked)
	w.note("", "an operator asks: %s %s (%s)", q.Kind, q.To, q.ID)
	return asked
}

// seen is the request as a host reads it now, by its own wall clock: the operator's is the world's.
func (q *request) seen(h *host) database.Request {
	r := q.Request
	r.Left = r.For - (h.w.now + h.wall - q.at)
	return r
}

// pauseMoves pauses the database. Now and then the operator ends it, else it must end by itself.
func (f *faults) pauseMoves(lasts time.Duration) func() {
	w := f.w
	q := w.ask(database.Request{Kind: "pause", Reason: "maintenance", For: lasts})
	if w.chance(2) {
		return nil
	}
	return func() {
		if !q.settled {
			w.ask(database.Request{Kind: "resume"})
		}
	}
}

// restartRoll changes a setting that is only read at start, and asks for what that needs. An operator sees the
// processes that run at that moment; where not all do, the request is refused.
func (f *faults) restartRoll() {
	w := f.w
	setting := 50 + 50*w.rng.IntN(4)
	pending := !w.chance(4)
	f.want(wanted{value: setting})
	wants := w.wants
	w.at(5*time.Second, func() { f.askRestart(pending, wants) })
}

func (f *faults) askRestart(pending bool, wants int) {
	w, lives := f.w, map[string]string{}
	for _, m := range w.check.record.Members {
		l := w.host(m).srv.Observe(context.Background())
		if !w.host(m).up || !l.Running || l.Life == "" {
			w.note("", "an operator would ask for a restart, but %s does not run", m)
			return
		}
		lives[m] = l.Life
	}
	q := w.ask(database.Request{Kind: "restart", PendingOnly: pending, Lives: lives})
	q.wants = wants
	w.at(60*time.Second, func() { q.settled = true }) // the operator cancels it
}

// restarted checks what an answer to a restart claims of those who are still members (nobody waits for one that has left,
// and its own host ends its server): none runs without the plan's setting, or as the process that was to end.
func (w *World) restarted(h *host, q *request, x database.Answer) {
	if q.Kind != "restart" || !x.OK {
		return
	}
	w.check.restarts++
	for host, life := range q.Lives {
		srv := w.host(host).srv
		switch l := srv.Observe(context.Background()); {
		case !w.check.record.Holds(host):
		case !q.PendingOnly && l.Running && l.Life == life:
			w.fail("a restart restarts", "%s says that all were restarted, and %s still runs as %s", h.name, host, life)
		case q.PendingOnly && q.wants == w.wants && !strings.Contains(x.Text, "still waiting") && srv.Lacks():
			w.fail("a restart restarts", "%s says that nothing waits, and %s has not the plan's setting", h.name, host)
		}
	}
}
