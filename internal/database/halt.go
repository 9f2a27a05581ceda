package database

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/problem"
)

// LastWords are what a server itself said before it ended: a panic, an error of its disk, a process of its own that
// crashed. A server that somebody killed, or whose host went, says nothing.
type LastWords struct {
	Life string `json:"life"`          // which life of that server it was
	Sign string `json:"sign"`          // what ends of one cause have in common: the words without numbers and names
	Text string `json:"text"`          // the words
	At   string `json:"at,omitempty"`  // by that host's wall clock, RFC 3339
	Own  bool   `json:"own,omitempty"` // its own host's disk refused: that does not come along to another host
}

// End is one unplanned end of a primary that left last words.
type End struct {
	LastWords
	Host  string `json:"host"`
	Epoch int64  `json:"epoch"`
}

// Halt stands while nothing moves by itself because moving has been shown not to help: primaries ended one after the
// other with the same sign.
type Halt struct {
	Sign  string `json:"sign"`
	Tries int    `json:"tries"` // attempts in place since
}

// EndSeen is when this host first saw an end in the record.
type EndSeen struct {
	Life string
	At   time.Duration
}

// HaltMemory is what one host remembers of ends.
type HaltMemory struct {
	EndsSeen   []EndSeen     // of those in the record
	Down       bool          // our own server, the primary of the record, does not run
	DownSince  time.Duration // since when
	LifeBefore string        // of the primary: the life that had ended when this phase was first seen
}

const (
	haltEnds   = 3                // ends of one sign, within haltWindow, after which moving is known not to help
	haltWindow = 10 * time.Minute // by each host's own clock, from when it first saw an end
	haltTries  = 3                // attempts in place after that
	haltPause  = 10 * time.Second // before the first; each further one waits three times as long
	haltHealed = time.Hour        // open without another end: automatic moves go on
	endsKept   = 8
)

// rememberEnds notes when this host first saw what the record tells of ends: there is no clock that all hosts share.
func (j *judgement) rememberEnds() {
	var seen []EndSeen
	for _, e := range j.v.Record.Ends {
		i := slices.IndexFunc(j.m.EndsSeen, func(s EndSeen) bool { return s.Life == e.Life })
		if i >= 0 {
			seen = append(seen, j.m.EndsSeen[i])
		} else {
			seen = append(seen, EndSeen{e.Life, j.v.Now})
		}
	}
	j.m.EndsSeen = seen
	down := j.v.Record.Primary == j.v.Self && j.v.Local.Known && !j.v.Local.Running
	if down && !j.m.Down {
		j.m.DownSince = j.v.Now
	}
	j.m.Down = down
}

// recent reports whether an end of the record lies within the window.
func (j *judgement) recent(e End) bool {
	i := slices.IndexFunc(j.m.EndsSeen, func(s EndSeen) bool { return s.Life == e.Life })
	return i >= 0 && j.v.Now-j.m.EndsSeen[i].At < haltWindow
}

// endOf is the end of the record's primary, if it ended with last words that the record does not know yet.
func (j *judgement) endOf() (End, bool) {
	r := &j.v.Record
	l, ok := j.localOf(r.Primary)
	if !ok || l.Running || l.Ended == nil || l.Ended.Sign == "" || l.ShutDown || r.Incarnation != "" && l.Incarnation != r.Incarnation {
		return End{}, false
	}
	if r.Phase == Promoting && l.Ended.Life == j.m.LifeBefore {
		return End{}, false // it said so before it was chosen, maybe as a standby
	}
	known := slices.ContainsFunc(r.Ends, func(e End) bool { return e.Life == l.Ended.Life })
	return End{LastWords: *l.Ended, Host: r.Primary, Epoch: r.Epoch}, !known
}

// withEnd adds to a next record how the primary ended, and stops automatic moves when that was once too often.
func (j *judgement) withEnd(next Record) Record {
	e, ok := j.endOf()
	if !ok || e.Own {
		return next
	}
	same := 1
	var ends []End
	for _, x := range next.Ends {
		if j.recent(x) || next.Halt != nil {
			ends = append(ends, x)
		}
		if j.recent(x) && x.Sign == e.Sign {
			same++
		}
	}
	next.Ends = append(ends, e)
	if n := len(next.Ends) - endsKept; n > 0 {
		next.Ends = next.Ends[n:]
	}
	if same >= haltEnds && next.Halt == nil {
		next.Halt = &Halt{Sign: e.Sign}
	}
	return next
}

