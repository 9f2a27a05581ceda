package forecast_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/restore/forecast"
)

const mib = 1 << 20

var monday = time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC)

func drill(here bool, data, log int64, fetch, start, replay time.Duration) forecast.Run {
	return forecast.Run{Name: "drill h/7", At: monday, Machine: "b1", Here: here, Work: forecast.Work{Data: data, Log: log, Replay: log},
		Took: map[string]time.Duration{forecast.Fetch: fetch, forecast.Start: start, forecast.Replay: replay, forecast.Checks: time.Second}}
}

func trial(data, log int64, fetch, start, replay time.Duration) forecast.Run {
	r := drill(false, data, log, fetch, start, replay)
	r.Name, r.Polite = "the trial of r-1", true
	return r
}

func TestExpect(t *testing.T) {
	work := forecast.Work{Data: 1000 * mib, Log: 200 * mib, Replay: 200 * mib, Checks: true}
	sample := forecast.Sample{{What: "files", Unit: "MiB", Done: 100 * mib, Of: 1000 * mib, Took: time.Second}, {What: "log", Unit: "MiB", Done: 20 * mib, Of: 200 * mib, Took: 500 * time.Millisecond}}
	slow := drill(true, 1000*mib, 200*mib, 30*time.Second, 2*time.Second, 4*time.Second)
	slow.Sampled = 15 * time.Second
	odd := slow
	odd.Sampled = time.Second // thirty times what it said: something else was different
	odd.Name, odd.At = "drill h/8", monday.Add(time.Hour)
	over := slow
	over.Sampled = 300 * time.Second // a tenth of what it said
	trickle := forecast.Sample{{What: "files", Unit: "MiB", Done: mib, Of: 1000 * mib, Took: time.Second}}
	for name, c := range map[string]struct {
		work   forecast.Work
		runs   []forecast.Run
		sample forecast.Sample
		want   map[string]float64 // seconds by phase; a phase that is missing is not known
		says   map[string]string
	}{
		"with nothing measured nothing is known": {work, nil, nil, map[string]float64{},
			map[string]string{"fetch": "nothing was read on trial", "start": "no server was started", "replay": "none was replayed yet", "checks": "not made"}},
		"a sample alone tells the fetch": {work, nil, sample, map[string]float64{"fetch": 15}, map[string]string{"fetch": "100.0 MiB of 1000.0 MiB of files at 100.0 MiB a second"}},
		"a trial tells what is not known otherwise": {work, []forecast.Run{trial(500*mib, 50*mib, 5*time.Second, time.Second, 2*time.Second)}, sample,
			map[string]float64{"fetch": 15, "start": 1, "replay": 8, "checks": 1}, map[string]string{"replay": "25.0 MiB a second, as in the trial of r-1 of 2026-03-02 03:00Z (on b1), which made nothing durable"}},
		"a trial's fetch counts where there is no better": {work, []forecast.Run{trial(500*mib, 100*mib, 6*time.Second, time.Second, time.Second)}, nil,
			map[string]float64{"fetch": 12, "start": 1, "replay": 2, "checks": 1}, nil},
		"a drill here goes before one elsewhere, and that before a trial": {work,
			[]forecast.Run{trial(1000*mib, 200*mib, time.Second, time.Second, time.Second), drill(false, 1000*mib, 200*mib, 2*time.Second, 2*time.Second, 2*time.Second), drill(true, 1000*mib, 200*mib, 3*time.Second, 3*time.Second, 3*time.Second)}, nil,
			map[string]float64{"fetch": 3, "start": 3, "replay": 3, "checks": 1}, map[string]string{"fetch": "400.0 MiB a second, as in drill h/7"}},
		"of three the middle one counts": {work, []forecast.Run{
			drill(true, 1000*mib, 200*mib, 10*time.Second, time.Second, time.Second), drill(true, 1000*mib, 200*mib, 90*time.Second, 9*time.Second, 9*time.Second), drill(true, 1000*mib, 200*mib, 12*time.Second, 2*time.Second, 2*time.Second)}, nil,
			map[string]float64{"fetch": 12, "start": 2, "replay": 2, "checks": 1}, nil},
		"what samples missed on this machine is learned": {work, []forecast.Run{slow}, sample, map[string]float64{"fetch": 30, "start": 2, "replay": 4, "checks": 1}, map[string]string{"fetch": "2.00 times"}},
		"beyond measure, what restores took counts": {work, []forecast.Run{odd}, sample, map[string]float64{"fetch": 30, "start": 2, "replay": 4, "checks": 1},
			map[string]string{"fetch": "40.0 MiB a second, as in drill h/8 of 2026-03-02 04:00Z; a sample of now lets expect 15s, but 1 of the newest restores on this machine took 30.00 times what such a sample said, so what was measured counts"}},
		"also where samples say too much": {work, []forecast.Run{over}, forecast.Sample{{What: "files", Unit: "MiB", Done: mib, Of: 1000 * mib, Took: 200 * time.Millisecond}}, map[string]float64{"fetch": 30, "start": 2, "replay": 4, "checks": 1}, nil},
		"but a way that is slower today is not forgotten": {work, []forecast.Run{odd}, trickle, map[string]float64{"fetch": 1000, "start": 2, "replay": 4, "checks": 1},
			map[string]string{"fetch": "thought of as the least, and more than what was measured"}},
		"nor with samples that say too much":           {work, []forecast.Run{over}, trickle, map[string]float64{"fetch": 100, "start": 2, "replay": 4, "checks": 1}, nil},
		"one odd restore among others is not believed": {work, []forecast.Run{slow, slow, odd}, sample, map[string]float64{"fetch": 30, "start": 2, "replay": 4, "checks": 1}, map[string]string{"fetch": "the last 2 restores on this machine took 2.00 times"}},
		"of one and one the newer decides":             {work, []forecast.Run{slow, odd}, sample, map[string]float64{"fetch": 30, "start": 2, "replay": 4, "checks": 1}, map[string]string{"fetch": "30.00 times"}},
		"a little log says nothing of much": {work, []forecast.Run{trial(1000*mib, 2*mib, time.Second, time.Second, time.Millisecond)}, sample,
			map[string]float64{"fetch": 15, "start": 1, "checks": 1}, map[string]string{"replay": "2.0 MiB at most, which says too little"}},
		"a restore has no checks": {forecast.Work{Data: mib, Log: mib, Replay: mib}, []forecast.Run{drill(true, mib, mib, time.Second, time.Second, time.Second)}, nil,
			map[string]float64{"fetch": 1, "start": 1, "replay": 1}, nil},
		"a sample that read nothing of one kind tells nothing": {work, nil, forecast.Sample{sample[0], {What: "small files", Unit: "files", Of: 7}}, map[string]float64{}, map[string]string{"fetch": "nothing was read"}},
		"log that is too slow to be read in time is taken as the files": {work, nil, forecast.Sample{sample[0], {What: "log", Unit: "MiB", Of: 200 * mib, Took: time.Second}}, map[string]float64{"fetch": 12},
			map[string]string{"fetch": "none of 200.0 MiB of log within the time"}},
		"no log takes no time": {forecast.Work{Data: mib}, nil, nil, map[string]float64{"replay": 0}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := forecast.Expect(c.work, c.runs, c.sample)
			got := map[string]float64{}
			for _, p := range f.Phases {
				if p.Known {
					got[p.Name] = p.Seconds
				}
				if !strings.Contains(p.Because, c.says[p.Name]) {
					t.Errorf("%s: %q does not say %q", p.Name, p.Because, c.says[p.Name])
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if want := len(c.want) == len(f.Phases); f.Known != want {
				t.Errorf("known is %v, want %v", f.Known, want)
			}
		})
	}
}

func TestMissed(t *testing.T) {
	for _, c := range []struct {
		expected, measured time.Duration
		want               bool
	}{{75, 100, false}, {74, 100, true}, {125, 100, false}, {126, 100, true}, {0, 0, false}} {
		if got := forecast.Missed(c.expected*time.Second, c.measured*time.Second); got != c.want {
			t.Errorf("expected %d, measured %d: missed is %v", c.expected, c.measured, got)
		}
	}
}

func genWork(t *rapid.T) forecast.Work {
	bytes := rapid.Int64Range(0, 1<<40)
	return forecast.Work{Data: bytes.Draw(t, "data"), Log: bytes.Draw(t, "log"), Replay: bytes.Draw(t, "replay"), Checks: rapid.Bool().Draw(t, "checks")}
}

func genRun(t *rapid.T) forecast.Run {
	took := rapid.Int64Range(0, int64(24*time.Hour))
	r := forecast.Run{Name: rapid.StringMatching("[a-d]{4}").Draw(t, "name"), At: monday.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "hours")) * time.Hour),
		Here: rapid.Bool().Draw(t, "here"), Polite: rapid.Bool().Draw(t, "polite"), Work: genWork(t), Sampled: time.Duration(took.Draw(t, "sampled")), Took: map[string]time.Duration{}}
	for _, p := range []string{forecast.Fetch, forecast.Start, forecast.Replay, forecast.Checks} {
		if rapid.Bool().Draw(t, p+" measured") {
			r.Took[p] = time.Duration(took.Draw(t, p))
		}
	}
	return r
}

