package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
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

// WaitLog returns once the vault holds the log from one position to another without a hole. It looks four
// times a second until ctx ends.
func WaitLog(ctx context.Context, log *vault.Log, timeline uint32, from, to wal.LSN) error {
	for {
		held, err := log.Held(ctx)
		if err != nil {
			return err
		}
		h := wal.History{{Timeline: timeline}}
		if timeline > 1 {
			h, err = log.History(ctx, timeline)
			if err != nil && !errors.Is(err, vault.ErrNotHeld) {
				return err
			}
		}
		_, end := wal.Reach(h, held, from, log.SegmentSize())
		if end >= to {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the vault holds it up to %s: %w", end, context.Cause(ctx))
		case <-time.After(250 * time.Millisecond):
		}
	}
}
