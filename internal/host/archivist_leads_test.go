package host

import (
	"slices"
	"testing"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/plan"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// Votes say that what is acknowledged can be read when the site is gone. So they need a base backup that can be restored, not
// one that is listed.
func TestVotesNeedABaseBackupThatCanBeRestored(t *testing.T) {
	const size = wal.DefaultSegmentSize
	rec := database.Record{SystemID: 7, Timeline: 1}
	base := func(id string, from, to int, change ...func(*vault.Backup)) vault.Backup {
		b := vault.Backup{ID: id, Database: "orders", SystemID: 7, Timeline: 1, SegmentSize: size, Start: wal.LSN(from*size) + 40,
			Stop: wal.LSN(to*size) + 4000, Stopped: time.Date(2026, 11, 20, to, 0, 0, 0, time.UTC)}
		for _, f := range change {
			f(&b)
		}
		return b
	}
	bad := func(b *vault.Backup) { b.Validation = &vault.Validation{} }
	other := func(b *vault.Backup) { b.SystemID = 8 }
	elsewhere := func(b *vault.Backup) { b.Timeline = 2 }
	segments := func(from, to int) (out []wal.Held) {
		for n := from; n <= to; n++ {
			out = append(out, wal.Held{Timeline: 1, Start: wal.LSN(n * size), End: wal.LSN((n + 1) * size), Object: "x"})
		}
		return out
	}
	whole, holed := segments(1, 12), append(segments(1, 5), segments(7, 12)...)
	const hole, none = "a hole", "none can be restored"
	for name, c := range map[string]struct {
		made []vault.Backup
		held []wal.Held
		from string
		lost string
	}{
		"log follows the only one":                                     {[]vault.Backup{base("a", 2, 3)}, whole, "a", ""},
		"log is missing in the middle of the only one":                 {[]vault.Backup{base("a", 5, 8)}, holed, "", none},
		"the only one was found bad":                                   {[]vault.Backup{base("a", 2, 3, bad)}, whole, "", none},
		"the newest was found bad":                                     {[]vault.Backup{base("a", 2, 3), base("b", 7, 8, bad)}, whole, "a", ""},
		"log is missing in the middle of the newest and of no other":   {[]vault.Backup{base("a", 2, 3), base("b", 5, 8)}, holed, "a", hole},
		"log is missing in the middle of one, and the newest is whole": {[]vault.Backup{base("a", 5, 8), base("b", 9, 10)}, holed, "b", ""},
		"log is missing in each of several":                            {[]vault.Backup{base("a", 4, 7), base("b", 5, 8)}, holed, "", none},
		"log is missing behind the newest":                             {[]vault.Backup{base("a", 2, 3)}, holed, "a", hole},
		"there is none":                                                {nil, whole, "", ""},
		"there is one of another database":                             {[]vault.Backup{base("a", 2, 3, other)}, whole, "", ""},
		"there is one of a timeline that was not committed":            {[]vault.Backup{base("a", 2, 3, elsewhere)}, whole, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			cat := restore.Catalogue{Database: "orders", Backups: c.made, Logs: map[uint64]restore.HeldLog{}}
			for _, id := range []uint64{7, 8} {
				cat.Logs[id] = restore.HeldLog{SegmentSize: size, Held: slices.Clone(c.held),
					Histories: map[uint32]wal.History{1: {{Timeline: 1}}}, Covered: map[uint32]restore.Mark{}}
			}
			f := lookThrough(cat, rec, true)
			if f.from.ID != c.from || f.missing != (c.lost == hole) || f.none != (c.lost == none) {
				t.Errorf("from %q, missing %v, none %v", f.from.ID, f.missing, f.none)
			}
			a := anArchivist(t, t.TempDir())
			a.host.applied.now.Databases = []plan.Database{{Name: "orders", ByVault: "strict", Standbys: 1}}
			a.judge(f.says("orders", "main"), f.from)
			if got, want := a.votes().Asked, c.from != "" && c.lost == ""; got != want {
				t.Errorf("it votes: %v", got)
			}
			if (a.told.Gap != "") != (c.lost != "") { // what status has that nothing can be lost
				t.Errorf("told is %q", a.told.Gap)
			}
			if f := lookThrough(cat, rec, false); f.none || f.from.ID != "" {
				t.Errorf("nobody waits for the vault, and %+v is found", f)
			}
		})
	}
}

// What the vault lists of a base backup decides when the vault is looked through, and a base backup is begun only where none is listed.
func TestAnotherBaseBackupIsLookedAtBeforeVotesRestOnIt(t *testing.T) {
	a := anArchivist(t, t.TempDir())
	for name, c := range map[string]struct {
		mode         string
		from, listed string
		look, begin  bool
	}{
		"nobody waits":                     {"", "", "a", false, false},
		"none is there":                    {"strict", "", "", false, true},
		"one is listed, and was not found": {"strict", "", "a", true, false},
		"the one that is known":            {"strict", "a", "a", false, false},
		"a newer one":                      {"strict", "a", "b", true, false},
		"the one that is known was bad":    {"strict", "a", "", true, false},
	} {
		a.host.applied.now.Databases = []plan.Database{{Name: "orders", ByVault: c.mode}}
		a.from, a.listed = vault.Backup{ID: c.from}, c.listed
		if look, begin := a.newLead(), a.baseless(); look != c.look || begin != c.begin {
			t.Errorf("%s: looks: %v, begins one: %v", name, look, begin)
		}
	}
}
