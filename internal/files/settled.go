package files

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// What tells that a file changed while it was read is its change time. That holds only for a file that is settled: one
// whose next change gets another time, and that nobody can change without a time at all.

const (
	// tick is longer than the clock of file times stands still on a machine that runs: 10 ms where the kernel's timer is
	// slowest (HZ=100). Since Linux 6.13 some file systems give a finer time once somebody asked for it; most hosts run
	// an older one. It stands longer where the machine itself was held (a virtual one whose host is busy), which is why
	// this kernel's clock is looked at as well; the tick is for file servers, whose clock nobody here sees.
	tick = 20 * time.Millisecond
	// coarseTick is the same for a file system that keeps no fractions of a second (FAT: two seconds).
	coarseTick = 2 * time.Second
	// mappedMax is for how long after its last change a file may have pages that a program writes to through a mapping
	// without any trace: until they are written out, which is half a minute unless somebody set it higher.
	mappedMax = 10 * time.Minute
)

// settled describes a file that is open, once a change would show. false = it does not come to rest for long enough.
func (c *capture) settled(ctx context.Context, f *os.File) (unix.Stat_t, bool, error) {
	for try := 1; ; try++ {
		now := c.o.Clock.Now() // what is stored into a clean page from here on gives the file a time from here on
		ticked, err := fileTime()
		if err != nil {
			return unix.Stat_t{}, false, err
		}
		st, err := statOf(f)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && now.Sub(time.Unix(st.Ctim.Unix())) < mappedMax {
			if err = writeOut(f); err == nil {
				st, err = statOf(f)
			}
		}
		if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			return st, true, err
		}
		wait := unsettled(time.Unix(st.Ctim.Unix()), now, ticked)
		if wait == 0 || try == tries {
			return st, wait == 0, nil
		}
		if err := c.rest(ctx, wait); err != nil {
			return st, false, err
		}
	}
}

// fileTime is the time that the kernel gives to a file that changes now: its clock as it was at the last tick.
func fileTime() (time.Time, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &t); err != nil {
		return time.Time{}, fmt.Errorf("read the clock of file times: %w", err)
	}
	return time.Unix(t.Unix()), nil
}

// unsettled is for how long from now on a further change could leave a change time as it is; 0 = none can. A time that
// lies further ahead than a reading takes is nobody's present one. A clock of file times (ticked) that has not left the
// change's moment yet is looked at again in a tick.
func unsettled(changed, now, ticked time.Time) time.Duration {
	stands := tick
	if changed.Nanosecond() == 0 {
		stands = coarseTick
	}
	wait := changed.Add(stands).Sub(now)
	if wait > 2*coarseTick {
		return 0
	}
	if !ticked.After(changed) {
		wait = max(wait, tick)
	}
	return max(wait, 0)
}

// writeOut lets the kernel write out what programs have put into a file through a mapping, and watch its pages again: the
// next store into one of them sets the file's times. It is not made durable by it, and costs nothing where nothing waits.
func writeOut(f *os.File) error {
	err := retried(func() error {
		return unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	})
	if err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("write out what is mapped: %w", err)
	}
	return nil
}

func (c *capture) rest(ctx context.Context, d time.Duration) error {
	t := c.o.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
