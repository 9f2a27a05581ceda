package main

import (
	"os"
	"os/exec"
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

// The machine is another one in each slice; what archiving costs is not.
func TestCommitsAreComparedWithTheSliceBeside(t *testing.T) {
	b := &bench{}
	for slice, tps := range []float64{1000, 500, 2000, 700} {
		b.logs = append(b.logs, logged{system: nobody, slice: slice, tps: tps}, logged{system: ours, slice: slice, tps: 0.96 * tps})
	}
	b.logs = append(b.logs, logged{system: pgBackRest, slice: 2, tps: 1000}, logged{system: ours, slice: 9, tps: 1}) // nothing was measured beside the last
	if kept := b.commitsKept(ours); len(kept) != 4 || quantile(kept, 0) < 0.959 || quantile(kept, 1) > 0.961 {
		t.Errorf("ours keeps %v", kept)
	}
	if kept := b.commitsKept(pgBackRest); len(kept) != 1 || kept[0] != 0.5 {
		t.Errorf("the peer keeps %v", kept)
	}
}

// Writers that are held to a rate have their turns spread over the second; the others begin at once.
func TestTheTurnsOfWriters(t *testing.T) {
	now := time.Unix(1, 0)
	free, held := &bench{}, &bench{options: options{logRate: 400}}
	if got := free.pace(now); !got.Equal(now) {
		t.Errorf("one that is free begins %s later", got.Sub(now))
	}
	if got := held.pace(now).Sub(now); got != logWriters*time.Second/400 {
		t.Errorf("one of four that make 400 a second begins %s later", got)
	}
}

// What a process began counts, also when it has ended.
func TestTheTimeOfAProcessAndWhatItBegan(t *testing.T) {
	before, err := usedByAll(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	after, err := usedByAll(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	used := child.ProcessState.UserTime() + child.ProcessState.SystemTime()
	if got := after - before; got < used-5*time.Second/ticks { // each sum is rounded to ticks
		t.Errorf("%s were added, the child took %s", got, used)
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
	if quantile[time.Duration](nil, 0.5) != 0 {
		t.Error("of none")
	}
}
