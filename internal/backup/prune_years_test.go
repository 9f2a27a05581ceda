package backup

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"holdfast/internal/backup/retention"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

const (
	day     = 24 * time.Hour
	segment = wal.DefaultSegmentSize
)

// years is a vault in memory over simulated time: a backup every 12 hours or none, a segment of log every 6 hours.
type years struct {
	t        *testing.T
	dice     *rand.Rand
	now      time.Time
	options  PruneOptions
	made     []vault.Backup // everything that ever was
	backups  []vault.Backup // what is listed
	notes    []vault.Note
	held     []wal.Held
	reached  wal.LSN
	unwanted map[string]time.Time // since when each is marked
}

func newYears(t *testing.T, seed uint64) *years {
	y := &years{t: t, dice: rand.New(rand.NewPCG(seed, 1)), now: time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC), reached: segment, unwanted: map[string]time.Time{}}
	y.options = PruneOptions{Database: "orders", Policy: retention.Policy{}, Grace: vault.Grace}
	return y
}

// live passes 6 hours: log, and perhaps a backup.
func (y *years) live() {
	y.now = y.now.Add(6 * time.Hour)
	y.held = append(y.held, wal.Held{Timeline: 1, Start: y.reached, End: y.reached + segment, Covers: y.now, Object: fmt.Sprint(y.reached)})
	y.reached += segment
	if y.now.Hour()%12 != 0 || y.dice.IntN(10) == 0 { // a missed slot now and then
		return
	}
	b := vault.Backup{ID: fmt.Sprint("b", y.now.Unix()), Database: "orders", SystemID: 7, Timeline: 1, SegmentSize: segment, Stopped: y.now, Start: y.reached - segment + 5, Stop: y.reached - 5}
	switch y.dice.IntN(12) {
	case 0: // not tried
	case 1:
		b.Validation = &vault.Validation{}
	default:
		b.Validation = &vault.Validation{Passed: true}
	}
	y.made = append(y.made, b)
	y.backups = append(y.backups, b)
	if y.dice.IntN(40) == 0 {
		y.notes = append(y.notes, vault.Note{Backup: b.ID, Kind: vault.Pin})
	}
}

func (y *years) noted(id, kind string) bool {
	return slices.ContainsFunc(y.notes, func(n vault.Note) bool { return n.Backup == id && n.Kind == kind })
}

// prune does what Prune does, and may be cut off after any step.
func (y *years) prune() {
	o := y.options
	o.Now = y.now
	steps := 1 << 30
	if y.dice.IntN(3) == 0 {
		steps = y.dice.IntN(4)
	}
	for _, f := range fates(o, y.backups, y.notes) {
		marked := !f.Marked.IsZero()
		if f.Keep == !marked && (f.Keep || y.now.Before(f.Goes)) {
			continue
		}
		if !f.Keep && marked && y.now.Before(f.Goes) {
			continue
		}
		if steps--; steps < 0 {
			return
		}
		drop := func(n vault.Note) bool { return n.Backup == f.ID && n.Kind == vault.Doomed }
		switch {
		case f.Keep:
			y.notes = slices.DeleteFunc(y.notes, drop)
			delete(y.unwanted, f.ID)
		case !marked:
			y.notes = append(y.notes, vault.Note{Backup: f.ID, Kind: vault.Doomed, At: y.now})
			y.unwanted[f.ID] = y.now
		default:
			if since, ok := y.unwanted[f.ID]; !ok || y.now.Sub(since) < o.Grace {
				y.t.Fatalf("%s goes at %s, marked since %s", f.ID, y.now, since)
			}
			y.backups = slices.DeleteFunc(y.backups, func(b vault.Backup) bool { return b.ID == f.ID })
			y.notes = slices.DeleteFunc(y.notes, drop)
		}
	}
	log := y.catalogue().Logs[7]
	pieces, _ := needless(y.backups, fates(o, y.backups, y.notes), log, 14*day+o.Grace, y.now)
	for _, p := range pieces {
		if steps--; steps < 0 {
			return
		}
		y.held = slices.DeleteFunc(y.held, func(h wal.Held) bool { return h.Object == p.Object })
	}
}

