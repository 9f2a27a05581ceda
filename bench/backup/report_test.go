package main

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestTheVerdictNamesWhatWasMissed(t *testing.T) {
	r := func(system, what string, seconds float64) result {
		return result{system: system, what: what, wall: time.Duration(seconds * float64(time.Second)), bytes: 1000, stored: 100}
	}
	good := []result{
		r(ours, "full", 1), r(pgBackRest, "full", 2), r(ours, clustered.what, 1), r(oursProven, clustered.what, 4),
		r(ours, "restore", 1), r(pgBackRest, "restore", 2),
	}
	for name, c := range map[string]struct {
		change func([]result) []result
		want   string // "" = nothing was missed
	}{
		"all targets are met":                    {func(l []result) []result { return l }, ""},
		"a peer that is not there is not judged": {func(l []result) []result { return []result{l[0], l[2], l[3], l[4]} }, ""},
		"a full backup is too slow":              {func(l []result) []result { l[0].wall *= 2; return l }, "a full backup is 1.00 times"},
		"an incremental is too slow":             {func(l []result) []result { l[2].wall *= 2; return l }, "an incremental is 2.00 times"},
		"a restore is too slow":                  {func(l []result) []result { l[4].wall *= 2; return l }, "a restore is 1.00 times"},
		"a copy differs":                         {func(l []result) []result { l[5].differs = "orders has 1"; return l }, "what pgbackrest restored differs: orders has 1"},
		"too much memory":                        {func(l []result) []result { l[0].rss = 600 << 20; return l }, "took 600 MiB"},
		"the slowest round of three is no median": {func(l []result) []result {
			return append(l, r(ours, "full", 9), r(ours, "full", 1))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := &bench{results: c.change(append([]result(nil), good...))}
			err := b.verdict()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("verdict %v, want %q", err, c.want)
			}
		})
	}
}

func TestMedianOfNothingMissesNoTarget(t *testing.T) {
	if m := median(nil); !math.IsNaN(m) {
		t.Errorf("median of nothing is %v", m)
	}
	if m := median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Errorf("median of four is %v", m)
	}
}

// An opening of the vault counts beside the backup, on both sides.
func TestWhatAnIncrementalWouldBeWithAVaultThatIsOpenedForIt(t *testing.T) {
	r := func(system, what string, seconds float64) result {
		return result{system: system, what: what, wall: time.Duration(seconds * float64(time.Second))}
	}
	b := &bench{results: []result{r(ours, opening, 1), r(oursProven, opening, 2), r(ours, clustered.what, 1), r(oursProven, clustered.what, 4)}}
	if held, opened := b.faster(ours, oursProven, clustered.what), b.againOpened(); held != 4 || opened != 3 {
		t.Errorf("held open %v times as fast, opened %v times", held, opened)
	}
}
