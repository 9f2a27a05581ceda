package sim

import (
	"time"

	"holdfast/internal/database"
)

// trap is set for the host that a switchover chooses.
type trap struct {
	sprung bool
	over   bool
	undo   func()
}

// setTrap asks for a switchover whose target loses its power once it has been chosen and before it serves.
func (f *faults) setTrap() func() {
	f.askSwitchover(nil)
	t := &trap{}
	f.traps = append(f.traps, t)
	return func() {
		t.sprung, t.over = true, true
		if t.undo != nil {
			t.undo()
		}
	}
}

// agreed springs the traps when a switchover has handed over.
func (f *faults) agreed(before, r database.Record) {
	if before.Phase != database.Switching || r.Phase != database.Promoting || r.Primary == before.Primary {
		return
	}
	w := f.w
	for _, t := range f.traps {
		if t.sprung {
			continue
		}
		t.sprung = true
		w.at(w.between(0, 100*time.Millisecond), func() {
			if !t.over && w.check.record.Phase == database.Promoting && w.check.record.Epoch == r.Epoch {
				w.note(r.Primary, "the chosen host loses its power")
				t.undo = f.crash(w.host(r.Primary), false)
			}
		})
	}
}