func (y *years) catalogue() restore.Catalogue {
	return restore.Catalogue{Database: "orders", Backups: y.backups, Logs: map[uint64]restore.HeldLog{7: {
		SegmentSize: segment, Held: y.held, Histories: map[uint32]wal.History{1: {{Timeline: 1}}},
		Covered: map[uint32]restore.Mark{1: {End: y.reached, At: y.now}},
	}}}
}

// check looks whether everything that was promised can still be had.
func (y *years) check() {
	y.t.Helper()
	listed := map[string]bool{}
	weeks := map[string]bool{}
	for _, b := range y.backups {
		listed[b.ID] = true
		if b.Validated() {
			year, week := b.Stopped.ISOWeek()
			weeks[fmt.Sprint(year, week)] = true
		}
	}
	var newest vault.Backup
	for _, b := range y.made {
		if b.Validated() {
			newest = b
		}
		age := y.now.Sub(b.Stopped)
		year, week := b.Stopped.ISOWeek()
		switch {
		case y.noted(b.ID, vault.Pin) && !listed[b.ID]:
			y.t.Fatalf("%s: pinned %s is gone", y.now, b.ID)
		case age < day && !listed[b.ID]:
			y.t.Fatalf("%s: %s is gone after %s", y.now, b.ID, age)
		case b.Validated() && age < (2*365-7)*day && !weeks[fmt.Sprint(year, week)]:
			y.t.Fatalf("%s: nothing proven is left of week %d of %d", y.now, week, year)
		}
	}
	if newest.ID != "" && !listed[newest.ID] {
		y.t.Fatalf("%s: the newest proven backup is gone", y.now)
	}
	c := y.catalogue()
	for _, b := range y.backups {
		if b.Validation != nil && !b.Validation.Passed {
			continue
		}
		one := c
		one.Backups = []vault.Backup{b}
		if _, err := restore.Choose(one, restore.Target{Kind: restore.Consistent}); err != nil {
			y.t.Fatalf("%s: listed backup %s cannot be restored: %v", y.now, b.ID, err)
		}
	}
	first := slices.IndexFunc(y.made, vault.Backup.Validated)
	if first < 0 {
		return
	}
	for at := y.now.Add(-14 * day); at.Before(y.now); at = at.Add(53 * time.Hour) {
		if at.Before(y.made[first].Stopped) {
			continue
		}
		if _, err := restore.Choose(c, restore.Target{Kind: restore.AtTime, Time: at}); err != nil {
			y.t.Fatalf("%s: %s cannot be restored: %v", y.now, at, err)
		}
	}
}

func TestOverYearsNothingPromisedGoesWhereverARunIsCutOff(t *testing.T) {
	lives := uint64(1) // of databases, in CI; more in make lab
	if os.Getenv("HOLDFAST_LAB") == "all" {
		lives = 4
	}
	for seed := range lives {
		y := newYears(t, seed)
		for n := range 3 * 365 * 4 {
			y.live()
			if n%4 == 3 && y.dice.IntN(8) > 0 { // daily, sometimes not
				y.prune()
			}
			if n%101 == 0 {
				y.check()
			}
		}
		y.check()
		// 104 weeks, 15 days and a week of twelve hours, the pins, what waits to go: anything like all of it would be a leak.
		if got, most := len(y.backups), 104+8+14+4+10+len(y.made)/40*2; got > most {
			t.Errorf("seed %d: %d of %d backups are left, more than %d", seed, got, len(y.made), most)
		}
		if got := len(y.held); got > 4*22+3*len(y.backups) {
			t.Errorf("seed %d: %d pieces of log are left for %d backups", seed, got, len(y.backups))
		}
	}
}

