package restore_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

const size = wal.DefaultSegmentSize

func hour(h int) time.Time { return time.Date(2026, 11, 20, h, 0, 0, 0, time.UTC) }

func lsn(segment int) wal.LSN { return wal.LSN(segment * size) }

// made is a backup that begins and ends in one segment, at one hour.
func made(id string, segment, h int) vault.Backup {
	return vault.Backup{ID: id, Database: "orders", SystemID: 7, Timeline: 1, SegmentSize: size,
		Start: lsn(segment) + 40, Stop: lsn(segment) + 4000, Started: hour(h).Add(-time.Minute), Stopped: hour(h)}
}

func segments(timeline uint32, from, to int) []wal.Held {
	var out []wal.Held
	for n := from; n <= to; n++ {
		out = append(out, wal.Held{Timeline: timeline, Start: lsn(n), End: lsn(n + 1), Object: "x"})
	}
	return out
}

// catalogue: backups at 01:00 (segment 1), 05:00 (5) and 09:00 (9), log of segments 1 to 12 up to 12:00.
func catalogue() restore.Catalogue {
	return restore.Catalogue{Database: "orders",
		Backups: []vault.Backup{made("one", 1, 1), made("five", 5, 5), made("nine", 9, 9)},
		Logs: map[uint64]restore.HeldLog{7: {SegmentSize: size, Held: segments(1, 1, 12),
			Histories: map[uint32]wal.History{1: {{Timeline: 1}}},
			Covered:   map[uint32]restore.Mark{1: {End: lsn(13), At: hour(12)}}}},
	}
}

