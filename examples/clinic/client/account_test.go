package client

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const ms = time.Millisecond

// acks makes acknowledged writes that ended at the given moments, each a millisecond long.
func acks(ends ...time.Duration) []Outcome {
	var list []Outcome
	for _, e := range ends {
		list = append(list, Outcome{Path: EdgeWrite, Began: e - ms, Ended: e})
	}
	return list
}

func TestAccountGaps(t *testing.T) {
	type gap struct{ Long, From time.Duration }
	for _, c := range []struct {
		name     string
		marks    []Mark
		outcomes []Outcome
		end      time.Duration
		want     []gap
	}{
		{"the longest time between two acknowledgements is the gap",
			[]Mark{{"start", 0}}, acks(10*ms, 20*ms, 70*ms, 80*ms), 90 * ms, []gap{{50 * ms, 20 * ms}}},
		{"the order in which outcomes were recorded does not matter",
			[]Mark{{"start", 0}}, acks(80*ms, 20*ms, 10*ms, 70*ms), 90 * ms, []gap{{50 * ms, 20 * ms}}},
		{"the time before the first acknowledgement counts",
			[]Mark{{"start", 0}}, acks(60*ms, 70*ms), 80 * ms, []gap{{60 * ms, 0}}},
		{"a path without any acknowledgement is one gap",
			[]Mark{{"start", 0}}, nil, 80 * ms, []gap{{80 * ms, 0}}},
		{"a gap that is still open counts up to now",
			[]Mark{{"start", 0}}, acks(10 * ms), 500 * ms, []gap{{490 * ms, 10 * ms}}},
		{"a gap that began just before its mark is counted whole in the phase of the fault",
			[]Mark{{"start", 0}, {"kill", 100 * ms}}, acks(50*ms, 90*ms, 600*ms), 610 * ms,
			[]gap{{50 * ms, 0}, {510 * ms, 90 * ms}}},
		{"a gap that lasts a moment into the next phase stays with its own",
			[]Mark{{"start", 0}, {"kill", 100 * ms}, {"next", 590 * ms}}, acks(50*ms, 90*ms, 600*ms), 610 * ms,
			[]gap{{50 * ms, 0}, {510 * ms, 90 * ms}, {10 * ms, 600 * ms}}},
		{"a failed request is not an acknowledgement",
			[]Mark{{"start", 0}},
			append(acks(10*ms, 100*ms), Outcome{Path: EdgeWrite, Began: 40 * ms, Ended: 50 * ms, Kind: "HTTP 503"}),
			100 * ms, []gap{{90 * ms, 10 * ms}}},
		{"another path's acknowledgements do not fill a gap",
			[]Mark{{"start", 0}},
			append(acks(10*ms, 100*ms), Outcome{Path: EdgeRead, Began: 40 * ms, Ended: 50 * ms}),
			100 * ms, []gap{{90 * ms, 10 * ms}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []gap
			for _, p := range Account(c.marks, []Path{EdgeWrite}, c.outcomes, c.end) {
				f := p.Paths[EdgeWrite]
				got = append(got, gap{f.LongestGap, f.GapFrom})
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAccountCounts(t *testing.T) {
	marks := []Mark{{"start", 0}, {"kill", 1000 * ms}}
	outcomes := []Outcome{
		{Path: EdgeWrite, Number: 1, Began: 0, Ended: 10 * ms},
		{Path: EdgeWrite, Number: 2, Began: 900 * ms, Ended: 1900 * ms},            // exactly a second is not slow
		{Path: EdgeWrite, Number: 3, Began: 900 * ms, Ended: 1901 * ms},            // slow, in the phase of its end
		{Path: EdgeWrite, Number: 4, Began: 950 * ms, Ended: 1000 * ms, Kind: "a"}, // at the mark: in the phase it begins
		{Path: EdgeWrite, Number: 5, Began: 990 * ms, Ended: 3000 * ms, Kind: "b"}, // failed is never also slow
		{Path: EdgeWrite, Number: 6, Began: 990 * ms, Ended: 999 * ms, Kind: "b"},
	}
	want := []Phase{
		{Name: "start", From: 0, To: 1000 * ms, Paths: map[Path]Figures{EdgeWrite: {Acknowledged: 1, Failed: 1,
			Kinds: map[string]int{"b": 1}, LongestGap: 10 * ms, P50: 10 * ms, P99: 10 * ms, Max: 10 * ms}}},
		{Name: "kill", From: 1000 * ms, To: 3100 * ms, Paths: map[Path]Figures{EdgeWrite: {Acknowledged: 2, Failed: 2, Slow: 1,
			Kinds: map[string]int{"a": 1, "b": 1}, LongestGap: 1890 * ms, GapFrom: 10 * ms, P50: 1000 * ms, P99: 1001 * ms, Max: 1001 * ms}}},
	}
	// The gap from 10 to 1900 ms lies in the first phase for 990 ms and in the second for 900 ms.
	want[0].Paths[EdgeWrite] = with(want[0].Paths[EdgeWrite], 1890*ms, 10*ms)
	want[1].Paths[EdgeWrite] = with(want[1].Paths[EdgeWrite], 1199*ms, 1901*ms)
	if diff := cmp.Diff(want, Account(marks, []Path{EdgeWrite}, outcomes, 3100*ms)); diff != "" {
		t.Error(diff)
	}
}

func TestWorstIsTheLongestGapAndTheSumOfErrors(t *testing.T) {
	p := Phase{Paths: map[Path]Figures{
		EdgeWrite:     {LongestGap: 300 * ms, Failed: 1, Slow: 4},
		EdgeRead:      {LongestGap: 200 * ms, Failed: 2},
		ListenerWrite: {LongestGap: 700 * ms},
	}}
	if gap, failed, slow := p.Worst(); gap != 700*ms || failed != 3 || slow != 4 {
		t.Errorf("gap %v, failed %d, slow %d", gap, failed, slow)
	}
}

func with(f Figures, gap, from time.Duration) Figures {
	f.LongestGap, f.GapFrom = gap, from
	return f
}

// However outcomes and marks fall, nothing is counted twice or forgotten, and the longest gap over all phases
// is the longest one there was.
func TestAccountForgetsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		moments := rapid.SliceOfN(rapid.IntRange(0, 1000), 0, 60)
		ends := moments.Draw(t, "ends")
		marks := []Mark{{Name: "start"}}
		at := 0
		for i, step := range rapid.SliceOfN(rapid.IntRange(0, 300), 0, 5).Draw(t, "marks") {
			at += step
			marks = append(marks, Mark{Name: string(rune('a' + i)), At: time.Duration(at) * ms})
		}
		end := time.Duration(max(1000, at)) * ms
		outcomes := acks()
		seen := make([]bool, end/ms+2)
		failed := 0
		for _, e := range ends {
			o := Outcome{Path: EdgeWrite, Ended: time.Duration(e) * ms}
			if rapid.Bool().Draw(t, "failed") {
				o.Kind = "x"
				failed++
			} else {
				seen[e] = true
			}
			outcomes = append(outcomes, o)
		}
		longest, last := 0, 0
		for i := range int(end/ms) + 1 {
			if seen[i] || time.Duration(i)*ms == end {
				longest = max(longest, i-last)
				last = i
			}
		}
		gotAcknowledged, gotFailed, gotLongest := 0, 0, time.Duration(0)
		for _, p := range Account(marks, []Path{EdgeWrite}, outcomes, end) {
			f := p.Paths[EdgeWrite]
			gotAcknowledged += f.Acknowledged
			gotFailed += f.Failed
			gotLongest = max(gotLongest, f.LongestGap)
		}
		if gotAcknowledged != len(ends)-failed || gotFailed != failed || gotLongest != time.Duration(longest)*ms {
			t.Fatalf("acknowledged %d, failed %d, longest %v; want %d, %d, %d ms",
				gotAcknowledged, gotFailed, gotLongest, len(ends)-failed, failed, longest)
		}
	})
}

func TestCompare(t *testing.T) {
	told := func(numbers ...int64) map[int64]bool {
		set := map[int64]bool{}
		for _, n := range numbers {
			set[n] = true
		}
		return set
	}
	for _, c := range []struct {
		name          string
		told          map[int64]bool
		before, after int64
		stored        []int64
		want          PathVerdict
		good          bool
	}{
		{"every promised row is there", told(1, 2), 2, 2, []int64{2, 1}, PathVerdict{Acknowledged: 2}, true},
		{"a promised row that is gone is lost", told(1, 2, 3), 3, 3, []int64{2},
			PathVerdict{Acknowledged: 3, Lost: []int64{1, 3}}, false},
		{"a row that is there twice is named once", told(1), 1, 1, []int64{1, 1, 1},
			PathVerdict{Acknowledged: 1, Duplicated: []int64{1}}, false},
		{"a row without an answer may be there or not", told(1), 3, 3, []int64{1, 3},
			PathVerdict{Acknowledged: 1, Doubtful: 2, DoubtfulStored: 1}, true},
		{"rows written while reading are nobody's fault", told(1), 1, 3, []int64{1, 2},
			PathVerdict{Acknowledged: 1}, true},
		{"a row that nobody sent is a stranger", told(1), 1, 1, []int64{1, 2, 0},
			PathVerdict{Acknowledged: 1, Strangers: []int64{0, 2}}, false},
		{"no promise at all proves nothing", told(), 0, 0, nil, PathVerdict{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.want.Path = EdgeWrite
			got := compare(EdgeWrite, c.told, c.before, c.after, c.stored)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if err := (Verdict{Paths: []PathVerdict{got}}).Err(); (err == nil) != c.good {
				t.Errorf("verdict: %v", err)
			}
		})
	}
}
