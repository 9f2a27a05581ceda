package database

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Forced is a failover that an operator asked for in spite of what it may lose. It stands in the record while the
// hosts recruit; an election that turns out to need no loss takes precedence.
type Forced struct {
	Request string `json:"request"`
	By      string `json:"by"`
	To      string `json:"to,omitempty"` // "" = whoever is furthest
	Floor   LSN    `json:"floor"`        // the confirmed loss began here: nobody behind it may be chosen
	Known   Known  `json:"known"`
}

// Known is what was known of the old primary when its loss was accepted. It bounds the loss from below only: what
// happened there after the last word cannot be known before its disk is back.
type Known struct {
	Heard        bool          `json:"heard"`        // it had ever told something
	Age          time.Duration `json:"age"`          // since its last word
	Flushed      LSN           `json:"flushed"`      // its log then
	Acknowledged LSN           `json:"acknowledged"` // clients had been told of all up to here
}

// Loss is what one forced failover gave up: everything that the servers in Left hold behind Fork.
type Loss struct {
	Request string `json:"request"`
	By      string `json:"by"`
	Epoch   int64  `json:"epoch"` // of the forced choice: no older epoch counts any more
	Chosen  Voter  `json:"chosen"`
	From    LSN    `json:"from"` // where the log of the chosen one ended
	Fork    Fork   `json:"fork"` // where the histories parted; Timeline 0 = the promotion is not confirmed, and nothing is lost yet
	Known   Known  `json:"known"`
	W       int    `json:"w"`    // standbys that commits waited for until then
	Left    []Left `json:"left"` // sorted by host
}

// Left is one server that a forced failover went ahead without. Nothing that it holds alone is taken from its disk
// before Settled says why that may be.
type Left struct {
	Voter
	Primary bool   `json:"primary,omitempty"` // it was the primary
	Counted bool   `json:"counted,omitempty"` // it was a voter: it may have been told of commits that nobody else holds
	Heard   bool   `json:"heard,omitempty"`   // At is known
	At      LSN    `json:"at,omitempty"`      // its log as it last told
	Kept    string `json:"kept,omitempty"`    // id of what was put aside from it
	Settled string `json:"settled,omitempty"` // why it may come back; "" = it waits
}

// Parting is where a server's own history leaves the agreed one: its log behind LSN on Timeline is its own alone.
type Parting struct {
	Timeline     uint32 `json:"timeline"`
	LSN          LSN    `json:"lsn"`
	Acknowledged LSN    `json:"acknowledged"` // commits up to here were acknowledged; behind it nobody can say
	Given        bool   `json:"given"`        // an operator gave them up; without that nothing behind LSN was ever acknowledged
}

// Kept is what was put aside of a server's own history, in short; the whole report lies beside it on its host.
type Kept struct {
	ID           string  `json:"id"`
	Incarnation  string  `json:"incarnation"`
	Parted       Parting `json:"parted"`
	End          LSN     `json:"end"`
	Commits      int     `json:"commits"`
	Acknowledged int     `json:"acknowledged"`       // of them
	Salvaged     string  `json:"salvaged,omitempty"` // what its host did with it, as the plan says; "" = nothing, or not yet
}

// Covers reports whether the list of what was put aside reaches back to a parting: a later failover may have given up
// what was common until then.
func (k Kept) Covers(p Parting) bool {
	return k.Parted.LSN <= p.LSN && (k.Parted.Given || !p.Given)
}

// givesUp reports whether a promotion under way is a forced one: its former primary is no voter afterwards.
func givesUp(r *Record) bool {
	return slices.ContainsFunc(r.Losses, func(l Loss) bool { return l.Fork.Timeline == 0 })
}

// electors is E for a record's voters. While a forced primary may be the only one that holds what it holds, more
// recruits are asked for than there are.
func electors(r *Record) int {
	if r.Unsealed {
		return len(r.Voters) + 1
	}
	return recruitsNeeded(len(r.Voters), r.W)
}

// parted confirms what a forced promotion gave up: from here on its fork is known.
func (j *judgement) parted(next Record) Record {
	for i, l := range next.Losses {
		if l.Fork.Timeline != 0 {
			continue
		}
		at := commonForks(j.v.Record.Forks, next.Forks)
		if at >= len(next.Forks) {
			continue // no fork, no loss; verify refuses such a record anyway
		}
		next.Losses[i].Fork = next.Forks[at]
		next.Answered = Answer{ID: l.Request, OK: true, Text: fmt.Sprintf("%s is the primary; given up is what %s alone held behind %s",
			next.Primary, leftNames(l.Left), next.Forks[at].LSN)}
	}
	if next.Unsealed {
		next.E = electors(&next)
	}
	return next
}

