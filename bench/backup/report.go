package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"text/tabwriter"

	"holdfast/bench/machine"
)

// The targets, in medians of rounds.
const (
	fullLeast    = 1.3 // times pgBackRest's rate
	againLeast   = 3   // times faster than reading everything again
	restoreLeast = 1.2 // times pgBackRest's rate
	rssMost      = 512 << 20
)

// of lists a system's measurements of one kind.
func (b *bench) of(system, what string) []result {
	var out []result
	for _, r := range b.results {
		if r.system == system && r.what == what {
			out = append(out, r)
		}
	}
	return out
}

func each(list []result, value func(result) float64) []float64 {
	out := make([]float64, len(list))
	for i, r := range list {
		out[i] = value(r)
	}
	return out
}

// median is NaN, which misses no target, when nothing was measured.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// faster is how many times one system is as fast as another at the same thing, by medians.
func (b *bench) faster(system, than, what string) float64 {
	seconds := func(r result) float64 { return r.wall.Seconds() }
	return median(each(b.of(than, what), seconds)) / median(each(b.of(system, what), seconds))
}

// againOpened is how many times as fast an incremental is as reading everything again, were the vault opened for each.
func (b *bench) againOpened() float64 {
	seconds := func(system, what string) float64 {
		return median(each(b.of(system, what), func(r result) float64 { return r.wall.Seconds() }))
	}
	return (seconds(oursProven, opening) + seconds(oursProven, clustered.what)) / (seconds(ours, opening) + seconds(ours, clustered.what))
}

func (b *bench) report() {
	w := tabwriter.NewWriter(b.out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // standard output
	if !b.logOnly {
		b.reportBackups(p)
	}
	b.reportLog(p)
	p("\nlimits on this data, one core\tMB/s\t\n")
	for _, l := range b.limits {
		p("%s\t%.0f\t%s\n", l.what, l.rate, l.note)
	}
	if !b.logOnly {
		b.prices(p)
		p("\nCPU s counts the program, its children and the server's processes. Every restored copy was started and compared.\n")
	}
	p("\nMB = 10^6 bytes.\n")
	p("Load after the run %s, of which the bench itself is a part.\n", machine.Load())
	_ = w.Flush()
}

func (b *bench) reportBackups(p func(format string, args ...any)) {
	p("\nwhat\tsystem\tseconds: min / median / max\tMB/s\tCPU s\tMB stored\tof the data\tMiB at most\n")
	for _, what := range []string{"full", clustered.what, scattered.what, "full again", opening, "restore"} {
		for _, s := range b.systems {
			list := b.of(s.name, what)
			if len(list) == 0 {
				continue
			}
			t := each(list, func(r result) float64 { return r.wall.Seconds() })
			stored := median(each(list, func(r result) float64 { return float64(r.stored) }))
			share := "-"
			if what != "restore" && what != opening {
				share = fmt.Sprintf("%.3f", stored/float64(list[0].bytes))
			}
			p("%s\t%s\t%.2f / %.2f / %.2f\t%.0f\t%.2f\t%.1f\t%s\t%.0f\n", what, s.name, slices.Min(t), median(t), slices.Max(t),
				median(each(list, result.rate)), median(each(list, func(r result) float64 { return r.cpu.Seconds() })), stored/1e6, share,
				slices.Max(each(list, func(r result) float64 { return float64(r.rss >> 20) })))
		}
	}
	for _, c := range []change{clustered, scattered} {
		p("An incremental of what is %s (%.1f %% of all pages changed) is %.2f times as fast as reading everything again.\n",
			c.what, 100*median(b.changed[c.what]), b.faster(ours, oursProven, c.what))
	}
	if len(b.of(ours, opening)) > 0 {
		p("A backup of Holdfast's is made with the vault held open, as agents hold it. Opened for each, the first of them would be %.2f times as fast.\n", b.againOpened())
	}
}

// verdict names every copy that differs and every target that was missed.
func (b *bench) verdict() error {
	var missed []error
	for _, r := range b.results {
		if r.differs != "" {
			missed = append(missed, fmt.Errorf("what %s restored differs: %s", r.system, r.differs))
		}
		if (r.system == ours || r.system == oursProven) && r.rss > rssMost {
			missed = append(missed, fmt.Errorf("%s of %s took %d MiB of memory, the target is %d", r.what, r.system, r.rss>>20, rssMost>>20))
		}
	}
	for _, t := range []struct {
		words string
		got   float64
		least float64
	}{
		{"a full backup is %.2f times as fast as pgBackRest's, the target is %.1f", b.faster(ours, pgBackRest, "full"), fullLeast},
		{"an incremental is %.2f times as fast as reading everything again, the target is %.1f", b.faster(ours, oursProven, clustered.what), againLeast},
		{"a restore is %.2f times as fast as pgBackRest's, the target is %.1f", b.faster(ours, pgBackRest, "restore"), restoreLeast},
	} {
		if t.got < t.least {
			missed = append(missed, fmt.Errorf(t.words, t.got, t.least))
		}
	}
	missed = append(missed, b.verdictLog()...)
	if len(missed) > 0 {
		return fmt.Errorf("targets missed:\n%w", errors.Join(missed...))
	}
	return nil
}
