// Package attempt repeats requests to a store that is reached over a network: how often, how long each may take, how a
// read goes on where it broke, and that content is not touched after the call. Drivers say which errors may pass.
package attempt

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/vault/store"
)

// Patience bounds how long one call may take. Zero fields mean the defaults.
type Patience struct {
	Attempts int           // of one request that does not get on (default 8)
	Wait     time.Duration // before the second attempt, at most; doubled for each one after it (default 250 ms)
	WaitMax  time.Duration // default 5 s
	Silence  time.Duration // in which an answer must begin (default 30 s); the content has this and a second for each 64 KiB
}

// OrDefaults fills what is zero.
func (p Patience) OrDefaults() Patience {
	if p.Attempts == 0 {
		p.Attempts = 8
	}
	if p.Wait == 0 {
		p.Wait = 250 * time.Millisecond
	}
	if p.WaitMax == 0 {
		p.WaitMax = 5 * time.Second
	}
	if p.Silence == 0 {
		p.Silence = 30 * time.Second
	}
	return p
}

// slowest is the rate that content must have, in bytes per second.
const slowest = 64 << 10

// Allow is the time that an attempt with so much content has.
func (p Patience) Allow(size int64) time.Duration {
	return p.Silence + time.Duration(size/slowest)*time.Second
}

// ErrSlow ends an attempt whose answer does not come, or comes slower than 64 KiB a second.
var ErrSlow = errors.New("it answers too slowly")

// ErrUnread is a store that took an object and does not give it back.
var ErrUnread = errors.New("it was stored, and is not there when it is looked up")

// Final marks an error that no repeat can mend.
type Final struct{ Err error }

func (f Final) Error() string { return f.Err.Error() }

// Unwrap gives what was marked.
func (f Final) Unwrap() error { return f.Err }

// Tries repeats what may pass.
type Tries struct {
	Patience Patience // with its defaults filled
	Clock    clock.Clock
	Passes   func(error) bool // whether another attempt may go better; it is not asked about Final, ErrDiffers and certificates
}

// Do repeats f while what it says may pass, and gives its last error.
func (t Tries) Do(ctx context.Context, f func(context.Context) error) error {
	return t.Further(ctx, func(ctx context.Context) (bool, error) { return false, f(ctx) })
}

// Further is Do for what goes on where it was cut: an attempt that got further does not count.
func (t Tries) Further(ctx context.Context, f func(context.Context) (further bool, err error)) error {
	var err error
	for n := 1; ; n++ {
		var further bool
		further, err = f(ctx)
		if err == nil {
			return nil
		}
		if further {
			n = 1
		}
		if ctx.Err() != nil || n >= t.Patience.Attempts || !t.again(err) {
			break
		}
		if t.pause(ctx, n) != nil {
			break
		}
	}
	if ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	return err
}

func (t Tries) again(err error) bool {
	if _, ok := errors.AsType[Final](err); ok || errors.Is(err, store.ErrDiffers) {
		return false
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return false
	}
	return t.Passes(err)
}

// pause waits before the next attempt: at least half of the step, so that a store in trouble gets some rest, and not
// all writers at once.
func (t Tries) pause(ctx context.Context, n int) error {
	step := min(t.Patience.Wait<<min(n-1, 20), t.Patience.WaitMax)
	timer := t.Clock.NewTimer(step/2 + rand.N(step/2+1))
	defer timer.Stop()
	select {
	case <-timer.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
