package sim

import (
	"time"

	"holdfast/internal/database"
)

// Poison is something in the data that makes each primary panic some time after it became one, whichever host it is
// on, until it is cured; then the operator lets automatic moves go on. No seed chooses it: while it lasts nothing that
// Holdfast does can keep the database open.
const Poison FaultKind = "poison"

const poisonSign = `PANIC: could not open file "pg_xact/#": No such file or directory`

// poison makes the present primary panic, and each after it.
func (f *faults) poison(h *host) func() {
	w := f.w
	w.poisoned, w.poisonous = true, true
	w.note(h.name, "a page that panics whoever writes it")
	h.srv.Panic(poisonSign)
	return func() {
		w.poisonous = false
		w.cure()
	}
}

// bites is asked when a server has become a primary.
func (w *World) bites(name string) {
	if !w.poisonous {
		return
	}
	h := w.host(name)
	after := w.between(0, 8*time.Second)
	w.push(after, h, func() {
		if _, ok := h.srv.RunsAsPrimary(); ok && w.poisonous {
			h.srv.Panic(poisonSign)
		}
	})
}

// cure is the operator who lets automatic moves go on, whenever they have ended after the poison was found.
func (w *World) cure() {
	if w.check.record.Halt != nil {
		w.ask(database.Request{Kind: "resume"})
	}
	w.at(7*time.Second, w.cure)
}

// halts looks at a halt: nothing but the poison may bring one about, and no more moves than the limit come before it.
func (c *checker) halts(before, r database.Record) {
	if r.Halt == nil {
		c.moves = 0
		return
	}
	if !c.w.poisoned {
		c.w.fail("no false alarm", "automatic moves ended in epoch %d although nothing ended twice for the same reason: %+v", r.Epoch, r.Ends)
		return
	}
	if before.Halt == nil {
		c.haltsSeen++
		return
	}
	if r.Phase == database.Promoting && (before.Phase != r.Phase || before.Epoch != r.Epoch) {
		c.moves++
		c.mostMoves = max(c.mostMoves, c.moves)
	}
}
