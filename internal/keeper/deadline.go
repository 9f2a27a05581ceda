package keeper

import (
	"fmt"
	"time"
)

// deadline is the fence's arithmetic. Times are readings of bootClock, so a host that was suspended past its
// deadline finds it expired, not paused.
type deadline struct {
	allowed bool          // the spec has a Fence
	armed   bool          // until is set
	until   time.Duration // only ever raised
	epoch   int64         // only ever raised
}

// extend moves the deadline to until under epoch. It never shortens, never revives an expired deadline, and
// an old epoch changes nothing.
func (d *deadline) extend(now time.Duration, epoch int64, until time.Duration) error {
	switch {
	case !d.allowed:
		return ErrNoFence
	case d.expired(now):
		return fmt.Errorf("extend %v after the deadline: %w", now-d.until, ErrFenced)
	case epoch < d.epoch:
		return fmt.Errorf("extend in epoch %d, %d seen: %w", epoch, d.epoch, ErrEpoch)
	}
	d.epoch = epoch
	d.until = max(d.until, until)
	d.armed = true
	return nil
}

func (d *deadline) expired(now time.Duration) bool { return d.armed && now >= d.until }

// left is the time until the deadline; it is only meant for an armed one.
func (d *deadline) left(now time.Duration) time.Duration { return d.until - now }
