package database

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// maxReplayLag is how far in time a switchover's target may be behind in replay: more would lengthen the pause.
const maxReplayLag = 10 * time.Second

// missedMax is how long after its moment a switchover is still carried out: later it would be a surprise.
const missedMax = 5 * time.Minute

// refuseAfter is how long a standby must have been unfit for a switchover to it to be refused: two looks at a server, and
// the beat that tells of them.
const refuseAfter = time.Second

// serveRequests takes up the oldest switchover or restart that an operator asked for and whose time has come.
func (j *judgement) serveRequests() {
	for _, q := range j.v.Requests {
		switch q.Kind {
		case "switchover":
			if !j.serveSwitchover(q) {
				return
			}
		case "restart":
			if !j.serveRestart(q) {
				return
			}
		}
	}
}

// serveSwitchover reports whether another request may go first.
func (j *judgement) serveSwitchover(q Request) bool {
	r := &j.v.Record
	switch {
	case r.Switch == q.ID && !r.Opened:
		return false
	case r.Switch == q.ID: // it was begun, and has ended
		text := j.v.Self + " is the primary: " + strings.Join(r.Because, "; ")
		if len(r.Spans) > 0 {
			text += "; " + spanWords(r.Spans)
		}
		j.d.Answers = append(j.d.Answers, Answer{ID: q.ID, OK: r.SwitchTo == r.Primary, Text: text, Spans: r.Spans})
		return false // the next one takes its name out of the record: were its answer lost, it would be carried out again
	case q.Timed && q.In > 0:
		j.d.Wake = min(j.d.Wake, q.In)
		return true
	case q.Timed && q.In < -missedMax:
		j.answer(q, false, fmt.Sprintf("its moment passed %s ago, and nobody could take it up", (-q.In).Round(time.Second)))
		return true
	}
	to, why, passing := j.target(q.To)
	switch {
	case why != "" && passing && !j.stillUnfit(q):
		j.because("%s; whether that lasts is looked at once more", why)
		return false
	case why != "":
		j.answer(q, false, why)
		return true
	}
	j.m.Unready = ""
	j.beginSwitch(q, to.Host, fmt.Sprintf("%s asked for a switchover to %s", cmp.Or(q.By, "an operator"), to.Host))
	return false
}

// stillUnfit reports whether what speaks against a switchover stood for a while and was seen again by a look at our own
// server that began after the request was taken up: what was looked at before may have passed when it was asked for.
func (j *judgement) stillUnfit(q Request) bool {
	if j.m.Unready != q.ID {
		j.m.Unready, j.m.UnreadySince = q.ID, j.v.Now
	}
	return j.v.Now-j.m.UnreadySince >= refuseAfter && j.v.Now-j.v.Local.Age >= j.m.UnreadySince
}

// beginSwitch prepares the stop of a primary that serves, and agrees on it: the host to, which may be ourselves, is
// the primary after that.
func (j *judgement) beginSwitch(q Request, to, why string) {
	r, l := &j.v.Record, &j.v.Local
	if !r.Opened || len(j.d.Actions) > 0 {
		j.because("the %s waits until the database is in order", q.Kind)
		return
	}
	if j.m.Prepared != q.ID {
		j.m.Prepared = q.ID
		if len(j.v.Busy) == 0 {
			j.do(Action{Kind: KindCheckpoint, Why: "so that the stop is short"})
		} else {
			j.m.Prepared = ""
		}
		return
	}
	if !l.Ready {
		return
	}
	next := r.Clone()
	next.Phase, next.Opened, next.SwitchTo, next.Switch = Switching, false, to, q.ID
	next.Because = []string{why}
	j.swap(next, why)
}

func (j *judgement) answer(q Request, ok bool, text string) {
	j.d.Answers = append(j.d.Answers, Answer{ID: q.ID, OK: ok, Text: text})
}

// target is who would take over, or why nobody can, and whether a standby's own state, which may pass, is the reason.
func (j *judgement) target(wish string) (to Voter, why string, passing bool) {
	var best *Voter
	var bestAt LSN
	for _, v := range j.targets() {
		if wish != "" && v.Host != wish {
			continue
		}
		if no := j.unfitTarget(v); no != "" {
			why, passing = no, passing || j.standsAside(v.Host) == ""
			continue
		}
		s, _ := sender(&j.v.Local, StandbyName(v.Incarnation, j.v.Record.Epoch))
		if best == nil || cmp.Or(cmp.Compare(j.steadier(v.Host), j.steadier(best.Host)), cmp.Compare(j.promotes(v.Host), j.promotes(best.Host)), cmp.Compare(s.Flushed, bestAt)) > 0 {
			best, bestAt = &v, s.Flushed
		}
	}
	switch {
	case best != nil:
		return *best, "", false
	case why != "":
		return Voter{}, why, passing
	case wish == j.v.Self:
		return Voter{}, wish + " is the primary already", false
	case wish != "":
		return Voter{}, cmp.Or(j.standsAside(wish), fmt.Sprintf("%s is no confirmed standby of this database", wish)), false
	}
	return Voter{}, "no confirmed standby streams", false
}

