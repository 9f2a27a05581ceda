package heartbeat

import (
	"context"
	"slices"
	"sync"
	"time"

	"holdfast/internal/clock"
)

const (
	latenessTick   = 50 * time.Millisecond
	latenessWindow = 3 * time.Second
)

// Lateness measures how late this host's own timers ran in the last three seconds. An observer that was itself
// asleep (frozen, out of CPU, suspended) must not take the silence that it slept through for anybody's death.
type Lateness struct {
	clock clock.Clock

	mu   sync.Mutex // guards what follows
	last time.Time  // of the newest tick
	late []lateTick // of the window, oldest first; ticks on time are left out
}

type lateTick struct {
	at time.Time
	by time.Duration
}

// NewLateness starts counting now: until Run runs, the host is as late as the time since.
func NewLateness(c clock.Clock) *Lateness { return &Lateness{clock: c, last: c.Now()} }

// Run ticks until ctx ends.
func (l *Lateness) Run(ctx context.Context) error {
	t := l.clock.NewTimer(latenessTick)
	defer t.Stop()
	for {
		select {
		case <-t.C():
			l.Tick()
			t.Reset(latenessTick)
		case <-ctx.Done():
			return nil
		}
	}
}

// Tick notes one tick of the timer; Run calls it, or the simulator does.
func (l *Lateness) Tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	if by := now.Sub(l.last) - latenessTick; by > 0 {
		l.late = append(l.late, lateTick{now, by})
	}
	l.last = now
	l.forget(now)
}

// Worst is the longest delay of a timer that ended within the last three seconds or is going on. A few
// milliseconds are usual; more than an interval of beats means that ages told in this time are too high.
func (l *Lateness) Worst() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	l.forget(now)
	worst := max(0, now.Sub(l.last)-latenessTick)
	for _, t := range l.late {
		worst = max(worst, t.by)
	}
	return worst
}

// forget needs mu.
func (l *Lateness) forget(now time.Time) {
	l.late = slices.DeleteFunc(l.late, func(t lateTick) bool { return now.Sub(t.at) > latenessWindow })
}
