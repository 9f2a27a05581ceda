package host

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/clock"
	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/problem"
)

func TestWhichServerKeepsLogForTheVault(t *testing.T) {
	standby := func(change func(*agent.DatabaseFacts)) agent.DatabaseFacts {
		d := agent.DatabaseFacts{
			Record: database.Record{Phase: database.Steady, Opened: true, Primary: "b1", Members: []string{"b1", "b2"}},
			Local:  database.Local{Ready: true, Role: database.Standby},
		}
		if change != nil {
			change(&d)
		}
		return d
	}
	for name, c := range map[string]struct {
		of           agent.DatabaseFacts
		unbacked, lo bool
		want         int
	}{
		"a standby that may be promoted keeps it":          {of: standby(nil), want: logKept},
		"a standby whose disk is nearly full lets it go":   {of: standby(nil), lo: true, want: logGoes},
		"without a backup in the plan it goes":             {of: standby(nil), unbacked: true, want: logGoes},
		"a server that is no member keeps none":            {of: standby(func(d *agent.DatabaseFacts) { d.Record.Members = []string{"b1"} }), want: logGoes},
		"one that does not answer is left alone":           {of: standby(func(d *agent.DatabaseFacts) { d.Local.Ready = false }), unbacked: true, want: logStays},
		"the primary's is the archive's own":               {of: standby(func(d *agent.DatabaseFacts) { d.Local.Role = database.Primary }), lo: true, want: logStays},
		"the primary's goes when nothing is backed up":     {of: standby(func(d *agent.DatabaseFacts) { d.Local.Role = database.Primary }), unbacked: true, want: logGoes},
		"within a change of primary nothing is touched":    {of: standby(func(d *agent.DatabaseFacts) { d.Record.Phase = database.Switching }), lo: true, want: logStays},
		"who is the primary by agreement is no standby":    {of: standby(func(d *agent.DatabaseFacts) { d.Record.Primary = "b2" }), want: logStays},
		"nothing is kept before the database is open":      {of: standby(func(d *agent.DatabaseFacts) { d.Record.Opened = false }), want: logStays},
		"a server of which nothing is known is left alone": {of: standby(func(d *agent.DatabaseFacts) { d.Local.Role = database.NoRole }), unbacked: true, want: logStays},
	} {
		if got := keepLog(c.of, "b2", !c.unbacked, c.lo); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestADiskIsNearlyFullUntilItHasTwiceTheFloorFree(t *testing.T) {
	const gib, mib = 1 << 30, 1 << 20
	for _, c := range []struct {
		size, free, apart int64
		was, want         bool
	}{
		{0, 0, 0, false, false}, // not known
		{100 * gib, gib, 0, false, false},
		{100 * gib, gib - 1, 0, false, true},
		{100 * gib, 2*gib - 1, 0, true, true},
		{100 * gib, 2 * gib, 0, true, false},
		{100 * gib, gib + 512*mib - 1, 512 * mib, false, true}, // what a restart point needs to come is in addition
		{100 * gib, gib + 512*mib, 512 * mib, false, false},
		{100 * gib, 3 * gib, 512 * mib, true, false},
		{gib / 2, 146 * mib, 512 * mib, false, true}, // a small disk holds less of it: 96 MiB and a tenth
		{gib / 2, 148 * mib, 512 * mib, false, false},
	} {
		if got := lowOn(database.Disk{Size: c.size, Free: c.free}, c.apart, c.was); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// notedServer is a server that notes what is asked of it.
type notedServer struct{ asked []string }

func (n *notedServer) ArchiveConfirmed(context.Context, database.Endpoint) (database.LSN, error) {
	return 0, nil
}

func (n *notedServer) KeepForArchive(context.Context, database.LSN) (postgres.KeptForArchive, error) {
	return postgres.KeptForArchive{}, nil
}

func (n *notedServer) ForgetArchive(_ context.Context, standbyOnly bool) error {
	n.asked = append(n.asked, fmt.Sprintf("forget %v", standbyOnly))
	return nil
}

func (n *notedServer) RestartPoint(context.Context) error {
	n.asked = append(n.asked, "restart point")
	return nil
}

type stoppedClock struct {
	clock.Clock
	now time.Time
}

func (s *stoppedClock) Now() time.Time { return s.now }

func TestLogIsLetGoAgainAndAgain(t *testing.T) {
	for name, c := range map[string]struct {
		low, backed bool
		every       time.Duration
		want        []string // each time
	}{
		"while the disk is low the server is asked to remove it": {low: true, backed: true, every: lowEvery, want: []string{"forget true", "restart point"}},
		"a server that is no member just forgets":                {backed: true, every: keepEvery, want: []string{"forget true"}},
		"without a backup a primary's goes as well":              {every: keepEvery, want: []string{"forget false"}},
	} {
		p, clk := &notedServer{}, &stoppedClock{now: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)}
		k := &logKeeper{host: &Host{clock: clk}, server: p, low: c.low, kept: 9}
		look := func(life string, after time.Duration, want []string) {
			t.Helper()
			clk.now, p.asked = clk.now.Add(after), nil
			if err := k.letGo(t.Context(), life, c.backed); err != nil || !slices.Equal(p.asked, want) || k.kept != 0 {
				t.Errorf("%s: asked %q, want %q; %v", name, p.asked, want, err)
			}
		}
		look("one", 0, c.want)
		look("one", c.every-1, nil)
		look("one", 1, c.want) // somebody whose plan is older may have made the slot anew
		look("two", 1, c.want)
	}
}

func TestAStandbyThatLacksLogOfTheVaultIsTold(t *testing.T) {
	const s = keepSegment
	for name, c := range map[string]struct {
		local    database.Local
		archived database.LSN
		low      bool
		want     string // "" = nothing is told
	}{
		"it has all that the vault lacks":        {local: database.Local{Role: database.Standby, Oldest: 3 * s, Flushed: 9 * s}, archived: 4 * s},
		"its log begins behind":                  {local: database.Local{Role: database.Standby, Oldest: 5 * s, Flushed: 9 * s}, archived: 4 * s, want: "b2 lacks log that the vault does not have yet: from 0/4000000 to 0/5000000"},
		"a primary is the archive's own matter":  {local: database.Local{Role: database.Primary, Oldest: 5 * s, Flushed: 9 * s}, archived: 4 * s},
		"where the archive is is not known":      {local: database.Local{Role: database.Standby, Oldest: 5 * s, Flushed: 9 * s}},
		"its disk is full and the vault lags":    {local: database.Local{Role: database.Standby, Oldest: 3 * s, Flushed: 4*s + keptAnyway + 1}, archived: 4 * s, low: true, want: "b2 keeps no log for the vault any more: its disk is nearly full"},
		"its disk is full and log is gone":       {local: database.Local{Role: database.Standby, Oldest: 5 * s, Flushed: 9 * s}, archived: 4 * s, low: true, want: "b2 keeps no log for the vault any more: its disk is nearly full"},
		"its disk is full, but it has the log":   {local: database.Local{Role: database.Standby, Oldest: 3 * s, Flushed: 4*s + keptAnyway}, archived: 4 * s, low: true},
		"its disk is full and the vault has all": {local: database.Local{Role: database.Standby, Oldest: 3 * s, Flushed: 9*s + 1}, archived: 9 * s, low: true},
	} {
		p := notKept("orders", "b2", c.local, c.archived, c.low)
		if p == nil != (c.want == "") || p != nil && (p.Title != c.want || p.Code != "backup.log-not-kept" || p.Severity != problem.Degraded || !strings.Contains(p.Remedy, "bring the vault back")) {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func TestLogThatIsMissingForAMomentIsNotTold(t *testing.T) {
	now, k := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC), &logKeeper{}
	p := &problem.Problem{Code: "backup.log-not-kept"}
	k.tell(p, now)
	if got := k.problems(); len(got) != 0 {
		t.Errorf("told at once: %+v", got)
	}
	now = now.Add(notKeptAfter)
	k.tell(p, now)
	if got := k.problems(); len(got) != 1 {
		t.Errorf("told %+v", got)
	}
	k.tell(nil, now)
	now = now.Add(time.Second)
	k.tell(p, now)
	if got := k.problems(); len(got) != 0 {
		t.Errorf("told at once when it is so again: %+v", got)
	}
}