func genRuns(t *rapid.T) []forecast.Run {
	runs := rapid.SliceOfNDistinct(rapid.Custom(genRun), 0, 8, func(r forecast.Run) string { return r.Name }).Draw(t, "runs")
	return runs
}

func genSample(t *rapid.T) forecast.Sample {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) forecast.Part {
		return forecast.Part{What: "files", Unit: rapid.SampledFrom([]string{"files", "MiB"}).Draw(t, "unit"), Done: rapid.Int64Range(0, 1<<28).Draw(t, "done"),
			Of: rapid.Int64Range(0, 1<<40).Draw(t, "of"), Took: time.Duration(rapid.Int64Range(0, int64(10*time.Second)).Draw(t, "took"))}
	}), 0, 3).Draw(t, "sample")
}

// Whatever was measured: each phase has a reason, only a known one has a time, and the sums agree.
func TestAForecastIsWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := forecast.Expect(genWork(t), genRuns(t), genSample(t))
		sum, known := time.Duration(0), true
		for _, p := range f.Phases {
			if p.Because == "" || p.Expected < 0 || !p.Known && (p.Expected != 0 || p.Seconds != 0) || p.Seconds != p.Expected.Seconds() {
				t.Fatalf("%+v", p)
			}
			sum, known = sum+p.Expected, known && p.Known
		}
		if f.Total != sum || f.Known != known || f.Seconds != sum.Seconds() {
			t.Fatalf("%+v: the phases come to %s, known %v", f, sum, known)
		}
	})
}

