package upkeep

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var day0 = time.Unix(2e9, 0).UTC()

func at(hours float64) time.Time { return day0.Add(time.Duration(hours * float64(time.Hour))) }

func ran(from, to float64) RunInfo { return RunInfo{Start: at(from), End: at(to), Success: true} }

func broke(from, to float64) RunInfo {
	return RunInfo{Start: at(from), End: at(to), Error: "broken off"}
}

func TestWhatTwoLooksAllowToDrop(t *testing.T) {
	for name, c := range map[string]struct {
		looks []RunInfo
		want  time.Time
	}{
		"never looked":                           {nil, time.Time{}},
		"one look":                               {[]RunInfo{ran(0, 1)}, time.Time{}},
		"two close together":                     {[]RunInfo{ran(3, 4), ran(0, 1)}, time.Time{}},
		"exactly the margin apart":               {[]RunInfo{ran(5, 6), ran(0, 1)}, time.Time{}},
		"more than the margin apart":             {[]RunInfo{ran(5.1, 6), ran(0, 1)}, at(-1)},
		"the begin of the first counts":          {[]RunInfo{ran(9, 10), ran(0, 4)}, at(-1)},
		"the latest that is far enough":          {[]RunInfo{ran(10, 10), ran(8, 8), ran(5, 5), ran(0, 0)}, at(4)},
		"a look that broke off is none":          {[]RunInfo{broke(10, 10), ran(5, 5), ran(4, 4)}, time.Time{}},
		"a first look that broke off is none":    {[]RunInfo{ran(10, 10), broke(0, 0)}, time.Time{}},
		"by a clock that went back":              {[]RunInfo{ran(10, 10), ran(5, 1)}, time.Time{}},
		"in no order, as two programs leave it":  {[]RunInfo{ran(0, 0), ran(10, 10), ran(5, 5)}, at(4)},
		"far apart, with one that broke between": {[]RunInfo{ran(10, 10), broke(8, 8), ran(0, 0)}, at(-1)},
	} {
		if got := dropBefore(&Schedule{Runs: map[Task][]RunInfo{TaskCollect: c.looks}}, Full(), at(20)); !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if got := dropBefore(&Schedule{}, None(), at(20)); !got.Equal(at(20)) {
		t.Errorf("with nobody else at work: %v", got)
	}
}

func TestJoiningAndDeletingTakeTurns(t *testing.T) {
	for name, c := range map[string]struct {
		joined, deleted []RunInfo
		now             float64
		join, free      bool
	}{
		"never ran":                         {nil, nil, 0, true, true},
		"just joined":                       {[]RunInfo{ran(0, 1)}, nil, 1.5, false, false},
		"joined an hour ago":                {[]RunInfo{ran(0, 1)}, nil, 2, false, true},
		"joined, and deleted after it":      {[]RunInfo{ran(0, 1)}, []RunInfo{ran(3, 3)}, 24, true, true},
		"deleted, and joined after it":      {[]RunInfo{ran(4, 5)}, []RunInfo{ran(3, 3)}, 24, false, true},
		"a joining broke off just now":      {[]RunInfo{broke(23.5, 23.5), ran(0, 1)}, []RunInfo{ran(3, 3)}, 24, true, false},
		"a joining broke off an hour ago":   {[]RunInfo{broke(22, 23), ran(0, 1)}, []RunInfo{ran(3, 3)}, 24, true, true},
		"a deleting that broke off is none": {[]RunInfo{ran(0, 1)}, []RunInfo{broke(3, 3)}, 24, false, true},
	} {
		s := &Schedule{Runs: map[Task][]RunInfo{TaskRewrite: c.joined, TaskDelete: c.deleted}}
		if join, free := rewriteDue(s, Full()), deleteDue(s, Full(), at(c.now)); join != c.join || free != c.free {
			t.Errorf("%s: join %v, delete %v", name, join, free)
		}
	}
	s := &Schedule{Runs: map[Task][]RunInfo{TaskRewrite: {ran(0, 1)}}}
	if !rewriteDue(s, None()) || !deleteDue(s, None(), at(1)) {
		t.Error("with nobody else at work something is waited for")
	}
}

// However often upkeep runs, a look of more than three days ago is kept to measure from, and the blob stays small.
func TestFrequentRunsDoNotPushOutTheOldOnes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, now := &Schedule{}, day0
		safety := Full()
		safety.MarginBetweenSnapshotGC = 72 * time.Hour
		var all []RunInfo
		for range rapid.IntRange(1, 400).Draw(t, "runs") {
			now = now.Add(time.Duration(rapid.Int64Range(1, int64(30*time.Hour)).Draw(t, "pause")))
			i := RunInfo{Start: now, End: now.Add(time.Minute), Success: rapid.IntRange(0, 9).Draw(t, "luck") > 0}
			all = append(all, i)
			s.report(TaskCollect, i)
			kept := s.Runs[TaskCollect]
			if len(kept) > looksKept || kept[0].Start != i.Start || !slices.IsSortedFunc(kept, func(a, b RunInfo) int { return b.Start.Compare(a.Start) }) {
				t.Fatalf("%d kept: %v", len(kept), kept)
			}
		}
		got := dropBefore(s, safety, now)
		exact := dropBefore(&Schedule{Runs: map[Task][]RunInfo{TaskCollect: all}}, safety, now)
		if got.After(exact) {
			t.Fatalf("by what is kept %v, by all runs %v", got, exact)
		}
		if !exact.IsZero() && exact.Sub(got) > 3*24*time.Hour {
			t.Fatalf("by what is kept %v, by all runs %v", got, exact)
		}
	})
}

