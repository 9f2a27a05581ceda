package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"text/tabwriter"

	"holdfast/bench/machine"
)

// result is one measurement.
type result struct {
	way, load string
	tps       float64
	cpu       float64 // microseconds of processor time for each transaction, of the process in the path
}

// The targets. noise is what two measurements of the same thing differ by on a machine that does nothing else.
const (
	kernelLeast = 0.95
	noise       = 0.02
)

// of lists what a way reached under a load and what it cost, by round.
func (b *bench) of(way, load string) (tps, cpu []float64) {
	for _, r := range b.results {
		if r.way == way && r.load == load {
			tps, cpu = append(tps, r.tps), append(cpu, r.cpu)
		}
	}
	return tps, cpu
}

// ratios lists what a way reached against the direct connection in the same round, the least first.
func (b *bench) ratios(way, load string) []float64 {
	base, _ := b.of(direct, load)
	tps, _ := b.of(way, load)
	var all []float64
	for i := range min(len(base), len(tps)) {
		all = append(all, tps[i]/base[i])
	}
	slices.Sort(all)
	return all
}

// ratio is the median of [bench.ratios]. NaN, which misses no target, says that one of them was not measured.
func (b *bench) ratio(way, load string) float64 {
	all := b.ratios(way, load)
	if len(all) == 0 {
		return math.NaN()
	}
	return median(all)
}

// within is where the true median lies, nine times of ten: so many of n measurements to either side of their middle that more
// would be as rare as that if each fell on either side of it by chance (sign test, in its normal approximation). Pure.
func within(sorted []float64) (low, high float64) {
	n := len(sorted)
	if n == 0 {
		return math.NaN(), math.NaN()
	}
	aside := max(int(math.Floor((float64(n)-1.645*math.Sqrt(float64(n)))/2)), 0)
	return sorted[aside], sorted[n-1-aside]
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

func (b *bench) report() {
	w := tabwriter.NewWriter(b.out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // standard output
	p("\ntransactions a second: min / median / max\nload, clients\tway\ttransactions/s\tof direct, median of rounds\tnine times of ten within\tits own processor time, us each\n")
	for _, l := range loads {
		for _, way := range b.ways {
			tps, cpu := b.of(way.name, l.name)
			if len(tps) == 0 {
				continue
			}
			low, high := within(b.ratios(way.name, l.name))
			p("%s\t%s\t%.0f / %.0f / %.0f\t%.2f\t%.2f to %.2f\t%.1f\n", l.name, way.name, slices.Min(tps), median(tps), slices.Max(tps), b.ratio(way.name, l.name), low, high, median(cpu))
		}
	}
	p("\nLoad after the run %s, of which the bench itself is a part.\n", machine.Load())
	_ = w.Flush()
}

// verdict names every target that was missed.
func (b *bench) verdict() error {
	var missed []error
	for _, l := range loads {
		if got := b.ratio(proxied, l.name); got < b.ratio(peer, l.name)-noise {
			missed = append(missed, fmt.Errorf("%s: proxy reaches %.2f of direct, HAProxy %.2f", l.name, got, b.ratio(peer, l.name)))
		}
		if b.ratio(kernel, l.name) < kernelLeast {
			missed = append(missed, fmt.Errorf("%s: kernel reaches %.2f of direct, the target is %.2f", l.name, b.ratio(kernel, l.name), kernelLeast))
		}
	}
	if len(missed) > 0 {
		return fmt.Errorf("targets missed:\n%w", errors.Join(missed...))
	}
	return nil
}
