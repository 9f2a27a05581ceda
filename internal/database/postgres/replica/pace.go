package replica

import (
	"context"
	"sync"
	"time"

	"holdfast/internal/clock"
)

// burst is how much may come over at once after a pause.
const burst = 250 * time.Millisecond

// Pace lets bytes pass at a limited rate, whoever asks for them.
type Pace struct {
	limit int64 // bytes a second; 0 = all pass
	clock clock.Clock

	mu   sync.Mutex // guards next
	next time.Time  // when all that was let pass is paid for
}

// NewPace lets limit bytes a second pass; 0 = all.
func NewPace(limit int64, c clock.Clock) *Pace { return &Pace{limit: limit, clock: c} }

// Take waits until n bytes may come over.
func (p *Pace) Take(ctx context.Context, n int64) error {
	if p.limit <= 0 {
		return ctx.Err()
	}
	wait := p.owe(n)
	if wait <= 0 {
		return ctx.Err()
	}
	t := p.clock.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C():
		return nil
	}
}

// owe books n bytes and tells how long to wait before they may come.
func (p *Pace) owe(n int64) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	if oldest := now.Add(-burst); p.next.Before(oldest) {
		p.next = oldest
	}
	wait := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.limit) * float64(time.Second)))
	return wait
}
