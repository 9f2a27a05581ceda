package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"holdfast/bench/machine"
)

// targets are what Holdfast promises clients; the worst round is judged.
var targets = map[fault]time.Duration{crash: 2 * time.Second, hostLoss: 8 * time.Second, standbyLoss: 5 * time.Second, switchover: time.Second}

// aims are what the median shall come to. They are judged as the targets are.
var aims = map[fault]time.Duration{crash: 600 * time.Millisecond, hostLoss: 6 * time.Second, switchover: 500 * time.Millisecond}

// aimNoise is the part of an aim that a median may lie above it and meet it all the same: what measuring itself adds, on a
// machine that sleeps and wakes.
const aimNoise = 0.02

// meetsAim reports whether a fault's median is within its aim; a fault without one is.
func meetsAim(f fault, median time.Duration) bool {
	aim, ok := aims[f]
	return !ok || median <= aim+time.Duration(aimNoise*float64(aim))
}

// ours is the system that is judged; the others are shown beside it.
const ours = "holdfast"

// spread is what several rounds gave.
type spread struct{ least, median, most time.Duration }

func spreadOf(d []time.Duration) spread {
	d = slices.Sorted(slices.Values(d))
	n := len(d)
	return spread{d[0], (d[(n-1)/2] + d[n/2]) / 2, d[n-1]}
}

func (s spread) String() string {
	return fmt.Sprintf("%.2f / %.2f / %.2f", s.least.Seconds(), s.median.Seconds(), s.most.Seconds())
}

// summary is one fault on one system.
type summary struct {
	measured, failed   int
	outage, redundancy spread // zero when nothing was measured
	acknowledged, lost int
}

func summarize(rounds []round, system string, f fault) summary {
	var s summary
	var outages, redundancies []time.Duration
	for _, r := range rounds {
		if r.system != system || r.fault != f {
			continue
		}
		s.acknowledged += r.acknowledged
		s.lost += r.lost
		if r.err != nil {
			s.failed++
			continue
		}
		outages, redundancies = append(outages, r.outage), append(redundancies, r.redundancy)
	}
	if s.measured = len(outages); s.measured > 0 {
		s.outage, s.redundancy = spreadOf(outages), spreadOf(redundancies)
	}
	return s
}

func report(out io.Writer, all []system, rounds []round) {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // standard output
	p("\nseconds: min / median / max\nfault\tsystem\trounds\toutage\tredundant again\tacknowledged\tlost\toutage, times Holdfast's\n")
	for _, f := range faults {
		base := summarize(rounds, ours, f)
		for _, s := range all {
			sum := summarize(rounds, s.name(), f)
			if sum.measured == 0 {
				p("%s\t%s\tnone measured, %d not finished\n", f, s.name(), sum.failed)
				continue
			}
			ratio := "-"
			if s.name() != ours && base.outage.median > 0 {
				ratio = fmt.Sprintf("%.1f", sum.outage.median.Seconds()/base.outage.median.Seconds())
			}
			p("%s\t%s\t%d\t%s\t%s\t%d\t%d\t%s\n", f, s.name(), sum.measured, sum.outage, sum.redundancy, sum.acknowledged, sum.lost, ratio)
		}
	}
	p("\nA lost host comes back %s later or when writes are back, whichever is later; its redundancy counts from then.\nLoad after the run %s, of which the bench itself is a part.\n", awayMin, machine.Load())
	_ = w.Flush()
	for _, f := range faults {
		if line := compared(summarize(rounds, ours, f), f); line != "" {
			_, _ = fmt.Fprintln(out, line) // standard output
		}
	}
}

// compared says how Holdfast's figures stand to what was promised and aimed at.
func compared(sum summary, f fault) string {
	if sum.measured == 0 {
		return ""
	}
	line := fmt.Sprintf("%s: worst %.2f s, promised %.2f s: %s", f, sum.outage.most.Seconds(), targets[f].Seconds(), met(sum.outage.most <= targets[f]))
	if aim, ok := aims[f]; ok {
		line += fmt.Sprintf("; median %.2f s, aimed at %.2f s: %s", sum.outage.median.Seconds(), aim.Seconds(), met(meetsAim(f, sum.outage.median)))
	}
	return line
}

func met(is bool) string {
	if is {
		return "met"
	}
	return "missed"
}

// verdict lists every promise of Holdfast's that did not hold, and every aim that was missed.
func verdict(rounds []round) error {
	var errs []error
	for _, f := range faults {
		sum := summarize(rounds, ours, f)
		if sum.lost > 0 {
			errs = append(errs, fmt.Errorf("%s: %d acknowledged rows are lost", f, sum.lost))
		}
		if sum.failed > 0 || sum.measured == 0 {
			errs = append(errs, fmt.Errorf("%s: %d rounds measured, %d not finished", f, sum.measured, sum.failed))
		}
		if most := sum.outage.most; most > targets[f] {
			errs = append(errs, fmt.Errorf("%s: an outage of %.2f s, at most %.0f s are promised", f, most.Seconds(), targets[f].Seconds()))
		}
		if median := sum.outage.median; !meetsAim(f, median) {
			errs = append(errs, fmt.Errorf("%s: a median outage of %.3f s, %.2f s is aimed at, and %.0f %% beside it allowed", f, median.Seconds(), aims[f].Seconds(), 100*aimNoise))
		}
	}
	return errors.Join(errs...)
}
