package upkeep

import (
	"slices"
	"time"
)

// What follows says what a run may do, from what is written down of those before it. None of it reads a clock.

// rewriteDue reports whether packs may be joined. Where readers are given time they are not, until what the last joining left
// behind is deleted: joining in every run would put that off for ever.
func rewriteDue(s *Schedule, safety Safety) bool {
	joined := s.last(TaskRewrite)
	return safety.MinRewriteToOrphanDeletionDelay == 0 || joined.IsZero() || !s.last(TaskDelete).Before(joined)
}

// deleteDue reports whether packs that no index knows may be deleted. A joining that broke off counts too: some of it may have
// taken effect.
func deleteDue(s *Schedule, safety Safety, now time.Time) bool {
	for _, i := range s.Runs[TaskRewrite] {
		if now.Before(later(i.Start, i.End).Add(safety.MinRewriteToOrphanDeletionDelay)) {
			return false
		}
	}
	return true
}

// dropBefore is the moment up to which deleted contents count as if they had never been; zero = none may go yet.
//
// A writer may rely on a content that the first look marks at that moment, for it does not know of the mark. Until the second look
// the content can still be read, and the second look takes the mark away again, if the writer is listed by then: so the two are
// at least the margin apart, and only what the first look found marked already may go.
func dropBefore(s *Schedule, safety Safety, now time.Time) time.Time {
	if !safety.RequireTwoGCCycles {
		return now
	}
	looks := slices.DeleteFunc(slices.Clone(s.Runs[TaskCollect]), func(i RunInfo) bool { return !i.Success || i.End.Before(i.Start) })
	slices.SortFunc(looks, func(a, b RunInfo) int { return b.Start.Compare(a.Start) })
	if len(looks) < 2 {
		return time.Time{}
	}
	for _, first := range looks[1:] {
		if looks[0].Start.Sub(first.End) > safety.MarginBetweenSnapshotGC {
			return first.Start.Add(-safety.DropContentFromIndexExtraMargin)
		}
	}
	return time.Time{}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
