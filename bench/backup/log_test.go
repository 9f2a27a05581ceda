package main

import (
	"strings"
	"testing"
	"time"
)

func TestTheVerdictNamesWhatTheLogMissed(t *testing.T) {
	for name, c := range map[string]struct {
		tps, drain float64
		lag        time.Duration
		want       string // "" = nothing was missed
	}{
		"all targets are met":      {tps: 990, drain: 25, lag: 2 * time.Second},
		"the vault is behind":      {tps: 990, drain: 25, lag: 6 * time.Second, want: "in the vault 6s after"},
		"the primary is held up":   {tps: 900, drain: 25, lag: time.Second, want: "leaves 0.900"},
		"what waited goes slowly":  {tps: 990, drain: 15, lag: time.Second, want: "stored 1.50 times"},
		"the slowest mark is seen": {tps: 990, drain: 25, lag: 7 * time.Second, want: "in the vault 7s after"},
	} {
		t.Run(name, func(t *testing.T) {
			lags := []time.Duration{time.Second, c.lag, time.Second}
			b := &bench{logs: []logged{{system: nobody, tps: 1000}, {system: ours, tps: c.tps, lags: lags, arrival: 10, drain: c.drain}}}
			err := b.verdict()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("verdict %v, want %q", err, c.want)
			}
		})
	}
}

func TestTheQuantileOfMarks(t *testing.T) {
	var v []time.Duration
	for i := range 100 {
		v = append(v, time.Duration(100-i))
	}
	for share, want := range map[float64]time.Duration{0.5: 51, 0.99: 100, 1: 100} {
		if got := quantile(v, share); got != want {
			t.Errorf("%v: got %d", share, got)
		}
	}
	if quantile(nil, 0.5) != 0 {
		t.Error("of none")
	}
}
