package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"holdfast/internal/backup"
	"holdfast/internal/receipt"
	"holdfast/internal/restore"
	"holdfast/internal/restore/forecast"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// aDrill is one that was measured.
func aDrill(address string) drill {
	d := drill{OK: true, Backup: "r-1", Bytes: 1000, Log: 300, timed: timed{Began: time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC), Expected: forecast.Expect(forecast.Work{Checks: true, Replay: 200},
		[]forecast.Run{{Name: "drill x/1", Work: forecast.Work{Data: 1, Replay: 200}, Took: map[string]time.Duration{forecast.Fetch: 0, forecast.Start: time.Second, forecast.Replay: 7 * time.Second, forecast.Checks: time.Second}}}, nil)}}
	d.Expected.Sampled = 5
	d.measure(map[string]time.Duration{forecast.Fetch: 4 * time.Second, forecast.Start: time.Second, forecast.Replay: 2 * time.Second, forecast.Checks: time.Second}, 250)
	return d
}

// What a receipt says of a drill is what the next forecast hears of it.
func TestAReceiptTellsTheNextForecast(t *testing.T) {
	const vaultAt = "s3://clinic/records"
	at := time.Date(2026, 3, 2, 3, 0, 9, 0, time.UTC)
	of := func(change func(*drill, *receipt.Statement)) (forecast.Run, bool) {
		d := aDrill(vaultAt)
		r := receipt.Receipt{Statement: receipt.Statement{Chain: "operator-1", Sequence: 7, At: at}}
		r.Event = drillReceipt("records", "latest", vaultAt, d)
		if change != nil {
			change(&d, &r.Statement)
		}
		return runOf(r, thisMachine(), vaultAt, at)
	}
	want := forecast.Run{Name: "drill operator-1/7", At: at, Machine: thisMachine(), Here: true, Work: forecast.Work{Data: 1000, Log: 300, Replay: 250}, Sampled: 5 * time.Second,
		Took: map[string]time.Duration{forecast.Fetch: 4 * time.Second, forecast.Start: time.Second, forecast.Replay: 2 * time.Second, forecast.Checks: time.Second}}
	if got, ok := of(nil); !ok || !cmp.Equal(want, got) {
		t.Errorf("%v: %s", ok, cmp.Diff(want, got))
	}
	for name, c := range map[string]struct {
		change func(*drill, *receipt.Statement)
		lacks  string // the phase of which it says nothing; "" = it says nothing at all
	}{
		"one that failed":       {func(_ *drill, s *receipt.Statement) { s.Outcome = receipt.Failed }, ""},
		"one of a time to come": {func(_ *drill, s *receipt.Statement) { s.At = s.At.AddDate(900, 0, 0) }, ""},
		"a phase below zero": {func(d *drill, s *receipt.Statement) {
			d.Measured.Phases[1].Seconds = -5
			s.Event = drillReceipt("records", "latest", vaultAt, *d)
		}, ""},
		"a phase longer than any clock counts": {func(d *drill, s *receipt.Statement) {
			d.Measured.Phases[1].Seconds = 1e300
			s.Event = drillReceipt("records", "latest", vaultAt, *d)
		}, ""},
		"less than no bytes":                         {func(_ *drill, s *receipt.Statement) { s.Figures["bytes"] = -1 }, ""},
		"more bytes than there are":                  {func(_ *drill, s *receipt.Statement) { s.Figures["log_bytes"] = 1e300 }, ""},
		"a validation":                               {func(_ *drill, s *receipt.Statement) { s.Kind = receipt.Validation }, ""},
		"one of an earlier version":                  {func(_ *drill, s *receipt.Statement) { s.Details = json.RawMessage(`{"backup":"r-1"}`) }, ""},
		"a restore onto what was half there":         {func(_ *drill, s *receipt.Statement) { s.Figures["kept_bytes"] = 500 }, forecast.Fetch},
		"one from the same vault at another address": {func(d *drill, s *receipt.Statement) { s.Event = drillReceipt("records", "latest", "file:///there", *d) }, forecast.Fetch},
		"one that replayed some of the log twice": {func(d *drill, s *receipt.Statement) {
			d.Measured.Replayed = 0
			s.Event = drillReceipt("records", "latest", vaultAt, *d)
		}, forecast.Replay},
	} {
		got, ok := of(c.change)
		_, says := got.Took[c.lacks]
		want := 3
		if c.lacks == forecast.Replay { // then the start holds some of it, and is no evidence either
			_, start := got.Took[forecast.Start]
			says, want = says || start, 2
		}
		if ok != (c.lacks != "") || says || ok && len(got.Took) != want {
			t.Errorf("%s: %v, %+v", name, ok, got)
		}
	}
}

