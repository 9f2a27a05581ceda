package backup

import (
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/plan"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

func TestWhichBackupThePlanWants(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	p := plan.Backup{Full: plan.Schedule{Cron: "0 1 * * *"}, Incremental: plan.Schedule{Every: 6 * time.Hour}}
	made := func(kind string, ago time.Duration) vault.Backup {
		return vault.Backup{Kind: kind, Started: now.Add(-ago)}
	}
	for name, c := range map[string]struct {
		plan plan.Backup
		made []vault.Backup
		want Wanted
	}{
		"the first one is full":                            {p, nil, Wanted{Now: true}},
		"a full one of this night, and six hours are over": {p, []vault.Backup{made("full", 11*time.Hour)}, Wanted{Now: true, Mode: Auto}},
		"an incremental four hours ago":                    {p, []vault.Backup{made("full", 11*time.Hour), made("incremental", 4*time.Hour)}, Wanted{Mode: Auto, Next: now.Add(2 * time.Hour)}},
		"a night without a full one, whatever came since":  {p, []vault.Backup{made("full", 30*time.Hour), made("incremental", time.Hour)}, Wanted{Now: true}},
		"incrementals alone do not stand for a full one":   {p, []vault.Backup{made("incremental", time.Hour)}, Wanted{Now: true}},
		"a plan without incrementals":                      {plan.Backup{Full: p.Full}, []vault.Backup{made("full", 11*time.Hour)}, Wanted{Mode: Auto, Next: now.Add(13 * time.Hour)}},
		"a plan with incrementals alone, and a full one":   {plan.Backup{Incremental: p.Incremental}, []vault.Backup{made("full", 7*time.Hour)}, Wanted{Now: true, Mode: Auto}},
	} {
		if got, err := Want(c.plan, c.made, time.Time{}, now); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
}

// A run that somebody ended is not wanted again; the next one is.
func TestAnEndedBackupWaitsForTheNextOne(t *testing.T) {
	now := time.Date(2026, 11, 21, 1, 30, 0, 0, time.UTC)
	p := plan.Backup{Full: plan.Schedule{Cron: "0 1 * * *"}, Incremental: plan.Schedule{Every: 6 * time.Hour}}
	night := []vault.Backup{{Kind: "full", Started: now.Add(-25 * time.Hour)}, {Kind: "incremental", Started: now.Add(-5 * time.Hour)}}
	tomorrow := time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		made []vault.Backup
		at   time.Time // when it was ended
		now  time.Time
		want Wanted
	}{
		"nobody ended the one of this night":             {night, time.Time{}, now, Wanted{Now: true}},
		"it was ended, and the incremental is next":      {night, now, now, Wanted{Mode: Auto, Next: now.Add(time.Hour)}},
		"that one comes at its time":                     {night, now, now.Add(time.Hour), Wanted{Now: true, Mode: Auto}},
		"the full one of the next night comes too":       {night, now, tomorrow, Wanted{Now: true}},
		"one that was ended before it was due stays due": {night, now.Add(-2 * time.Hour), now, Wanted{Now: true}},
		"the first one was ended":                        {nil, now, now, Wanted{Next: tomorrow}},
		"and comes with the night":                       {nil, now, tomorrow, Wanted{Now: true}},
		"an incremental was ended":                       {[]vault.Backup{{Kind: "full", Started: now.Add(-7 * time.Hour)}}, now.Add(-40 * time.Minute), now.Add(-35 * time.Minute), Wanted{Mode: Auto, Next: now.Add(-30 * time.Minute)}},
	} {
		if got, err := Want(p, c.made, c.at, c.now); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
}

func TestNextRun(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.ParseInLocation("2006-01-02 15:04", s, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	daily := plan.Schedule{Text: "daily 01:00", Cron: "0 1 * * *"}
	every := plan.Schedule{Text: "every 6h", Every: 6 * time.Hour}
	cases := []struct {
		name      string
		s         plan.Schedule
		last, now string
		want      Due
	}{
		{"an empty schedule never fires", plan.Schedule{}, "2026-11-19 01:00", "2026-11-20 01:00", Due{Never: true}},
		{"before its hour it waits", daily, "2026-11-19 01:00", "2026-11-20 00:59", Due{At: at("2026-11-20 01:00")}},
		{"at its hour it is due", daily, "2026-11-19 01:00", "2026-11-20 01:00", Due{Now: true, At: at("2026-11-20 01:00")}},
		{"a week missed is caught up once, with the newest slot", daily, "2026-11-10 01:00", "2026-11-20 13:00", Due{Now: true, At: at("2026-11-20 01:00")}},
		{"an interval counts from the last start", every, "2026-11-20 01:07", "2026-11-20 07:06", Due{At: at("2026-11-20 07:07")}},
		{"an interval that has passed is due", every, "2026-11-20 01:07", "2026-11-20 07:07", Due{Now: true, At: at("2026-11-20 07:07")}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := Next(Timing{Schedule: c.s}, at(c.last), at(c.now))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
	if got, err := Next(Timing{Schedule: daily}, time.Time{}, at("2026-11-20 13:00")); err != nil || !got.Now {
		t.Errorf("a database without a backup: %+v, %v", got, err)
	}
	if _, err := Next(Timing{Schedule: plan.Schedule{Text: "never", Cron: "0 0 31 2 *"}}, at("2026-01-01 00:00"), at("2026-01-02 00:00")); err == nil {
		t.Error("the 31st of February was accepted")
	}
}

func TestResume(t *testing.T) {
	const size = wal.DefaultSegmentSize
	at := func(seg, off int) wal.LSN { return wal.LSN(seg*size + off) }
	whole := func(tl uint32, n int) wal.Held {
		return wal.Held{Timeline: tl, Start: at(n, 0), End: at(n+1, 0), Object: "x"}
	}
	part := func(tl uint32, n, off int) wal.Held {
		return wal.Held{Timeline: tl, Start: at(n, 0), End: at(n, off), Partial: true, Object: "x"}
	}
	one := wal.History{{Timeline: 1}}
	fork := at(3, 1000)
	two := wal.History{{Timeline: 1, End: fork}, {Timeline: 2, Begin: fork}}
	cases := []struct {
		name     string
		h        wal.History
		held     []wal.Held
		timeline uint32
		from     wal.LSN
		fresh    bool
	}{
		{"an empty vault begins with the server's segment", one, nil, 1, at(9, 0), true},
		{"it goes on behind the last whole segment", one, []wal.Held{whole(1, 2), whole(1, 3), part(1, 4, 77)}, 1, at(4, 0), false},
		{"a vault with one partial segment goes on at its beginning", one, []wal.Held{part(1, 4, 77)}, 1, at(4, 0), false},
		{"after a promotion the old timeline is finished first", two, []wal.Held{whole(1, 1)}, 1, at(2, 0), false},
		{"a parent held up to the fork leads to the child", two, []wal.Held{whole(1, 2), part(1, 3, 1000)}, 2, at(3, 0), false},
		{"a parent of one partial segment up to the fork leads to the child", two, []wal.Held{part(1, 3, 1000)}, 2, at(3, 0), false},
		{"what the dead primary wrote behind the fork does not hold it up", two, []wal.Held{whole(1, 2), whole(1, 3), whole(1, 4)}, 2, at(3, 0), false},
		{"the child's own log counts first", two, []wal.Held{whole(1, 2), whole(2, 3), whole(2, 4)}, 2, at(5, 0), false},
		{"another branch does not count", two, []wal.Held{whole(5, 7)}, 2, at(9, 0), true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tl, from, fresh := resume(c.h, c.held, at(9, 4711), size)
			if tl != c.timeline || from != c.from || fresh != c.fresh {
				t.Errorf("goes on at %d %s (fresh %v), want %d %s (%v)", tl, from, fresh, c.timeline, c.from, c.fresh)
			}
		})
	}
}

// A gap that was found while the archive was on timeline 1, up to segment 2.
func TestWhereTheLogGoesOnBehindAGap(t *testing.T) {
	const size = wal.DefaultSegmentSize
	at := func(seg, off int) wal.LSN { return wal.LSN(seg*size + off) }
	whole := func(tl uint32, n int) wal.Held {
		return wal.Held{Timeline: tl, Start: at(n, 0), End: at(n+1, 0), Object: "x"}
	}
	part := func(tl uint32, n, off int) wal.Held {
		return wal.Held{Timeline: tl, Start: at(n, 0), End: at(n, off), Partial: true, Object: "x"}
	}
	refused := &pgconn.PgError{Code: "58P01"}
	one := wal.History{{Timeline: 1}}
	fork := at(20, 1000)
	two := wal.History{{Timeline: 1, End: fork}, {Timeline: 2, Begin: fork}}
	onTwo := at(30, 5)
	before := []wal.Held{whole(1, 1), part(1, 2, 70)}
	found := func(t uint32, l wal.LSN) *GapError { // before this Run
		return &GapError{Timeline: 1, From: at(2, 0), ToTimeline: t, To: l}
	}
	cases := []struct {
		name    string
		history wal.History
		flushed wal.LSN
		held    []wal.Held // besides what was there before the gap
		known   *GapError
		begins  place // where this Run asks the server to begin
		next    place // where the Run after it does when the server has removed that, ten segments on
	}{
		{"nothing is known to be lost", one, at(9, 5), nil, nil, place{1, at(2, 0)}, place{1, at(9, 0)}},
		{"the lost piece is on a timeline before the server's", two, onTwo, nil, nil, place{1, at(2, 0)}, place{2, at(30, 0)}},
		{"the place behind the gap stays while the server writes on", one, at(15, 5), nil, found(1, at(9, 0)), place{1, at(9, 0)}, place{1, at(15, 0)}},
		{"it stays through a change of primary", two, onTwo, nil, found(1, at(9, 0)), place{1, at(9, 0)}, place{2, at(30, 0)}},
		{"it is chosen again when the new primary parted before it", two, onTwo, nil, found(1, at(21, 0)), place{2, at(30, 0)}, place{2, at(30, 0)}},
		{"it may lie in the segment where its timeline begins", two, onTwo, nil, found(2, at(20, 0)), place{2, at(20, 0)}, place{2, at(30, 0)}},
		{"what was stored behind it up to the fork leads to the child", two, onTwo, []wal.Held{part(1, 20, 1000)}, found(1, at(20, 0)), place{2, at(20, 0)}, place{2, at(30, 0)}},
		{"an unfinished segment behind it is begun again", one, at(15, 5), []wal.Held{part(1, 9, 40)}, found(1, at(9, 0)), place{1, at(9, 0)}, place{1, at(15, 0)}},
		{"another archivist's unfinished segment behind the gap is where the next Run begins", one, at(15, 5), []wal.Held{part(1, 9, 40)}, nil, place{1, at(2, 0)}, place{1, at(9, 0)}},
		{"whole segments behind it are no gap any more", one, at(15, 5), []wal.Held{whole(1, 9), part(1, 10, 40)}, found(1, at(9, 0)), place{1, at(10, 0)}, place{1, at(15, 0)}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			held := append(slices.Clone(before), c.held...)
			r := &Receiver{o: ReceiverOptions{SkipGap: true}, log: slog.New(slog.DiscardHandler), lost: c.known}
			s := &stream{r: r, srv: server{timeline: c.history[len(c.history)-1].Timeline, flushed: c.flushed, segmentSize: size}}
			timeline, from, _ := resume(c.history, held, c.flushed, size)
			asked := place{timeline, from}
			var began place
			began.timeline, began.lsn = s.behindGap(t.Context(), asked, c.history, held)
			if began != c.begins {
				t.Fatalf("begins at %+v, want %+v", began, c.begins)
			}
			if _, ok := errors.AsType[*GapError](s.gap(refused, asked, began, c.history, held)); !ok {
				t.Fatal("no gap is told")
			}
			s.srv.flushed += at(10, 0)
			for range 3 { // nothing is stored meanwhile
				var next place
				next.timeline, next.lsn = s.behindGap(t.Context(), asked, c.history, held)
				if next != c.next {
					t.Errorf("goes on at %+v, want %+v", next, c.next)
				}
				s.srv.flushed += at(10, 0)
			}
		})
	}
}

func TestAWaitForLogEndsWhenNothingComesNearer(t *testing.T) {
	const size = wal.DefaultSegmentSize
	start := time.Unix(1000, 0)
	one := wal.History{{Timeline: 1}}
	piece := func(n int) wal.Held {
		return wal.Held{Timeline: 1, Start: wal.LSN(n * size), End: wal.LSN((n + 1) * size)}
	}
	for name, c := range map[string]struct {
		comes func(minute int) wal.Held // each minute one more
		still time.Duration             // after twenty minutes
	}{
		"an archive that lags and comes nearer":   {func(m int) wal.Held { return piece(m) }, 0},
		"an archive that stands":                  {func(int) wal.Held { return piece(0) }, 20 * time.Minute},
		"one that went on behind what is needed":  {func(m int) wal.Held { return piece(200 + m) }, 20 * time.Minute},
		"one that fills what is needed, slowly":   {func(m int) wal.Held { return piece(100 + m/4) }, 0},
		"one that stores what is on other ways":   {func(m int) wal.Held { h := piece(m); h.Timeline = 7; return h }, 20 * time.Minute},
		"one that stood for five minutes at last": {func(m int) wal.Held { return piece(min(m, 15)) }, 5 * time.Minute},
	} {
		from, to := wal.LSN(100*size), wal.LSN(150*size)
		var w logWait
		var held []wal.Held
		var still time.Duration
		for m := range 21 {
			held = append(held, c.comes(m))
			_, end := wal.Reach(one, held, from, size)
			still = w.look(end, furthest(one, held, to), start.Add(time.Duration(m)*time.Minute))
		}
		if still != c.still {
			t.Errorf("%s: stands for %s, want %s", name, still, c.still)
		}
	}
}

func TestSizesAsPostgreSQLShowsThem(t *testing.T) {
	for in, want := range map[string]uint64{"16MB": 16 << 20, "1GB": 1 << 30, "64kB": 64 << 10} {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("%s: %d, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "MB", "16", "-1MB", "0MB"} {
		if _, err := parseSize(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestSpoolRefusesWhatDoesNotFollow(t *testing.T) {
	s, err := openSpool(t.TempDir(), 1<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1, 0)
	if err := s.append(1, 1<<20, make([]byte, 3<<19), now); err != nil { // one and a half segments
		t.Fatal(err)
	}
	if _, ok := s.next(true); ok {
		t.Error("something is offered to the vault that is not on the disk")
	}
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	p, ok := s.next(false)
	if !ok || !p.whole || p.length != 1<<20 {
		t.Errorf("offers %+v", p)
	}
	if err := s.append(1, 9<<20, []byte{1}, now); err == nil {
		t.Error("a jump was accepted")
	}
	if err := s.append(2, 1<<20+3<<19, []byte{1}, now); err == nil {
		t.Error("another timeline was accepted without an end of the first")
	}
	if err := s.stored(p); err != nil {
		t.Fatal(err)
	}
	if n := s.waiting(); n != 1<<19 {
		t.Errorf("%d bytes wait", n)
	}
	if err := errors.Join(s.close()); err != nil {
		t.Fatal(err)
	}
}
