package backup

import (
	"context"
	"log/slog"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// yieldBy is by how much the nice value of the thread is raised that gets log ready for the vault. It is a third of the usual
// weight: what the primary beside it leaves of the processors is enough for that, and where it leaves none, a third is too.
const yieldBy = 5

// yielding does work on a thread of its own that lets others have the processors first. On Linux a nice value is one thread's
// (setpriority(2), "C library/kernel differences"). Nobody may lower one again without a right that an agent need not have, so
// work that is urgent is done elsewhere, not here at another value.
type yielding struct {
	work chan func()
	done sync.WaitGroup
}

// beginYielding starts the thread; end ends it. A thread that cannot be made nice works as any other.
func beginYielding(ctx context.Context, log *slog.Logger) *yielding {
	y := &yielding{work: make(chan func())}
	y.done.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		if err := raiseNice(yieldBy); err != nil {
			log.DebugContext(ctx, "log is made ready at the usual priority", "err", err)
		}
		for f := range y.work {
			f()
		}
	})
	return y
}

// raiseNice raises the nice value of the calling thread, to 19 at most.
func raiseNice(by int) error {
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return err
	}
	const highest = 20 // the system call gives this less the nice value, so that it is never negative
	return unix.Setpriority(unix.PRIO_PROCESS, 0, min(highest-raw+by, 19))
}

// do returns when f has, with what it returned.
func (y *yielding) do(f func() error) error {
	var err error
	ready := make(chan struct{})
	y.work <- func() {
		err = f()
		close(ready)
	}
	<-ready
	return err
}

// end returns when the thread does nothing any more. Nothing is done by it afterwards.
func (y *yielding) end() {
	close(y.work)
	y.done.Wait()
}
