package database

import (
	"fmt"
	"slices"
	"time"

	"holdfast/internal/problem"
)

// DiskPolicy is what a primary does whose disk is nearly full.
type DiskPolicy string

// Disk policies. The zero value is read-only.
const (
	DiskReadOnly DiskPolicy = "read-only" // new transactions may not write until there is room again
	DiskFailover DiskPolicy = "failover"  // a standby with more room takes over in good order; read-only when there is none
)

// Disk is the file system of a server's log.
type Disk struct {
	Size    int64 `json:"size"` // bytes; 0 = not known
	Free    int64 `json:"free"`
	Reserve int64 `json:"reserve"` // bytes that a file of ours holds back, to be released when nothing else is left

	Fault DiskFault `json:"fault,omitempty"` // how it refuses to be written to; "" = it does not, or has not been asked yet
	Said  string    `json:"said,omitempty"`  // with Fault: what was tried, and the system's own words
}

const segment = int64(levelBytes)

// floor is the free space below which a primary stops taking writes: three segments at least, so that what is under
// way still fits, and at most half a GiB.
func (d Disk) floor() int64 { return max(3*segment, min(512<<20, d.Size/20)) }

// full reports whether a server would not even get through its start: there is no room, or what there is may not be used.
func (d Disk) full() bool {
	return d.Size > 0 && (d.Free+d.Reserve < 2*segment || d.Fault == FaultFull && d.Free >= 2*segment)
}

// DiskSeen is one look at the free space.
type DiskSeen struct {
	At   time.Duration
	Free int64
}

// DiskMemory is what is remembered of our server's disk.
type DiskMemory struct {
	DiskSeen       []DiskSeen // oldest first
	DiskLow        bool
	DiskCheckpoint time.Duration // primary: when it last tried to let log go
	DiskMoved      bool          // primary: it was stopped so that a standby with room takes over, and when
	DiskMovedAt    time.Duration
}

const (
	diskSeenEvery = 20 * time.Second
	diskSeenFor   = 15 * time.Minute
	diskSeenLeast = 2 * time.Minute // a rate over less is noise
	diskWarn      = 24 * time.Hour  // full within this: it is said
	diskAlarm     = time.Hour       // full within this: a person is needed
)

// watchDisk looks at the free space of our server's disk, tells when it will be full, and judges whether it nearly is.
func (j *judgement) watchDisk() {
	d := j.v.Local.Disk
	j.watchFault()
	if d.Size == 0 {
		return
	}
	low := d.Free < d.floor() || d.Fault == FaultFull || j.v.Local.Writable == string(FaultFull)
	if j.m.DiskLow && d.Free < 2*d.floor() {
		low = true // not to and fro
	}
	j.m.DiskLow = low
	seen := slices.DeleteFunc(slices.Clone(j.m.DiskSeen), func(s DiskSeen) bool { return j.v.Now-s.At > diskSeenFor })
	if n := len(seen); n == 0 || j.v.Now-seen[n-1].At >= diskSeenEvery {
		seen = append(seen, DiskSeen{j.v.Now, d.Free})
	}
	j.m.DiskSeen = seen
	if d.full() && (!j.v.Local.Running || d.Fault != FaultFull) {
		said := ""
		if d.Fault == FaultFull {
			said = "; " + d.words()
		}
		j.problem(problem.Problem{
			Code: "database.disk-full", Severity: problem.Critical,
			Title:   fmt.Sprintf("the disk of %s is full: %s are free%s", j.v.Self, sizeText(d.Free), said),
			Meaning: "Its server is not started before there is room, for it would only end again. Nothing was deleted.",
			Remedy:  fmt.Sprintf("free or add space on %s (%s are needed); the server then comes back by itself", j.v.Self, sizeText(d.floor())),
		})
		return
	}
	j.forecast(seen[0], d)
}

