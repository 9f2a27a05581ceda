package client

import (
	"slices"
	"time"
)

// Path is one way in which the client reaches the application's data.
type Path string

// The three paths.
const (
	EdgeWrite     Path = "edge write"     // POST /api/rows through the edge
	EdgeRead      Path = "edge read"      // GET /api/practices through the edge
	ListenerWrite Path = "listener write" // INSERT and commit through the database's listener
)

// slowAfter is how long an acknowledged request may take before a person would call it slow.
const slowAfter = time.Second

// Outcome is one finished request. Times count from the client's start on the monotonic clock.
type Outcome struct {
	Path   Path
	Number int64 // of the row; 0 for reads
	Began  time.Duration
	Ended  time.Duration // Began <= Ended
	Kind   string        // what kind of error the user saw; "" = acknowledged
}

// Acknowledged reports whether the user was told that it worked.
func (o Outcome) Acknowledged() bool { return o.Kind == "" }

// Mark begins a phase.
type Mark struct {
	Name string
	At   time.Duration // not before the mark in front of it
}

// Phase is what clients saw between two marks.
type Phase struct {
	Name  string
	From  time.Duration
	To    time.Duration
	Paths map[Path]Figures
}

// Worst sums the phase up over its paths: the longest gap on any of them, and all failed and slow requests.
func (p Phase) Worst() (gap time.Duration, failed, slow int) {
	for _, f := range p.Paths {
		gap = max(gap, f.LongestGap)
		failed += f.Failed
		slow += f.Slow
	}
	return gap, failed, slow
}

// Figures sum up one path in one phase.
type Figures struct {
	Acknowledged int
	Failed       int            // errors that a user would have seen
	Slow         int            // acknowledged, after more than a second
	Kinds        map[string]int // failed requests by kind; nil = none
	LongestGap   time.Duration  // longest time without an acknowledgement
	GapFrom      time.Duration  // when that gap began
	P50          time.Duration  // of acknowledged requests; 0 = there were none
	P99          time.Duration
	Max          time.Duration
}

// Account sums outcomes up for each phase and path. Marks are in order, the first at the start; end is the
// newest moment that outcomes can tell of. A request belongs to the phase in which it ended, for that is
// when its user learnt of it. A gap reaches from one acknowledgement to the next, or to end, and is counted
// undivided in the phase that holds its larger part (the later one of two equals): a fault is marked a
// moment after the last acknowledgement before it, and cutting the gap at the mark would flatter it.
func Account(marks []Mark, paths []Path, outcomes []Outcome, end time.Duration) []Phase {
	phases := make([]Phase, len(marks))
	for i, m := range marks {
		to := end
		if i+1 < len(marks) {
			to = marks[i+1].At
		}
		phases[i] = Phase{Name: m.Name, From: m.At, To: to, Paths: map[Path]Figures{}}
	}
	if len(phases) == 0 {
		return nil
	}
	for _, path := range paths {
		figures := make([]Figures, len(phases))
		took := make([][]time.Duration, len(phases))
		acknowledged := []time.Duration{phases[0].From}
		for _, o := range outcomes {
			if o.Path != path {
				continue
			}
			i := phaseAt(phases, o.Ended)
			f := &figures[i]
			if !o.Acknowledged() {
				f.Failed++
				if f.Kinds == nil {
					f.Kinds = map[string]int{}
				}
				f.Kinds[o.Kind]++
				continue
			}
			f.Acknowledged++
			if o.Ended-o.Began > slowAfter {
				f.Slow++
			}
			took[i] = append(took[i], o.Ended-o.Began)
			acknowledged = append(acknowledged, o.Ended)
		}
		slices.Sort(acknowledged)
		acknowledged = append(acknowledged, max(end, acknowledged[len(acknowledged)-1]))
		for j := 1; j < len(acknowledged); j++ {
			from, to := acknowledged[j-1], acknowledged[j]
			f := &figures[mostOf(phases, from, to)]
			if to-from > f.LongestGap {
				f.LongestGap, f.GapFrom = to-from, from
			}
		}
		for i := range phases {
			slices.Sort(took[i])
			figures[i].P50, figures[i].P99, figures[i].Max = rank(took[i], 50), rank(took[i], 99), rank(took[i], 100)
			phases[i].Paths[path] = figures[i]
		}
	}
	return phases
}

// phaseAt finds the phase that a moment lies in; a mark's own moment belongs to the phase that it begins.
func phaseAt(phases []Phase, at time.Duration) int {
	for i := len(phases) - 1; i > 0; i-- {
		if at >= phases[i].From {
			return i
		}
	}
	return 0
}

// mostOf finds the phase that holds the larger part of an interval.
func mostOf(phases []Phase, from, to time.Duration) int {
	best, bestPart := phaseAt(phases, to), time.Duration(0)
	for i, p := range phases {
		last := p.To
		if i == len(phases)-1 {
			last = max(last, to)
		}
		if part := min(to, last) - max(from, p.From); part > 0 && part >= bestPart {
			best, bestPart = i, part
		}
	}
	return best
}

// rank returns the value that percent of the sorted values do not exceed; 0 for no values.
func rank(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)*percent+99)/100-1]
}
