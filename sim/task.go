package sim

import (
	"context"
	"errors"
	"iter"
	"time"
)

// task is an action on its way: a coroutine that gives up the world's only thread whenever it waits.
type task struct {
	w      *World
	h      *host
	hold   func(func()) // runs its argument when the task's process may run
	cancel context.CancelFunc
	yield  func(time.Duration) bool
	next   func() (time.Duration, bool)
	stop   func()
	turn   int // of the wake-up that counts
	err    error
	over   bool
	gone   bool // its process has ended: it may not touch anything any more
	end    func(error)
}

var errProcessGone = errors.New("the process has ended")

// spawn starts f in a process of host h; end is told when it has returned, unless the process ended first.
func (w *World) spawn(h *host, hold func(func()), f func(context.Context) error, end func(*task, error)) *task {
	ctx, cancel := context.WithCancel(context.Background())
	t := &task{w: w, h: h, hold: hold, cancel: cancel}
	t.end = func(err error) { end(t, err) }
	t.next, t.stop = iter.Pull(func(yield func(time.Duration) bool) {
		t.yield = yield
		t.err = f(ctx)
	})
	t.stepIn(0)
	return t
}

// step runs the task until it waits or ends.
func (t *task) step() {
	if t.over || t.gone {
		return
	}
	before := t.w.task
	t.w.task = t
	d, more := t.next()
	t.w.task = before
	if !more {
		t.over = true
		t.cancel()
		t.end(t.err)
		return
	}
	t.stepIn(t.h.virtual(d))
}

// stepIn makes one wake-up the one that counts.
func (t *task) stepIn(d time.Duration) {
	t.turn++
	turn := t.turn
	t.w.push(d, t.h, func() {
		t.hold(func() {
			if turn == t.turn {
				t.step()
			}
		})
	})
}

// wait is called from inside.
func (t *task) wait(ctx context.Context, d time.Duration) error {
	if t == nil {
		panic("sim: an action waits outside a task")
	}
	if err := t.ended(ctx); err != nil {
		return err
	}
	if !t.yield(max(d, 0)) {
		t.gone = true
	}
	return t.ended(ctx)
}

func (t *task) ended(ctx context.Context) error {
	if t.gone {
		return errProcessGone
	}
	return ctx.Err()
}

// interrupt cancels the task's context and wakes it.
func (t *task) interrupt() {
	t.cancel()
	if t.over || t.gone {
		return
	}
	t.stepIn(0)
}

// drop is the end of the process that ran the task.
func (t *task) drop() {
	if t.over || t.gone {
		return
	}
	t.gone = true
	t.cancel()
	before := t.w.task
	t.w.task = t // whatever it still asks for is refused
	t.stop()
	t.w.task = before
}