// Runs that come more often than one in half a day are thinned and do not all go: what was marked is dropped within days.
func TestHoweverOftenItRunsThereIsALookOfDaysAgo(t *testing.T) {
	for _, every := range []time.Duration{20 * time.Minute, time.Hour, 6 * time.Hour, 11 * time.Hour, 13 * time.Hour, 24 * time.Hour} {
		for _, failing := range []int{0, 2, 3} { // each so many-th run
			s, now, safety := &Schedule{}, day0, Full()
			safety.MarginBetweenSnapshotGC = 72 * time.Hour
			for n := range int(30 * 24 * time.Hour / every) {
				s.report(TaskCollect, RunInfo{Start: now, End: now.Add(time.Minute), Success: failing == 0 || n%failing > 0})
				now = now.Add(every)
			}
			if behind := now.Sub(dropBefore(s, safety, now)); behind > 7*24*time.Hour {
				t.Errorf("every %s, failing %d: nothing of the last %s is dropped", every, failing, behind)
			}
		}
	}
}

func TestWhichPacksAreShort(t *testing.T) {
	made := map[string]*pack{}
	add := func(name string, total int64, live int, oldest, newest int64) {
		made[name] = &pack{name: name, total: total, live: live, oldest: oldest, newest: newest}
	}
	add("p-late", 10, 3, 50, 60)
	add("p-early", 10, 3, 10, 20)
	add("p-full", 60, 3, 10, 20)
	add("p-young", 10, 3, 10, 101)
	add("p-gone", 10, 0, 0, 0) // all of it is deleted
	add("q-alone", 10, 3, 10, 20)
	add("q-gone", 10, 0, 0, 0)
	add("", 0, 3, 10, 20)
	var got []string
	for _, p := range short(made, 60, 100) {
		got = append(got, p.name)
	}
	if want := []string{"p-early", "p-late"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// keyed derives a key as a repository does.
type keyed string

func (k keyed) DeriveKey(purpose string, n int) ([]byte, error) {
	return fmt.Appendf(nil, "%-*.*s", n, n, string(k)+purpose), nil
}

func TestAScheduleIsReadAsItWasWritten(t *testing.T) {
	s := &Schedule{NextFull: at(24), Runs: map[Task][]RunInfo{TaskDrop: {ran(1, 2), broke(0, 0.5)}}}
	raw, err := sealSchedule(keyed("a"), s)
	if err != nil {
		t.Fatal(err)
	}
	var got Schedule
	if err := openSchedule(keyed("a"), raw, &got); err != nil || !got.NextFull.Equal(s.NextFull) || len(got.Runs[TaskDrop]) != 2 || got.Last(TaskDrop) != at(2) {
		t.Errorf("%+v, %v", got, err)
	}
	again, err := sealSchedule(keyed("a"), s)
	if err != nil || slices.Equal(again, raw) {
		t.Errorf("the same nonce twice: %v", err)
	}
	for n := range raw {
		raw[n] ^= 1
		if openSchedule(keyed("a"), raw, &Schedule{}) == nil {
			t.Fatalf("byte %d is of no matter", n)
		}
		raw[n] ^= 1
	}
	if openSchedule(keyed("b"), raw, &Schedule{}) == nil || openSchedule(keyed("a"), raw[:5], &Schedule{}) == nil {
		t.Error("another repository's schedule, or half of one, was read")
	}
}
