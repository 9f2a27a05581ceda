// Package forecast says how long a restore is expected to take, and why: from what earlier restores and trials took, and from
// what a few pieces took that were just read and written on trial. Start at [Expect]. Where nothing was measured it says so and
// gives no number; what it assumes is called an assumption.
package forecast

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The phases of a restore, in their order. They follow each other without a gap, so their times add up to the whole.
const (
	Fetch  = "fetch"  // files and log come out of the vault and are durable on the disk
	Start  = "start"  // the server starts, and ends its recovery
	Replay = "replay" // the log is replayed
	Checks = "checks" // of a drill: the server answers in each SQL database, and as the plan's probes want it
)

// Work is what a restore is to do, or did.
type Work struct {
	Data   int64 // bytes of the base backup's files
	Log    int64 // bytes of log that are fetched
	Replay int64 // bytes of log that are replayed
	Checks bool  // there are checks: it is a drill
	// Says tells what is assumed about the work itself; "" = nothing is.
	Says string
}

// Run is an earlier restore that was measured.
type Run struct {
	Name    string // by which a person finds its record
	At      time.Time
	Machine string // where it ran
	Here    bool   // on this machine
	Polite  bool   // a trial: it gave way to others, and made nothing durable
	Work    Work
	// Took is what each phase took. A phase that is missing was not measured, or says nothing: a fetch into a directory that
	// had half of it already.
	Took map[string]time.Duration
	// Sampled is how long the sample before it let expect the fetch to take; 0 = there was none.
	Sampled time.Duration
}

// Sample is what was read from the vault and written to the disk of the target just now, as a restore does it.
type Sample []Part

// Part is the sample of one kind of content, with how much of it there is.
type Part struct {
	What string // "files above 1 MiB", for a person
	Unit string // "MiB" or "files"
	Done int64  // in bytes, or in files
	Of   int64
	Took time.Duration
}

// Phase is what one part of a restore is expected to take.
type Phase struct {
	Name     string        `json:"name"`
	Known    bool          `json:"known"` // false = nothing tells, and Expected is nothing
	Expected time.Duration `json:"-"`
	Seconds  float64       `json:"expected_seconds,omitempty"`
	Because  string        `json:"because"` // the evidence, or what is missing
}

// Forecast is what a restore is expected to take.
type Forecast struct {
	Phases []Phase       `json:"phases"`
	Known  bool          `json:"known"` // every phase is
	Total  time.Duration `json:"-"`     // of the phases that are known: with Known false it takes longer than that
	// Seconds is Total.
	Seconds float64 `json:"expected_seconds"`
	// Sampled is the fetch by the sample alone, in seconds; 0 = there was none. The next forecast learns from it.
	Sampled float64 `json:"sampled_seconds,omitempty"`
	Assumes string  `json:"assumes,omitempty"`
}

// Phase is the phase of a name; the zero value when there is none.
func (f Forecast) Phase(name string) Phase {
	for _, p := range f.Phases {
		if p.Name == name {
			return p
		}
	}
	return Phase{}
}

// Missed reports whether a whole time was more than a quarter of the measured one away from the expected one.
func Missed(expected, measured time.Duration) bool {
	return (expected - measured).Abs() > measured/4
}

// considered is how many runs of one kind are heard: the newest ones, whose median counts.
const considered = 3

// Expect says what each phase of the work is expected to take. Runs come in any order; equal arguments, equal answer.
func Expect(w Work, runs []Run, s Sample) Forecast {
	runs = newestFirst(runs)
	f := Forecast{Known: true, Assumes: w.Says}
	alone, sampled := s.fetch()
	if sampled {
		f.Sampled = alone.Seconds()
	}
	f.Phases = []Phase{fetchPhase(w, runs, s), startPhase(runs), replayPhase(w, runs)}
	if w.Checks {
		f.Phases = append(f.Phases, checksPhase(runs))
	}
	for i, p := range f.Phases {
		f.Known = f.Known && p.Known
		f.Total += p.Expected
		f.Phases[i].Seconds = p.Expected.Seconds()
	}
	f.Seconds = f.Total.Seconds()
	return f
}

func newestFirst(runs []Run) []Run {
	return slices.SortedFunc(slices.Values(runs), func(a, b Run) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Machine, b.Machine), cmp.Compare(a.Work.Data, b.Work.Data))
	})
}

// fetch is how long all of it takes at the rates of the sample; false when there is content of which none was read. Log of which
// none was read within the time, for its pieces are large, is taken at the rate of the files.
func (s Sample) fetch() (time.Duration, bool) {
	sum, told := 0.0, false
	for _, p := range s {
		if p.none() {
			p.Done, p.Took = s.bytes()
		}
		switch {
		case p.Of <= 0:
		case p.Done <= 0 || p.Took <= 0:
			return 0, false
		default:
			sum, told = sum+p.Took.Seconds()*float64(p.Of)/float64(p.Done), true
		}
	}
	return seconds(sum), told
}

