package restore

import (
	"strings"
	"testing"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

const dumped = `rmgr: Transaction len (rec/tot):     34/    34, tx:        735, lsn: 0/03000100, prev 0/030000C8, desc: COMMIT 2026-11-20 01:02:03.000004 UTC
rmgr: Transaction len (rec/tot):     34/    34, tx:        736, lsn: 0/03000180, prev 0/03000100, desc: ABORT 2026-11-20 01:02:04.000004 UTC
rmgr: XLOG        len (rec/tot):     98/    98, tx:          0, lsn: 0/03000200, prev 0/03000180, desc: RESTORE_POINT before upgrade
rmgr: Transaction len (rec/tot):     82/    82, tx:          0, lsn: 0/03000300, prev 0/03000200, desc: COMMIT PREPARED 737: 2026-11-20 01:02:05.000004 UTC
rmgr: XLOG        len (rec/tot):     98/    98, tx:          0, lsn: 0/03000400, prev 0/03000300, desc: RESTORE_POINT before upgrade
rmgr: Transaction len (rec/tot):     34/    34, tx:        740, lsn: 0/04000100, prev 0/03000400, desc: COMMIT 2026-11-20 01:02:06.000004 UTC
`

// What the log holds is told in the words of what was asked for, up to where another timeline goes on.
func TestWhatTheLogHoldsIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		end            wal.LSN
		commits, names string
	}{
		"all of it":        {0x5000000, "3 transactions were committed in it: the first is 735, the last 740 at 2026-11-20 01:02:06Z.", `The restore points in it are ["before upgrade"].`},
		"one timeline's":   {0x3000380, "2 transactions were committed in it: the first is 735, the last 737 at 2026-11-20 01:02:05Z.", `The restore points in it are ["before upgrade"].`},
		"one transaction":  {0x3000180, "One transaction was committed in it: 735, at 2026-11-20 01:02:03Z.", "No restore point was made in it."},
		"nothing is there": {0x3000000, "No transaction was committed in it.", "No restore point was made in it."},
	} {
		var l logged
		if err := l.read(strings.NewReader(dumped), c.end); err != nil {
			t.Fatal(err)
		}
		if l.commitsText() != c.commits || l.namesText() != c.names {
			t.Errorf("%s: %s %s", name, l.commitsText(), l.namesText())
		}
	}
	many := logged{names: strings.Fields(strings.Repeat("x ", 30))}
	if got := many.namesText(); !strings.HasPrefix(got, `30 restore points were made in it, lastly ["x"`) || strings.Count(got, "x") != namesTold {
		t.Error(got)
	}
}

// Only a time or a position that nothing was written behind is the end of the log; a transaction and a name never are.
func TestWhatIsTheEndOfTheLog(t *testing.T) {
	at := func(target Target, pieceEnd wal.LSN) bool {
		return atEnd(Choice{Target: target, End: 0x5000000, Pieces: []wal.Held{{Start: 0x3000000, End: pieceEnd}}})
	}
	if !at(Target{Kind: AtLSN, LSN: 0x4000500}, 0x5000000) {
		t.Error("a position behind the last record is not its end")
	}
	for name, none := range map[string]bool{
		"a position, and the log was cut off before its end": at(Target{Kind: AtLSN, LSN: 0x3000500}, 0x4000000),
		"a position behind the log":                          at(Target{Kind: AtLSN, LSN: 0x5000001}, 0x5000000),
		"a transaction":                                      at(Target{Kind: AtXID, XID: 7}, 0x5000000),
		"a name":                                             at(Target{Kind: AtName, Name: "x"}, 0x5000000),
	} {
		if none {
			t.Errorf("%s is taken for the end of the log", name)
		}
	}
}

// Without the program that reads the log the range is told all the same, and what is not known.
func TestATargetThatIsNotThereIsRefusedWithTheRange(t *testing.T) {
	c := Choice{Backup: vault.Backup{ID: "b1", Database: "orders", Stop: 0x3000100}, Timeline: 2, End: 0x5000000,
		Target: Target{Kind: AtXID, XID: 99, LSN: 0x3000500}}
	for inconsistent, title := range map[bool]string{false: "transaction 99: the log does not hold it", true: "it lies before the end of the oldest base backup"} {
		err := unmet(t.Context(), c, &EndedEarlyError{Inconsistent: inconsistent}, ScratchOptions{Dir: t.TempDir(), BinDir: t.TempDir()})
		p, ok := err.(*problem.Problem)
		if !ok || p.Code != "restore.not-in-log" || !strings.Contains(p.Title, title) {
			t.Fatalf("got %v", err)
		}
		for _, want := range []string{"on timeline 2", "from 0/3000100", "to 0/5000000", "is not known: pg_waldump is not in"} {
			if !strings.Contains(p.Meaning, want) {
				t.Errorf("does not say %q: %s", want, p.Meaning)
			}
		}
		if !strings.Contains(p.Remedy, "position behind @") {
			t.Error(p.Remedy)
		}
	}
}