func TestChoose(t *testing.T) {
	bad := vault.Validation{}
	cases := []struct {
		name   string
		change func(*restore.Catalogue)
		target restore.Target
		backup string // "" = impossible
		says   string // in the refusal
	}{
		{"the latest takes the newest backup", nil, restore.Target{}, "nine", ""},
		{"a time takes the nearest backup before it", nil, restore.Target{Kind: restore.AtTime, Time: hour(6)}, "five", ""},
		{"a position takes the nearest backup before it", nil, restore.Target{Kind: restore.AtLSN, LSN: lsn(8)}, "five", ""},
		{"a transaction at a known position takes the nearest too", nil, restore.Target{Kind: restore.AtXID, XID: 99, LSN: lsn(8)}, "five", ""},
		{"a transaction at an unknown position takes the oldest", nil, restore.Target{Kind: restore.AtXID, XID: 99}, "one", ""},
		{"a time before the first backup is refused with the window", nil, restore.Target{Kind: restore.AtTime, Time: hour(0)}, "", "Possible is 2026-11-20 01:00:00Z to 2026-11-20 12:00:00Z (0/1000FA0 to 0/D000000)."},
		{"a position before the first backup is refused with the window", nil, restore.Target{Kind: restore.AtLSN, LSN: lsn(1)}, "", "(0/1000FA0 to 0/D000000)."},
		{"a position after the log is refused with the window", nil, restore.Target{Kind: restore.AtLSN, LSN: lsn(13) + 1}, "", "(0/1000FA0 to 0/D000000)."},
		{"the end of a base backup takes the newest", nil, restore.Target{Kind: restore.Consistent}, "nine", ""},
		{"a time after the log is refused with the window", nil, restore.Target{Kind: restore.AtTime, Time: hour(13)}, "", "Possible is 2026-11-20 01:00:00Z to 2026-11-20 12:00:00Z"},
		{"a backup that failed its trial is passed over", func(c *restore.Catalogue) { c.Backups[2].Validation = &bad }, restore.Target{}, "five", ""},
		{"a backup whose own log is missing is passed over", func(c *restore.Catalogue) {
			l := c.Logs[7]
			l.Held = segments(1, 1, 8)
			l.Covered[1] = restore.Mark{End: lsn(9), At: hour(8)}
			c.Logs[7] = l
		}, restore.Target{}, "five", ""},
		{"a position behind a hole is refused", func(c *restore.Catalogue) {
			l := c.Logs[7]
			l.Held = append(segments(1, 1, 10), segments(1, 12, 12)...)
			c.Logs[7] = l
		}, restore.Target{Kind: restore.AtLSN, LSN: lsn(12) + 5}, "", "its log ends before that"},
		{"a vault without backups is refused", func(c *restore.Catalogue) { c.Backups = nil }, restore.Target{}, "", "no base backup"},
		{"a timeline that is not there is refused", nil, restore.Target{Timeline: 4}, "", "no timeline"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cat := catalogue()
			if c.change != nil {
				c.change(&cat)
			}
			ch, err := restore.Choose(cat, c.target)
			if c.backup == "" {
				if p, ok := errors.AsType[*problem.Problem](err); !ok || !strings.Contains(p.Text(), c.says) {
					t.Fatalf("got %v, want a problem that says %q", err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if ch.Backup.ID != c.backup || len(ch.Because) == 0 {
				t.Errorf("chose %s because %q, want %s", ch.Backup.ID, ch.Because, c.backup)
			}
		})
	}
}

// The first record at or behind a position is the last that is replayed, and it may go on for several segments.
func TestTheSegmentBehindAPositionIsAmongTheLog(t *testing.T) {
	for name, c := range map[string]struct {
		at   wal.LSN
		last wal.LSN // where the last piece ends
	}{
		"in the middle of a segment":          {lsn(6) + 100, lsn(11)},
		"where a segment begins":              {lsn(7), lsn(12)},
		"in the last one":                     {lsn(12) + 5, lsn(13)},
		"where the log ends, nothing is next": {lsn(13), lsn(13)},
	} {
		ch, err := restore.Choose(catalogue(), restore.Target{Kind: restore.AtLSN, LSN: c.at})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if end := ch.Pieces[len(ch.Pieces)-1].End; end != c.last {
			t.Errorf("%s: the log ends at %s, want %s", name, end, c.last)
		}
	}
}

func TestAfterAFailoverTheNewTimelineIsFollowed(t *testing.T) {
	cat := catalogue()
	fork := lsn(10) + 500
	l := cat.Logs[7]
	l.Held = append(segments(1, 1, 12), segments(2, 10, 14)...) // the dead primary wrote on to segment 12
	l.Histories[2] = wal.History{{Timeline: 1, End: fork}, {Timeline: 2, Begin: fork}}
	l.Covered[2] = restore.Mark{End: lsn(15), At: hour(14)}
	cat.Logs[7] = l
	ch, err := restore.Choose(cat, restore.Target{})
	if err != nil {
		t.Fatal(err)
	}
	if ch.Timeline != 2 || ch.End != lsn(15) || !ch.Covered.Equal(hour(14)) {
		t.Errorf("timeline %d up to %s, covered %s", ch.Timeline, ch.End, ch.Covered)
	}
	var used []uint32
	for _, p := range ch.Pieces {
		used = append(used, p.Timeline)
	}
	if d := cmp.Diff([]uint32{1, 2, 2, 2, 2, 2}, used); d != "" {
		t.Error(d)
	}
}

// A timeline that began below a recovery point and has grown past its position does not lead to it.
func TestARecoveryPointIsReachedOnItsOwnTimeline(t *testing.T) {
	forked := func(fork wal.LSN) restore.Catalogue {
		cat := catalogue()
		l := cat.Logs[7]
		l.Held = append(segments(1, 1, 12), segments(2, int(uint64(fork)/size), 14)...)
		l.Histories[2] = wal.History{{Timeline: 1, End: fork}, {Timeline: 2, Begin: fork}}
		cat.Logs[7] = l
		return cat
	}
	cut := forked(lsn(11) + 500) // the old primary's last segment did not arrive; the new one repeats it
	l := cut.Logs[7]
	l.Held = append(segments(1, 1, 10), segments(2, 11, 14)...)
	cut.Logs[7] = l
	point := vault.Point{ID: "p", SystemID: 7, Timeline: 1, LSN: lsn(11) + 100}
	old, later, foreign := point, point, point
	old.SystemID, old.Timeline, later.Timeline, foreign.SystemID = 0, 0, 2, 8
	for _, c := range []struct {
		name string
		c    restore.Catalogue
		p    vault.Point
		want uint32 // 0 = none
	}{
		{"a fork below it", forked(lsn(10) + 500), point, 1},
		{"a fork below it, and the point is behind that", forked(lsn(10) + 500), later, 2},
		{"a fork above it, to which its own timeline leads", forked(lsn(11) + 500), point, 1},
		{"a fork above it, whose log repeats what is missing", cut, point, 2},
		{"one that does not tell takes the newest", forked(lsn(10) + 500), old, 2},
		{"one of another cluster", forked(lsn(10) + 500), foreign, 0},
	} {
		ch, err := restore.ChoosePoint(c.c, c.p)
		if ch.Timeline != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%s: timeline %d, %v", c.name, ch.Timeline, err)
		}
	}
}

// Where log is missing in the middle, a refusal tells what lies on both sides of it as possible, what does not, and which log is
// missing; and the time of the log before it is known.
func TestAHoleInTheLogIsNotToldAsPossible(t *testing.T) {
	holed := func(from, to int) restore.Catalogue { // log of these segments is missing
		cat := catalogue()
		l := cat.Logs[7]
		l.Held = append(segments(1, 1, from-1), segments(1, to+1, 12)...)
		l.Before = map[uint32][]restore.Mark{1: {{End: lsn(from), At: hour(from - 1)}}}
		cat.Logs[7] = l
		return cat
	}
	first, second := "Possible is 2026-11-20 01:00:00Z to 2026-11-20 06:00:00Z (0/1000FA0 to 0/7000000; behind that is missing log from 0/7000000 to 0/8000000 on timeline 1).",
		"Possible is 2026-11-20 09:00:00Z to 2026-11-20 12:00:00Z (0/9000FA0 to 0/D000000), and nothing between"
	for _, c := range []struct {
		name   string
		cat    restore.Catalogue
		target restore.Target
		says   []string // nothing = it is possible
	}{
		{"a time in the hole", holed(7, 7), restore.Target{Kind: restore.AtTime, Time: hour(7)},
			[]string{first, second, "five: its log is known to be whole up to 2026-11-20 06:00:00Z only, and missing is log from 0/7000000 to 0/8000000"}},
		{"a position in the hole", holed(7, 7), restore.Target{Kind: restore.AtLSN, LSN: lsn(7) + 5}, []string{first, second}},
		{"a time before it", holed(7, 7), restore.Target{Kind: restore.AtTime, Time: hour(5).Add(30 * time.Minute)}, nil},
		{"a time behind it that no backup leads to", holed(11, 11), restore.Target{Kind: restore.AtTime, Time: hour(12)},
			[]string{"Possible is 2026-11-20 01:00:00Z to 2026-11-20 10:00:00Z (0/1000FA0 to 0/B000000; behind that is missing log from 0/B000000 to 0/C000000 on timeline 1)."}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ch, err := restore.Choose(c.cat, c.target)
			if len(c.says) == 0 {
				if err != nil || ch.Backup.ID != "five" || ch.End != lsn(7) {
					t.Errorf("chose %s up to %s: %v", ch.Backup.ID, ch.End, err)
				}
				return
			}
			p, ok := errors.AsType[*problem.Problem](err)
			if !ok {
				t.Fatalf("got %v", err)
			}
			for _, want := range c.says {
				if !strings.Contains(p.Text(), want) {
					t.Errorf("does not say %q:\n%s", want, p.Text())
				}
			}
			if strings.Contains(p.Text(), "0/1000FA0 to 0/D000000") {
				t.Errorf("tells both sides of the hole as one:\n%s", p.Text())
			}
		})
	}
}