// none reports whether there is content in bytes of which none was read.
func (p Part) none() bool { return p.Unit == "MiB" && p.Of > 0 && p.Done <= 0 }

// bytes is what was read by bytes, and how long it took.
func (s Sample) bytes() (n int64, took time.Duration) {
	for _, p := range s {
		if p.Unit == "MiB" && p.Done > 0 {
			n, took = n+p.Done, took+p.Took
		}
	}
	return n, took
}

func fetchPhase(w Work, runs []Run, s Sample) Phase {
	if alone, ok := s.fetch(); ok {
		because := "read from the vault and written to this disk just now: " + s.text()
		ratio, n := learned(runs)
		if !believed(ratio) {
			return contradicted(w, runs, alone, because, ratio, n)
		}
		if n > 0 {
			because += fmt.Sprintf("; %s on this machine took %.2f times what such a sample said, and that is reckoned with", restores(n), ratio)
		}
		return Phase{Name: Fetch, Known: true, Expected: seconds(alone.Seconds() * ratio), Because: because}
	}
	p, ok := fetchAsMeasured(w, runs)
	if !ok {
		return Phase{Name: Fetch, Because: "no restore from this vault was measured, and nothing was read on trial"}
	}
	return p
}

// fetchAsMeasured expects the rate at which restores fetched; false when none was measured.
func fetchAsMeasured(w Work, runs []Run) (Phase, bool) {
	bytes := float64(w.Data + w.Log)
	per, from, ok := rate(runs, func(r Run) (float64, bool) {
		return r.Took[Fetch].Seconds() / max(float64(r.Work.Data+r.Work.Log), 1), r.fetched()
	})
	return Phase{Name: Fetch, Known: true, Expected: seconds(per * bytes), Because: fmt.Sprintf("%s at %s a second, as %s", size(bytes), size(1/max(per, 1e-12)), from)}, ok
}

// fetched reports whether a run says how fast it fetched.
func (r Run) fetched() bool {
	_, ok := r.Took[Fetch]
	return ok && r.Work.Data+r.Work.Log > 0
}

// contradicted is the fetch where samples on this machine say something else altogether than restores took: what was measured
// counts then. But it takes no less than the sample of now lets expect: the way to the vault may be slower today.
func contradicted(w Work, runs []Run, alone time.Duration, because string, ratio float64, n int) Phase {
	p, _ := fetchAsMeasured(w, runs) // there is one, or nothing could contradict
	least := seconds(alone.Seconds() * min(ratio, 1))
	told := fmt.Sprintf("but %d of the newest restores on this machine took %.2f times what such a sample said", n, ratio)
	if least > p.Expected {
		p.Expected, p.Because = least, because+"; "+told+", so this is thought of as the least, and more than what was measured: "+p.Because
		return p
	}
	p.Because += fmt.Sprintf("; a sample of now lets expect %s, %s, so what was measured counts", alone.Round(100*time.Millisecond), told)
	return p
}

func restores(n int) string {
	if n == 1 {
		return "the last restore"
	}
	return fmt.Sprintf("the last %d restores", n)
}

// believed reports whether samples may miss by such a factor and still say something. Beyond three times something else was different.
func believed(ratio float64) bool { return ratio > 1.0/3 && ratio < 3 }

// learned is what the newest n fetches on this machine took, as a multiple of what the sample before each said: of those that are
// believed, or of the others when they are more, or as many and the newest is of them. Runs come newest first.
func learned(runs []Run) (ratio float64, n int) {
	var fit, odd []float64
	oddFirst := false
	for _, r := range runs {
		if !r.fetched() || !r.Here || r.Polite || r.Sampled <= 0 || len(fit)+len(odd) == considered {
			continue
		}
		x := r.Took[Fetch].Seconds() / r.Sampled.Seconds()
		if believed(x) {
			fit = append(fit, x)
			continue
		}
		oddFirst, odd = oddFirst || len(fit)+len(odd) == 0, append(odd, x)
	}
	switch {
	case len(fit)+len(odd) == 0:
		return 1, 0
	case len(odd) > len(fit) || len(odd) == len(fit) && oddFirst:
		return oddest(odd), len(odd)
	}
	return median(fit), len(fit)
}

// oddest is the median of factors that are not believed, and itself one: where they lie on both sides, the largest.
func oddest(odd []float64) float64 {
	if x := median(odd); !believed(x) {
		return x
	}
	return slices.Max(odd)
}

func startPhase(runs []Run) Phase {
	per, from, ok := rate(runs, func(r Run) (float64, bool) { took, ok := r.Took[Start]; return took.Seconds(), ok })
	if !ok {
		return Phase{Name: Start, Because: "no server was started on a restored copy of it yet, or what it replayed could not be told from its start: holdfast backup validate, or a drill of the latest moment, measures that"}
	}
	return Phase{Name: Start, Known: true, Expected: seconds(per), Because: "as " + from}
}

