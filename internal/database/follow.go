package database

import (
	"fmt"
	"slices"
	"time"
)

// cutLimit is how long a configured stream may fail to come, with a healthy primary, before the copy is made
// anew: several reconnects and a checkpoint fit in it.
const cutLimit = 20 * time.Second

// refollowAfter is how long a configured stream may fail to come before it is set up once more: its slot on the
// primary may have been released meanwhile.
const refollowAfter = 3 * time.Second

// follow is the duty of a member that is not the primary: promise what is asked, then stream from the
// confirmed primary, becoming a copy of it first where our own history went another way.
func (j *judgement) follow() {
	r, l := &j.v.Record, &j.v.Local
	if r.Phase == Creating {
		return
	}
	if l.Data != DataPresent {
		j.makeCopy("we hold no copy yet")
		return
	}
	if !l.Running && (l.Disk.full() || l.Disk.broken()) {
		return // watchDisk says so; a start would only end again
	}
	if !l.PromiseOK || l.Promise.Epoch < r.Epoch {
		j.recruit(fmt.Sprintf("epoch %d asks for a promise", r.Epoch))
		return
	}
	if j.rests() {
		return
	}
	if r.Phase != Steady && r.Phase != Switching {
		if l.Position.Epoch != r.Epoch {
			j.recruit("our position in this epoch is not known")
		}
		return
	}
	if l.Running && l.Following == r.Epoch {
		j.keepUp()
		return
	}
	j.m.Cut = false // a stream that is not configured is not missed
	if l.Position.Epoch != r.Epoch {
		j.recruit("our position must be known before we follow")
		return
	}
	switch kin := kinship(r, l); {
	case !historyRead(l):
		j.because(historyUnread)
	case kin != prefix && !j.mayDiscard():
	case kin == prefix:
		if _, up := j.primaryReport(); !up {
			j.because("wait for the primary on %s before we follow it", r.Primary)
			if !l.Running {
				j.do(Action{Kind: KindStart, Hot: true, Why: "so that reads go on, and an election finds us ready"})
			}
			return
		}
		j.do(Action{Kind: KindFollow, From: j.source(), Why: fmt.Sprintf("our history up to %s is part of the primary's", l.Position.LSN)})
	case l.FailedKind == KindRewind:
		j.makeCopy("a rewind did not help: " + l.Failed)
	default:
		if _, ok := j.primaryReport(); !ok {
			j.because("our history went another way; wait for the primary on %s", r.Primary)
			return
		}
		j.do(Action{Kind: KindRewind, From: r.Primary, Why: fmt.Sprintf("our history at %s on timeline %d is not part of the primary's", l.Position.LSN, l.Position.Timeline)})
	}
	if l.FailedKind != KindRewind {
		j.copyTrouble()
	}
}

func (j *judgement) recruit(why string) { j.do(Action{Kind: KindRecruit, Why: why}) }

// keepUp watches a stream that is configured, and persists newer generations.
func (j *judgement) keepUp() {
	r, l := &j.v.Record, &j.v.Local
	if l.Promise.Generation < r.Generation {
		j.do(Action{Kind: KindRemember, Why: fmt.Sprintf("generation %d is agreed", r.Generation)})
	}
	j.admitReaders()
	j.settings()
	j.restartStandby()
	pr, up := j.primaryReport()
	if up && j.changeSource() {
		return
	}
	if l.Receiving || !l.Ready || !up || r.Phase != Steady {
		j.m.Cut = false
		return
	}
	if !j.m.Cut {
		j.m.Cut, j.m.CutSince, j.m.Refollowed = true, j.v.Now, 0
	}
	since := j.v.Now - j.m.CutSince
	switch {
	case !pr.Local.Ready:
	case since > refollowAfter && j.logGone(pr) && !j.needed(pr), since > cutLimit && j.logGone(pr):
		j.makeCopy(fmt.Sprintf("%s no longer has the log from %s on", r.Primary, l.Flushed))
	case since > cutLimit && !j.needed(pr), since > 6*cutLimit:
		j.makeCopy(fmt.Sprintf("the stream from %s does not come for %s", r.Primary, since.Round(time.Second)))
	case since > refollowAfter && since-j.m.Refollowed > refollowAfter:
		j.m.Refollowed = since
		j.do(Action{Kind: KindFollow, From: j.source(), Why: "the stream does not come: it is set up once more"})
	}
}

// needed reports whether too few other standbys stream for ours to be replaced: behind as it is, it may be wanted.
func (j *judgement) needed(pr *Report) bool {
	others := 0
	for _, s := range pr.Local.Senders {
		if s.State == "streaming" && s.Name != StandbyName(j.v.Local.Incarnation, j.v.Record.Epoch) && slices.Contains(pr.Local.Names.List, s.Name) {
			others++
		}
	}
	return others < j.v.Record.W && j.v.Record.Has(Voter{Host: j.v.Self, Incarnation: j.v.Local.Incarnation})
}

// primaryReport is the confirmed primary's word that it is one in this epoch.
func (j *judgement) primaryReport() (*Report, bool) {
	rep, ok := j.heard(j.v.Record.Primary)
	return rep, ok && rep.Local.Role == Primary && rep.Local.Promise.Epoch == j.v.Record.Epoch
}

// historyUnread is said where a server's timeline is wanted and could not be read this time.
const historyUnread = "our server's timeline could not be read; wait until it can"

// historyRead reports whether a server's timeline and its history are known together. What could not be read this time
// is neither a fork nor the absence of one: nothing is confirmed, thrown away or promoted by it.
func historyRead(l *Local) bool {
	if len(l.History) == 0 {
		return l.Timeline == 1
	}
	return l.History[len(l.History)-1].Timeline == l.Timeline
}

// relation of a server's history to the committed chain.
type relation int

const (
	diverged relation = iota // holds WAL that the chain does not
	prefix                   // every complete record of it is in the chain, as far as the record can tell
)

// kinship compares a server's history and position with the committed chain of the record: a prefix may
// follow; anything else must become a copy first. Bytes of a cut record are no divergence, since Position
// counts complete records alone.
func kinship(r *Record, l *Local) relation {
	chain := committed(r)
	at := -1
	for i, f := range chain {
		if f.Timeline == l.Position.Timeline {
			at = i
		}
	}
	if at < 0 {
		return diverged
	}
	if !sameForks(chain[:at+1], l.History) {
		return diverged
	}
	if at+1 < len(chain) && l.Position.LSN > chain[at+1].LSN {
		return diverged
	}
	return prefix
}

// wrongChain says how a history that is to be confirmed would not be one, or "".
func wrongChain(now, next *Record) string {
	n := len(next.Forks)
	switch {
	case next.Phase != Steady:
	case now.Phase == Steady && now.Epoch == next.Epoch:
		if !slices.Equal(now.Forks, next.Forks) {
			return "another chain in one epoch"
		}
	case n == 0 && next.Timeline != 1 || n > 0 && next.Forks[n-1].Timeline != next.Timeline:
		return fmt.Sprintf("timeline %d does not end the confirmed chain", next.Timeline)
	}
	return ""
}

// committed is the chain with its root, timeline 1, in front.
func committed(r *Record) []Fork { return append([]Fork{{Timeline: 1}}, r.Forks...) }

// sameForks compares a chain (with root) and a server's own history (without), by number and place.
func sameForks(chain, history []Fork) bool {
	return slices.EqualFunc(chain[1:], history, func(a, b Fork) bool {
		return a.Timeline == b.Timeline && a.Parent == b.Parent && a.LSN == b.LSN
	})
}