// Candidates says for each standby that counts, or does not by the plan, why it cannot take over in a switchover, "" if it can: what a dry run shows.
func Candidates(p Policy, v View) map[string]string {
	j := &judgement{p: p, v: v}
	out := make(map[string]string, len(v.Record.Voters))
	for _, x := range j.targets() {
		out[x.Host] = j.unfitTarget(x)
	}
	for _, host := range v.Record.Members {
		if why := j.standsAside(host); why != "" && host != v.Record.Primary {
			out[host] = why
		}
	}
	return out
}

// targets are the servers that could be handed the database: the voters; and where no standby need hold a commit, so that
// there are none, every member that the plan lets take over. A switchover asks nobody to elect: it sees that the target
// holds the very last record of a primary that has stopped and promised.
func (j *judgement) targets() []Voter {
	r := &j.v.Record
	if r.W > 0 {
		return r.Voters
	}
	var out []Voter
	for _, host := range r.Members {
		rep, ok := j.heard(host)
		if v := (Voter{Host: host, Incarnation: rep.Local.Incarnation}); host != r.Primary && ok && v.Incarnation != "" && j.mayVote(v) {
			out = append(out, v)
		}
	}
	return out
}

func (j *judgement) unfitTarget(v Voter) string {
	rep, ok := j.heard(v.Host)
	switch aside := j.standsAside(v.Host); {
	case aside != "":
		return aside
	case !ok:
		return v.Host + " does not answer"
	case !j.streams(v):
		return v.Host + " does not stream, or is more than one WAL segment behind"
	case !j.follows(v):
		return v.Host + " does not follow the present epoch"
	case rep.Local.Disk.broken():
		return v.Host + " can write nothing: " + rep.Local.Disk.words()
	case rep.Local.ReplayLag > maxReplayLag:
		return fmt.Sprintf("%s is %s behind in replay", v.Host, rep.Local.ReplayLag.Round(time.Second))
	}
	return ""
}

// switchOver carries out a planned change once the listeners hold: stop in good order, promise the next epoch,
// see that the target holds the very last record, and hand over. Before the handing over, any trouble makes the
// old primary resume.
func (j *judgement) switchOver() {
	r, l := &j.v.Record, &j.v.Local
	j.timeSwitch()
	if r.Switch == "" {
		j.m.DiskMoved, j.m.DiskMovedAt = true, j.v.Now // nobody asked for it
	}
	j.d.Wake = min(j.d.Wake, 50*time.Millisecond)
	late := j.phaseAge() > j.p.Times.Switch
	switch {
	case l.Running && late:
		j.kill("the switchover's stop takes too long: sessions would wait on")
	case l.Running:
		j.do(Action{Kind: KindStop, Why: "switchover to " + r.SwitchTo})
	case l.Promise.Epoch < r.Epoch+1 || l.Position.Epoch != r.Epoch+1:
		j.do(Action{Kind: KindRecruit, Epoch: r.Epoch + 1, Why: "the stopped primary promises the next epoch"})
	default:
		j.handOver(late)
	}
}

// fellSilent reports whether a host that is to take over has died or been cut off since: waiting for it would only make
// clients wait. An agent that has just started has heard nobody yet.
func (j *judgement) fellSilent(host string) bool {
	p, _ := j.peer(host)
	return j.phaseAge() >= j.p.Times.Suspect && j.silent(p.AgentAge, p.GateAge, j.p.Times.Suspect)
}

func (j *judgement) handOver(late bool) {
	r, l := &j.v.Record, &j.v.Local
	if r.SwitchTo == j.v.Self {
		j.resume("it was stopped to be restarted in place")
		return
	}
	targets := j.targets()
	i := slices.IndexFunc(targets, func(v Voter) bool { return v.Host == r.SwitchTo })
	rep, ok := j.heard(r.SwitchTo)
	level := ok && i >= 0 && l.ShutDown && rep.Local.Incarnation == targets[i].Incarnation && rep.Local.Following == r.Epoch &&
		rep.Local.Timeline == l.Position.Timeline && rep.Local.Flushed >= l.Position.LSN
	if !level {
		if late || !l.ShutDown || i < 0 && r.W > 0 || j.fellSilent(r.SwitchTo) {
			j.resume(fmt.Sprintf("%s does not hold the last record %s of the stopped primary", r.SwitchTo, l.Position.LSN))
			return
		}
		j.because("wait until %s holds %s", r.SwitchTo, l.Position.LSN)
		return
	}
	next := r.Clone()
	next.Epoch++
	next.Phase, next.Alone, next.Runner = Promoting, false, j.v.Self
	next.Former = Voter{Host: j.v.Self, Incarnation: l.Incarnation}
	next.Primary, next.Incarnation, next.Timeline = targets[i].Host, targets[i].Incarnation, j.nextTimeline()
	why := fmt.Sprintf("%s holds the last record %s of the stopped primary", r.SwitchTo, l.Position.LSN)
	next.Because = append(next.Because, why)
	j.swap(next, why)
}
