package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/cluster"
	"holdfast/internal/cluster/memory"
	"holdfast/internal/database"
	"holdfast/internal/service"
)

// still is a clock that stands until it is moved; its timers never fire, for tests call rounds by hand.
type still struct{ now time.Time }

func newStill() *still { return &still{now: time.Unix(1_000_000, 0)} }

func (c *still) Now() time.Time { return c.now }

func (c *still) NewTimer(time.Duration) clock.Timer { return noTimer{} }

type noTimer struct{}

func (noTimer) C() <-chan time.Time      { return nil }
func (noTimer) Stop() bool               { return true }
func (noTimer) Reset(time.Duration) bool { return true }

// noted is a diary and all hands: it keeps what it was told.
type noted struct {
	acts       []database.Action
	interrupts int
	leases     []time.Duration
	leaseOf    []int64
	gates      []database.GateOrder
	reads      []database.ReadOrder
	answers    []database.Answer
	services   []service.Action
	held       []string
	heldFor    []time.Duration
	diary      []string
}

func (n *noted) Act(_ string, a database.Action)  { n.acts = append(n.acts, a) }
func (n *noted) Slots(string, database.SlotOrder) {}
func (n *noted) Interrupt(string)                 { n.interrupts++ }
func (n *noted) Lease(_ string, epoch int64, d time.Duration) {
	n.leases, n.leaseOf = append(n.leases, d), append(n.leaseOf, epoch)
}
func (n *noted) Gate(_ string, o database.GateOrder)  { n.gates = append(n.gates, o) }
func (n *noted) Read(_ string, o database.ReadOrder)  { n.reads = append(n.reads, o) }
func (n *noted) Answer(_ string, a []database.Answer) { n.answers = append(n.answers, a...) }
func (n *noted) Service(a service.Action)             { n.services = append(n.services, a) }
func (n *noted) Hold(id string, contact time.Duration) {
	n.held, n.heldFor = append(n.held, id), append(n.heldFor, contact)
}
func (n *noted) Note(room, subject, what string, _ []string, _ time.Duration) {
	n.diary = append(n.diary, room+" "+subject+": "+what)
}

// world is a store and what an agent would have read of it.
type world struct {
	t      *testing.T
	shared *memory.Shared
	store  *memory.Store
	clock  *still
	log    *bytes.Buffer
	diary  *noted
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, shared: memory.New(), clock: newStill(), log: &bytes.Buffer{}, diary: &noted{}}
	w.store = w.shared.Open("b1")
	t.Cleanup(func() { _ = w.store.Close() }) // in memory: it cannot fail
	return w
}

func (w *world) logger() *slog.Logger { return slog.New(slog.NewTextHandler(w.log, nil)) }

func (w *world) put(key string, v any) int64 {
	w.t.Helper()
	value, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	rev, err := w.store.Set(context.Background(), key, value)
	if err != nil {
		w.t.Fatal(err)
	}
	return rev
}

// agreed is everything in the store now.
func (w *world) agreed() map[string]cluster.Entry {
	w.t.Helper()
	entries, _, err := w.store.List(context.Background(), keyRoot)
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]cluster.Entry{}
	for _, e := range entries {
		out[e.Key] = e
	}
	return out
}

// read decodes one key; false when it is absent.
func read[T any](w *world, key string) (T, bool) {
	w.t.Helper()
	var v T
	e, ok := w.agreed()[key]
	if !ok {
		return v, false
	}
	if err := json.Unmarshal(e.Value, &v); err != nil {
		w.t.Fatal(err)
	}
	return v, true
}
