package host

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/cluster"
	"holdfast/internal/event"
)

// scribePace is how often the scribe looks for requests that were settled.
const scribePace = time.Second

// scribe notes in this host's diary how those requests ended that this host settled. Who settles one only writes the answer
// into the agreed state, some of them within a round that must not wait for a disk; and a host that dies between the two has
// it noted when it is back.
type scribe struct {
	self  string
	diary *diary
	seen  map[string]bool // keys of the answers of the look before; nil = there was none
}

func (h *Host) noteSettled(ctx context.Context) error {
	s := &scribe{self: h.cfg.Self, diary: h.diary}
	for h.sleep(ctx, scribePace) {
		s.look(h.agent.Last())
	}
	s.look(h.agent.Last())
	return nil
}

// look notes the answers that came since the last one. At first it notes those that belong to the end of an earlier life: what
// came after the last of which the diary knows, and what was asked for by the diary and has no end in it, for revisions begin
// anew with an agreed state that was rebuilt. A diary that knows of no answer says nothing of when the others came, perhaps long
// ago: they are not told as if it were now.
func (s *scribe) look(now agent.Snapshot) {
	if !now.Facts.Known {
		return
	}
	late := s.seen == nil
	known, open := int64(0), map[string]bool{}
	if late {
		known, open = s.remembered()
	}
	var fresh []cluster.Entry
	seen := map[string]bool{}
	for key, entry := range now.Agreed {
		if !strings.HasPrefix(key, agent.KeyAnswers) {
			continue
		}
		seen[key] = true
		isNew := !s.seen[key]
		if late {
			isNew = known > 0 && entry.Revision > known || open[strings.TrimPrefix(key, agent.KeyAnswers)]
		}
		if isNew {
			fresh = append(fresh, entry)
		}
	}
	slices.SortFunc(fresh, func(a, b cluster.Entry) int { return int(a.Revision - b.Revision) })
	s.seen = seen
	for _, entry := range fresh {
		var answer agent.Settled
		if json.Unmarshal(entry.Value, &answer) == nil && answer.Host == s.self {
			s.note(now, answer, entry.Revision, late)
		}
	}
}

// remembered is what the diary of earlier lives knows: the newest revision of an answer (0 = of none), and the ids of requests
// that were asked for and of which it tells no end.
func (s *scribe) remembered() (known int64, open map[string]bool) {
	open = map[string]bool{}
	for _, e := range s.diary.Recent() {
		known = max(known, e.Settled)
		if _, told := open[e.Request]; e.Settled != 0 || e.Request != "" && !told {
			open[e.Request] = e.Settled == 0
		}
	}
	return known, open
}

func (s *scribe) note(now agent.Snapshot, answer agent.Settled, revision int64, late bool) {
	asked := agent.Asked{ID: answer.ID, Room: "request", Subject: answer.ID, Kind: "request"}
	_ = json.Unmarshal(now.Agreed[agent.KeyRequests+answer.ID].Value, &asked) // gone, or of another version: its id has to do
	how := ": not done: "
	if answer.OK {
		how = ": done: "
	}
	because := api.Reasons(asked)
	if late {
		because = append(because, "it was settled before this life of the agent")
	}
	s.diary.Record(event.Event{
		Room: asked.Room, Subject: asked.Subject, What: api.Wish(asked, time.UTC) + how + firstLine(answer.Text), Because: because,
		Request: answer.ID, Settled: revision,
	})
}
