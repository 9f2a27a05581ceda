package cli

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/restore"
	"holdfast/internal/vault/wal"
)

const atUsage = `the moment: latest, a time ("2026-11-20 14:30:00", "2026-11-20 14:30:00+01", 14:30, "14:30 UTC", "10m ago", "2 days ago"), a log position (0/3000060), xid:NUMBER, name:NAME, or immediate for the end of the newest base backup; before: in front stops just before it`

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
	if at, ok, err := clockTime(rest, now); ok {
		if err != nil {
			return restore.Target{}, fmt.Errorf("--at %q: %w: %w", s, err, errUsage)
		}
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

// clockTime is the last time that the clock showed s, here or in the zone that stands behind it ("14:30 UTC"); ok = s is meant for one.
func clockTime(s string, now time.Time) (at time.Time, ok bool, err error) {
	if !regexp.MustCompile(`^\d?\d:\d\d(:\d\d(\.\d+)?)?(\s*([A-Za-z]+|[+-][\d:]+))?$`).MatchString(s) {
		return time.Time{}, false, nil
	}
	for _, days := range []int{1, 0, -1, -2} { // elsewhere it may be another day
		var one error
		at, _, one = restore.ParseTime(now.AddDate(0, 0, days).Format("2006-01-02 ")+s, now.Location())
		if one == nil && !at.After(now) && now.Sub(at) < longestDay {
			return at, true, nil
		}
		err = cmp.Or(one, err)
	}
	return time.Time{}, true, cmp.Or(err, errors.New("no clock has shown that within a day: write the date too"))
}

// longestDay bounds how long ago a clock last showed a time of the day: summer time ends in 25 hours. What is older is of a day
// that nobody means, such as the last one on which the zone's name was right.
const longestDay = 25 * time.Hour

// tellMoment says which moment was understood: here, and in UTC, by which everything else is told.
func tellMoment(cmd *cobra.Command, at restore.Target) {
	if at.Kind != restore.AtTime {
		return
	}
	utc := at.Time.UTC().Format(momentLayout)
	if here := at.Time.Local().Format(momentLayout); here != utc {
		utc = here + ", which is " + utc
	}
	_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "the moment: "+utc)
}

const momentLayout = "2006-01-02 15:04:05.999999Z07:00"

// beforeText is what --at takes to stop just before a delete.
func beforeText(d restore.Delete) string { return fmt.Sprintf("before:xid:%d@%s", d.XID, d.LSN) }
