package host

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/agent"
	"holdfast/internal/cluster"
	"holdfast/internal/event"
)

// answered is what the hosts agree on once requests have answers, in that order.
func answered(t *testing.T, first int64, answers ...agent.Settled) agent.Snapshot {
	t.Helper()
	out := agent.Snapshot{Facts: agent.Facts{Known: true}, Agreed: map[string]cluster.Entry{}}
	put := func(key string, revision int64, value any) {
		raw, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		out.Agreed[key] = cluster.Entry{Key: key, Value: raw, Revision: revision}
	}
	for i, x := range answers {
		put(agent.KeyRequests+x.ID, 1, agent.Asked{ID: x.ID, Room: "database", Subject: "records", Kind: "pause", By: "ann", Args: map[string]string{
			agent.ArgUntil: "2030-01-02T03:04:05Z", agent.ArgReason: "a new disk"}})
		put(agent.KeyAnswers+x.ID, first+int64(i), x)
	}
	return out
}

func TestTheHistoryTellsHowRequestsEnded(t *testing.T) {
	const wish = "pause until 2030-01-02 03:04:05 UTC"
	over := agent.Settled{ID: "p1", OK: true, Text: "bob ended the pause", Host: "h1"}
	cancelled := agent.Settled{ID: "p2", Text: "bob cancelled it", Host: "h1"}
	others := agent.Settled{ID: "p3", OK: true, Text: "the pause ended by itself", Host: "h2"}
	dir, at := t.TempDir(), time.Now()
	d := aDiary(t, dir, &at)
	s := &scribe{self: "h1", diary: d}
	s.look(agent.Snapshot{}) // nothing was heard of the agreed state yet
	s.look(answered(t, 10))
	s.look(answered(t, 10, over, cancelled, others))
	s.look(answered(t, 10, over, cancelled, others))
	told := func(id, how string, revision int64, more ...string) event.Event {
		return event.Event{At: at.Round(0), Host: "h1", Room: "database", Subject: "records", What: wish + how,
			Because: append([]string{"ann asked for it: a new disk"}, more...), Request: id, Settled: revision}
	}
	want := []event.Event{told("p1", ": done: bob ended the pause", 10), told("p2", ": not done: bob cancelled it", 11)}
	if diff := cmp.Diff(want, d.Recent()); diff != "" {
		t.Fatal(diff)
	}
	t.Run("the next life tells what the last one could not, and nothing twice", func(t *testing.T) {
		late := agent.Settled{ID: "p4", OK: true, Text: "another pause has taken its place", Host: "h1"}
		again := aDiary(t, dir, &at)
		s := &scribe{self: "h1", diary: again}
		for range 2 {
			s.look(answered(t, 10, over, cancelled, others, late))
		}
		want := append(want, told("p4", ": done: another pause has taken its place", 13, "it was settled before this life of the agent"))
		if diff := cmp.Diff(want, again.Recent()); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("of a diary without memory nothing old is told, but what it asked for", func(t *testing.T) {
		asked := agent.Settled{ID: "p7", OK: true, Text: "it is over", Host: "h1"}
		fresh := aDiary(t, t.TempDir(), &at)
		fresh.Record(event.Event{Room: "database", Subject: "records", What: wish + ": asked for", Request: "p7"})
		s := &scribe{self: "h1", diary: fresh}
		for range 2 {
			s.look(answered(t, 10, over, cancelled, others, asked))
		}
		s.look(answered(t, 10, over, cancelled, others, asked, agent.Settled{ID: "p8", OK: true, Text: "it is over", Host: "h1"}))
		want := []event.Event{told("p7", ": done: it is over", 13, "it was settled before this life of the agent"), told("p8", ": done: it is over", 14)}
		if diff := cmp.Diff(want, fresh.Recent()[1:]); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("after a rebuilding what was asked for in an earlier life gets its end", func(t *testing.T) {
		again := aDiary(t, dir, &at)
		again.Record(event.Event{Room: "database", Subject: "records", What: wish + ": asked for", Request: "p9"})
		before := len(again.Recent())
		s := &scribe{self: "h1", diary: again}
		ended := agent.Settled{ID: "p9", OK: true, Text: "it is over", Host: "h1"}
		for range 2 {
			s.look(answered(t, 2, over, ended))
		}
		want := []event.Event{told("p9", ": done: it is over", 3, "it was settled before this life of the agent")}
		if diff := cmp.Diff(want, again.Recent()[before:]); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("an agreed state that was rebuilt counts from the beginning", func(t *testing.T) {
		again := aDiary(t, dir, &at)
		s := &scribe{self: "h1", diary: again}
		before := len(again.Recent())
		s.look(answered(t, 2))
		s.look(answered(t, 2, agent.Settled{ID: "p5", OK: true, Text: "it is over", Host: "h1"}))
		if n := len(again.Recent()); n != before+1 {
			t.Errorf("%d events became %d", before, n)
		}
	})
}
