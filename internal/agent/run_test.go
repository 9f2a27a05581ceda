package agent

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/cluster"
	"holdfast/internal/database"
)

// air is the beats of one host: what was published, and what is heard.
type air struct {
	published [][]byte
	latest    map[string]Beat
}

func (a *air) Publish(payload []byte)  { a.published = append(a.published, payload) }
func (a *air) Latest() map[string]Beat { return a.latest }
func (a *air) Wake() <-chan struct{}   { return nil }

func newAgent(t *testing.T, w *world, b *air) *Agent {
	t.Helper()
	a, err := New(Config{
		Self: "b1", Version: "v1", Plan: "hash", Peers: []string{"b2", "b3"}, Store: w.store, Beats: b, Clock: w.clock, Log: w.logger(),
		Diary: w.diary, Late: func() bool { return false },
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	if _, err := New(Config{Databases: []database.Policy{{Name: "records"}}}); err == nil {
		t.Error("an agent without a store, beats or gates was made")
	}
}

// What the peers are told is what this host's own status is made from.
func TestTheSnapshotHoldsWhatWasPublished(t *testing.T) {
	w, b := newWorld(t), &air{}
	a := newAgent(t, w, b)
	a.Archive("records", Archive{Vault: "main", Archived: 77, Lag: time.Second}, true)
	a.round(t.Context())
	var told Report
	if err := json.Unmarshal(b.published[len(b.published)-1], &told); err != nil {
		t.Fatal(err)
	}
	if told.Archive["records"].Archived != 77 {
		t.Errorf("the peers are told of the archive: %+v", told.Archive)
	}
	if diff := cmp.Diff(told.Archive, a.Last().Outcome.Report.Archive); diff != "" {
		t.Errorf("our own status knows another archive than the peers:\n%s", diff)
	}
	a.Archive("records", Archive{}, false)
	a.round(t.Context())
	if got := a.Last().Outcome.Report.Archive; len(got) != 0 {
		t.Errorf("a duty that ended is still told: %v", got)
	}
}

func TestBeatsBecomeFacts(t *testing.T) {
	w := newWorld(t)
	b := &air{latest: map[string]Beat{
		"b2": {Payload: []byte(`{"host":"b2","version":"v7"}`), Age: time.Second, Contact: 2 * time.Second},
		"b3": {Payload: []byte(`{"host":"b2"}`), Age: time.Second, Contact: database.Never},
	}}
	a := newAgent(t, w, b)
	a.round(t.Context())
	peers := a.Last().Facts.Peers
	if len(peers) != 2 || peers[0].Report == nil || peers[0].Report.Version != "v7" || peers[0].AgentAge != time.Second || peers[0].Contact != 2*time.Second {
		t.Errorf("the peers are %+v", peers)
	}
	if peers[1].Report != nil {
		t.Errorf("b3 spoke for another host and was believed: %+v", peers[1].Report)
	}
	b.latest = map[string]Beat{"b2": {Payload: []byte(`{`)}}
	a.round(t.Context())
	peers = a.Last().Facts.Peers
	if peers[0].Report != nil || peers[1].AgentAge != database.Never {
		t.Errorf("the peers are %+v", peers)
	}
}

func TestTheFirstAnswerToARequestStays(t *testing.T) {
	w := newWorld(t)
	a := newAgent(t, w, &air{})
	a.Settle(t.Context(), Settled{ID: "q1", OK: true, Text: "done", Host: "b1"})
	a.Settle(t.Context(), Settled{ID: "q1", Text: "too late", Host: "b2"})
	if got, _ := read[Settled](w, KeyAnswers+"q1"); !got.OK || got.Text != "done" {
		t.Errorf("the answer is %+v", got)
	}
	if w.log.Len() > 0 {
		t.Errorf("the second answer is no complaint: %s", w.log)
	}
}

func TestStopIsSeenByTheNextRound(t *testing.T) {
	a := newAgent(t, newWorld(t), &air{})
	a.round(t.Context())
	if a.Last().Facts.Stopping {
		t.Fatal("nobody asked it to stop")
	}
	a.Stop()
	a.round(t.Context())
	if !a.Last().Facts.Stopping {
		t.Error("it goes on")
	}
	if err := a.WaitStopped(t.Context(), time.Minute); err != nil {
		t.Errorf("nothing runs here: %v", err)
	}
}

// extended is a server of which only the deadline is asked.
type extended struct {
	database.Server
	by chan int64
}

func (e extended) Extend(_ context.Context, _ int64, remaining int64) error {
	e.by <- remaining
	return nil
}

type openGate struct{ database.Gate }

func (openGate) Extend(context.Context, int64, time.Duration) error { return nil }

func TestAnAgentThatStoodStillExtendsNoDeadlineByTheTimeItLost(t *testing.T) {
	w := newWorld(t)
	a := newAgent(t, w, &air{})
	server := extended{by: make(chan int64, 1)}
	a.cfg.Servers, a.cfg.Gates = map[string]database.Server{"records": server}, map[string]database.Gate{"records": openGate{}}
	s := &slot{agent: a, name: "records"}
	a.slots["records"] = s
	a.factsAt = a.cfg.Clock.Now()
	w.clock.now = w.clock.now.Add(2 * time.Second) // between the facts and the order the process was frozen
	hands{agent: a, ctx: t.Context()}.Lease("records", 3, 3*time.Second)
	if left := <-server.by; left > 1000 {
		t.Errorf("the primary may go on for %d ms, and its contact is 2 s older", left)
	}
	s.done.Wait()
}

// stopped is a server whose keeper stands still.
type stopped struct{ database.Server }

func (stopped) Extend(ctx context.Context, _, _ int64) error {
	<-ctx.Done()
	return ctx.Err()
}

type toldGate struct {
	database.Gate
	by chan time.Duration
}

func (g toldGate) Extend(ctx context.Context, _ int64, d time.Duration) error {
	if ctx.Err() == nil {
		g.by <- d
	}
	return ctx.Err()
}

func TestAListenersDeadlineWaitsForNoKeeper(t *testing.T) {
	w := newWorld(t)
	a := newAgent(t, w, &air{})
	gate := toldGate{by: make(chan time.Duration, 1)}
	a.cfg.Servers, a.cfg.Gates = map[string]database.Server{"records": stopped{}}, map[string]database.Gate{"records": gate}
	s := &slot{agent: a, name: "records"}
	a.slots["records"] = s
	a.factsAt = a.cfg.Clock.Now()
	hands{agent: a, ctx: t.Context()}.Lease("records", 3, 3*time.Second)
	s.done.Wait()
	select {
	case <-gate.by:
	default:
		t.Error("the listener was told no deadline, and nobody would fence in the keeper's place")
	}
}

func TestAnAdoptedPlanNamesItsRevision(t *testing.T) {
	w := newWorld(t)
	a := newAgent(t, w, &air{})
	a.cfg.Adopt = func(text []byte) Adopted { return Adopted{Plan: string(text)} }
	if a.adopt() != nil {
		t.Error("a plan was adopted, and none is agreed")
	}
	a.board.agreed([]cluster.Entry{entry(KeyPlan, "next", 7)}, 9, time.Time{})
	if got := a.adopt(); got == nil || got.Plan != "next" || got.Revision != 7 {
		t.Errorf("adopted: %+v", got)
	}
}