// forecast says when the disk will be full if it fills on as it has lately.
func (j *judgement) forecast(first DiskSeen, d Disk) {
	over, used := j.v.Now-first.At, first.Free-d.Free
	if over < diskSeenLeast || used < 2*segment {
		return
	}
	left := time.Duration(float64(d.Free) / (float64(used) / float64(over)))
	if left > diskWarn {
		return
	}
	severity := problem.Degraded
	if left < diskAlarm {
		severity = problem.Critical
	}
	kept, for_ := int64(0), ""
	for _, s := range j.v.Local.Slots {
		if !s.Active && s.Kept > max(kept, keptWorthTelling) {
			kept, for_ = s.Kept, s.Incarnation
		}
	}
	remedy := "free or add space"
	meaning := fmt.Sprintf("Below %s free, new transactions may not write.", sizeText(d.floor()))
	if for_ != "" {
		host := for_
		if o, known := j.slotOwners(nil).of(for_); known {
			host = o.host
		}
		meaning += fmt.Sprintf(" %s of what is used are log kept for %s, which is away.", sizeText(kept), host)
		remedy += ", or bring back the host that log is kept for"
	}
	j.problem(problem.Problem{
		Code: "database.disk-full-soon", Severity: severity,
		Title: fmt.Sprintf("the disk of %s is full in %s at the present rate: %s free, %s a minute", j.v.Self, roughly(left), sizeText(d.Free),
			sizeText(int64(float64(used)/over.Minutes()))),
		Meaning: meaning,
		Remedy:  remedy,
	})
}

// keptWorthTelling: a slot that keeps less than one segment back is not why a disk fills.
const keptWorthTelling = 16 << 20

func roughly(d time.Duration) string {
	if d >= 2*time.Hour {
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d min", int(d.Minutes()))
}

// spareDisk is the primary's answer to a disk that is nearly full, before PostgreSQL would stop itself in the middle
// of a commit; and the way back when there is room again.
func (j *judgement) spareDisk() {
	l := &j.v.Local
	if !j.m.DiskLow {
		if l.ReadOnly && l.Disk.Size > 0 {
			j.do(Action{Kind: KindReadOnly, Why: fmt.Sprintf("%s are free again", sizeText(l.Disk.Free))})
		}
		return
	}
	j.problem(problem.Problem{
		Code: "database.disk-low", Severity: problem.Critical,
		Title:   fmt.Sprintf("%s are free on %s: new transactions may not write", sizeText(l.Disk.Free), j.v.Self),
		Meaning: "Reads go on, and nothing that was acknowledged is in danger. Without this PostgreSQL would end in the middle of a commit.",
		Remedy:  fmt.Sprintf("free or add space on %s; at %s writes go on by themselves", j.v.Self, sizeText(2*l.Disk.floor())),
	})
	if j.p.DiskFull == DiskFailover && j.moveForDisk() {
		return
	}
	if !l.ReadOnly {
		j.do(Action{Kind: KindReadOnly, On: true, Why: fmt.Sprintf("only %s are free", sizeText(l.Disk.Free))})
		return
	}
	if j.v.Now-j.m.DiskCheckpoint > diskSeenEvery || j.m.DiskCheckpoint == 0 { // lets log go that nobody needs
		if len(j.v.Busy) == 0 && len(j.d.Actions) == 0 {
			j.m.DiskCheckpoint = j.v.Now
			j.do(Action{Kind: KindCheckpoint, Why: "log that nobody needs is let go by a checkpoint"})
		}
	}
}

// moveForDisk hands over to a standby that has room, in good order.
func (j *judgement) moveForDisk() bool {
	r := &j.v.Record
	if !r.Opened || len(j.d.Actions) > 0 || len(j.v.Busy) > 0 || j.d.Pause != nil {
		return false
	}
	if j.m.DiskMoved && j.v.Now-j.m.DiskMovedAt < j.p.Times.Alone {
		return false // we came back from it: what kept the standby from taking over may last, and each try stops the service
	}
	for _, v := range r.Voters {
		rep, ok := j.heard(v.Host)
		if !ok || j.unfitTarget(v) != "" || rep.Local.Disk.Size == 0 || rep.Local.Disk.Free < 4*rep.Local.Disk.floor() {
			continue
		}
		next := r.Clone()
		next.Phase, next.Opened, next.SwitchTo, next.Switch = Switching, false, v.Host, ""
		next.Because = []string{fmt.Sprintf("the disk of %s is nearly full (%s free), %s has %s", j.v.Self, sizeText(j.v.Local.Disk.Free),
			v.Host, sizeText(rep.Local.Disk.Free))}
		j.swap(next, next.Because[0])
		return true
	}
	return false
}
