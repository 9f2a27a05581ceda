package restore

import (
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"holdfast/internal/restore/forecast"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

func TestRedoIsReadFromTheServersLog(t *testing.T) {
	for name, c := range map[string]struct {
		log   string
		took  time.Duration
		bytes int64
	}{
		"a replay": {"LOG:  redo starts at 0/2000028\nLOG:  consistent recovery state reached at 0/2000100\nLOG:  redo done at 0/90000A8 system usage: CPU: user: 0.41 s, system: 0.10 s, elapsed: 0.62 s\n",
			620 * time.Millisecond, 0x90000A8 - 0x2000028},
		"a long one, into another log file": {"redo starts at 1/FE000000\nredo done at 2/2000000 system usage: CPU: user: 3000.41 s, system: 10.10 s, elapsed: 7201.50 s\n", 7201500 * time.Millisecond, 0x4000000},
		"with what is written at its end": {"redo starts at 0/2000028\nrestartpoint complete: wrote 9 buffers (0.1%); write=7.000 s, sync=0.001 s, total=7.100 s; sync files=4\nredo done at 0/90000A8 system usage: CPU: user: 0.41 s, system: 0.10 s, elapsed: 0.62 s\n" +
			"checkpoint starting: end-of-recovery immediate wait\ncheckpoint complete: wrote 5 buffers (0.0%); 0 WAL file(s) added, 0 removed, 0 recycled; write=0.001 s, sync=5.001 s, total=5.003 s; sync files=4, longest=5.001 s\ncheckpoint complete: x total=90.000 s;\n",
			5623 * time.Millisecond, 0x90000A8 - 0x2000028},
		"nothing to replay":    {"LOG:  redo is not required\n", 0, 0},
		"an end without times": {"redo starts at 0/2000028\nredo done at 0/90000A8\n", 0, 0},
		"a beginning alone":    {"redo starts at 0/2000028\n", 0, 0},
	} {
		if took, bytes := redo(c.log); took != c.took || bytes != c.bytes {
			t.Errorf("%s: %s and %d bytes, want %s and %d", name, took, bytes, c.took, c.bytes)
		}
	}
}

func TestHowMuchLogARestoreReplays(t *testing.T) {
	noon := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	c := Choice{Backup: vault.Backup{Bytes: 500, SegmentSize: 100, Start: 1000, Stop: 1100, Stopped: noon}, End: 2100, Covered: noon.Add(10 * time.Hour), Pieces: make([]wal.Held, 11)}
	for name, x := range map[string]struct {
		target Target
		replay int64
		says   bool
	}{
		"the latest":                                {Target{Kind: Latest}, 1100, false},
		"the end of the backup":                     {Target{Kind: Consistent}, 100, false},
		"a position":                                {Target{Kind: AtLSN, LSN: 1500}, 500, false},
		"half of the time is half of the log":       {Target{Kind: AtTime, Time: noon.Add(5 * time.Hour)}, 600, true},
		"a time before the backup ended is no less": {Target{Kind: AtTime, Time: noon.Add(-time.Hour)}, 100, true},
		"a transaction may be the last":             {Target{Kind: AtXID, XID: 7}, 1100, true},
		"a restore point by its position":           {Target{Kind: AtName, Name: "x", LSN: 1200, Exact: true}, 200, false},
	} {
		c.Target = x.target
		w := Work(c, true)
		if w.Data != 500 || w.Log != 1100 || w.Replay != x.replay || (w.Says != "") != x.says || !w.Checks {
			t.Errorf("%s: %+v", name, w)
		}
	}
}

func TestASampleIsEvenlySpread(t *testing.T) {
	all := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	for n, want := range map[int][]int{0: nil, 1: {0}, 3: {0, 3, 6}, 10: all, 20: all} {
		if got := evenly(all, n); !slices.Equal(got, want) {
			t.Errorf("%d of ten: %v", n, got)
		}
	}
}

// Whatever the server told, the phases come to the whole; only what was come to, and told apart, is among them.
func TestThePhasesOfARestoreComeToTheWhole(t *testing.T) {
	const told = "redo starts at 0/2000028\nredo done at 0/90000A8 system usage: CPU: user: 0.41 s, system: 0.10 s, elapsed: 100.00 s\n"
	for name, c := range map[string]struct {
		log      string
		reached  bool
		phases   []string
		replayed int64
	}{
		"a replay": {told, true, []string{forecast.Fetch, forecast.Replay, forecast.Start}, 0x90000A8 - 0x2000028},
		"a target that was not reached is replayed to twice": {told, false, []string{forecast.Fetch, forecast.Replay, forecast.Start}, 0},
		"a server that does not tell":                        {"LOG:  ready\n", true, []string{forecast.Fetch, forecast.Start}, 0},
	} {
		run := t.TempDir()
		r := &Recovered{Scratch: &Scratch{runDir: run}, Reached: c.reached}
		if err := os.WriteFile(r.logPath(), []byte(c.log), 0o600); err != nil {
			t.Fatal(name, err)
		}
		x := r.Times(210 * time.Second)
		x.Fetch = 10 * time.Second
		sum := time.Duration(0)
		for _, took := range x.Took() {
			sum += took
		}
		if phases := slices.Sorted(maps.Keys(x.Took())); sum != 220*time.Second || x.Total() != sum || !slices.Equal(phases, c.phases) || x.Replayed != c.replayed {
			t.Errorf("%s: %v come to %s of 220 s, with %d bytes", name, x.Took(), sum, x.Replayed)
		}
	}
	if took := (Times{Fetch: time.Second}).Took(); len(took) != 1 {
		t.Errorf("of a restore that ended with the fetch: %v", took)
	}
}