// halt writes that moving does not help, in place of another move. The primary stays who it is.
func (j *judgement) halt(next Record, why string) {
	now := j.v.Record.Clone()
	now.Ends, now.Halt, now.Opened = next.Ends, next.Halt, false
	now.Because = []string{why, haltWords(&now)}
	j.swap(now, haltWords(&now))
}

// haltWords is a halt in words, the same on every host.
func haltWords(r *Record) string {
	n, hosts := 0, []string{}
	text := r.Halt.Sign
	for _, e := range r.Ends {
		if e.Sign == r.Halt.Sign {
			n++
			text = e.Text
			if !slices.Contains(hosts, e.Host) {
				hosts = append(hosts, e.Host)
			}
		}
	}
	return fmt.Sprintf("the primary ended for the same reason %d times, on %s: %s", n, strings.Join(hosts, ", "), text)
}

// watchHalt says that automatic moves have ended, and takes that back when an operator asks or when an hour was well.
func (j *judgement) watchHalt() {
	r := &j.v.Record
	if r.Halt == nil {
		return
	}
	left := fmt.Sprintf("It is started in place %d more times, with growing pauses.", haltTries-r.Halt.Tries)
	if r.Halt.Tries >= haltTries {
		left = "It is not started again by itself."
	}
	if r.Phase == Steady && r.Opened {
		left = "It is open now, and is watched."
	}
	j.problem(problem.Problem{
		Code: "database.failover-cannot-help", Severity: problem.Critical, Title: "another host cannot help: " + haltWords(r),
		Meaning: "Automatic moves have ended: whatever ends it comes along to each host. No acknowledged commit is lost by that. " + left,
		Remedy: "mend the cause (holdfast history shows every end), then: holdfast database resume " + j.p.Name +
			". If its data are damaged, make a copy from the vault beside it: holdfast restore database " + j.p.Name + " --to DIR",
	})
	for _, q := range j.v.Requests {
		if q.Kind == "resume" && j.d.Pause == nil {
			j.endHalt(fmt.Sprintf("%s asked that automatic moves go on", orOperator(q.By)))
			return
		}
	}
	if r.Primary == j.v.Self && r.Phase == Steady && r.Opened && j.v.Local.Role == Primary && j.phaseAge() >= haltHealed {
		j.endHalt("it has been well for " + haltHealed.String())
	}
}

// endHalt lets automatic moves go on.
func (j *judgement) endHalt(why string) {
	next := j.v.Record.Clone()
	next.Halt, next.Ends = nil, nil
	j.swap(next, why)
}

// forgetEnds takes what is long past out of the record, so that a host that starts does not take it for new.
func (j *judgement) forgetEnds() {
	r := &j.v.Record
	ends := len(r.Ends) > 0 && r.Halt == nil && !slices.ContainsFunc(r.Ends, j.recent)
	silences := len(r.Silences) > 0 && !slices.ContainsFunc(r.Silences, j.lately)
	if !ends && !silences {
		return
	}
	next := r.Clone()
	if ends {
		next.Ends = nil
	}
	if silences {
		next.Silences = nil
	}
	j.swap(next, "earlier ends of the primary, or silences of its host, are long past")
}

// halted says why nobody takes over by itself now, or "". What had begun goes to its end: a recruiting is not held, nor
// is a switchover that an operator asked for.
func (j *judgement) halted() string {
	r := &j.v.Record
	if r.Halt == nil || r.Phase != Steady && r.Phase != Promoting {
		return ""
	}
	return "another host cannot help, and automatic moves have ended"
}

// haltRests says why our own server is not started in place yet while moves are halted, or "".
func (j *judgement) haltRests() string {
	r := &j.v.Record
	if j.halted() == "" {
		return ""
	}
	if r.Halt.Tries >= haltTries {
		return fmt.Sprintf("it was started in place %d times, and ended again", haltTries)
	}
	pause := haltPause
	for range r.Halt.Tries {
		pause *= 3
	}
	if left := pause - (j.v.Now - j.m.DownSince); left > 0 {
		j.d.Wake = min(j.d.Wake, left)
		return fmt.Sprintf("attempt %d of %d in place follows in %s", r.Halt.Tries+1, haltTries, left.Round(time.Second))
	}
	return ""
}

// tried counts an attempt in place.
func tried(next Record) Record {
	if next.Halt != nil {
		h := *next.Halt
		h.Tries++
		next.Halt = &h
	}
	return next
}

func orOperator(by string) string {
	if by == "" {
		return "an operator"
	}
	return by
}
