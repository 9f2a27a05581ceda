package backup

import (
	"fmt"
	"time"

	"github.com/robfig/cron/v3"

	"holdfast/internal/plan"
	"holdfast/internal/vault"
)

// Due is when a schedule wants its next run.
type Due struct {
	Never bool      // the schedule is empty
	Now   bool      // at or past At
	At    time.Time // the run that is wanted; in the past when it was missed
}

// Next says when a schedule's next run is due. last is the start of the last run that succeeded; zero means
// that there was none, and then it is due at once: a database without a backup does not wait for the night.
// However many runs were missed, one catches up. Cron lines are read in zone. Pure.
func Next(s plan.Schedule, last, now time.Time, zone *time.Location) (Due, error) {
	switch {
	case s.Cron == "" && s.Every == 0:
		return Due{Never: true}, nil
	case last.IsZero():
		return Due{Now: true, At: now}, nil
	case s.Every < 0:
		return Due{}, fmt.Errorf("read schedule %q: every %s", s.Text, s.Every)
	case s.Every > 0:
		at := last.Add(s.Every)
		return Due{Now: !at.After(now), At: at}, nil
	}
	line, err := cron.ParseStandard(s.Cron)
	if err != nil {
		return Due{}, fmt.Errorf("read schedule %q: %w", s.Text, err)
	}
	at := line.Next(last.In(zone))
	if at.IsZero() {
		return Due{}, fmt.Errorf("read schedule %q: no such day comes in five years", s.Text)
	}
	// A run that began late must not make its own next slot look missed, nor an old one hide a newer.
	if !at.After(now) {
		for next := line.Next(at); !next.IsZero() && !next.After(now); next = line.Next(at) {
			at = next
		}
	}
	return Due{Now: !at.After(now), At: at}, nil
}

// Wanted is a base backup that the plan's schedules want.
type Wanted struct {
	Now  bool
	Mode Mode // with Now
}

// Want says whether the plan wants a base backup now, given those that were made, oldest first. One that is full stands
// for the incremental of the same time. Pure.
func Want(b plan.Backup, made []vault.Backup, now time.Time, zone *time.Location) (Wanted, error) {
	var full, last time.Time
	for _, x := range made {
		last = x.Started
		if x.Kind == "full" {
			full = x.Started
		}
	}
	due, err := Next(b.Full, full, now, zone)
	if err != nil || due.Now {
		return Wanted{Now: due.Now}, err
	}
	if last.IsZero() {
		return Wanted{}, nil
	}
	due, err = Next(b.Incremental, last, now, zone)
	return Wanted{Now: due.Now, Mode: Auto}, err
}