// stretchMax is how many times as much log may be replayed as in the run that it is judged by.
const stretchMax = 16

func replayPhase(w Work, runs []Run) Phase {
	if w.Replay <= 0 {
		return Phase{Name: Replay, Known: true, Because: "there is no log to replay"}
	}
	most := int64(0)
	per, from, ok := rate(runs, func(r Run) (float64, bool) {
		took, ok := r.Took[Replay]
		if ok {
			most = max(most, r.Work.Replay)
		}
		return took.Seconds() / float64(max(r.Work.Replay, 1)), ok && r.Work.Replay > 0 && w.Replay/stretchMax <= r.Work.Replay
	})
	switch {
	case ok && per == 0:
		return Phase{Name: Replay, Known: true, Because: fmt.Sprintf("%s of log, in no time that could be measured, as %s", size(float64(w.Replay)), from)}
	case ok:
		return Phase{Name: Replay, Known: true, Expected: seconds(per * float64(w.Replay)),
			Because: fmt.Sprintf("%s of log at %s a second, as %s", size(float64(w.Replay)), size(1/per), from)}
	case most > 0:
		return Phase{Name: Replay, Because: fmt.Sprintf("%s of log, and what was replayed so far was %s at most, which says too little: a drill measures it", size(float64(w.Replay)), size(float64(most)))}
	}
	return Phase{Name: Replay, Because: fmt.Sprintf("%s of log, and none was replayed yet: a drill measures it", size(float64(w.Replay)))}
}

func checksPhase(runs []Run) Phase {
	per, from, ok := rate(runs, func(r Run) (float64, bool) { took, ok := r.Took[Checks]; return took.Seconds(), ok })
	if !ok {
		return Phase{Name: Checks, Because: "the checks were not made on a restored copy of it yet"}
	}
	return Phase{Name: Checks, Known: true, Expected: seconds(per), Because: "as " + from}
}

// rate is the median of what the best kind of runs say: restores and drills here, else elsewhere, else trials. from names them.
func rate(runs []Run, of func(Run) (float64, bool)) (value float64, from string, ok bool) {
	for _, kind := range []struct{ here, polite bool }{{here: true}, {}, {here: true, polite: true}, {polite: true}} {
		var values []float64
		var names []string
		for _, r := range runs {
			x, tells := of(r)
			if tells && r.Here == kind.here && r.Polite == kind.polite && len(values) < considered {
				values, names = append(values, x), append(names, r.text())
			}
		}
		if len(values) == 0 {
			continue
		}
		from = "in " + strings.Join(names, ", ")
		if kind.polite {
			from += ", which made nothing durable"
		}
		return median(values), from, true
	}
	return 0, "", false
}

// text names a run, and where it was when that is another machine.
func (r Run) text() string {
	text := r.Name
	if !r.At.IsZero() {
		text += " of " + r.At.UTC().Format("2006-01-02 15:04Z07:00")
	}
	if !r.Here && r.Machine != "" {
		text += " (on " + r.Machine + ")"
	} else if !r.Here {
		text += " (on another machine)"
	}
	return text
}

// text is what the sample was, for a person.
func (s Sample) text() string {
	var parts []string
	for _, p := range s {
		if p.none() {
			parts = append(parts, fmt.Sprintf("none of %s of %s within the time, which is taken at the rate of the others", size(float64(p.Of)), p.What))
		}
		if p.Of <= 0 || p.Done <= 0 {
			continue
		}
		per := float64(p.Done) / max(p.Took.Seconds(), 1e-9)
		if p.Unit == "files" {
			parts = append(parts, fmt.Sprintf("%d of %d %s at %.0f a second", p.Done, p.Of, p.What, per))
		} else {
			parts = append(parts, fmt.Sprintf("%s of %s of %s at %s a second", size(float64(p.Done)), size(float64(p.Of)), p.What, size(per)))
		}
	}
	return strings.Join(parts, ", ")
}

func median(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	if n := len(all); n%2 == 0 {
		return (all[n/2-1] + all[n/2]) / 2
	}
	return all[len(all)/2]
}

// longest bounds what is told: beyond a year nobody waits.
const longest = 365 * 24 * time.Hour

func seconds(s float64) time.Duration {
	return time.Duration(min(max(s, 0), longest.Seconds()) * float64(time.Second))
}

// size is a number of bytes for a person.
func size(n float64) string {
	for _, u := range []string{"B", "KiB", "MiB", "GiB"} {
		if n < 1024 {
			if u == "B" {
				return fmt.Sprintf("%.0f B", n)
			}
			return fmt.Sprintf("%.1f %s", n, u)
		}
		n /= 1024
	}
	return fmt.Sprintf("%.1f TiB", n)
}