// The order in which evidence is found does not matter.
func TestTheOrderOfEvidenceDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, runs, s := genWork(t), genRuns(t), genSample(t)
		want := forecast.Expect(w, runs, s)
		dice := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		dice.Shuffle(len(runs), func(i, j int) { runs[i], runs[j] = runs[j], runs[i] })
		if diff := cmp.Diff(want, forecast.Expect(w, runs, s)); diff != "" {
			t.Fatal(diff)
		}
	})
}

// With nothing but one restore here, the same again is expected to take what it took.
func TestTheSameAgainTakesAsLong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := genRun(t)
		r.Here, r.Polite, r.Sampled, r.Work.Replay = true, false, 0, r.Work.Replay+1
		f := forecast.Expect(r.Work, []forecast.Run{r}, nil)
		for _, p := range f.Phases {
			took, measured := r.Took[p.Name]
			if p.Name == forecast.Fetch && r.Work.Data+r.Work.Log == 0 {
				continue
			}
			if p.Known != measured || (p.Expected-took).Abs() > time.Millisecond {
				t.Fatalf("%+v, and it took %s (measured: %v)", p, took, measured)
			}
		}
	})
}

// More to do is never expected to take less, with the same evidence, as long as the replay is known either way.
func TestMoreWorkTakesNoLess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, runs := genWork(t), genRuns(t)
		more := w
		more.Data += rapid.Int64Range(0, 1<<40).Draw(t, "more data")
		more.Log += rapid.Int64Range(0, 1<<40).Draw(t, "more log")
		a, b := forecast.Expect(w, runs, nil), forecast.Expect(more, runs, nil)
		if a.Known != b.Known || b.Total < a.Total {
			t.Fatalf("%s for %+v, %s for %+v", a.Total, w, b.Total, more)
		}
	})
}

// Where samples miss beyond measure, always in the same way, the restores that were missed are learned from.
func TestWhatSamplesMissMostIsLearned(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		took := time.Duration(rapid.Int64Range(int64(time.Second), int64(time.Hour)).Draw(t, "took"))
		factor := rapid.Float64Range(0.001, 1000).Draw(t, "factor")
		sampled := max(time.Duration(float64(took)/factor), 1)
		var runs []forecast.Run
		for range rapid.IntRange(1, 4).Draw(t, "drills") {
			runs = append(runs, forecast.Run{Name: "drill h/1", At: monday, Here: true, Work: forecast.Work{Data: 1 << 30}, Took: map[string]time.Duration{forecast.Fetch: took}, Sampled: sampled})
		}
		f := forecast.Expect(forecast.Work{Data: 1 << 30}, runs, forecast.Sample{{What: "files", Unit: "MiB", Done: 1 << 30, Of: 1 << 30, Took: sampled}})
		if got := f.Phase(forecast.Fetch); !got.Known || forecast.Missed(got.Expected, took) {
			t.Fatalf("it always took %s, and %s is expected: %s", took, got.Expected, got.Because)
		}
	})
}