func TestLogThatLeadsFromARestoreToThePastStays(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	at := func(seg int) wal.LSN { return wal.LSN(seg * segment) }
	piece := func(tl uint32, seg int) wal.Held {
		return wal.Held{Timeline: tl, Start: at(seg), End: at(seg + 1), Object: fmt.Sprintf("%d/%d", tl, seg)}
	}
	proven := func(id string, age time.Duration, tl uint32, seg int) vault.Backup {
		return vault.Backup{ID: id, Timeline: tl, SegmentSize: segment, Stopped: now.Add(-age), Start: at(seg) + 1, Stop: at(seg) + 9, Validation: &vault.Validation{Passed: true}}
	}
	log := restore.HeldLog{SegmentSize: segment}
	for seg := 10; seg < 200; seg++ {
		log.Held = append(log.Held, piece(1, seg))
	}
	for seg := 50; seg < 90; seg++ {
		log.Held = append(log.Held, piece(2, seg))
	}
	// The database was at segment 199, was restored to segment 50 on timeline 2, and goes on from there.
	backups := []vault.Backup{proven("old", 100*day, 1, 20), proven("base", 30*day, 1, 150), proven("after", 3*day, 2, 60)}
	judged := fates(PruneOptions{Now: now, Grace: vault.Grace}, backups, nil)
	pieces, because := needless(backups, judged, log, 17*day, now)
	gone := map[string]bool{}
	for _, p := range pieces {
		gone[p.Object] = true
	}
	for _, keep := range []string{"1/20", "1/150", "1/199", "2/59", "2/60", "2/89", "1/60"} {
		if gone[keep] {
			t.Errorf("%s goes (%s)", keep, because)
		}
	}
	for _, go1 := range []string{"1/19", "1/21", "1/59"} {
		if !gone[go1] {
			t.Errorf("%s stays (%s)", go1, because)
		}
	}
	joined := log
	joined.Held = []wal.Held{{Timeline: 1, Start: at(10), End: at(11), Object: "bundle"}, {Timeline: 1, Start: at(20), End: at(21), Object: "bundle"}, piece(1, 12)}
	if pieces, _ := needless(backups, judged, joined, 17*day, now); len(pieces) != 1 || pieces[0].Object != "1/12" {
		t.Errorf("of an object with one piece that is needed and one that is not: %v", pieces)
	}
	if pieces, _ := needless(backups[2:], judged, log, 17*day, now); len(pieces) != 0 {
		t.Error("log goes although no backup is older than the window")
	}
}

// Of two backups of one day the tiers keep the first, and with it begins the window until a day later has one as old:
// the log between them must outlive the second, whether that is marked to go or stays for a pin alone.
func TestTheLogOfTheWindowIsNotCutBehindABackupThatGoes(t *testing.T) {
	now := time.Date(2026, 6, 19, 12, 0, 0, 0, time.UTC)
	proven := func(id string, at time.Time, seg int) vault.Backup {
		return vault.Backup{ID: id, Database: "orders", SystemID: 7, Timeline: 1, SegmentSize: segment, Stopped: at,
			Start: wal.LSN(seg*segment) + 5, Stop: wal.LSN((seg+1)*segment) - 5, Validation: &vault.Validation{Passed: true}}
	}
	first := proven("first", now.Add(-18*day-6*time.Hour), 10)
	second := proven("second", now.Add(-18*day), 20)
	next := proven("next", now.Add(-day), 80)
	all := []vault.Backup{next, second, first}
	log := restore.HeldLog{SegmentSize: segment, Histories: map[uint32]wal.History{1: {{Timeline: 1}}}}
	for seg := 10; seg < 90; seg++ {
		end := wal.LSN((seg + 1) * segment)
		log.Held = append(log.Held, wal.Held{Timeline: 1, Start: wal.LSN(seg * segment), End: end, Object: fmt.Sprint(seg),
			Covers: first.Stopped.Add(time.Duration(seg-10) * 6 * time.Hour)})
	}
	log.Covered = map[uint32]restore.Mark{1: {End: wal.LSN(90 * segment), At: now}}
	o := PruneOptions{Now: now, Grace: vault.Grace}
	pin := []vault.Note{{Backup: "second", Kind: vault.Pin}}
	for name, notes := range map[string][]vault.Note{"doomed": nil, "pinned": pin} {
		judged := fates(o, all, notes)
		if stays := judged[1].ID == "second" && judged[1].Keep; stays != (notes != nil) {
			t.Fatalf("%s: judged %+v", name, judged)
		}
		pieces, because := needless(all, judged, log, 17*day, now)
		left := log
		left.Held = slices.DeleteFunc(slices.Clone(log.Held), func(h wal.Held) bool { return slices.Contains(pieces, h) })
		c := restore.Catalogue{Database: "orders", Backups: []vault.Backup{next, first}, Logs: map[uint64]restore.HeldLog{7: left}}
		if _, err := restore.Choose(c, restore.Target{Kind: restore.AtTime, Time: now.Add(-10 * day)}); err != nil {
			t.Errorf("%s: without the second backup the window has a hole: %v (%d pieces went: %s)", name, err, len(pieces), because)
		}
	}
}
