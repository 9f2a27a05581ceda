package backup_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
)

// A vault is away while the database is written: nothing waits for it, what it lacks is told the longer the more, and when it
// is back it has everything in order, without a hole. HOLDFAST_LAB=all lets it be away for 30 minutes.
func TestAVaultThatIsAwayHoldsNothingUpAndIsCaughtUpWith(t *testing.T) {
	away, pause := 2*time.Second, 100*time.Millisecond // a megabyte of log each time
	if os.Getenv("HOLDFAST_LAB") == "all" {
		away, pause = 30*time.Minute, 2*time.Second
	}
	s, v := pgtest.New(t), newVault(t)
	dir := strings.TrimPrefix(v.Address(), "file://")
	r := receiver(t, v)
	stop := archive(t, r, s)
	l := startLoad(t, s)
	s.Exec("postgres", "create table filler (body text)")
	until(t, "some rows", func() bool { return l.mark().count > 50 })
	base(t, v, s)
	until(t, "the log to be stored as it comes", func() bool { st := r.Status(); return st.Archived > 0 && st.VaultError == "" })

	before := l.mark()
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	until(t, "the vault to be missed", func() bool { return r.Status().VaultError != "" })
	began, last := time.Now(), backup.Status{}
	missed := began.Add(away)
	for time.Now().Before(missed) {
		now := r.Status()
		if last.VaultError != "" && now.VaultError != "" && (now.Archived != last.Archived || now.Waiting < last.Waiting || now.Behind < last.Behind) {
			t.Fatalf("the vault is away, and what it lacks went from %+v to %+v", last, now)
		}
		last = now
		s.Exec("postgres", "insert into filler select repeat('x', 2000) from generate_series(1, 500)", "truncate filler")
		time.Sleep(pause)
	}
	whileAway := l.mark()
	if whileAway.count <= before.count {
		t.Error("the database waited for the vault")
	}
	back, backlog := time.Now(), r.Status().Waiting
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	until(t, "the vault to have what it lacked", func() bool { return r.Status().Archived >= whileAway.lsn })
	drained := time.Since(back)
	end := l.end()
	until(t, "the vault to have everything", func() bool { return r.Status().Archived >= end.lsn })
	arrival := float64(whileAway.lsn-before.lsn) / back.Sub(began).Seconds()
	rate := float64(end.lsn-before.lsn) / drained.Seconds() / arrival
	t.Logf("%d KiB waited when the vault came back after %s; caught up in %s: %.1f times the %.0f KiB/s at which it came", backlog>>10, back.Sub(began), drained, rate, arrival/1024)
	if away > time.Minute && rate < 2 { // on a machine that does nothing else: a second in CI says nothing
		t.Errorf("caught up at %.1f times the rate at which it came, want 2", rate)
	}
	_ = stop() // its context has ended
	c, err := restore.Load(t.Context(), v, "orders")
	if err != nil {
		t.Fatal(err)
	}
	if hole, ok := restore.Beyond(c); ok {
		t.Errorf("the log has a hole: %+v", hole)
	}
	if ch, err := restore.Choose(c, restore.Target{Kind: restore.Latest}); err != nil || ch.End < end.lsn {
		t.Errorf("the log leads to %s, want %s: %v", ch.End, end.lsn, err)
	}
	wantRows(t, v, restore.Target{Kind: restore.Latest}, end.count)
}