// A range that is told begins with a second that can be restored.
func TestARangeBeginsInside(t *testing.T) {
	cat := catalogue()
	cat.Backups[0].Stopped = hour(1).Add(300 * time.Millisecond)
	_, err := restore.Choose(cat, restore.Target{Kind: restore.AtTime, Time: hour(1)})
	if p, ok := errors.AsType[*problem.Problem](err); !ok || !strings.Contains(p.Text(), "Possible is 2026-11-20 01:00:01Z to") {
		t.Errorf("got %v", err)
	}
}

// Whatever is chosen, the log it comes with begins at the backup, has no hole and reaches the target.
func TestWhatIsChosenLeadsThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cat := catalogue()
		l := cat.Logs[7]
		l.Held = nil
		for n := 1; n <= 12; n++ {
			if rapid.IntRange(0, 9).Draw(t, "held") > 0 {
				l.Held = append(l.Held, segments(1, n, n)...)
			}
		}
		cat.Logs[7] = l
		target := restore.Target{Kind: restore.AtLSN, LSN: lsn(1) + wal.LSN(rapid.IntRange(0, 12*size).Draw(t, "lsn"))}
		ch, err := restore.Choose(cat, target)
		if err != nil {
			return
		}
		at := ch.Backup.Start.SegmentStart(size)
		for _, p := range ch.Pieces {
			if p.Start != at {
				t.Fatalf("a hole at %s", at)
			}
			at = p.End
		}
		if at < target.LSN || ch.Backup.Stop > target.LSN {
			t.Fatalf("log up to %s, backup consistent at %s, target %s", at, ch.Backup.Stop, target.LSN)
		}
	})
}

