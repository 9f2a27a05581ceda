package backup_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/backup"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
)

// A standby's own last checkpoint may lie before the log that the vault holds; the backup must not begin there.
func TestABackupFromAStandbyBeginsWithinTheLog(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	n := s.Standby()
	s.Exec("postgres", "create table rows (id int primary key, body text)",
		"insert into rows select g, '' from generate_series(1, 100) g", "select pg_switch_wal()",
		"insert into rows select g, '' from generate_series(101, 200) g")
	r := receiver(t, v)
	archive(t, r, s)
	until(t, "the log arrives in the vault", func() bool { return r.Status().Archived > 0 })
	began := r.Status().Archived

	var confs [2]*pgx.ConnConfig
	for i, server := range []*pgtest.Server{n, s} {
		cfg, err := pgx.ParseConfig(server.ConnString("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		confs[i] = cfg
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	res, err := backup.Base(ctx, backup.BaseOptions{Conn: confs[0], Primary: confs[1], DataDir: n.Dir, Vault: v, Database: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	if b := res.Backup; !b.FromStandby || b.Start < began {
		t.Errorf("the backup (from a standby: %v) begins at %s, and the log was there up to %s before", b.FromStandby, b.Start, began)
	}
	wantRows(t, v, restore.Target{Kind: restore.Latest}, 200)
}
