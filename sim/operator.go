package sim

import (
	"fmt"
	"time"

	"holdfast/internal/database"
)

// ask is an operator's request as it comes into the store.
func (w *World) ask(q database.Request) *request {
	q.ID, q.By = fmt.Sprintf("q%d", len(w.requests)+1), "operator"
	asked := &request{Request: q, at: w.now}
	w.requests = append(w.requests, asked)
	w.note("", "an operator asks: %s %s (%s)", q.Kind, q.To, q.ID)
	return asked
}

// seen is the request as a host reads it now: its wall clock is the world's.
func (q *request) seen(now time.Duration) database.Request {
	r := q.Request
	r.Left = r.For - (now - q.at)
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
