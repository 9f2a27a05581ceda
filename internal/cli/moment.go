package cli

import (
	"fmt"
	"strings"
	"time"

	"holdfast/internal/restore"
	"holdfast/internal/vault/wal"
)

const atUsage = `the moment: latest, a time ("2026-11-20 14:30:00", 14:30, "10m ago", "2 days ago"), a log position (0/3000060), xid:NUMBER, name:NAME, or immediate for the end of the newest base backup; before: in front stops just before it`

// What commands that restore say of options that they share.
const (
	binDirUsage   = "where PostgreSQL's programs are (default: where distributions put them)"
	ownerDefault  = " (default: postgres for root, else you)"
	timelineUsage = "follow this timeline (default: the newest that leads there)"
)

// moment reads --at. Besides what a restore itself understands it takes a time of the day, the latest that has
// been ("14:30"), an age ("10m ago", "2 days ago"), and a transaction with a position before its commit (xid:812@0/3000060),
// which saves replaying from the oldest backup.
func moment(s string, now time.Time) (restore.Target, error) {
	rest, before := strings.CutPrefix(strings.TrimSpace(s), "before:")
	if at, ok := clockTime(rest, now); ok {
		return restore.Target{Kind: restore.AtTime, Time: at, Exclusive: before}, nil
	}
	if at, ok, err := agoTime(rest, now); ok {
		if err != nil {
			return restore.Target{}, fmt.Errorf("--at %q: %w: %w", s, err, errUsage)
		}
		return restore.Target{Kind: restore.AtTime, Time: at, Exclusive: before}, nil
	}
	whole, position, hinted := strings.Cut(s, "@")
	t, err := restore.ParseTarget(whole, now.Location())
	if err != nil {
		return t, fmt.Errorf("--at: %w: %w", err, errUsage)
	}
	if hinted {
		if t.LSN, err = wal.ParseLSN(position); err != nil || t.Kind != restore.AtXID && t.Kind != restore.AtName {
			return t, fmt.Errorf("--at %q: a position stands behind a transaction or a name alone (xid:812@0/3000060): %w", s, errUsage)
		}
	}
	return t, nil
}

// agoTime reads an age; ok = s is meant for one.
func agoTime(s string, now time.Time) (at time.Time, ok bool, err error) {
	age, ok := strings.CutSuffix(s, " ago")
	if !ok {
		return time.Time{}, false, nil
	}
	d, err := parseSpan(age)
	return now.Add(-d), true, err
}

// clockTime is the last time that the clock showed s.
func clockTime(s string, now time.Time) (time.Time, bool) {
	for _, layout := range []string{"15:04:05.999999", "15:04"} {
		c, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		y, m, d := now.Date()
		at := time.Date(y, m, d, c.Hour(), c.Minute(), c.Second(), c.Nanosecond(), now.Location())
		if at.After(now) {
			at = at.AddDate(0, 0, -1)
		}
		return at, true
	}
	return time.Time{}, false
}

// beforeText is what --at takes to stop just before a delete.
func beforeText(d restore.Delete) string { return fmt.Sprintf("before:xid:%d@%s", d.XID, d.LSN) }
