package backup

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"holdfast/internal/backup/retention"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// aYearOfChange is a backup a day, proven, of which those of some days differ from the one before.
func aYearOfChange(days int, differ ...int) []vault.Backup {
	var out []vault.Backup
	for i := range days {
		at := time.Date(2026, 1, 1+i, 1, 0, 0, 0, time.UTC)
		b := vault.Backup{ID: fmt.Sprint("b", i), Started: at, Stopped: at.Add(time.Minute), SystemID: 7, Timeline: 1, SegmentSize: segment,
			Start: wal.LSN(i+1)*segment + 5, Stop: wal.LSN(i+1)*segment + 9, Validation: &vault.Validation{Passed: true}}
		if i > 0 {
			b.Earlier = fmt.Sprint("b", i-1)
		}
		if slices.Contains(differ, i) {
			b.Differs = []string{"shop: table public.orders blocks 0 to 127 (base/5/1)"}
		}
		out = append(out, b)
	}
	return out
}

func TestAChangeBehindTheLogStandsUntilItIsAccepted(t *testing.T) {
	accepted := func(id string) []vault.Note { return []vault.Note{{Backup: id, Kind: vault.Accepted}} }
	unproven := aYearOfChange(6, 3)
	unproven[2].Validation = nil
	fresh := aYearOfChange(2, 1)
	fresh[0].Validation = nil
	for name, c := range map[string]struct {
		made         []vault.Backup
		notes        []vault.Note
		want, before string
	}{
		"nothing changed": {made: aYearOfChange(6)},
		"one found it":    {made: aYearOfChange(6, 5), want: "b5", before: "b4"},
		"later ones that find nothing do not end it": {made: aYearOfChange(6, 3), want: "b3", before: "b2"},
		"the first of several counts":                {made: aYearOfChange(6, 3, 5), want: "b3", before: "b2"},
		"the one that found it is accepted":          {made: aYearOfChange(6, 3), notes: accepted("b3")},
		"a later one is accepted":                    {made: aYearOfChange(6, 3), notes: accepted("b5")},
		"one from before is accepted":                {made: aYearOfChange(6, 3), notes: accepted("b2"), want: "b3", before: "b2"},
		"it changes again afterwards":                {made: aYearOfChange(6, 3, 5), notes: accepted("b3"), want: "b5", before: "b4"},
		"a pin is no acceptance":                     {made: aYearOfChange(6, 3), notes: []vault.Note{{Backup: "b3", Kind: vault.Pin}}, want: "b3", before: "b2"},
		"the one before is not proven":               {made: unproven, want: "b3", before: "b1"},
		"none from before is left":                   {made: aYearOfChange(6, 3)[3:], want: "b3"},
		"none is proven, and one was compared with":  {made: fresh, want: "b1", before: "b0"},
	} {
		t.Run(name, func(t *testing.T) {
			got, stands := StandingChange(c.made, c.notes)
			if stands != (c.want != "") || got.Backup != c.want || got.Before != c.before {
				t.Errorf("%+v, %t; want %q and %q from before", got, stands, c.want, c.before)
			}
			if p := got.Problem("orders"); stands && (p.Code != "backup.changed-silently" || p.Severity != "critical") {
				t.Errorf("%+v", p)
			}
		})
	}
}

// Retention keeps the backup that found the change, the newest proven one from before, and the log since, for as long as the
// change stands: all of them would have gone otherwise.
func TestWhatIsFromBeforeAChangeStays(t *testing.T) {
	made := aYearOfChange(300, 101)
	o := PruneOptions{Policy: retention.Policy{Weekly: -1}, Grace: time.Hour, Now: made[299].Stopped.Add(time.Hour)}
	var held []wal.Held
	for i := range 300 {
		held = append(held, wal.Held{Timeline: 1, Start: wal.LSN(i+1) * segment, End: wal.LSN(i+2) * segment, Covers: made[i].Stopped, Object: fmt.Sprint(i)})
	}
	for _, notes := range [][]vault.Note{nil, {{Backup: "b200", Kind: vault.Accepted}}} {
		judged := fates(o, made, notes)
		kept := func(id string) bool {
			return slices.ContainsFunc(judged, func(f Fate) bool { return f.ID == id && f.Keep && f.Goes.IsZero() })
		}
		if kept("b100") || kept("b101") {
			t.Fatal("the plan alone keeps them: the test shows nothing")
		}
		c, stands := StandingChange(made, notes)
		keepChanged(judged, c)
		if kept("b100") != stands || kept("b101") != stands || kept("b99") || kept("b102") {
			t.Errorf("a change stands: %t; kept are b99 %t, b100 %t, b101 %t, b102 %t", stands, kept("b99"), kept("b100"), kept("b101"), kept("b102"))
		}
		listed := slices.DeleteFunc(slices.Clone(made), func(b vault.Backup) bool { return !kept(b.ID) })
		pieces, _ := needless(listed, judged, restore.HeldLog{SegmentSize: segment, Held: held}, 14*day, o.Now)
		pieces = c.withoutLog(pieces, listed, segment)
		goes := func(object string) bool {
			return slices.ContainsFunc(pieces, func(p wal.Held) bool { return p.Object == object })
		}
		if !goes("99") || goes("150") == stands || goes("299") {
			t.Errorf("a change stands: %t; log that goes: from before %t, since %t, the newest %t", stands, goes("99"), goes("150"), goes("299"))
		}
	}
}

// While a change stands, nothing is taken over unread.
func TestNothingIsTakenOverWhileAChangeStands(t *testing.T) {
	made := aYearOfChange(2)
	for i := range made {
		made[i].Checksums, made[i].Reread = true, made[i].Started
	}
	e := &earlier{backup: made[0]}
	if ok, why := mayTake(Fast, made[1], e, 1, made[1].Started); !ok {
		t.Fatalf("without a change: %s", why)
	}
	e.doubted = "b9"
	if ok, _ := mayTake(Fast, made[1], e, 1, made[1].Started); ok {
		t.Error("chunks are taken over")
	}
}
