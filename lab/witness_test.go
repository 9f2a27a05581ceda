package lab_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// witness does the same little work again and again beside what is measured, and notes how long it took: it tells whether the
// machine was as fast at one time as at another, whoever else used it.
type witness struct {
	mu    sync.Mutex // guards looks
	looks []look
}

// look is one time that the work was done.
type look struct {
	at   time.Time
	took time.Duration
}

const (
	witnessPace = 50 * time.Millisecond
	witnessWork = 4 << 20  // bytes that are hashed each time: some milliseconds
	witnessPut  = 64 << 10 // of them, bytes that are made durable
)

// startWitness begins to look, and ends with the test. It writes to the disk of dir, a directory that goes with the test.
func startWitness(t *testing.T, dir string) *witness {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "witness"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w, ended := &witness{}, make(chan error, 1)
	go func() { ended <- w.run(ctx, f) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, f.Close()); err != nil {
			t.Errorf("the witness: %v", err)
		}
	})
	return w
}

func (w *witness) run(ctx context.Context, f *os.File) error {
	work := make([]byte, witnessWork)
	for ; ctx.Err() == nil; pauseFor(ctx, witnessPace) {
		began := time.Now()
		sum := sha256.Sum256(work)
		copy(work, sum[:])
		if _, err := f.WriteAt(work[:witnessPut], 0); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		w.mu.Lock()
		w.looks = append(w.looks, look{began, time.Since(began)})
		w.mu.Unlock()
	}
	return nil
}

// between is what the work took on average between two moments; 0 = it was not done.
func (w *witness) between(from, to time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	sum, n := time.Duration(0), 0
	for _, l := range w.looks {
		if l.at.After(from) && l.at.Before(to) {
			sum, n = sum+l.took, n+1
		}
	}
	return sum / time.Duration(max(n, 1))
}

// pace is how long the witness's work took while a restore was foreseen by a sample, and while it was done.
type pace struct{ sample, run time.Duration }

const (
	// paceMax is by how much the machine's speed may change, as a part, for a forecast to be held to what it said.
	paceMax = 0.2
	// pacesHeard is how many earlier restores a forecast goes by, as package forecast has it.
	pacesHeard = 3
)

// changed says how the machine's speed was not what a forecast had gone by: from the sample to the restore it changed otherwise
// than with the earlier ones, by which a sample is corrected, or the restore was done at another speed than they were. "" = it was
// steady. Pure.
func (p pace) changed(earlier []pace) string {
	earlier = earlier[max(0, len(earlier)-pacesHeard):]
	if p.sample <= 0 || p.run <= 0 || len(earlier) == 0 {
		return "its speed is not known"
	}
	var runs, since []float64
	for _, e := range earlier {
		runs, since = append(runs, float64(e.run)), append(since, float64(e.run)/float64(max(e.sample, 1)))
	}
	if by := float64(p.run)/float64(p.sample)/middle(since) - 1; math.Abs(by) > paceMax {
		return fmt.Sprintf("what took %s when it was foreseen took %s when it was done, %+.0f %% against before", p.sample, p.run, 100*by)
	}
	if by := float64(p.run)/middle(runs) - 1; math.Abs(by) > paceMax {
		return fmt.Sprintf("what took %s in the restores that it was foreseen by took %s, %+.0f %%", time.Duration(middle(runs)), p.run, 100*by)
	}
	return ""
}

// middle is the median.
func middle(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

func TestWhatTheWitnessExcuses(t *testing.T) {
	const ms = time.Millisecond
	before := []pace{{1 * ms, 90 * ms}, {10 * ms, 20 * ms}, {12 * ms, 24 * ms}, {8 * ms, 16 * ms}} // the first is too long ago
	for name, c := range map[string]struct {
		now     pace
		before  []pace
		excused bool
	}{
		"as before":                         {pace{10 * ms, 20 * ms}, before, false},
		"a little slower":                   {pace{11 * ms, 23 * ms}, before, false},
		"slower since the sample":           {pace{10 * ms, 25 * ms}, before, true},
		"faster since the sample":           {pace{14 * ms, 20 * ms}, before, true},
		"slower than those it goes by":      {pace{13 * ms, 26 * ms}, before, true},
		"faster than those it goes by":      {pace{7 * ms, 14 * ms}, before, true},
		"the first of all":                  {pace{10 * ms, 20 * ms}, nil, true},
		"the sample was over in no time":    {pace{0, 20 * ms}, before, true},
		"one odd one before changes little": {pace{10 * ms, 20 * ms}, append(slices.Clone(before), pace{10 * ms, 900 * ms}), false},
	} {
		if why := c.now.changed(c.before); (why != "") != c.excused {
			t.Errorf("%s: %q", name, why)
		}
	}
}
