package backup_test

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/backup"
	"holdfast/internal/pgdata"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
)

func baseBy(t *testing.T, v *vault.Vault, s *pgtest.Server, mode backup.Mode) vault.Backup {
	t.Helper()
	cfg, err := pgx.ParseConfig(s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	res, err := backup.Base(ctx, backup.BaseOptions{Conn: cfg, DataDir: s.Dir, Vault: v, Database: "orders", Mode: mode})
	if err != nil {
		t.Fatal(err)
	}
	return res.Backup
}

// A client inserts rows with increasing keys while a full and two incremental backups are made. What is restored from
// each is exactly what was there at a moment after it.
func TestEachIncrementalHoldsExactlyWhatWasThere(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	r := receiver(t, v)
	stop := archive(t, r, s)
	l := startLoad(t, s)
	// A large table of which little changes, with a visibility map whose bits are cleared without the map's page being logged.
	s.Exec("postgres", "create table calm (id int primary key, body text)", "insert into calm select g, repeat(md5(g::text), 8) from generate_series(1, 40000) g", "vacuum calm")
	until(t, "some rows", func() bool { return l.mark().count > 200 })
	var made []vault.Backup
	var marks []mark
	for i, mode := range []backup.Mode{"", backup.Proven, backup.Fast} {
		if i > 0 {
			s.Exec("postgres", "update calm set body = body || 'x' where id between 100 and 140", "delete from calm where id between 39000 and 39010")
		}
		from := l.mark().count
		made = append(made, baseBy(t, v, s, mode))
		until(t, "rows behind the backup", func() bool { return l.mark().count > from+100 })
		marks = append(marks, l.mark())
	}
	last := l.end()
	until(t, "the log in the vault", func() bool { return r.Status().Archived >= last.lsn && r.Status().CoveredUntil.After(marks[2].at) })
	if err := stop(); err == nil {
		t.Error("a cancelled receiver returned nil")
	}
	for i, want := range []struct {
		kind string
		took bool
	}{{"full", false}, {"incremental", false}, {"incremental", true}} {
		if b := made[i]; b.Kind != want.kind || b.Took != want.took || len(b.Differs) > 0 || len(b.BadPages) > 0 {
			t.Errorf("backup %d: %+v", i, b)
		}
		c, err := restore.Load(t.Context(), v, "orders")
		if err != nil {
			t.Fatal(err)
		}
		target := restore.Target{Kind: restore.AtTime, Time: marks[i].at}
		if ch, err := restore.Choose(c, target); err != nil || ch.Backup.ID != made[i].ID {
			t.Fatalf("to %s leads %s, %v; it was to be %s", target, ch.Backup.ID, err, made[i].ID)
		}
		wantRows(t, v, target, marks[i].count)
	}
	if fast := made[2]; fast.Reused < fast.Bytes/2 || !fast.Reread.Equal(made[1].Reread) || fast.Earlier != made[1].ID {
		t.Errorf("the fast one took over %d of %d bytes from %q, last read %s", fast.Reused, fast.Bytes, fast.Earlier, fast.Reread)
	}
	owner, err := restore.DefaultOwner()
	if err != nil {
		t.Fatal(err)
	}
	_, proof, err := backup.Validate(t.Context(), backup.ValidateOptions{Vault: v, Database: "orders", Backup: made[2].ID, Dir: pgtest.Dir(t), Owner: owner})
	if err != nil || !proof.Passed {
		t.Errorf("the fast one does not stand its proof: %+v, %v", proof, err)
	}
}

// A page that changed on the disk though no log changed it, and whose checksum is right, is told by the next reading of
// everything, and never gets into a fast backup.
func TestAReadingOfEverythingTellsWhatChangedBehindTheLog(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	stop := archive(t, receiver(t, v), s)
	s.Exec("postgres", "create table rows (id int primary key, body text)", "insert into rows select g, repeat('x', 500) from generate_series(1, 5000) g", "vacuum freeze rows", "checkpoint")
	var rel string
	if err := s.Conn("postgres").QueryRow(t.Context(), "select pg_relation_filepath('rows')").Scan(&rel); err != nil {
		t.Fatal(err)
	}
	first := baseBy(t, v, s, "")
	f, err := os.OpenFile(filepath.Join(s.Dir, rel), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, pgdata.PageSize)
	if _, err := f.ReadAt(page, 3*pgdata.PageSize); err != nil {
		t.Fatal(err)
	}
	page[pgdata.PageSize-20] ^= 1
	binary.LittleEndian.PutUint16(page[8:], pgdata.Checksum(page, 3))
	if _, err := f.WriteAt(page, 3*pgdata.PageSize); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	fast := baseBy(t, v, s, backup.Fast)
	if !fast.Took || len(fast.Differs)+len(fast.BadPages) > 0 {
		t.Errorf("the fast one: %+v", fast)
	}
	again := baseBy(t, v, s, backup.Proven)
	if want := "postgres: table public.rows blocks 0 to 127 (" + rel + ")"; len(again.Differs) != 1 || again.Differs[0] != want || len(again.BadPages) > 0 || again.Earlier != fast.ID {
		t.Errorf("since %s differ %v, want %s", again.Earlier, again.Differs, want)
	}
	after := baseBy(t, v, s, backup.Fast)
	if after.Took {
		t.Errorf("a fast backup built on %s, which is doubtful: %s was the first", after.Earlier, first.ID)
	}
	if after.Earlier != fast.ID || len(after.Differs) != 1 {
		t.Errorf("compared with %s it differs in %v: the change seems to be over", after.Earlier, after.Differs)
	}
	if err := v.PutNote(t.Context(), vault.Note{Backup: after.ID, Kind: vault.Accepted, By: "ada", At: time.Now(), Reason: "it was me"}); err != nil {
		t.Fatal(err)
	}
	if taken := baseBy(t, v, s, backup.Proven); taken.Earlier != after.ID || len(taken.Differs) > 0 {
		t.Errorf("accepted, and compared with %s it differs in %v", taken.Earlier, taken.Differs)
	}
	_ = stop()
}
