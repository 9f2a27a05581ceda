package backup

import (
	"fmt"
	"hash/fnv"
	"time"

	"holdfast/internal/plan"
	"holdfast/internal/vault"
)

// Timing is a schedule with what is around it.
type Timing struct {
	plan.Schedule
	Zone   string        // in which its times are read; "" = UTC
	Jitter time.Duration // a run may begin so much later, the same for every host that asks
	Of     string        // what runs: two with one schedule begin at different moments
}

// Due is when a schedule wants its next run.
type Due struct {
	Never bool      // the schedule is empty
	Now   bool      // at or past At
	At    time.Time // the run that is wanted; in the past when it was missed
}

// Next says when a schedule's next run is due. last is the start of the last run that succeeded; zero means
// that there was none, and then it is due at once: a database without a backup does not wait for the night.
// However many runs were missed, one catches up, and At is the newest of them. A time that the change of the clocks leaves
// out comes at that change, and one that comes twice counts the first time. Pure.
func Next(s Timing, last, now time.Time) (Due, error) {
	switch {
	case s.Cron == "" && s.Every == 0:
		return Due{Never: true}, nil
	case last.IsZero():
		return Due{Now: true, At: now}, nil
	case s.Every < 0:
		return Due{}, fmt.Errorf("read schedule %q: every %s", s.Text, s.Every)
	case s.Every > 0:
		at := last.Add(s.Every)
		at = at.Add(s.late(at))
		return Due{Now: !at.After(now), At: at}, nil
	}
	line, err := plan.ParseCron(s.Cron)
	if err != nil {
		return Due{}, fmt.Errorf("read schedule %q: %w", s.Text, err)
	}
	zone := plan.Location(s.Zone)
	slot := slotAfter(line, zone, last)
	if at := slot.Add(s.late(slot)); at.After(now) {
		return Due{At: at}, nil
	}
	slot = s.newest(line, zone, slot, now)
	return Due{Now: true, At: slot.Add(s.late(slot))}, nil
}

// newest is the newest slot that is due, from one on that is. A line that runs each minute has very many of them after a year:
// they are looked for backwards, in steps that double.
func (s Timing) newest(line plan.Cron, zone *time.Location, slot, now time.Time) time.Time {
	for back := time.Minute; now.Add(-back).After(slot); back *= 2 {
		if later := slotAfter(line, zone, now.Add(-back)); !later.Add(s.late(later)).After(now) {
			slot = later
			break
		}
	}
	for {
		next := slotAfter(line, zone, slot)
		if next.Add(s.late(next)).After(now) {
			return slot
		}
		slot = next
	}
}

// NextBut is [Next] without the run that somebody ended at cancelled, though it had not succeeded: the schedule goes on from
// there if that run was due by then. Zero = nobody did. Pure.
func NextBut(s Timing, last, cancelled, now time.Time) (Due, error) {
	if !cancelled.After(last) {
		return Next(s, last, now)
	}
	due, err := Next(s, last, cancelled)
	if err != nil || due.Never || !due.Now {
		return Next(s, last, now)
	}
	return Next(s, cancelled, now)
}

// late is by how much the run of one slot is put off.
func (s Timing) late(slot time.Time) time.Duration {
	if s.Jitter <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s\x00%d", s.Of, slot.Unix()) // a hash takes all
	return time.Duration(h.Sum64() % uint64(s.Jitter)).Truncate(time.Second)
}

// slotAfter is the first moment after a given one at which the clocks of a zone show a time of the line for the first time, or
// pass over one.
func slotAfter(line plan.Cron, zone *time.Location, after time.Time) time.Time {
	// The line is read on a wall clock without a zone: UTC has no change of clocks. Whatever is before what the clocks show now
	// they have shown or passed over already; what is after it they may have shown before they were put back.
	local := after.In(zone)
	wall := time.Date(local.Year(), local.Month(), local.Day(), local.Hour(), local.Minute(), local.Second(), 0, time.UTC)
	for {
		wall = line.Next(wall)
		if at := firstAt(wall, zone); at.After(after) {
			return at
		}
	}
}

// firstAt is when the clocks of a zone show a time for the first time, or pass over it.
func firstAt(wall time.Time, zone *time.Location) time.Time {
	shows := func(at time.Time) bool {
		return at.Day() == wall.Day() && at.Hour() == wall.Hour() && at.Minute() == wall.Minute()
	}
	at := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, zone)
	start, end := at.ZoneBounds()
	if !shows(at) { // it is left out: Go reads it by one of the two offsets
		if !end.IsZero() && end.Sub(at) < start.Sub(at).Abs() {
			return end
		}
		return start
	}
	if start.IsZero() {
		return at
	}
	_, before := start.Add(-time.Second).Zone()
	_, now := at.Zone()
	if earlier := at.Add(time.Duration(now-before) * time.Second); earlier.Before(start) && shows(earlier) {
		return earlier
	}
	return at
}

// Wanted is a base backup that the plan's schedules want.
type Wanted struct {
	Now  bool
	Mode Mode      // with Now
	Next time.Time // when the next is made, unless Now; zero = never
}

// Want says whether the plan wants a base backup now, given those that were made, oldest first. One that is full stands
// for the incremental of the same time. What was due when somebody ended one, at cancelled, is left out; zero = nobody
// did. Pure.
func Want(b plan.Backup, made []vault.Backup, cancelled, now time.Time) (Wanted, error) {
	var full, last time.Time
	for _, x := range made {
		last = x.Started
		if x.Kind == "full" {
			full = x.Started
		}
	}
	due, err := NextBut(Timing{b.Full, b.Zone, b.Jitter, b.Of}, full, cancelled, now)
	if err != nil || due.Now {
		return Wanted{Now: due.Now}, err
	}
	w := Wanted{Next: due.At}
	if last.IsZero() {
		return w, nil
	}
	due, err = NextBut(Timing{b.Incremental, b.Zone, b.Jitter, b.Of}, last, cancelled, now)
	if err != nil || due.Now {
		return Wanted{Now: due.Now, Mode: Auto}, err
	}
	w.Mode = Auto
	if !due.Never && (w.Next.IsZero() || due.At.Before(w.Next)) {
		w.Next = due.At
	}
	return w, nil
}

// ToProve is the backup that a scheduled trial takes: the newest that was never tried, or else the newest that was found
// good. last is when one was tried; zero = never. Pure.
func ToProve(made []vault.Backup) (id string, last time.Time) {
	untried := ""
	for _, b := range made {
		if b.Validation == nil {
			untried = b.ID
			continue
		}
		if b.Validation.At.After(last) {
			last = b.Validation.At
		}
		if b.Validation.Passed {
			id = b.ID
		}
	}
	if untried != "" {
		id = untried
	}
	return id, last
}
