package backup_test

import (
	"strings"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// listedOf stores a backup of one small file of a cluster.
func listedOf(t *testing.T, v *vault.Vault, b vault.Backup, passed bool) {
	t.Helper()
	w, err := v.Begin(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	f := w.File(vault.Entry{Path: "pgdata/PG_VERSION", Mode: 0o600, ModTime: b.Stopped})
	if _, err = f.Write([]byte(b.Stopped.String())); err == nil {
		err = f.Keep()
	}
	b.Kind, b.Timeline, b.Started, b.SegmentSize, b.Start, b.Stop = "full", 1, b.Stopped, 1<<20, 1<<20+40, 1<<20+4000
	if err == nil {
		b, err = w.Commit(b)
	}
	if err == nil {
		err = v.Mark(t.Context(), b.ID, vault.Validation{Passed: passed, At: b.Stopped})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A database was made anew, with another system identifier. The log of the former one goes with its last base backup, in the same two
// steps, and the dry run says so; it stays while anything may still need it.
func TestTheLogOfAFormerSystemGoesWithItsLastBackup(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Now().UTC().Add(30 * day).Truncate(time.Second) // what was stored just now is older than the grace
	for name, c := range map[string]struct {
		covers time.Time // of the former log
		proven bool      // a backup of the system that counts now
		other  bool      // a backup of the former one is listed under another name
		goes   bool
	}{
		"nothing needs it":                             {now.Add(-60 * day), true, false, true},
		"it may still be written":                      {now.Add(-10 * day), true, false, false},
		"its age is not known":                         {time.Time{}, true, false, false},
		"no backup since is proven":                    {now.Add(-60 * day), false, false, false},
		"another database has a backup of that system": {now.Add(-60 * day), true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVault(t)
			listedOf(t, v, vault.Backup{Database: "orders", SystemID: 7, Stopped: now.Add(-61 * day)}, false)
			listedOf(t, v, vault.Backup{Database: "orders", SystemID: 8, Stopped: now.Add(-time.Hour)}, c.proven)
			if c.other {
				listedOf(t, v, vault.Backup{Database: "stock", SystemID: 7, Stopped: now.Add(-61 * day)}, false)
			}
			former := v.Log(7, 1<<20)
			for _, l := range []struct {
				log    *vault.Log
				covers time.Time
			}{{former, c.covers}, {v.Log(8, 1<<20), now.Add(-time.Hour)}} {
				if err := l.log.PutSegment(t.Context(), 1, wal.LSN(1<<20), make([]byte, 1<<20), l.covers); err != nil {
					t.Fatal(err)
				}
			}
			held := func() int {
				all, err := former.Held(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return len(all)
			}
			prune := func(after time.Duration, dry bool) backup.Pruned {
				p, err := backup.Prune(t.Context(), backup.PruneOptions{Vault: v, Database: "orders", By: "h1", Now: now.Add(after), Behind: 30 * day, DryRun: dry})
				if err != nil {
					t.Fatal(err)
				}
				return p
			}
			prune(0, false) // marks the backup
			if p := prune(day, false); held() != 1 || p.Segments != 0 {
				t.Fatalf("while the backup is only marked: %+v", p)
			}
			dry := prune(vault.Grace, true)
			if held() != 1 || (dry.Segments == 1) != c.goes || c.goes && !strings.Contains(dry.Because, "of system 7: it is a former one") {
				t.Errorf("the dry run: %d pieces, %q", dry.Segments, dry.Because)
			}
			p := prune(vault.Grace, false)
			if (held() == 0) != c.goes || p.Segments != dry.Segments || p.Because != dry.Because {
				t.Errorf("%d pieces are left; %d of them were to go, %q", held(), p.Segments, p.Because)
			}
		})
	}
}
