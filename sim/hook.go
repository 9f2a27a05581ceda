package sim

import (
	"context"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/database/databasetest"
)

// hookLimit is how long the plan's command for a primary in trouble may run.
const hookLimit = 6 * time.Second

// hookGap is the least time between two runs on one host: agents count their own ten minutes on clocks that differ a little.
const hookGap = 9 * time.Minute

// hook is that command: it takes a while, and then has mended the disk, starts the host anew, or has done nothing.
func (x hands) hook(ctx context.Context, a database.Action) error {
	h, w := x.a.h, x.a.w
	if h.hooked > 0 && w.now-h.hooked < hookGap {
		w.fail("one turn of a hook", "%s ran it %s ago, and again: %s", h.name, w.now-h.hooked, a.Why)
	}
	h.hooked = w.now
	w.hooks++
	if err := w.Wait(ctx, h.name, w.between(0, a.Limit)); err != nil {
		return err
	}
	switch w.rng.IntN(3) {
	case 0:
		w.note(h.name, "the hook has mended the disk")
		h.srv.BreakDisk("", databasetest.Panics)
	case 1:
		w.note(h.name, "the hook starts the host anew")
		w.at(0, func() {
			back := w.faults.crash(h, false)
			w.at(w.between(time.Second, 8*time.Second), back)
		})
	}
	return nil
}
