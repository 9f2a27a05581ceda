package host

import (
	"context"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/database"
	"holdfast/internal/receipt"
	"holdfast/internal/vault"
)

const (
	// voidRest is the first pause before a base backup begins again whose server changed: it has to start first. Each
	// further pause is twice as long, up to baseRetry.
	voidRest = 5 * time.Second
	// voidMax is how many attempts at what somebody asked for may come to nothing that way before they are told so.
	voidMax = 10
)

// voids are attempts at a base backup that came to nothing because of the server. The loop that makes backups has it alone.
type voids struct {
	of    string    // the request that they were for; "" = nobody's
	times int       // in a row
	until time.Time // no other one begins before
}

// count notes one, and reports whether another is made by itself. A schedule never gives up.
func (x *voids) count(asked *agent.Asked, now time.Time) bool {
	of := ""
	if asked != nil {
		of = asked.ID
	}
	if of != x.of {
		*x = voids{of: of}
	}
	x.until = now.Add(min(voidRest<<min(x.times, voidMax), baseRetry))
	x.times++
	return of == "" || x.times < voidMax
}

// voided reports whether an attempt came to nothing because of the server, so that it begins again by itself, and tells of it.
func (a *archivist) voided(ctx context.Context, v *vault.Vault, x *voids, asked *agent.Asked, began time.Time, made backup.Result, err error) bool {
	if made.Backup.ID != "" || !backup.Interrupted(err) { // one that was made is tried again, not made again
		*x = voids{}
		return false
	}
	again := x.count(asked, a.host.clock.Now())
	if made.Begun { // else it is not an attempt that somebody must be able to account for
		a.host.receipt(ctx, v, voidReceipt(a.db.Name, a.record(), time.Since(began), err))
	}
	if again {
		a.host.progress(ctx, asked, "begins again: "+firstLine(err.Error()))
	}
	return again
}

// voidReceipt is evidence of an attempt that came to nothing. Pure.
func voidReceipt(name string, now database.Record, took time.Duration, err error) receipt.Event {
	return receipt.Event{
		Kind: receipt.Backup, Subject: name, Outcome: receipt.Failed,
		Says:    "an attempt at a base backup is void, and nothing of it is listed: " + firstLine(err.Error()),
		Figures: map[string]float64{"took_seconds": took.Seconds(), "epoch": float64(now.Epoch), "timeline": float64(now.Timeline)},
		Details: details(map[string]any{"void": true, "primary": now.Primary}),
	}
}
