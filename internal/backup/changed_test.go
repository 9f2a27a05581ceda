package backup

import (
	"fmt"
	"slices"
	"strings"
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

// While the first finding stands, each later backup is compared with one from before it and differs too. What the problem tells
// to accept ends it, and until then the good copy is not one of the damaged.
func TestWhatTheRemedyAcceptsEndsTheAlarm(t *testing.T) {
	made := aYearOfChange(6, 3, 4, 5)
	for i := 3; i < 6; i++ {
		made[i].Earlier, made[i].Differs = "b2", append(made[i].Differs, fmt.Sprint("shop: table public.rows blocks ", i))
	}
	got, stands := StandingChange(made, nil)
	if !stands || got.Backup != "b3" || got.Accept != "b5" || got.Before != "b2" || len(got.Objects) != 4 || !slices.IsSorted(got.Objects) {
		t.Fatalf("%+v", got)
	}
	p := got.Problem("orders")
	if !strings.Contains(p.Title, "base backups from b3 to b5 found in 4 places") {
		t.Error(p.Title)
	}
	_, rest, _ := strings.Cut(p.Remedy, "holdfast backup accept ")
	named, _, _ := strings.Cut(rest, " ")
	if c, stands := StandingChange(made, []vault.Note{{Backup: named, Kind: vault.Accepted}}); stands {
		t.Errorf("%s is accepted, and there stands %+v", named, c)
	}
	if c, stands := StandingChange(made, []vault.Note{{Backup: "b3", Kind: vault.Accepted}}); !stands || c.Accept != "b5" || c.Before != "b2" {
		t.Errorf("b3 alone is accepted: %+v, %t; want b2 from before", c, stands)
	}
}

func TestTheGoodCopyCannotHoldTheChange(t *testing.T) {
	// named makes b5 the one that found it, compared with earlier, and lets change do the rest.
	named := func(earlier string, change func(all []vault.Backup)) []vault.Backup {
		all := aYearOfChange(6, 5)
		all[5].Earlier = earlier
		if change != nil {
			change(all)
		}
		return all
	}
	stamp := func(all []vault.Backup) {
		for i := range all {
			all[i].ID = "orders-" + all[i].Started.Format("20060102T150405Z") + fmt.Sprint("-", i)
		}
	}
	for name, c := range map[string]struct {
		made   []vault.Backup
		before string
		log    int // the first segment of log that stays; 0 = none
	}{
		"what it was compared with":                              {made: named("b4", nil), before: "b4", log: 5},
		"backups of another host lie between, which may hold it": {made: named("b1", nil), before: "b1", log: 2},
		"what it was compared with is not proven":                {made: named("b3", func(all []vault.Backup) { all[3].Validation = nil }), before: "b2", log: 3},
		"the proven one is of another cluster": {made: named("b3", func(all []vault.Backup) {
			all[3].Validation, all[2].SystemID = nil, 8
		}), before: "b1", log: 2},
		"none is proven, and what it was compared with was found bad": {made: named("b0", func(all []vault.Backup) {
			all[0].Validation = &vault.Validation{}
		}), log: 1},
		"what it was compared with is off the list, and none tells its time": {made: named("gone", nil)},
		"what it was compared with is off the list, and its ID tells": {made: named("orders-20260103T020000Z-x", stamp),
			before: "orders-20260103T010000Z-2", log: 3},
	} {
		t.Run(name, func(t *testing.T) {
			got, stands := StandingChange(c.made, nil)
			if !stands || got.Before != c.before {
				t.Fatalf("%+v, %t; want %q from before", got, stands, c.before)
			}
			var all []wal.Held
			for i := 1; i < 7; i++ {
				all = append(all, wal.Held{Timeline: 1, Start: wal.LSN(i) * segment, End: wal.LSN(i+1) * segment, Object: fmt.Sprint(i)})
			}
			goes := got.withoutLog(all, slices.DeleteFunc(slices.Clone(c.made), func(b vault.Backup) bool { return b.SystemID != 7 }), segment)
			want := 6
			if c.log > 0 {
				want = c.log - 1
			}
			if len(goes) != want {
				t.Errorf("%d pieces go, want the %d before the good copy", len(goes), want)
			}
			p := got.Problem("orders")
			if c.before == "" {
				if strings.Contains(p.Remedy, "--at") {
					t.Errorf("there is nothing to restore: %s", p.Remedy)
				}
				return
			}
			_, rest, _ := strings.Cut(p.Remedy, `--at "`)
			text, _, _ := strings.Cut(rest, `"`)
			target, err := restore.ParseTarget(text, time.FixedZone("away", 7200)) // the operator's zone does not matter
			if err != nil {
				t.Fatal(err)
			}
			nearest := ""
			for _, b := range c.made {
				if !target.Time.Before(b.Stopped) {
					nearest = b.ID
				}
			}
			if nearest != c.before {
				t.Errorf("%s is nearest to %s, want %s", nearest, text, c.before)
			}
		})
	}
}

// A backup lists a hundred places and counts the others: their number is no name, and the problem claims no exact sum.
func TestHowManyPlacesChanged(t *testing.T) {
	many := func(n int) []string {
		var out []string
		for i := range n {
			out = append(out, fmt.Sprintf("shop: table public.orders blocks %d", 1000+i))
		}
		return listFew(out)
	}
	for name, c := range map[string]struct {
		differs [][]string // of b4, b5
		want    string
	}{
		"one":                        {differs: [][]string{nil, many(1)}, want: "found in 1 place"},
		"as many as are listed":      {differs: [][]string{nil, many(100)}, want: "found in 100 places"},
		"more":                       {differs: [][]string{nil, many(150)}, want: "found in at least 100 places"},
		"more, and other ones later": {differs: [][]string{many(150), {"a", "b"}}, want: "found in at least 102 places"},
		"a name that is alike":       {differs: [][]string{nil, {"and 3 more: table t blocks 1 (base/5/1)"}}, want: "found in 1 place: and 3 more: table"},
	} {
		t.Run(name, func(t *testing.T) {
			made := aYearOfChange(6)
			made[4].Differs, made[5].Differs = c.differs[0], c.differs[1]
			got, _ := StandingChange(made, nil)
			if title := got.Problem("orders").Title; !strings.Contains(title, c.want) {
				t.Errorf("%s\nwant %s", title, c.want)
			}
			alone := Changed{Backup: "b5", Objects: made[5].Differs}.Problem("orders").Title // as backup run says it
			if c.differs[0] == nil && !strings.Contains(alone, c.want) {
				t.Errorf("by itself: %s\nwant %s", alone, c.want)
			}
		})
	}
}

func TestAnAcceptanceLiesOnAllThatDiffer(t *testing.T) {
	made := aYearOfChange(6, 1, 3, 5)
	for i := range made {
		made[i].Database = "orders"
	}
	made[3].Database = "shop"
	for name, c := range map[string]struct {
		id    string
		notes []vault.Note
		want  []string // nil = refused
	}{
		"an older one that differs":               {id: "b5", want: []string{"b1", "b5"}},
		"an older one that was accepted":          {id: "b5", notes: []vault.Note{{Backup: "b1", Kind: vault.Accepted}}, want: []string{"b5"}},
		"an older one that is pinned alone":       {id: "b5", notes: []vault.Note{{Backup: "b1", Kind: vault.Pin}}, want: []string{"b1", "b5"}},
		"one that does not differ, behind others": {id: "b4", want: []string{"b1", "b4"}},
		"a later one is not accepted":             {id: "b1", want: []string{"b1"}},
		"no base backup":                          {id: "attachments-1"},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := ToAccept(made, c.notes, c.id)
			if ok != (c.want != nil) || !slices.Equal(got, c.want) {
				t.Errorf("%v, %t; want %v", got, ok, c.want)
			}
			if !ok {
				return
			}
			notes := slices.Clone(c.notes)
			for _, id := range got {
				notes = append(notes, vault.Note{Backup: id, Kind: vault.Accepted})
			}
			older := slices.DeleteFunc(slices.Clone(made), func(b vault.Backup) bool { return b.ID == c.id || b.ID > c.id || b.Database != "orders" })
			if x, stands := StandingChange(older, notes); stands {
				t.Errorf("with %s let go of, there stands %+v", c.id, x)
			}
		})
	}
}