func TestTargetsAreReadAsTheyAreWritten(t *testing.T) {
	zone := time.FixedZone("home", 3600)
	cases := map[string]restore.Target{
		"latest":                       {Kind: restore.Latest},
		"2026-11-20 14:30":             {Kind: restore.AtTime, Time: time.Date(2026, 11, 20, 13, 30, 0, 0, time.UTC)},
		"2026-11-20T14:30:01Z":         {Kind: restore.AtTime, Time: time.Date(2026, 11, 20, 14, 30, 1, 0, time.UTC)},
		"2026-11-20 14:30:01.25+02:00": {Kind: restore.AtTime, Time: time.Date(2026, 11, 20, 12, 30, 1, 250e6, time.UTC)},
		"before:0/3000060":             {Kind: restore.AtLSN, LSN: 0x3000060, Exclusive: true},
		"before:xid:731":               {Kind: restore.AtXID, XID: 731, Exclusive: true},
		"name:before upgrade":          {Kind: restore.AtName, Name: "before upgrade"},
		"immediate":                    {Kind: restore.Consistent},
	}
	for in, want := range cases {
		got, err := restore.ParseTarget(in, zone)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q: %s", in, d)
		}
	}
	for _, in := range []string{"2026-11-20 14:30:01.5+01", "2026-11-20 14:30:01.5 +01", "2026-11-20T14:30:01.5+0100", "2026-11-20 15:30:01.5 +02:00", "2026-11-20 13:30:01.5 UTC",
		"2026-11-20 13:30:01.5 GMT", "2026-11-20 13:30:01.5z", "2026-11-20 08:30:01.5 -05", "2026-11-20 19:00:01.5+0530"} {
		want := restore.Target{Kind: restore.AtTime, Time: time.Date(2026, 11, 20, 13, 30, 1, 5e8, time.UTC)}
		if got, err := restore.ParseTarget(in, zone); err != nil || !cmp.Equal(want, got) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"2026-11-20T14:30", "2026-11-20 13:30 UTC", "2026-11-20T13:30Z", "2026-11-20 14:30+01"} {
		if got, err := restore.ParseTarget(in, zone); err != nil || !got.Time.Equal(time.Date(2026, 11, 20, 13, 30, 0, 0, time.UTC)) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for _, bad := range []string{"2026-11-20 10:12:52 CET", "2026-11-20 10:12:52 EST", "2026-11-20 10:12:52 +5x", "2026-11-20 25:12 UTC", "2026-11-20 10:12 +99", "yesterday", "before:latest", "xid:", "xid:2", "name:", "before:immediate", "0/", "2026-13-01 00:00"} {
		if got, err := restore.ParseTarget(bad, zone); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
}

// A short name of a zone counts where the machine's own zone has it, at that moment; all others would be guessed.
func TestTheNameOfAZoneIsThisMachinesOrRefused(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal("no zones on this machine: ", err)
	}
	for in, want := range map[string]time.Time{
		"2026-11-20 10:12:52.398 CET": time.Date(2026, 11, 20, 9, 12, 52, 398e6, time.UTC),
		"2026-07-20 10:12:52 CEST":    time.Date(2026, 7, 20, 8, 12, 52, 0, time.UTC),
		"2026-10-25 02:30 CEST":       time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC), // an hour that comes twice
		"2026-10-25 02:30 CET":        time.Date(2026, 10, 25, 1, 30, 0, 0, time.UTC),
	} {
		if got, err := restore.ParseTarget(in, berlin); err != nil || !got.Time.Equal(want) {
			t.Errorf("%q: %v, %v", in, got.Time, err)
		}
	}
	for _, in := range []string{"2026-11-20 10:12:52 CEST", "2026-07-20 10:12:52 CET", "2026-11-20 10:12:52 EST", "2026-11-20 10:12:52 MEZ"} {
		if got, err := restore.ParseTarget(in, berlin); err == nil || !strings.Contains(err.Error(), "time zone") {
			t.Errorf("%q: %v, %v", in, got.Time, err)
		}
	}
}
