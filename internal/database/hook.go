package database

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// The ladder for a primary in trouble: its server is started in place (once in ten minutes, and only where that is sooner
// or nobody else can); then, if the plan has one, its host runs the command on_trouble, which may mend the disk or start
// the host anew; then a standby takes over. A host that is silent has no hook that anybody could wait for.
//
//	record: the hook begins, with the evidence -> the command runs on the primary's host -> record: it has ended
//
// The record is written first, so the others know what they wait for, and for how long at most; and a host that the command
// started anew finds there that it had its turn.

// HookRun is one run of the plan's on_trouble.
type HookRun struct {
	ID    string `json:"id"`
	Host  string `json:"host"`
	Kind  string `json:"kind"`  // read-only, io-error, hung, ended-again
	Why   string `json:"why"`   // the evidence
	Ended bool   `json:"ended"` // or given up: nobody waits for it any more
}

// HookMemory is what one host remembers of hooks.
type HookMemory struct {
	HooksSeen []HookSeen // of those in the record
	HookAsked string     // the one that this host wrote into the record, in this life of its agent
	HookBegun string     // the one that was handed to the host
}

// HookSeen is when this host first saw one in the record.
type HookSeen struct {
	ID      string
	At      time.Duration
	Ended   bool
	EndedAt time.Duration // when this host learnt of its end; when it learnt of the run, if that was over by then
}

const (
	hookWindow = 10 * time.Minute // by each host's own clock: one run for each host
	hooksKept  = 8
)

// rememberHooks notes when this host first saw what the record tells.
func (j *judgement) rememberHooks() {
	var seen []HookSeen
	for _, h := range j.v.Record.Hooks {
		i := slices.IndexFunc(j.m.HooksSeen, func(s HookSeen) bool { return s.ID == h.ID })
		s := HookSeen{ID: h.ID, At: j.v.Now}
		if i >= 0 {
			s = j.m.HooksSeen[i]
		}
		if h.Ended && !s.Ended {
			s.Ended, s.EndedAt = true, j.v.Now
		}
		seen = append(seen, s)
	}
	j.m.HooksSeen = seen
}

// hookAge is since when this host knows of a run.
func (j *judgement) hookAge(h HookRun) time.Duration {
	for _, s := range j.m.HooksSeen {
		if s.ID == h.ID {
			return j.v.Now - s.At
		}
	}
	return 0
}

// hookRuns is the run that is waited for now, if there is one: the primary's, not ended, and within its limit.
func (j *judgement) hookRuns() (HookRun, bool) {
	r := &j.v.Record
	if r.Phase != Steady || j.p.OnTrouble == 0 {
		return HookRun{}, false
	}
	for _, h := range r.Hooks {
		if h.Host == r.Primary && !h.Ended && j.hookAge(h) < j.p.OnTrouble+j.p.Times.Stuck {
			return h, true
		}
	}
	return HookRun{}, false
}

// waitsForHook reports whether the next rung is not reached yet, and says so.
func (j *judgement) waitsForHook() bool {
	h, runs := j.hookRuns()
	if runs {
		j.because("on_trouble runs on %s (%s); a standby takes over when that has ended, or after %s", h.Host, h.Why, j.p.OnTrouble)
		j.d.Wake = min(j.d.Wake, j.p.OnTrouble+j.p.Times.Stuck-j.hookAge(h))
	}
	return runs
}

// settles is how much longer a run that has ended on our own host is given to show what it did: what is known of the disk may
// be from before its end. 0 = that time is over, or there was none.
func (j *judgement) settles() time.Duration {
	for _, s := range j.m.HooksSeen {
		ours := slices.ContainsFunc(j.v.Record.Hooks, func(h HookRun) bool { return h.ID == s.ID && h.Host == j.v.Self })
		if left := j.p.Times.Stuck - (j.v.Now - s.EndedAt); ours && s.Ended && left > 0 {
			return left
		}
	}
	return 0
}

// rungs say the ladder as it stands now, first rung first.
func (j *judgement) rungs() []string {
	w := j.ways()
	out := []string{"restart in place: once in " + j.p.Times.Alone.String() + ", where that is sooner or nobody can take over; now a " + w.First + " would come first"}
	switch {
	case j.p.OnTrouble == 0:
		out = append(out, "on_trouble: the plan has none")
	default:
		text := fmt.Sprintf("on_trouble: for at most %s, once in %s, when a restart did not help or the disk refuses or hangs", j.p.OnTrouble, hookWindow)
		for _, h := range j.v.Record.Hooks {
			state := "had its turn"
			if !h.Ended {
				state = "runs"
			}
			text += fmt.Sprintf("; %s on %s (%s)", state, h.Host, h.Why)
		}
		out = append(out, text)
	}
	return append(out, "failover: a standby takes over")
}

