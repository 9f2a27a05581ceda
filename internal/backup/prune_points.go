package backup

import (
	"context"
	"slices"
	"time"

	"holdfast/internal/restore"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// PointsIn lists the recovery points of a database that a vault's backups of files belong to. One that is marked to go counts:
// it may be wanted again.
func PointsIn(ctx context.Context, v *vault.Vault, database string) ([]vault.Point, error) {
	all, err := v.FileBackups(ctx, "")
	if err != nil {
		return nil, err
	}
	var out []vault.Point
	for _, b := range all {
		if b.Point != nil && b.Point.Database == database {
			out = append(out, *b.Point)
		}
	}
	return out, nil
}

// wayTo is what leads to one recovery point.
type wayTo struct {
	point  string
	backup string
	pieces []string // objects of the log
}

// waysTo finds what each point needs. One that cannot be reached any more needs nothing. Pure.
func waysTo(c restore.Catalogue, points []vault.Point) []wayTo {
	var out []wayTo
	for _, p := range points {
		for _, choice := range restore.PointWays(c, p) {
			w := wayTo{point: p.ID, backup: choice.Backup.ID}
			for _, x := range choice.Pieces {
				w.pieces = append(w.pieces, x.Object)
			}
			out = append(out, w)
		}
	}
	return out
}

// keepWays keeps the backups with which the ways to recovery points begin.
func keepWays(all []Fate, ways []wayTo) {
	for i := range all {
		f := &all[i]
		at := slices.IndexFunc(ways, func(w wayTo) bool { return w.backup == f.ID })
		if at >= 0 && !f.Keep {
			f.Keep, f.Because, f.Goes = true, "the way to recovery point "+ways[at].point+" begins with it", time.Time{}
		}
	}
}

// withoutWays takes out of what may go the log that leads to recovery points.
func withoutWays(pieces []wal.Held, ways []wayTo) []wal.Held {
	needed := map[string]bool{}
	for _, w := range ways {
		for _, object := range w.pieces {
			needed[object] = true
		}
	}
	return slices.DeleteFunc(pieces, func(p wal.Held) bool { return needed[p.Object] })
}