// commonForks is how many steps two chains share. A forced choice may end before a fork of the chain that was agreed
// until then: all that came after its own end is given up.
func commonForks(a, b []Fork) int {
	n := 0
	for n < len(a) && n < len(b) && a[n].Timeline == b[n].Timeline && a[n].Parent == b[n].Parent && a[n].LSN == b[n].LSN {
		n++
	}
	return n
}

func leftNames(left []Left) string {
	names := ""
	for i, x := range left {
		switch {
		case i == 0:
		case i == len(left)-1:
			names += " and "
		default:
			names += ", "
		}
		names += x.Host
	}
	if names == "" {
		return "nobody"
	}
	return names
}

// unforced takes back what a forced failover put into the record when the next record needs no loss after all: an
// election found enough recruits, or the primary that was given up came back before another was confirmed.
func unforced(before, next Record, why string) Record {
	if f := next.Forced; f != nil && next.Phase != Recruiting {
		next.Answered = Answer{ID: f.Request, OK: true, Text: "nothing had to be given up: " + why}
		next.Forced = nil
	}
	own := Voter{Host: next.Primary, Incarnation: next.Incarnation}
	if next.Phase == Promoting && next.Alone && givesUp(&next) && given(&before) == own {
		for _, l := range next.Losses {
			if l.Fork.Timeline == 0 {
				next.Answered = Answer{ID: l.Request, OK: true, Text: "nothing had to be given up: " + why}
			}
		}
		next.Losses = slices.DeleteFunc(slices.Clone(next.Losses), func(l Loss) bool { return l.Fork.Timeline == 0 })
		// The voters are still those that the choice left: who was left out may hold commits of this primary's that none
		// of them has. Until a barrier has passed nobody is elected in its place.
		next.E = electors(&next)
	}
	return next
}

// who gave the commits up, in words.
func (l Loss) who() string {
	if l.rebuilt() {
		return l.By
	}
	return "the failover forced by " + l.By
}

// waiting finds the newest unsettled loss that names a host.
func waiting(r *Record, host string) (Loss, Left, bool) {
	for _, l := range slices.Backward(r.Losses) {
		for _, x := range l.Left {
			if x.Host == host && x.Settled == "" && l.Fork.Timeline != 0 {
				return l, x, true
			}
		}
	}
	return Loss{}, Left{}, false
}

// parting is where a server's history leaves the committed chain.
func parting(r *Record, l *Local, host string) Parting {
	chain, own := committed(r), append([]Fork{{Timeline: 1}}, l.History...)
	i := 0
	for i+1 < len(chain) && i+1 < len(own) && sameForks(chain[:i+2], own[1:i+2]) {
		i++
	}
	p := Parting{Timeline: chain[i].Timeline, LSN: chain[i].LSN} // where even the number of its timeline is not known
	switch {
	case i+1 < len(chain) && i+1 < len(own):
		p.LSN = min(chain[i+1].LSN, own[i+1].LSN)
	case i+1 < len(chain):
		p.LSN = chain[i+1].LSN
	case i+1 < len(own):
		p.LSN = own[i+1].LSN
	}
	for _, x := range r.Losses {
		if x.rebuilt() && slices.ContainsFunc(x.Left, func(y Left) bool { return y.Host == host && y.Settled == "" }) {
			p.Given = true // and how far clients had been told is not known
		}
		if x.Fork.Timeline != 0 && x.Fork.Parent == p.Timeline && x.Fork.LSN == p.LSN {
			p.Given, p.Acknowledged = true, x.Known.Acknowledged
			if x.W == 0 {
				p.Acknowledged = ^LSN(0) // clients were told as soon as a commit was in the primary's own log
			}
		}
	}
	return p
}

// mayDiscard reports whether our diverged data may be made a copy again. What only we hold is put aside and listed
// first, always; where an operator gave commits up, somebody must also have said what becomes of them.
func (j *judgement) mayDiscard() bool {
	r, l := &j.v.Record, &j.v.Local
	if p := parting(r, l, j.v.Self); l.Kept == nil || l.Kept.Incarnation != l.Incarnation || !l.Kept.Covers(p) {
		j.do(Action{Kind: KindPreserve, Parted: p, Why: "our history is not part of the primary's: what only we hold is put aside first"})
		return false
	}
	loss, left, ok := waiting(r, j.v.Self)
	if !ok {
		return true
	}
	j.salvageWaits(loss, left)
	j.because("what %s gave up in epoch %d is not settled yet", loss.who(), loss.Epoch)
	return false
}

