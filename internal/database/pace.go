package database

import (
	"fmt"
	"slices"
	"time"
)

// Pace is how long changes of primary took that were like the next one, as the hosts agreed on it. 0 = none was measured.
type Pace struct {
	Failover time.Duration `json:"failover,omitempty"` // from the epoch to open, where the old server was known to be gone
	Restart  time.Duration `json:"restart,omitempty"`  // of a primary that came back by itself, with what it replayed
}

// Recovery is a recovery of a host's own server that was long enough to tell how fast it replays.
type Recovery struct {
	Bytes LSN           `json:"bytes"`
	Took  time.Duration `json:"took"`
}

// What is assumed as long as nothing was measured. All of it favours the failover: that this is quick was measured on
// many machines, and how long a server needs that ended for an unknown reason was not.
const (
	paceFailover = time.Second
	paceRestart  = 3 * time.Second
	paceReplay   = 20 << 20 // bytes a second
)

// Part is one term of an estimate and where it comes from.
type Part struct {
	Name   string        `json:"name"`
	Takes  time.Duration `json:"takes"`
	Source string        `json:"source"`
}

// Ways are the two ways back from a crash of the primary's server, as they are expected to go.
type Ways struct {
	Restart  []Part `json:"restart"`  // in place, by the same host
	Failover []Part `json:"failover"` // to the standby that is furthest
	First    string `json:"first"`    // which is tried first: restart, failover
	Why      string `json:"why"`
}

func takes(parts []Part) (sum time.Duration) {
	for _, p := range parts {
		sum += p.Takes
	}
	return sum
}

// restartMax is the longest predicted restart in place: what takes longer the others would cut short.
func (t Times) restartMax() time.Duration { return 2 * t.Stuck }

// ways predicts both from what is known of the servers and what was measured. The primary's log is taken to end where it
// was last heard to.
func (j *judgement) ways() Ways {
	r := &j.v.Record
	pace := r.Pace
	if pace.Restart == 0 || pace.Failover == 0 {
		pace = Pace{} // a host that is slow today is slow at both: one figure beside an assumption would only mislead
	}
	w := Ways{
		Restart:  []Part{measured("start, promote, standbys hold all that it holds", pace.Restart, paceRestart)},
		Failover: []Part{measured("elect, promote, open", pace.Failover, paceFailover)},
		First:    "failover",
	}
	l, _ := j.localOf(r.Primary)
	if end := max(l.Flushed, l.Held, j.m.Flushed); l.Redo != 0 {
		w.Restart = append(w.Restart, replay("replay its own log since its last checkpoint", beyond(end, l.Redo), l.Recovery))
	} else {
		w.Restart = append(w.Restart, Part{Name: "replay its own log since its last checkpoint", Takes: j.p.Times.restartMax(), Source: "not known, so it is taken for long"})
	}
	if backlog, ok := j.backlog(); ok {
		w.Failover = append(w.Failover, backlog)
	}
	restart, failover := takes(w.Restart), takes(w.Failover)
	switch {
	case restart >= failover:
		w.Why = fmt.Sprintf("a restart in place would take %s, a failover %s", seconds(restart), seconds(failover))
	case restart > j.p.Times.restartMax():
		w.Why = fmt.Sprintf("a restart in place would take %s, and longer than %s nobody waits for one", seconds(restart), seconds(j.p.Times.restartMax()))
	default:
		w.First = "restart"
		w.Why = fmt.Sprintf("a restart in place would take %s, sooner than a failover with %s", seconds(restart), seconds(failover))
	}
	return w
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func measured(name string, was, assumed time.Duration) Part {
	if was > 0 {
		return Part{Name: name, Takes: was, Source: "as long as the last one"}
	}
	return Part{Name: name, Takes: assumed, Source: "assumed until one of both kinds was measured"}
}

// replay is how long a server needs for so much log.
func replay(name string, log LSN, last *Recovery) Part {
	rate, source := float64(paceReplay), "assumed: no recovery of it was measured yet"
	if last != nil && last.Bytes > 0 && last.Took > 0 {
		rate = float64(last.Bytes) / last.Took.Seconds()
		source = fmt.Sprintf("its last recovery replayed %s in %s", sizeText(int64(last.Bytes)), seconds(last.Took))
	}
	return Part{
		Name: name, Takes: time.Duration(float64(log) / rate * float64(time.Second)),
		Source: fmt.Sprintf("%s at %s/s; %s", sizeText(int64(log)), sizeText(int64(rate)), source),
	}
}

// backlog is what the standby that would win has received and not replayed: it does that before it serves.
func (j *judgement) backlog() (Part, bool) {
	best := &Local{}
	for _, v := range j.v.Record.Voters {
		if l, ok := j.localOf(v.Host); ok && slices.Contains(j.ableVoters(), v.Host) && l.Flushed > best.Flushed {
			best = l
		}
	}
	if best.Flushed == 0 || best.Replayed == 0 {
		return Part{}, false
	}
	return replay("replay what the standby has received", beyond(best.Flushed, best.Replayed), best.Recovery), true
}

// pace notes how long a change of primary took that opens now, if it is one that tells something of the next.
func (j *judgement) pace(next Record) Pace {
	p, spans := next.Pace, j.spans(next)
	switch {
	case len(spans) == 0 || spans[len(spans)-1].Took >= j.p.Times.Open-time.Second:
		return p // it waited for a deadline of the old one: a server that ended is known to be gone
	case next.Alone:
		p.Restart = max(total(spans), time.Millisecond)
	case spans[0].Name == "recruit":
		p.Failover = max(total(spans), time.Millisecond)
	}
	return p
}

// restartFirst says why our own server, the primary, is started in place before anybody takes over, or "". It is the
// first rung, once in a while: a server that needed it lately, or said why it ended, is not helped by it.
func (j *judgement) restartFirst() string {
	r, l := &j.v.Record, &j.v.Local
	switch {
	case r.Phase != Steady || r.Primary != j.v.Self || r.W == 0 || r.Halt != nil || !j.m.SawPrimary:
		return ""
	case l.Running || !l.TreeGone || l.ShutDown || j.m.Killed || l.Disk.full() || l.Disk.broken():
		return ""
	case j.notAlone() != "" || j.paused():
		return ""
	}
	if end, ok := j.endOf(); ok && slices.ContainsFunc(r.Ends, func(e End) bool { return j.recent(e) && e.Sign == end.Sign }) {
		return ""
	}
	if w := j.ways(); w.First == "restart" {
		return w.Why
	}
	return ""
}
