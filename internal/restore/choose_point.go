package restore

import (
	"cmp"
	"slices"

	"holdfast/internal/vault"
)

// ChoosePoint picks the way to a recovery point: along a timeline that the point's own log is part of, never along one that
// forked below and has grown past its position since. Of a point that does not say on which timeline it is, made before
// that was noted, it takes the newest that gets as far. Pure.
func ChoosePoint(c Catalogue, p vault.Point) (Choice, error) {
	at := pointTarget(p)
	if p.Timeline == 0 {
		return Choose(c, at)
	}
	var first error
	for _, t := range pointTimelines(c, p) {
		at.SystemID, at.Timeline = t.system, t.timeline
		ch, err := Choose(c, at)
		if err == nil {
			return ch, nil
		}
		first = cmp.Or(first, err)
	}
	if first != nil {
		return Choice{}, first
	}
	return Choose(c, at) // which says what is missing
}

// PointWays are the ways of which one leads to a recovery point, for as much as is known: one when the point says on which
// timeline it is, else one along each timeline that gets as far. Pure.
func PointWays(c Catalogue, p vault.Point) []Choice {
	if p.Timeline != 0 {
		ch, err := ChoosePoint(c, p)
		if err != nil {
			return nil
		}
		return []Choice{ch}
	}
	var out []Choice
	at := pointTarget(p)
	for _, t := range pointTimelines(c, p) {
		at.SystemID, at.Timeline = t.system, t.timeline
		if ch, err := Choose(c, at); err == nil {
			out = append(out, ch)
		}
	}
	return out
}

func pointTarget(p vault.Point) Target {
	return Target{Kind: AtName, Name: p.ID, LSN: p.LSN, Exact: true, SystemID: p.SystemID, Timeline: p.Timeline}
}

// pointTimeline is a timeline on which a point may be, and whose.
type pointTimeline struct {
	system   uint64
	timeline uint32
}

// pointTimelines are those that a point may be on, its own first.
func pointTimelines(c Catalogue, p vault.Point) []pointTimeline {
	var out []pointTimeline
	for system, log := range c.Logs {
		if p.SystemID != 0 && system != p.SystemID {
			continue
		}
		for t, h := range log.Histories {
			if p.Timeline == 0 || h.Holds(p.Timeline, p.LSN) {
				out = append(out, pointTimeline{system, t})
			}
		}
	}
	slices.SortFunc(out, func(a, b pointTimeline) int {
		return cmp.Or(cmp.Compare(a.timeline, b.timeline), cmp.Compare(a.system, b.system))
	})
	return out
}
