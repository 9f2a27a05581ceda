package api

import (
	"context"
	"strings"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/cluster"
	"holdfast/internal/database"
)

// A switchover that nobody can begin says what it waits for, and carries since when it stands, so that it ends.
func TestASwitchoverThatNobodyCanBegin(t *testing.T) {
	w := allWell()
	w.local("b1", func(l *database.Local) { l.Running = false })
	snap := w.snapshot()
	s := serveWith(t, "b1", func(src *Source) {
		// what is asked for stands in the snapshot at once
		src.Snapshot = func() agent.Snapshot {
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
	})
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