// settleLosses is the primary's part: it notes what became of servers that were left behind.
func (j *judgement) settleLosses() {
	if len(j.v.Record.Losses) == 0 {
		j.answerSettlements()
		return
	}
	next := j.v.Record.Clone()
	why := ""
	for i := range next.Losses {
		for k := range next.Losses[i].Left {
			if next.Losses[i].Fork.Timeline == 0 {
				continue
			}
			if text := j.becomes(&next.Losses[i], &next.Losses[i].Left[k]); text != "" {
				why = text
			}
		}
	}
	if why != "" {
		next.Losses = forget(next.Losses)
		j.swap(next, why)
		return
	}
	j.answerSettlements()
}

// lossesKept is how many settled losses the record goes on naming.
const lossesKept = 3

// forget drops the oldest losses of which nothing waits any more: the record is read with every contact, and the
// history has them.
func forget(all []Loss) []Loss {
	settled := 0
	var out []Loss
	for _, l := range slices.Backward(all) {
		if !slices.ContainsFunc(l.Left, func(x Left) bool { return x.Settled == "" }) {
			settled++
			if settled > lossesKept {
				continue
			}
		}
		out = append(out, l)
	}
	slices.Reverse(out)
	return out
}

// becomes updates one server that was left behind, and says what changed, or "".
func (j *judgement) becomes(loss *Loss, left *Left) string {
	if left.Settled != "" {
		return ""
	}
	for _, q := range j.v.Requests {
		if q.Kind == "settle" && q.To == left.Host && (q.Kept == "" || left.Kept == "" || q.Kept == left.Kept) {
			left.Kept = cmp.Or(left.Kept, q.Kept)
			left.Settled = fmt.Sprintf("%s (%s)", q.Text, cmp.Or(q.By, "an operator"))
			return fmt.Sprintf("what %s held is settled: %s", left.Host, left.Settled)
		}
	}
	if loss.rebuilt() && left.Host == j.v.Self {
		left.Settled = "it is the primary"
		return fmt.Sprintf("what %s held is settled: %s", left.Host, left.Settled)
	}
	rep, ok := j.heard(left.Host)
	if !ok || rep.Local.Data != DataPresent {
		return ""
	}
	l := &rep.Local
	switch {
	case l.Following == j.v.Record.Epoch && (l.Incarnation == left.Incarnation || left.Incarnation == ""):
		left.Settled = "it holds nothing that the primary lacks"
	case l.Following == j.v.Record.Epoch:
		left.Settled = "its data were made anew"
	case l.Kept == nil || l.Kept.Incarnation != l.Incarnation:
		return ""
	case j.coveredBy(*loss, l.Kept) != "":
		left.Kept, left.Settled = l.Kept.ID, j.coveredBy(*loss, l.Kept)
	case j.byPolicy(*loss, left.Host, l) != "":
		left.Kept, left.Settled = l.Kept.ID, j.byPolicy(*loss, left.Host, l)
	case left.Kept != l.Kept.ID:
		left.Kept = l.Kept.ID
		return fmt.Sprintf("%s is back; what it holds alone is put aside as %s", left.Host, left.Kept)
	default:
		return ""
	}
	return fmt.Sprintf("what %s held is settled: %s", left.Host, left.Settled)
}

// coveredBy finds a server whose settled history holds all that another one's does, for they are one log.
func (j *judgement) coveredBy(loss Loss, k *Kept) string {
	for _, x := range loss.Left {
		rep, ok := j.heard(x.Host)
		if !ok || x.Settled == "" || x.Kept == "" || rep.Local.Kept == nil || rep.Local.Kept.ID != x.Kept {
			continue
		}
		if other := rep.Local.Kept; other.Parted.Timeline == k.Parted.Timeline && other.Parted.LSN <= k.Parted.LSN && other.End >= k.End {
			return "all of it is in " + other.ID
		}
	}
	return ""
}

// answerSettlements answers operators whose wish stands in the record.
func (j *judgement) answerSettlements() {
	for _, q := range j.v.Requests {
		if q.Kind != "settle" {
			continue
		}
		if _, _, ok := waiting(&j.v.Record, q.To); ok {
			j.answer(q, false, fmt.Sprintf("what waits on %s is not %s", q.To, q.Kept))
			continue
		}
		j.answer(q, true, fmt.Sprintf("nothing of %s waits any more: it comes back by itself", q.To))
	}
}
