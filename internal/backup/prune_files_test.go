package backup

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/backup/retention"
	"holdfast/internal/plan"
	"holdfast/internal/redact"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

func tiered() retention.Policy {
	p, ok := FilesPolicyOf(plan.FileBackup{Keep: plan.KeepTiers, All: day, HalfDaily: 2 * day, Daily: 5 * day, Weekly: 30 * day})
	if !ok {
		panic("tiers are no tiers")
	}
	return p
}

func TestEachHostAndItsPointsAreJudgedByThemselves(t *testing.T) {
	now := time.Date(2026, 6, 19, 12, 0, 0, 0, time.UTC)
	made := func(id, host string, age time.Duration) vault.FileBackup {
		return vault.FileBackup{ID: id, Set: "letters", Host: host, Ended: now.Add(-age)}
	}
	missing, point, old := made("missing", "a", 40*day-time.Hour), made("point", "a", 40*day-2*time.Hour), made("old-point", "a", 50*day)
	missing.Unreadable.Add("x")
	point.Point, old.Point = &vault.Point{ID: "p1"}, &vault.Point{ID: "p0"}
	fresh := made("fresh-missing", "c", time.Hour)
	fresh.Unreadable.Add("x")
	all := []vault.FileBackup{made("new", "a", time.Hour), made("second", "a", 3*day+time.Hour), made("first", "a", 3*day+2*time.Hour), made("gone", "a", 40*day), missing, point, old,
		made("only", "b", 90*day), fresh, made("held", "b", 100*day)}
	notes := []vault.Note{{Backup: "held", Kind: vault.Hold}, {Backup: "gone", Kind: vault.Doomed, At: now.Add(-day)}}
	want := map[string]struct {
		keep    bool
		because string
	}{
		"new":           {true, "the last one that is complete"},
		"first":         {true, "the first of its day, younger than 5 days"},
		"second":        {false, "an older one stands for the same time"},
		"gone":          {false, "older than 30 days"},
		"missing":       {false, "not complete, and older than a day"},
		"point":         {true, "the last one that is complete"},
		"old-point":     {false, "older than 30 days"},
		"only":          {true, "the last one that is complete"},
		"held":          {true, "under a legal hold"},
		"fresh-missing": {true, "younger than a day"},
	}
	got := fileFates(PruneOptions{Policy: tiered(), Now: now, Grace: vault.Grace}, all, notes)
	for _, f := range got {
		if w := want[f.ID]; w.keep != f.Keep || w.because != f.Because {
			t.Errorf("%s: keep %v, %q", f.ID, f.Keep, f.Because)
		}
		if f.ID == "gone" && (!f.Marked.Equal(now.Add(-day)) || !f.Goes.Equal(now.Add(2*day))) {
			t.Errorf("marked %s, goes %s", f.Marked, f.Goes)
		}
	}
	if len(got) != len(want) || !slices.IsSortedFunc(got, func(a, b Fate) int { return b.At.Compare(a.At) }) {
		t.Errorf("%d fates of %d, or not the newest first", len(got), len(want))
	}
}

