package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/vault/wal"
)

// Gap is log of a database that no copy has whole, and what cannot be restored for that.
type Gap struct {
	Database string    `json:"database"`
	Timeline uint32    `json:"timeline"`
	From     wal.LSN   `json:"from_lsn"` // what is lost: From to To
	To       wal.LSN   `json:"to_lsn"`
	After    time.Time `json:"after,omitzero"`    // moments up to this one can be restored; zero = none before the gap is known
	Until    time.Time `json:"until,omitzero"`    // and from this one on, the end of a base backup behind the gap; zero = there is none
	Backups  []string  `json:"backups,omitempty"` // that need the lost log themselves: nothing can be restored from them
}

// String says which moments of the database are lost.
func (g Gap) String() string {
	at := func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }
	text := "no moment of " + g.Database
	switch {
	case !g.After.IsZero() && !g.Until.IsZero():
		text += " after " + at(g.After) + " and before " + at(g.Until)
	case !g.After.IsZero():
		text += " after " + at(g.After) + " until its next base backup"
	case !g.Until.IsZero():
		text += " before " + at(g.Until)
	}
	text += fmt.Sprintf(" (UTC) can be restored on timeline %d: the log from %s to %s is lost", g.Timeline, g.From, g.To)
	if len(g.Backups) > 0 {
		text += "; nothing can be restored from backup " + strings.Join(g.Backups, ", ") + ", which needs it"
	}
	return text
}

// Gaps says what lost objects of the log take with them: for each database that a listed backup is of, the moments that
// cannot be restored any more. Log from before each backup takes nothing.
func (v *Vault) Gaps(ctx context.Context, lost []string) ([]Gap, error) {
	gone := map[string]bool{}
	systems := map[uint64][]string{}
	for _, name := range lost {
		part := strings.Split(name, "/")
		if id, err := strconv.ParseUint(part[min(1, len(part)-1)], 10, 64); err == nil && part[0] == "wal" && len(part) == 4 {
			gone[name] = true
			systems[id] = append(systems[id], name)
		}
	}
	if len(systems) == 0 {
		return nil, nil
	}
	all, err := v.Backups(ctx, "")
	if err != nil {
		return nil, err
	}
	byDatabase := map[string][]Backup{}
	for _, b := range all {
		if len(systems[b.SystemID]) > 0 {
			key := fmt.Sprintf("%s/%d", b.Database, b.SystemID)
			byDatabase[key] = append(byDatabase[key], b)
		}
	}
	var out []Gap
	for _, key := range sortedKeys(byDatabase) {
		of := byDatabase[key]
		l := v.Log(of[0].SystemID, of[0].SegmentSize)
		held, err := l.Held(ctx)
		if err != nil {
			return nil, err
		}
		held = slices.DeleteFunc(held, func(h wal.Held) bool { return gone[h.Object] })
		for _, stretch := range l.stretches(systems[of[0].SystemID]) {
			g, ok, err := l.gap(ctx, stretch, of, held)
			if err != nil {
				return nil, err
			}
			if ok {
				out = append(out, g)
			}
		}
	}
	return out, nil
}

// stretches are the parts of the log that objects hold, those that follow each other as one.
func (l *Log) stretches(objects []string) []wal.Hole {
	var pieces []wal.Held
	for _, name := range objects {
		timeline, err := strconv.ParseUint(path.Base(path.Dir(name)), 16, 32)
		if err != nil {
			continue // no place of ours
		}
		if h, ok := l.parse(uint32(timeline), path.Base(name)); ok {
			pieces = append(pieces, h)
		} else if in, ok := l.heldIn(uint32(timeline), name); ok {
			pieces = append(pieces, in...)
		}
	}
	var out []wal.Hole
	for _, p := range wal.Sorted(pieces) {
		if n := len(out); n > 0 && out[n-1].Timeline == p.Timeline && p.Start <= out[n-1].To {
			out[n-1].To = max(out[n-1].To, p.End)
			continue
		}
		out = append(out, wal.Hole{Timeline: p.Timeline, From: p.Start, To: p.End})
	}
	return out
}

// gap says what a lost stretch takes from a database, of which these are all backups of this server, oldest first.
func (l *Log) gap(ctx context.Context, lost wal.Hole, of []Backup, held []wal.Held) (Gap, bool, error) {
	g := Gap{Database: of[0].Database, Timeline: lost.Timeline, From: lost.From, To: lost.To}
	needed := false
	way, err := l.History(ctx, lost.Timeline)
	if ctx.Err() != nil {
		return g, false, err
	}
	if err != nil { // lost as well: then a backup of an earlier timeline is taken to lead to this one
		way = nil
	}
	for _, b := range of {
		switch {
		case b.Start >= lost.To && b.Timeline >= lost.Timeline:
			if g.Until.IsZero() || b.Stopped.Before(g.Until) {
				g.Until = b.Stopped
			}
			continue
		case b.Timeline > lost.Timeline || b.Timeline < lost.Timeline && parted(way, b): // it lies on another branch
			continue
		case b.Timeline == lost.Timeline && b.Stop > lost.From:
			g.Backups = append(g.Backups, b.ID)
		case b.Stopped.After(g.After):
			g.After = b.Stopped
		}
		needed = true
	}
	if !needed || g.After.IsZero() { // nothing before it leads up to it, but a backup may need it
		return g, needed, nil
	}
	before := slices.DeleteFunc(slices.Clone(held), func(h wal.Held) bool { return h.Timeline > lost.Timeline || h.End > lost.From })
	if len(before) == 0 {
		return g, true, nil
	}
	last := slices.MaxFunc(before, func(a, b wal.Held) int {
		return cmp.Or(cmp.Compare(a.End, b.End), cmp.Compare(a.Timeline, b.Timeline))
	})
	at, err := l.Covers(ctx, last)
	if err != nil && !errors.Is(err, ErrReplaced) {
		return g, false, fmt.Errorf("look how far the log reaches before %s: %w", lost.From, err)
	}
	if at.After(g.After) {
		g.After = at
	}
	return g, true, nil
}

// parted reports whether a backup of an earlier timeline ended behind where the way to another one leaves it.
func parted(way wal.History, b Backup) bool {
	return slices.ContainsFunc(way, func(s wal.Stretch) bool { return s.Timeline == b.Timeline && b.Stop > s.End })
}
