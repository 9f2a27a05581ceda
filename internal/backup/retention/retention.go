// Package retention decides which base backups stay. It is pure: it deletes nothing, and gives a reason for
// each backup. Only backups that were proven by a restore count towards a tier, and the last of those is
// never let go.
package retention

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Policy says how long the tiers reach back. The zero value of a field means its default, a negative one none.
type Policy struct {
	All       time.Duration // every backup; default 24 h
	HalfDaily time.Duration // one for each 12 hours; default 7 days
	Daily     time.Duration // one for each day; default 15 days, at least PITR and a day
	Weekly    time.Duration // one for each week, from Monday; default 2 years
	PITR      time.Duration // any moment this far back can be restored; default 14 days
	// Files says that these are backups of files: one counts when nothing is missing in it, and no log leads to moments
	// between two of them, so PITR means nothing.
	Files bool
}

// Backup is what matters of one backup.
type Backup struct {
	ID        string
	At        time.Time // when it ended
	Validated bool      // restored on trial and found good
	Bad       bool      // restored on trial and found bad
	Pinned    bool      // an operator said that it stays
	Held      bool      // somebody must be able to see it: a legal hold
}

// Verdict is one backup's fate and why.
type Verdict struct {
	ID      string
	Keep    bool
	Because string
}

func (p Policy) withDefaults() Policy {
	day := 24 * time.Hour
	p.All = cmp.Or(p.All, day)
	p.HalfDaily = cmp.Or(p.HalfDaily, 7*day)
	p.PITR = cmp.Or(p.PITR, 14*day)
	if p.Files {
		p.PITR = -day // daily is what it says
	}
	p.Daily = max(cmp.Or(p.Daily, 15*day), p.PITR+day)
	p.Weekly = cmp.Or(p.Weekly, 2*365*day)
	p.All, p.HalfDaily, p.PITR, p.Weekly = max(p.All, 0), max(p.HalfDaily, 0), max(p.PITR, 0), max(p.Weekly, 0)
	return p
}

// Tiers are how long each tier reaches back, by the plan's names; 0 = none.
func (p Policy) Tiers() map[string]time.Duration {
	p = p.withDefaults()
	out := map[string]time.Duration{"all": p.All, "half_daily": p.HalfDaily, "daily": p.Daily, "weekly": p.Weekly}
	if !p.Files {
		out["pitr"] = p.PITR
	}
	return out
}

// AtLeast keeps what p keeps, and of each tier what it must keep besides; tiers are as [Policy.Tiers] names them. It names
// the tiers that p would make shorter.
func (p Policy) AtLeast(tiers map[string]time.Duration) (longer Policy, shorter []string) {
	own := p.Tiers()
	reach := func(name string) time.Duration {
		d := own[name]
		if must := tiers[name]; must > d {
			shorter, d = append(shorter, name), must
		}
		return cmp.Or(d, -1) // none is none there too, and not the default
	}
	longer = Policy{Files: p.Files, All: reach("all"), HalfDaily: reach("half_daily"), Daily: reach("daily"), Weekly: reach("weekly"), PITR: reach("pitr")}
	return longer, shorter
}

// WithDefaults is the policy as it is judged by.
func (p Policy) WithDefaults() Policy { return p.withDefaults() }

// Keep judges every backup, newest first. Of the backups in one 12 hours, day or week the oldest stays, so
// that what a tier keeps today it kept yesterday too, and the wider tiers keep a part of the narrower ones.
func Keep(p Policy, backups []Backup, now time.Time) []Verdict {
	p = p.withDefaults()
	list := slices.SortedFunc(slices.Values(backups), func(a, b Backup) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.ID, a.ID))
	})
	first := map[string]string{} // bucket to the oldest validated backup in it
	var lastValidated, pitrBase string
	for _, b := range list { // newest first: the oldest writes last
		if !b.Validated {
			continue
		}
		if lastValidated == "" {
			lastValidated = b.ID
		}
		for _, k := range buckets(b.At) {
			first[k] = b.ID
		}
	}
	for _, b := range list {
		if !p.Files && b.Validated && first[buckets(b.At)[1]] == b.ID && now.Sub(b.At) >= p.PITR {
			pitrBase = b.ID
			break
		}
	}
	out := make([]Verdict, len(list))
	newer := lastValidated != ""
	for i, b := range list {
		newer = newer && b.ID != lastValidated
		out[i] = judge(p, b, now, first, lastValidated, pitrBase, newer)
	}
	return out
}

// judge is one backup's verdict; newer says that it was made after the last one that is proven.
func judge(p Policy, b Backup, now time.Time, first map[string]string, lastValidated, pitrBase string, newer bool) Verdict {
	age := now.Sub(b.At)
	k := buckets(b.At)
	keep := func(format string, a ...any) Verdict {
		return Verdict{ID: b.ID, Keep: true, Because: fmt.Sprintf(format, a...)}
	}
	switch {
	case b.Held:
		return keep("under a legal hold")
	case b.Pinned:
		return keep("pinned")
	case b.ID == lastValidated:
		return keep("%s", p.say("the last one that a restore has proven", "the last one that is complete"))
	case age < p.All:
		return keep("younger than %s", span(p.All))
	case !b.Validated && lastValidated == "":
		return keep("%s", p.say("no backup has been proven by a restore yet", "no backup is complete yet"))
	case b.Bad:
		return Verdict{ID: b.ID, Because: "a restore on trial found it bad"}
	case !b.Validated && newer:
		return keep("%s", p.say("not proven yet, and newer than every one that is", "not complete, and newer than every one that is"))
	case !b.Validated:
		return Verdict{ID: b.ID, Because: p.say("never proven by a restore, and older than ", "not complete, and older than ") + span(p.All)}
	case b.ID == pitrBase:
		return keep("the way to every moment of the last %s begins with it", span(p.PITR))
	case age < p.HalfDaily && first[k[0]] == b.ID:
		return keep("the first of its 12 hours, younger than %s", span(p.HalfDaily))
	case age < p.Daily && first[k[1]] == b.ID:
		return keep("the first of its day, younger than %s", span(p.Daily))
	case age < p.Weekly && first[k[2]] == b.ID:
		return keep("the first of its week, younger than %s", span(p.Weekly))
	case age < p.Weekly:
		return Verdict{ID: b.ID, Because: "an older one stands for the same time"}
	}
	return Verdict{ID: b.ID, Because: "older than " + span(p.Weekly)}
}

// say picks the words for base backups or for backups of files.
func (p Policy) say(base, files string) string {
	if p.Files {
		return files
	}
	return base
}

// span is a time span in words: whole days where it is some.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == day:
		return "a day"
	case d > 0 && d%day == 0:
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}

// buckets are the 12 hours, the day and the week that a time falls in, in UTC, so that no change of the
// clocks makes a day longer.
func buckets(at time.Time) [3]string {
	at = at.UTC()
	year, week := at.ISOWeek()
	return [3]string{at.Format("2006-01-02 ") + fmt.Sprint(at.Hour()/12), at.Format("2006-01-02"), fmt.Sprintf("%d week %d", year, week)}
}

// SameDay reports whether two times fall in one day of the tiers.
func SameDay(a, b time.Time) bool {
	const day = 24 * time.Hour // of UTC, where each has as many hours
	return a.UTC().Truncate(day).Equal(b.UTC().Truncate(day))
}
