package backup

import (
	"context"
	"sync"
	"time"
)

// pacer holds readers back so that together they read no more than so many bytes a second. What was not used in the
// last second is lost: a pause is not followed by a rush.
type pacer struct {
	rate float64 // bytes a second; 0 = no limit

	mu   sync.Mutex
	next time.Time // when the bytes that were let through have been paid for
}

func newPacer(rate int64) *pacer { return &pacer{rate: float64(max(rate, 0))} }

// wait returns when n more bytes may be read.
func (p *pacer) wait(ctx context.Context, n int) error {
	if err := ctx.Err(); err != nil || p.rate == 0 {
		return err
	}
	t := time.NewTimer(p.turn(n, time.Now()))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// turn is how long whoever wants n bytes at now must wait.
func (p *pacer) turn(n int, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if idle := now.Add(-time.Second); p.next.Before(idle) {
		p.next = idle
	}
	p.next = p.next.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
	return max(0, p.next.Sub(now))
}
