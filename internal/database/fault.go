package database

import (
	"fmt"
	"time"

	"holdfast/internal/problem"
)

// DiskFault is how a file system refuses to be written to.
type DiskFault string

// What a file system may answer to a small write.
const (
	FaultReadOnly DiskFault = "read-only" // the system has made it so: usually after an error of its own
	FaultIO       DiskFault = "io-error"
	FaultFull     DiskFault = "full" // of blocks, of files, or of what PostgreSQL's user may have
)

// broken reports whether no server can live on this disk, and nobody can promise anything on it: that is as a crash of
// the server. A full one is another matter: see [DiskPolicy].
func (d Disk) broken() bool { return d.Fault == FaultReadOnly || d.Fault == FaultIO }

// words are the fault in words.
func (d Disk) words() string {
	switch d.Fault {
	case FaultReadOnly:
		return "its disk is read-only (" + d.Said + ")"
	case FaultIO:
		return "its disk answers with errors (" + d.Said + ")"
	case FaultFull:
		return "its disk takes no more (" + d.Said + ")"
	}
	return ""
}

// unable says why a primary takes no writes for a fault of its own, and how long that must last before it counts as gone;
// "" = it takes them, or waits for standbys, or is full, which has an answer of its own.
func (t Times) unable(l *Local) (what string, patience time.Duration) {
	switch l.Writable {
	case "hung":
		return "it cannot write to its disk", t.Hung
	case string(FaultReadOnly), string(FaultIO):
		if l.Disk.broken() {
			return l.Disk.words(), t.Faulty
		}
		return "its writes end with " + l.Writable, t.Faulty
	}
	return "", 0
}

// watchFault says that our disk cannot be written to.
func (j *judgement) watchFault() {
	d := j.v.Local.Disk
	if !d.broken() {
		return
	}
	j.problem(problem.Problem{
		Code: "database.disk-broken", Severity: problem.Critical, Title: j.v.Self + ": " + d.words(),
		Meaning: "Its server is not started there, for it would only end again, and this host takes no part in an election. Nothing was deleted.",
		Remedy:  "mend or replace the disk of " + j.v.Self + "; the host goes on by itself then (an empty disk gets a new copy)",
	})
}

// unableToWrite ends a primary that can write no record to its disk for long, once standbys can take over: it answers and
// renews its lease, so nothing else would (DATABASE.md, Detection).
func (j *judgement) unableToWrite() bool {
	r, l := &j.v.Record, &j.v.Local
	what, patience := j.p.Times.unable(l)
	if what == "" || j.v.Late {
		j.m.Hung = false
		return false
	}
	if !j.m.Hung {
		j.m.Hung, j.m.HungSince = true, j.v.Now
	}
	since := j.v.Now - j.m.HungSince
	if since < patience {
		j.because("%s for %s; at %s it counts as gone", what, since.Round(100*time.Millisecond), patience)
		j.d.Wake = min(j.d.Wake, patience-since)
		return false
	}
	kind := l.Writable
	if j.waitsForHook() || j.climb(kind, fmt.Sprintf("%s for %s", what, since.Round(time.Second))) {
		return true
	}
	if left := j.settles(); left > 0 {
		j.because("on_trouble has ended; whether it helped is seen in %s", left.Round(100*time.Millisecond))
		j.d.Wake = min(j.d.Wake, left)
		return true
	}
	if j.paused() {
		j.hold("it is not ended for its disk", what+" for "+since.Round(time.Second).String())
		return false
	}
	if r.W == 0 || len(j.ableVoters()) < max(r.E, 1) {
		j.problem(problem.Problem{
			Code: "database.hung", Severity: problem.Critical,
			Title:   fmt.Sprintf("the primary on %s takes no writes for %s: %s", j.v.Self, since.Round(time.Second), what),
			Meaning: "Writes hang or fail, and too few standbys answer to take over.",
			Remedy:  "look at the disk of " + j.v.Self + "; bring the standbys back",
		})
		return false
	}
	j.kill(fmt.Sprintf("%s for %s, and standbys can take over", what, since.Round(time.Second)))
	return true
}