// climb begins the plan's hook for our own server, the primary; false = it has none, or had its turn, or nothing may move.
func (j *judgement) climb(kind, why string) bool {
	r := &j.v.Record
	if j.p.OnTrouble == 0 || r.Phase != Steady || r.Primary != j.v.Self || r.Halt != nil || j.paused() {
		return false
	}
	had := slices.ContainsFunc(r.Hooks, func(h HookRun) bool { return h.Host == j.v.Self && j.hookAge(h) < hookWindow })
	if had {
		return false
	}
	next := r.Clone()
	next.Hooks = slices.DeleteFunc(next.Hooks, func(h HookRun) bool { return j.hookAge(h) >= hookWindow })
	run := HookRun{ID: fmt.Sprintf("%s-%d-%d", j.v.Self, r.Epoch, r.Generation+1), Host: j.v.Self, Kind: kind, Why: why}
	next.Hooks = append(next.Hooks, run)
	if n := len(next.Hooks) - hooksKept; n > 0 {
		next.Hooks = next.Hooks[n:]
	}
	j.m.HookAsked = run.ID
	j.swap(next, "on_trouble: "+why)
	return true
}

// serveHook carries our own host's run on: it is begun once, by the life of the agent that asked for it, and its end is
// agreed.
func (j *judgement) serveHook() {
	r := &j.v.Record
	i := slices.IndexFunc(r.Hooks, func(h HookRun) bool { return h.Host == j.v.Self && !h.Ended })
	if i < 0 || r.Phase != Steady || slices.Contains(j.v.Busy, KindHook) {
		return
	}
	h := r.Hooks[i]
	if r.Primary == j.v.Self && h.ID == j.m.HookAsked && h.ID != j.m.HookBegun && j.p.OnTrouble > 0 {
		if len(j.v.Busy) > 0 || len(j.d.Actions) > 0 {
			return
		}
		if j.paused() { // since it was agreed: it does not run, and that was no turn
			next := r.Clone()
			next.Hooks = slices.Delete(next.Hooks, i, i+1)
			j.swap(next, "on_trouble does not run on "+j.v.Self+": the database was paused")
			return
		}
		j.m.HookBegun = h.ID
		j.do(Action{Kind: KindHook, Trouble: h.Kind, Limit: j.p.OnTrouble, Why: h.Why})
		return
	}
	next := r.Clone()
	next.Hooks[i].Ended = true
	why := "on_trouble has ended on " + j.v.Self
	if h.ID != j.m.HookBegun {
		why = "on_trouble is over on " + j.v.Self + ": its agent was started anew meanwhile, or somebody else is the primary"
	}
	j.swap(next, why)
}

// hookOver reports whether the command that runs here serves an epoch, or a run, that is over.
func (j *judgement) hookOver() bool {
	r := &j.v.Record
	if !slices.Contains(j.v.Busy, KindHook) {
		return false
	}
	goes := slices.ContainsFunc(r.Hooks, func(h HookRun) bool {
		return h.ID == j.m.HookBegun && !h.Ended && strings.HasPrefix(h.ID, fmt.Sprintf("%s-%d-", j.v.Self, r.Epoch))
	})
	return !goes || r.Phase != Steady || r.Primary != j.v.Self
}

// blind is the duty of a primary's host that cannot even read what lies there: nobody renews its server's lease, and the
// others elect soon. It may still have its host mended.
func (j *judgement) blind() {
	r, d := &j.v.Record, j.v.Local.Disk
	if !d.broken() || r.Primary != j.v.Self {
		return
	}
	if !j.m.Hung {
		j.m.Hung, j.m.HungSince = true, j.v.Now
	}
	j.serveHook()
	if since := j.v.Now - j.m.HungSince; since >= j.p.Times.Faulty && !j.waitsForHook() {
		j.climb(string(d.Fault), fmt.Sprintf("%s for %s", d.words(), since.Round(time.Second)))
	}
}

// endedAgain says why our stopped server, the primary, is past its first rung, or "": it was started in place lately, or
// its disk takes nothing.
func (j *judgement) endedAgain() (kind, why string) {
	r, l := &j.v.Record, &j.v.Local
	switch {
	case r.Phase != Steady || l.Running || !l.TreeGone || l.ShutDown || !l.Known || l.Data != DataPresent || l.Incarnation != r.Incarnation:
		return "", ""
	case l.Disk.broken():
		return string(l.Disk.Fault), "its server has ended, and " + l.Disk.words()
	case r.W > 0 && j.m.WasAlone && j.v.Now-j.m.AloneAt < j.p.Times.Alone:
		return "ended-again", fmt.Sprintf("its server has ended again, %s after it was started in place: %s", (j.v.Now - j.m.AloneAt).Round(time.Second), l.Exit)
	}
	return "", ""
}
