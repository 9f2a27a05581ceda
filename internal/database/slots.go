package database

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/problem"
)

// Every member keeps a slot for every other, so that whoever becomes the primary still has the log that the others
// lack. On the primary a slot moves with its standby's stream, and makes sure that the standby is counted once
// (decision 0008); on a standby it is moved to where its owner says that it stands. A slot for somebody who is away
// keeps log that nobody reads: caps of time and size end that, and the owner is then copied anew by itself.

// SlotLimits bound what is kept for a standby that is away. Zero means the default.
type SlotLimits struct {
	Max   int64         // bytes of log
	After time.Duration // since it was last there
}

// Defaults of [SlotLimits].
const (
	SlotMax   = int64(8 << 30)
	SlotAfter = time.Hour
)

// slotGrace is how long a slot stays that belongs to nobody who is known: a copy's slot is there before its host's
// report is.
const slotGrace = time.Minute

func (l SlotLimits) or() SlotLimits {
	return SlotLimits{Max: cmp.Or(l.Max, SlotMax), After: cmp.Or(l.After, SlotAfter)}
}

// Slot is one slot of ours on a server.
type Slot struct {
	Incarnation string `json:"incarnation"` // whose it is
	Active      bool   `json:"active"`      // its standby streams
	Lost        bool   `json:"lost"`        // PostgreSQL has given it up: it keeps nothing, and nobody can stream through it
	At          LSN    `json:"at"`          // log from here on is kept
	Kept        int64  `json:"kept"`        // bytes
}

// SlotOrder says which slots a server shall have. Both lists are sorted.
type SlotOrder struct {
	Keep []SlotAt // made where missing, and moved forward
	Drop []string // incarnations; one that has become active again stays
}

// SlotAt is where a slot shall stand; At 0 = where it is.
type SlotAt struct {
	Incarnation string
	At          LSN
}

// Idle says since when a slot has kept log that its owner does not take.
type Idle struct {
	Incarnation string
	Since       time.Duration
}

// SlotMemory is what is remembered of slots.
type SlotMemory struct {
	Idle []Idle // those that nobody streams through
}

// slotOwner is a member as the holder of an incarnation.
type slotOwner struct {
	incarnation string
	host        string
	at          LSN
	heard       bool
}

// slotOwners is one entry for an incarnation, the last that was noted of it.
type slotOwners []slotOwner

func (o slotOwners) of(incarnation string) (slotOwner, bool) {
	for _, x := range o {
		if x.incarnation == incarnation {
			return x, true
		}
	}
	return slotOwner{}, false
}

func (o slotOwners) note(x slotOwner) slotOwners {
	for i := range o {
		if o[i].incarnation == x.incarnation {
			o[i] = x
			return o
		}
	}
	return append(o, x)
}

// keepSlots orders our server's slots.
func (j *judgement) keepSlots() {
	r, l := &j.v.Record, &j.v.Local
	if r.Phase != Steady || !l.Ready || j.v.Stopping || l.Role == NoRole {
		return
	}
	var room [8]slotOwner
	owners := j.slotOwners(room[:0])
	limits := j.p.Slots.or()
	order := &SlotOrder{}
	var idle []Idle
	for _, s := range l.Slots {
		o, known := owners.of(s.Incarnation)
		if s.Active || known && o.heard && l.Role == Standby && !s.Lost {
			continue
		}
		i := Idle{s.Incarnation, j.v.Now}
		for _, old := range j.m.Idle {
			if old.Incarnation == s.Incarnation {
				i = old
			}
		}
		idle = append(idle, i)
		if why := j.slotOver(s, known, j.v.Now-i.Since, limits); why != "" {
			order.Drop = append(order.Drop, s.Incarnation)
			j.because("the log kept for %s is let go: %s", cmp.Or(o.host, s.Incarnation), why)
		} else if known {
			j.slotGrows(s, o.host, j.v.Now-i.Since, limits)
		}
	}
	j.m.Idle = idle
	for _, o := range owners {
		if l.Role == Standby && o.heard && !slices.Contains(order.Drop, o.incarnation) {
			order.Keep = append(order.Keep, SlotAt{o.incarnation, o.at})
		}
	}
	slices.SortFunc(order.Keep, func(a, b SlotAt) int { return cmp.Compare(a.Incarnation, b.Incarnation) })
	slices.Sort(order.Drop)
	if len(order.Keep)+len(order.Drop) > 0 {
		j.d.Slots = order
	}
}

// slotOwners are the incarnations of the other members, by what they say and by what is agreed, added to an empty list.
func (j *judgement) slotOwners(owners slotOwners) slotOwners {
	r := &j.v.Record
	for _, v := range r.Voters {
		if v.Host != j.v.Self {
			owners = owners.note(slotOwner{incarnation: v.Incarnation, host: v.Host})
		}
	}
	for _, host := range r.Members {
		if host == j.v.Self {
			continue
		}
		rep, ok := j.heard(host)
		if !ok {
			continue
		}
		if i := rep.Local.Incarnation; i != "" {
			owners = owners.note(slotOwner{i, host, rep.Local.Flushed, true})
		}
		if i := rep.Local.Copying; i != "" && j.v.Local.Role == Primary {
			owners = owners.note(slotOwner{incarnation: i, host: host, heard: true})
		}
	}
	return slices.DeleteFunc(owners, func(x slotOwner) bool { return x.incarnation == j.v.Local.Incarnation })
}

// slotOver says why a slot that nobody streams through goes, or "".
func (j *judgement) slotOver(s Slot, known bool, idle time.Duration, limits SlotLimits) string {
	switch {
	case s.Lost:
		return "the server keeps nothing for it any more"
	case !known && idle > slotGrace:
		return "it belongs to a copy that is no more"
	case s.Kept > limits.Max:
		return fmt.Sprintf("it is above %s", sizeText(limits.Max))
	case idle > limits.After:
		return fmt.Sprintf("nobody has taken any of it for %s", idle.Round(time.Second))
	case j.m.DiskLow && idle > j.p.Times.Remove:
		return "the disk is nearly full"
	}
	return ""
}

// slotGrows says that what is kept for somebody who is away comes near its cap.
func (j *judgement) slotGrows(s Slot, host string, idle time.Duration, limits SlotLimits) {
	if s.Kept < limits.Max/2 && idle < limits.After/2 {
		return
	}
	j.problem(problem.Problem{
		Code: "database.slot-grows", Severity: problem.Degraded,
		Title:   fmt.Sprintf("%s of log are kept on %s for %s, which has been away for %s", sizeText(s.Kept), j.v.Self, host, idle.Round(time.Second)),
		Meaning: fmt.Sprintf("At %s, or after %s, it is let go; %s is then copied anew by itself when it is back.", sizeText(limits.Max), limits.After, host),
		Remedy:  "bring " + host + " back before that, or do nothing",
	})
}

// logGone reports whether the primary has let go of log that we would have to stream: only a new copy can help.
func (j *judgement) logGone(pr *Report) bool {
	return pr.Local.Oldest > j.v.Local.Flushed && j.v.Local.Flushed > 0
}

// sizeText is a number of bytes for people.
func sizeText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	default:
		return fmt.Sprintf("%d KiB", n>>10)
	}
}