func TestABackupOfFilesGoesInTwoStepsAndTheLastCompleteOneNever(t *testing.T) {
	ctx := t.Context()
	v, err := vault.Create(ctx, vault.Config{Name: "main", URL: "file://" + t.TempDir() + "/v", Key: redact.Secret("k"), Keys: &vaultKeys, Application: "clinic"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	now := time.Date(2026, 6, 19, 12, 0, 0, 0, time.UTC)
	store := func(id string, age time.Duration) {
		t.Helper()
		w, err := v.BeginTree(ctx, "test")
		if err == nil {
			err = w.Add(vault.Node{Path: ".", Kind: vault.KindDir, Mode: 0o755})
		}
		if err == nil {
			_, err = w.Commit(vault.FileBackup{ID: id, Set: "letters", Host: "a", Started: now.Add(-age), Ended: now.Add(-age)})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	store("old", 50*day)
	store("pinned", 49*day)
	store("good", 48*day)
	if err := v.PutNote(ctx, vault.Note{Backup: "pinned", Kind: vault.Pin, By: "ada", At: now}); err != nil {
		t.Fatal(err)
	}
	o := PruneOptions{Vault: v, Database: "letters", Policy: tiered(), By: "h1", Behind: 1000 * day}
	prune := func(after time.Duration) []string {
		t.Helper()
		o.Now = now.Add(after)
		if _, err := PruneFiles(ctx, o); err != nil {
			t.Fatal(err)
		}
		all, err := v.FileBackups(ctx, "letters")
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, b := range all {
			ids = append(ids, b.ID)
		}
		return ids
	}
	marked := func() (n int) {
		t.Helper()
		notes, err := v.Notes(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range notes {
			if x.Kind == vault.Doomed {
				n++
			}
		}
		return n
	}
	o.DryRun = true
	if prune(0); marked() != 0 {
		t.Error("a dry run marked something")
	}
	o.DryRun = false
	if ids := prune(0); len(ids) != 3 || marked() != 1 {
		t.Errorf("the first run left %v, %d marked", ids, marked())
	}
	if err := UnmarkFiles(ctx, v, "letters", o.withDefaults().May); err != nil || marked() != 0 {
		t.Errorf("kept for ever: %v, %d marked", err, marked())
	}
	prune(vault.Grace)
	if ids := prune(2*vault.Grace - time.Minute); len(ids) != 3 {
		t.Errorf("within the grace %v are left", ids)
	}
	if ids := prune(2 * vault.Grace); !slices.Equal(ids, []string{"pinned", "good"}) {
		t.Errorf("after the grace %v are left", ids)
	}
	if ids := prune(900 * day); !slices.Equal(ids, []string{"pinned", "good"}) {
		t.Errorf("years later %v are left", ids)
	}
	o.Behind = 0
	o.Now = now.Add(900 * day)
	if _, err := PruneFiles(ctx, o); err == nil {
		t.Error("nothing came for years, and it was pruned")
	}
}

// What leads to a recovery point stays, though the tiers would let go of the base backup and of the log; without the point
// both go.
func TestWhatLeadsToARecoveryPointStays(t *testing.T) {
	now := time.Date(2026, 6, 19, 12, 0, 0, 0, time.UTC)
	proven := func(id string, age time.Duration, seg int) vault.Backup {
		return vault.Backup{ID: id, Database: "records", SystemID: 7, Timeline: 1, SegmentSize: segment, Stopped: now.Add(-age),
			Start: wal.LSN(seg*segment) + 5, Stop: wal.LSN((seg+1)*segment) - 5, Validation: &vault.Validation{Passed: true}}
	}
	all := []vault.Backup{proven("new", day, 180), proven("base", 20*day, 120), proven("of-the-point", 100*day-time.Hour, 20), proven("first-of-its-week", 100*day, 10)}
	log := restore.HeldLog{SegmentSize: segment, Histories: map[uint32]wal.History{1: {{Timeline: 1}}}, Covered: map[uint32]restore.Mark{1: {End: wal.LSN(190 * segment), At: now}}}
	for seg := 10; seg < 190; seg++ {
		log.Held = append(log.Held, wal.Held{Timeline: 1, Start: wal.LSN(seg * segment), End: wal.LSN((seg + 1) * segment), Object: fmt.Sprint(seg)})
	}
	c := restore.Catalogue{Database: "records", Backups: all, Logs: map[uint64]restore.HeldLog{7: log}}
	o := PruneOptions{Now: now, Grace: vault.Grace}
	judge := func(points ...vault.Point) (Fate, map[string]bool) {
		ways := waysTo(c, points)
		got := fates(o, all, nil)
		keepWays(got, ways)
		pieces, _ := needless(all, got, log, 17*day, now)
		gone := map[string]bool{}
		for _, p := range withoutWays(pieces, ways) {
			gone[p.Object] = true
		}
		return got[slices.IndexFunc(got, func(f Fate) bool { return f.ID == "of-the-point" })], gone
	}
	if f, gone := judge(); f.Keep || !gone["30"] || gone["20"] || gone["130"] {
		t.Fatalf("without a point: %+v, %d pieces go", f, len(gone))
	}
	f, gone := judge(vault.Point{ID: "p1", LSN: wal.LSN(31*segment) + 100})
	if !f.Keep || f.Because != "the way to recovery point p1 begins with it" || !f.Goes.IsZero() {
		t.Errorf("%+v", f)
	}
	for seg, want := range map[string]bool{"20": false, "25": false, "31": false, "32": true, "40": true} {
		if gone[seg] != want {
			t.Errorf("piece %s goes: %v", seg, gone[seg])
		}
	}
	if f, _ := judge(vault.Point{ID: "lost", LSN: wal.LSN(900 * segment)}); f.Keep {
		t.Errorf("a point that nothing leads to kept %+v", f)
	}
}

// A failover that lost something, or a restore, begins a timeline below a point, and its log passes the point's position
// later: what leads to the point is the log of the timeline on which it was made.
func TestTheLogOfAPointsOwnTimelineStays(t *testing.T) {
	now := time.Date(2026, 6, 19, 12, 0, 0, 0, time.UTC)
	proven := func(id string, age time.Duration, timeline uint32, seg int) vault.Backup {
		return vault.Backup{ID: id, Database: "records", SystemID: 7, Timeline: timeline, SegmentSize: segment, Stopped: now.Add(-age),
			Start: wal.LSN(seg*segment) + 5, Stop: wal.LSN((seg+1)*segment) - 5, Validation: &vault.Validation{Passed: true}}
	}
	all := []vault.Backup{proven("new", day, 2, 180), proven("base", 20*day, 2, 120), proven("of-the-point", 100*day, 1, 20)}
	fork := wal.LSN(24*segment) + 200
	log := restore.HeldLog{SegmentSize: segment, Covered: map[uint32]restore.Mark{2: {End: wal.LSN(190 * segment), At: now}},
		Histories: map[uint32]wal.History{1: {{Timeline: 1}}, 2: {{Timeline: 1, End: fork}, {Timeline: 2, Begin: fork}}}}
	piece := func(timeline uint32, seg int) {
		log.Held = append(log.Held, wal.Held{Timeline: timeline, Start: wal.LSN(seg * segment), End: wal.LSN((seg + 1) * segment), Object: fmt.Sprint(timeline, "-", seg)})
	}
	for seg := 20; seg < 35; seg++ {
		piece(1, seg)
	}
	for seg := 24; seg < 190; seg++ {
		piece(2, seg)
	}
	c := restore.Catalogue{Database: "records", Backups: all, Logs: map[uint64]restore.HeldLog{7: log}}
	at := wal.LSN(31*segment) + 100
	for name, x := range map[string]struct {
		point vault.Point
		stay  []string
		goes  []string
	}{
		"of the point's own":                    {vault.Point{ID: "p1", SystemID: 7, Timeline: 1, LSN: at}, []string{"1-24", "1-25", "1-31"}, []string{"1-32", "2-25", "2-31"}},
		"of the new one for a point on it":      {vault.Point{ID: "p2", SystemID: 7, Timeline: 2, LSN: at}, []string{"1-23", "2-24", "2-31"}, []string{"1-25", "1-31", "2-32"}},
		"of both when the point does not tell":  {vault.Point{ID: "p0", LSN: at}, []string{"1-24", "1-25", "1-31", "2-24", "2-31"}, []string{"1-32", "2-32"}},
		"of none when the point is of another":  {vault.Point{ID: "px", SystemID: 8, Timeline: 1, LSN: at}, nil, []string{"1-31", "2-31"}},
		"of the old one for a point before all": {vault.Point{ID: "p3", SystemID: 7, Timeline: 1, LSN: wal.LSN(22*segment) + 100}, []string{"1-20", "1-22"}, []string{"1-24", "2-24"}},
	} {
		ways := waysTo(c, []vault.Point{x.point})
		judged := fates(PruneOptions{Now: now, Grace: vault.Grace}, all, nil)
		keepWays(judged, ways)
		pieces, _ := needless(all, judged, log, 17*day, now)
		gone := map[string]bool{}
		for _, p := range withoutWays(pieces, ways) {
			gone[p.Object] = true
		}
		for _, object := range x.stay {
			if gone[object] {
				t.Errorf("%s: piece %s goes", name, object)
			}
		}
		for _, object := range x.goes {
			if !gone[object] {
				t.Errorf("%s: piece %s stays", name, object)
			}
		}
	}
}

// A point whose log never arrived does not stand for one that can be restored, and a host that receives nothing sheds nothing.
func TestTheLastPointThatCanBeRestoredAndASilentHostsBackupsStay(t *testing.T) {
	now := time.Date(2026, 6, 19, 12, 0, 0, 0, time.UTC)
	made := func(id, host, point string, age time.Duration) vault.FileBackup {
		b := vault.FileBackup{ID: id, Set: "letters", Host: host, Ended: now.Add(-age)}
		if point != "" {
			b.Point = &vault.Point{ID: point, Database: "records", SystemID: 7, Timeline: 1}
		}
		return b
	}
	all := []vault.FileBackup{made("lost", "a", "p3", 40*day), made("reached", "a", "p2", 50*day), made("older", "a", "p1", 60*day), made("new", "a", "", time.Hour),
		made("silent-new", "b", "", 90*day), made("silent-old", "b", "", 100*day), made("old", "a", "", 70*day)}
	all[0].Point.LSN, all[1].Point.LSN, all[2].Point.LSN = wal.LSN(40*segment), wal.LSN(30*segment)+9, wal.LSN(25*segment)
	log := restore.HeldLog{SegmentSize: segment, Histories: map[uint32]wal.History{1: {{Timeline: 1}}}}
	for seg := 20; seg <= 30; seg++ {
		log.Held = append(log.Held, wal.Held{Timeline: 1, Start: wal.LSN(seg * segment), End: wal.LSN((seg + 1) * segment), Object: fmt.Sprint(seg)})
	}
	c := restore.Catalogue{Database: "records", Logs: map[uint64]restore.HeldLog{7: log}, Backups: []vault.Backup{{ID: "base", Database: "records", SystemID: 7, Timeline: 1,
		SegmentSize: segment, Start: wal.LSN(20*segment) + 5, Stop: wal.LSN(20*segment) + 50}}}
	o := PruneOptions{Policy: tiered(), Now: now, Grace: vault.Grace, Catalogue: func(context.Context, string) (restore.Catalogue, error) { return c, nil }}
	reached, err := o.reached(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	got := fileFates(o, all, nil)
	keepReached(got, all, reached)
	keepSilent(got, all, now, 3*day)
	want := map[string]string{"lost": "the last one that is complete", "reached": "the last recovery point that can be restored", "older": "", "new": "the last one that is complete",
		"silent-new": "the last one that is complete", "silent-old": "nothing has come from b since 2026-03-21 12:00 UTC", "old": ""}
	for _, f := range got {
		if why := want[f.ID]; f.Keep != (why != "") || f.Keep && f.Because != why || f.Keep != f.Goes.IsZero() {
			t.Errorf("%s: keep %v, %q, goes %s", f.ID, f.Keep, f.Because, f.Goes)
		}
	}
}

// A dry run says what the run would do: what a silent host has stays, and of a vault that receives nothing, nothing goes.
func TestADryRunOfFilesJudgesAsTheRun(t *testing.T) {
	ctx := t.Context()
	v, err := vault.Create(ctx, vault.Config{Name: "main", URL: "file://" + t.TempDir() + "/v", Key: redact.Secret("k"), Keys: &vaultKeys, Application: "clinic"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	now := time.Now().UTC()
	for host, ages := range map[string][]time.Duration{"a": {time.Hour}, "b": {90 * day, 100 * day}} {
		for _, age := range ages {
			w, err := v.BeginTree(ctx, "test")
			if err == nil {
				err = w.Add(vault.Node{Path: ".", Kind: vault.KindDir, Mode: 0o755})
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Commit(vault.FileBackup{ID: fmt.Sprintf("%s-%d", host, int(age/day)), Set: "letters", Host: host, Path: "/x", Started: now.Add(-age), Ended: now.Add(-age)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	o := PruneOptions{Vault: v, Database: "letters", Policy: tiered(), Now: now, Grace: vault.Grace, DryRun: true}
	got, err := PruneFiles(ctx, o)
	if err != nil || got.Waits != "" || len(got.Fates) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, f := range got.Fates {
		if !f.Keep {
			t.Errorf("%s goes: %s", f.ID, f.Because)
		}
	}
	o.Now = now.Add(30 * day)
	if got, err = PruneFiles(ctx, o); err != nil || !strings.HasPrefix(got.Waits, "backup.not-pruned: ") {
		t.Errorf("with nothing new for a month: %q, %v", got.Waits, err)
	}
}