func TestADrillsFiguresAndWords(t *testing.T) {
	d := aDrill("here")
	e := drillReceipt("records", "latest", "here", d)
	if e.Outcome != receipt.Passed || e.Figures["rto_seconds"] != 8 || e.Figures["expected_rto_seconds"] != 9 || e.Figures["replay_seconds"] != 2 || e.Figures["expected_replay_seconds"] != 7 {
		t.Errorf("%s: %v", e.Outcome, e.Figures)
	}
	if m := d.Measured; m.Off == nil || *m.Off != 12.5 || m.Missed {
		t.Errorf("9 s were expected and 8 s measured: %+v", m)
	}
	d.Expected.Total, d.Expected.Seconds = 12*time.Second, 12
	d.measure(map[string]time.Duration{forecast.Fetch: 8 * time.Second}, 0)
	says(t, drillText(1, 2, drills{Database: "records", At: "latest"}, d), "drill 1 of 2: records at latest was restored, and answered", "expected 7s", "THE FORECAST MISSED: it was 50 % off", "lost       not known")
	d.OK, d.Fault = false, "no room"
	if d.failed(); d.Measured.Off != nil || d.Measured.Missed {
		t.Errorf("a drill that failed says how good the forecast was: %+v", d.Measured)
	}
	if e := drillReceipt("records", "latest", "here", d); e.Outcome != receipt.Failed || !strings.Contains(e.Says, "could not be restored") || e.Figures["rto_seconds"] != 0 {
		t.Errorf("%+v", e)
	}
	d.Expected.Known = false
	if d.measure(map[string]time.Duration{forecast.Fetch: time.Hour}, 0); d.Measured.Off != nil || d.Measured.Missed {
		t.Errorf("what was not foretold cannot have missed: %+v", d.Measured)
	}
}

