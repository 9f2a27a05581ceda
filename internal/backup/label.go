package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"time"

	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

var startTimeline = regexp.MustCompile(`(?m)^START TIMELINE: (\d+)$`)

// labelTimeline reads the timeline out of a backup label.
func labelTimeline(label string) (uint32, error) {
	m := startTimeline.FindStringSubmatch(label)
	if m == nil {
		return 0, errors.New("read backup label: it names no timeline")
	}
	n, err := strconv.ParseUint(m[1], 10, 32)
	if err != nil {
		return 0, fmt.Errorf("read backup label: %w", err)
	}
	return uint32(n), nil
}

// sameDir errs unless both paths lead to the same directory.
func sameDir(a, b string) error {
	x, err := os.Stat(a)
	if err != nil {
		return fmt.Errorf("look at the server's directory: %w", err)
	}
	y, err := os.Stat(b)
	if err != nil {
		return fmt.Errorf("look at the data directory: %w", err)
	}
	if !os.SameFile(x, y) {
		return fmt.Errorf("it runs on %s", a)
	}
	return nil
}

// logStill is how long the archive may not come nearer to what a base backup waits for: longer than a vault takes to be
// back after an interruption, and short enough that the next backup is begun and whoever asked hears of it.
const logStill = 10 * time.Minute

// WaitLog returns once the vault holds the log from one position to another without a hole. It looks four
// times a second until ctx ends, or until nothing has come nearer for ten minutes: the archive stands, or what is
// missing is lost. It ends at once when a promotion meanwhile led away from before the end: then no log makes that backup
// one that leads on.
func WaitLog(ctx context.Context, log *vault.Log, timeline uint32, from, to wal.LSN) error {
	before, err := log.Timelines(ctx)
	if err != nil {
		return err
	}
	return waitLog(ctx, log, before, timeline, from, to)
}

// waitLog is [WaitLog] with the timelines that were there when the wait began.
func waitLog(ctx context.Context, log *vault.Log, before []uint32, timeline uint32, from, to wal.LSN) error {
	var w logWait
	for {
		held, err := log.Held(ctx)
		if err != nil {
			return err
		}
		h, err := leadsTo(ctx, log, before, timeline, to)
		if err != nil {
			return err
		}
		_, end := wal.Reach(h, held, from, log.SegmentSize())
		if end >= to {
			return nil
		}
		if still := w.look(end, furthest(h, held, to), time.Now()); still >= logStill {
			return fmt.Errorf("the vault holds it up to %s, and no more has come for %s", end, still.Truncate(time.Second))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the vault holds it up to %s: %w", end, context.Cause(ctx))
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// leadsTo is the way to the end of a base backup: the server's own timeline, or one to which it was promoted behind that
// end, with those that were there before left out. One that parted before the end is a server that changed.
func leadsTo(ctx context.Context, log *vault.Log, before []uint32, timeline uint32, to wal.LSN) (wal.History, error) {
	now, err := log.Timelines(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range slices.Backward(now) {
		if t <= timeline || slices.Contains(before, t) {
			continue
		}
		h, err := log.History(ctx, t)
		switch {
		case errors.Is(err, vault.ErrNotHeld): // it comes before the first log of it is of use
			continue
		case err != nil:
			return nil, err
		case !h.Holds(timeline, to):
			return nil, fmt.Errorf("%w: timeline %d has begun, and does not hold what was written up to %s on timeline %d", errServerChanged, t, to, timeline)
		}
		return h, nil
	}
	if timeline == 1 {
		return wal.History{{Timeline: 1}}, nil
	}
	h, err := log.History(ctx, timeline)
	if errors.Is(err, vault.ErrNotHeld) {
		err = nil
	}
	return h, err
}

// logWait tells how long log that is waited for has not come nearer.
type logWait struct {
	end, archived wal.LSN
	since         time.Time // zero = not looked yet
}

// look notes what is there now: end is how far the log reaches without a hole, archived how far any of it does.
func (w *logWait) look(end, archived wal.LSN, now time.Time) time.Duration {
	if w.since.IsZero() || end != w.end || archived != w.archived {
		*w = logWait{end: end, archived: archived, since: now}
	}
	return now.Sub(w.since)
}

// furthest is the end of what is held on a history, at most limit: an archive that lags is on its way up to there, and
// what it stores behind that fills no hole before it.
func furthest(h wal.History, held []wal.Held, limit wal.LSN) (end wal.LSN) {
	for _, x := range held {
		if h.Holds(x.Timeline, x.Start) {
			end = max(end, x.End)
		}
	}
	return min(end, limit)
}
