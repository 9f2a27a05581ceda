package backup_test

import (
	"os"
	"strings"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/restore/pgtest"
)

// Whoever asks the primary hears how far the vault is, also when nobody archives and the vault is away.
func TestAPrimarySaysHowFarTheVaultIs(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	queue := func() backup.Queue {
		t.Helper()
		conf, err := backup.ReadFrom(s.ConnString("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		q, err := backup.QueueAt(t.Context(), conf)
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	if q := queue(); q != (backup.Queue{}) {
		t.Errorf("nothing was ever archived: %+v", q)
	}
	r := receiver(t, v)
	stop := archive(t, r, s)
	s.Exec("postgres", "create table t as select generate_series(1, 1000) n")
	until(t, "some log to be stored, and the slot to follow", func() bool { q := queue(); return r.Status().Archived > 0 && q.At > 0 })
	dir := strings.TrimPrefix(v.Address(), "file://")
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	until(t, "the vault to be missed", func() bool {
		s.Exec("postgres", "insert into t select generate_series(1, 1000)")
		return r.Status().VaultError != ""
	})
	_ = stop() // the vault is away
	held := r.Status().Archived
	q := queue()
	if q.At == 0 || q.At > held || q.Lost {
		t.Errorf("the vault holds the log up to %s: %+v", held, q)
	}
	s.Exec("postgres", "insert into t select generate_series(1, 100000)", "checkpoint")
	if again := queue(); again != q {
		t.Errorf("nobody archives: %+v, was %+v", again, q)
	}
	s.Exec("postgres", "alter system set max_slot_wal_keep_size = '1MB'", "select pg_reload_conf()")
	until(t, "the server to let go of it", func() bool {
		s.Exec("postgres", "insert into t select generate_series(1, 100000)", "select pg_switch_wal()", "checkpoint")
		return queue().Lost
	})
	if err := os.Rename(dir+".away", dir); err != nil { // for whoever closes it
		t.Fatal(err)
	}
}