func TestWhatIsLostIsCountedFromTheNewestMomentThatCanBeRestored(t *testing.T) {
	noon := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	catalogue := func(covered time.Time) restore.Catalogue {
		return restore.Catalogue{Database: "records", Backups: []vault.Backup{{ID: "r-1", SystemID: 7, Timeline: 1, Start: 0x1000028, Stop: 0x1000100, Stopped: noon, SegmentSize: 16 << 20}},
			Logs: map[uint64]restore.HeldLog{7: {SegmentSize: 16 << 20, Held: []wal.Held{{Timeline: 1, Start: 0x1000000, End: 0x2000000}}, Histories: map[uint32]wal.History{1: {{Timeline: 1}}},
				Covered: map[uint32]restore.Mark{1: {End: 0x2000000, At: covered}}}}}
	}
	for name, c := range map[string]struct {
		catalogue restore.Catalogue
		began     time.Time
		seconds   float64 // -1 = not known
		how       string
	}{
		"log behind the backup":     {catalogue(noon.Add(time.Hour)), noon.Add(time.Hour + 40*time.Second), 40, "is whole up to"},
		"no mark: the backup's end": {catalogue(time.Time{}), noon.Add(time.Minute), 60, "the end of the newest base backup"},
		"nothing at all":            {catalogue(noon.Add(time.Hour)), noon.Add(time.Hour), 0, "is whole up to"},
		"clocks that disagree":      {catalogue(noon.Add(time.Hour)), noon, -1, "the clocks disagree"},
		"for the backup's end":      {catalogue(time.Time{}), noon.Add(-time.Second), -1, "the clocks disagree"},
	} {
		l := lossAt(c.began, c.catalogue)
		if l.Seconds == nil != (c.seconds < 0) || l.Seconds != nil && *l.Seconds != c.seconds || !strings.Contains(l.How, c.how) {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if l := lossAt(noon, restore.Catalogue{}); l.Seconds != nil {
		t.Errorf("of nothing: %+v", l)
	}
}

func TestASampleBeforeARestoreCostsAHundredthPart(t *testing.T) {
	for bytes, want := range map[int64]int64{1 << 20: 0, 1<<30 - 1: 0, 1 << 30: (1 << 30) / 100, 10 << 30: (10 << 30) / 100, 1 << 40: 256 << 20} {
		if got := sampleBefore(restore.Choice{Backup: vault.Backup{Bytes: bytes}}).Bytes; got != want {
			t.Errorf("before %d bytes %d are read, want %d", bytes, got, want)
		}
	}
}

func TestAListSaysHowLongARestoreTakes(t *testing.T) {
	known, some := aDrill("here").Expected, aDrill("here").Expected
	some.Known, some.Total = false, time.Minute
	for want, f := range map[string]*forecast.Forecast{
		"":                                 nil,
		"is expected to take about 9s":     &known,
		"is not known; longer than 1m0s; ": &some,
		"is not known; measure it: holdfast restore drill records": {},
	} {
		if got := restoreLine(held{Database: "records", Restore: f}); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("%q does not say %q", got, want)
		}
	}
}

// A drill's receipt has a figure for each phase that was come to, and for no other; together they are the whole.
func TestAReceiptSaysNothingThatWasNotMeasured(t *testing.T) {
	loss := 3.0
	for name, c := range map[string]struct {
		went backup.Drilled
		want map[string]float64
	}{
		"whole": {backup.Drilled{Passed: true, Times: restore.Times{Fetch: 10 * time.Second, Start: 4 * time.Second, Replay: 6 * time.Second, Replayed: 9}, Checks: time.Second},
			map[string]float64{"fetch_seconds": 10, "start_seconds": 4, "replay_seconds": 6, "checks_seconds": 1, "rto_seconds": 21, "rpo_seconds": 3}},
		"replayed twice": {backup.Drilled{Passed: true, Times: restore.Times{Fetch: 10 * time.Second, Start: 110 * time.Second, Replay: 100 * time.Second}, Checks: time.Second},
			map[string]float64{"fetch_seconds": 10, "start_seconds": 110, "replay_seconds": 100, "checks_seconds": 1, "rto_seconds": 221, "rpo_seconds": 3}},
		"with a server that does not tell": {backup.Drilled{Passed: true, Times: restore.Times{Fetch: 10 * time.Second, Start: 10 * time.Second}, Checks: time.Second},
			map[string]float64{"fetch_seconds": 10, "start_seconds": 10, "checks_seconds": 1, "rto_seconds": 21, "rpo_seconds": 3}},
		"failed in the fetch": {backup.Drilled{Fault: "x", Times: restore.Times{Fetch: 10 * time.Second}}, map[string]float64{"fetch_seconds": 10}},
		"failed in the start": {backup.Drilled{Fault: "x", Times: restore.Times{Fetch: 10 * time.Second, Start: time.Second}}, map[string]float64{"fetch_seconds": 10, "start_seconds": 1}},
		"failed in the checks": {backup.Drilled{Fault: "x", Times: restore.Times{Fetch: 10 * time.Second, Start: time.Second, Replay: time.Second, Replayed: 1}, Checks: time.Second},
			map[string]float64{"fetch_seconds": 10, "start_seconds": 1, "replay_seconds": 1, "checks_seconds": 1}},
	} {
		d := drill{timed: timed{Expected: forecast.Expect(forecast.Work{Data: 1, Replay: 9, Checks: true}, nil, nil), Loss: wouldLose{Seconds: &loss}}}
		d.rehearsed(c.went)
		got := drillReceipt("records", "latest", "here", d).Figures
		took := got["took_seconds"]
		for _, other := range []string{"took_seconds", "bytes", "log_bytes", "expected_fetch_seconds"} {
			delete(got, other)
		}
		if diff := cmp.Diff(c.want, got); diff != "" || took != c.went.Total().Seconds() {
			t.Errorf("%s: took %g s of %s\n%s", name, took, c.went.Total(), diff)
		}
		if text := drillText(1, 1, drills{}, d); strings.Contains(text, "nothing: it was not come to") != (len(c.want) < 6 && name != "failed in the checks") || c.went.Passed == strings.Contains(text, "it was not restored") {
			t.Errorf("%s:\n%s", name, text)
		}
	}
}

func TestADrillThatEndsEarlyTellsWhatItLeftAndWhatWasMade(t *testing.T) {
	var out bytes.Buffer
	cmd := &cobra.Command{}
	cmd.SetOut(&out)
	r := rehearsal{drillWords: &drillWords{output: "json"}, cmd: cmd, name: "records"}
	all := drills{OK: true, Database: "records", Runs: []drill{aDrill("here")}}
	gone := fmt.Errorf("drill records: %w", context.Canceled)
	left := errors.Join(gone, &backup.LeftError{Dir: "/srv/drill-7", Err: errors.New("device busy")})
	stopped, stop := context.WithCancel(t.Context())
	stop()

	says(t, r.ended(stopped, all, gone).Error(), "restore.interrupted", "its scratch copy is removed")
	var told drills
	if err := json.Unmarshal(out.Bytes(), &told); err != nil || told.OK || len(told.Runs) != 1 || !strings.Contains(told.Ended, "interrupted") {
		t.Errorf("%v: %+v", err, told)
	}
	text := r.ended(stopped, all, left).Error()
	if says(t, text, "restore.interrupted", "/srv/drill-7", "device busy", "COULD NOT BE REMOVED"); strings.Contains(text, "is removed") {
		t.Error(text)
	}
	out.Reset()
	if err := r.ended(t.Context(), all, left); !errors.Is(err, left) || !strings.Contains(out.String(), "device busy") {
		t.Errorf("one that could not be tried: %v\n%s", err, &out)
	}
	out.Reset()
	if _ = r.ended(stopped, drills{}, gone); out.Len() > 0 {
		t.Errorf("with no run made it prints %s", &out)
	}
}
