package api

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/agent"
	"holdfast/internal/cluster"
	"holdfast/internal/database"
	"holdfast/internal/problem"
)

// asking is a snapshot in which what is asked for stands at once, and answers never do.
func asking(t *testing.T, snap agent.Snapshot, src *Source) func() agent.Snapshot {
	return func() agent.Snapshot {
		now := snap
		all, _, err := src.Store.List(context.Background(), agent.KeyRequests)
		if err != nil {
			t.Error(err)
		}
		now.Agreed = map[string]cluster.Entry{}
		for _, e := range all {
			now.Agreed[e.Key] = e
		}
		return now
	}
}

// A planned switchover stands in the status, and a second one beside it is refused until the first has ended.
func TestASwitchoverIsPlannedOnce(t *testing.T) {
	s := serveWith(t, "b1", func(src *Source) { src.Snapshot = asking(t, allWell().snapshot(), src) })
	due := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	ask := func(at time.Time) (agent.Asked, error) {
		return s.client.Ask(t.Context(), agent.Asked{Room: "database", Subject: "records", Kind: "switchover",
			Args: map[string]string{agent.ArgTo: "b2", agent.ArgAt: at.Format(time.RFC3339Nano)}})
	}
	first, err := ask(due)
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]PlannedMove{{ID: first.ID, To: "b2", At: due, By: "ann"}}, st.Databases[0].Planned); diff != "" {
		t.Error(diff)
	}
	var p *problem.Problem
	if _, err := ask(due.Add(time.Hour)); !errors.As(err, &p) || p.Code != "database.not-switched" || !strings.Contains(p.Remedy, first.ID) {
		t.Errorf("a second one: %v", err)
	}
	if _, err := s.client.Ask(t.Context(), agent.Asked{Room: "database", Subject: "records", Kind: "switchover"}); err != nil {
		t.Errorf("one at once: %v", err)
	}
	if _, err := s.client.Cancel(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(due); err != nil {
		t.Errorf("behind the end of the first: %v", err)
	}
}

// A switchover that nobody can begin says what it waits for, and carries since when it stands, so that it ends.
func TestASwitchoverThatNobodyCanBegin(t *testing.T) {
	w := allWell()
	w.local("b1", func(l *database.Local) { l.Running = false })
	snap := w.snapshot()
	s := serveWith(t, "b1", func(src *Source) { src.Snapshot = asking(t, snap, src) })
	before := time.Now()
	q, err := s.client.Ask(t.Context(), agent.Asked{Room: "database", Subject: "records", Kind: "switchover"})
	if err != nil {
		t.Fatal(err)
	}
	asked, err := time.Parse(time.RFC3339Nano, q.Args[agent.ArgAsked])
	if err != nil || asked.Before(before.Add(-time.Second)) || asked.After(time.Now()) || q.Args[agent.ArgAt] != "" {
		t.Errorf("asked at %v, %v", q.Args, err)
	}
	if words := Wish(q, time.UTC); words != "switchover" {
		t.Errorf("it reads %q", words)
	}
	open, err := s.client.Open(t.Context())
	if err != nil || len(open) != 1 || !strings.Contains(open[0].Words, "the primary's server on b1 does not run") {
		t.Errorf("%+v, %v", open, err)
	}
}
