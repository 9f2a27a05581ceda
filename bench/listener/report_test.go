package main

import (
	"math"
	"testing"
)

func TestAMedianLiesWithinItsMeasurements(t *testing.T) {
	thirty := make([]float64, 30)
	for i := range thirty {
		thirty[i] = float64(i)
	}
	for name, c := range map[string]struct {
		of        []float64
		low, high float64
	}{
		"one":              {[]float64{0.9}, 0.9, 0.9},
		"five: all":        {[]float64{1, 2, 3, 4, 5}, 1, 5},
		"thirty: 10 aside": {thirty, 10, 19}, // of 30 tosses of a coin, 9 or fewer of one side are 2.1 %, 10 or fewer 4.9 %
	} {
		if low, high := within(c.of); low != c.low || high != c.high {
			t.Errorf("%s: %v to %v", name, low, high)
		}
	}
	if low, _ := within(nil); !math.IsNaN(low) {
		t.Errorf("of nothing: %v", low)
	}
}

// A way is held against the direct connection of the same round, and what was not measured misses nothing.
func TestARatioIsOfOneRound(t *testing.T) {
	b := &bench{results: []result{
		{way: direct, load: "select-only 8", tps: 100}, {way: proxied, load: "select-only 8", tps: 50},
		{way: direct, load: "select-only 8", tps: 1000}, {way: proxied, load: "select-only 8", tps: 700},
		{way: direct, load: "select-only 8", tps: 10}, {way: proxied, load: "select-only 8", tps: 9},
	}}
	if got := b.ratio(proxied, "select-only 8"); got != 0.7 {
		t.Errorf("the median of 0.5, 0.7 and 0.9 is %v", got)
	}
	if err := b.verdict(); err != nil {
		t.Errorf("what was not measured misses a target: %v", err)
	}
	b.results = append(b.results, result{way: peer, load: "select-only 8", tps: 73}, result{way: peer, load: "select-only 8", tps: 730}, result{way: peer, load: "select-only 8", tps: 7.3})
	if b.verdict() == nil {
		t.Error("a proxy at 0.70 beside a peer at 0.73 misses nothing")
	}
}
