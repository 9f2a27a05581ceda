package restore_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

const segment = 16 << 20

// heldLog is whole segments of one timeline, from and to as segment numbers.
func heldLog(timeline uint32, from, to int) []wal.Held {
	var out []wal.Held
	for n := from; n < to; n++ {
		out = append(out, wal.Held{Timeline: timeline, Start: wal.LSN(n * segment), End: wal.LSN((n + 1) * segment)})
	}
	return out
}

func TestWhichBackupAStandbyIsMadeOf(t *testing.T) {
	noon := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	good, bad := &vault.Validation{Passed: true}, &vault.Validation{}
	backup := func(id string, hour int, change func(b *vault.Backup)) vault.Backup {
		b := vault.Backup{
			ID: id, Database: "records", SystemID: 7, Timeline: 1, Start: 2 * segment, Stop: 3 * segment, Stopped: noon.Add(time.Duration(hour) * time.Hour),
			ServerVersion: 150018, SegmentSize: segment, Validation: good,
		}
		if change != nil {
			change(&b)
		}
		return b
	}
	chain := []database.Fork{{Timeline: 3, Parent: 1, LSN: 6 * segment, Epoch: 4}} // timeline 2 was given up
	log := append(append(heldLog(1, 2, 9), heldLog(2, 5, 20)...), heldLog(3, 6, 8)...)
	for _, c := range []struct {
		name    string
		backups []vault.Backup
		log     []wal.Held
		want    string // the backup, or part of why there is none
		end     wal.LSN
	}{
		{"the newest", []vault.Backup{backup("a", 1, nil), backup("b", 2, nil)}, log, "b", 8 * segment},
		{"the newest that was proven", []vault.Backup{backup("a", 1, nil), backup("b", 2, func(b *vault.Backup) { b.Validation = nil })}, log, "a", 8 * segment},
		{"the newest when none was proven", []vault.Backup{backup("a", 1, func(b *vault.Backup) { b.Validation = nil }), backup("b", 2, func(b *vault.Backup) { b.Validation = nil })}, log, "b", 8 * segment},
		{"none that a trial found bad", []vault.Backup{backup("a", 1, func(b *vault.Backup) { b.Validation = bad })}, log, "found bad", 0},
		{"none of another system", []vault.Backup{backup("a", 1, func(b *vault.Backup) { b.SystemID = 8 })}, log, "another system", 0},
		{"none of another major version", []vault.Backup{backup("a", 1, func(b *vault.Backup) { b.ServerVersion = 140001 })}, log, "PostgreSQL 14", 0},
		{"one with tablespaces", []vault.Backup{backup("a", 1, func(b *vault.Backup) { b.Tablespaces = []vault.Tablespace{{}} })}, log, "a", 8 * segment},
		{"none of a timeline that was given up, though its log leads further", []vault.Backup{backup("a", 1, func(b *vault.Backup) { b.Timeline = 2; b.Start, b.Stop = 5*segment, 6*segment })}, log, "does not lead to", 0},
		{"none of an old timeline behind the point where the agreed one began", []vault.Backup{backup("a", 1, func(b *vault.Backup) { b.Stop = 7 * segment })}, log, "does not lead to", 0},
		{"none whose own log has a gap", []vault.Backup{backup("a", 1, nil)}, append(heldLog(1, 3, 9), heldLog(3, 6, 8)...), "has a gap", 0},
		{"a gap behind it only ends what can be placed", []vault.Backup{backup("a", 1, nil)}, append(heldLog(1, 2, 4), heldLog(3, 6, 8)...), "a", 4 * segment},
		{"nothing without backups", nil, log, "holds no base backup", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			found, err := restore.ChooseReplica(
				restore.Catalogue{Database: "records", Backups: c.backups, Logs: map[uint64]restore.HeldLog{7: {SegmentSize: segment, Held: c.log}}},
				restore.Wanted{Database: "records", SystemID: 7, Major: 15, SegmentSize: segment, Chain: chain},
			)
			if p, ok := errors.AsType[*problem.Problem](err); ok {
				if c.end != 0 || p.Code != "database.no-copy-in-vault" || !strings.Contains(p.Title, c.want) {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if found.Backup.ID != c.want || found.End != c.end || found.Timeline != 3 {
				t.Errorf("%s up to %s on timeline %d", found.Backup.ID, found.End, found.Timeline)
			}
			for _, p := range found.Pieces {
				if p.Timeline == 2 || p.Timeline == 1 && p.End > 6*segment {
					t.Errorf("log of another history is among it: %+v", p)
				}
			}
		})
	}
}
