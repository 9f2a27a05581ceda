package backup_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// elsewhere is a directory on another file system than the test's own.
func elsewhere(t *testing.T) string {
	t.Helper()
	const memory = "/dev/shm"
	var here, there unix.Stat_t
	if err := errors.Join(unix.Stat(t.TempDir(), &here), unix.Stat(memory, &there)); err != nil || here.Dev == there.Dev {
		t.Skipf("no second file system: %v", err)
	}
	dir, err := os.MkdirTemp(memory, "holdfast-spill-")
	if err != nil {
		t.Skipf("no second file system: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func sealedIn(t *testing.T, dir string) int {
	t.Helper()
	n, err := backup.SpillWaits(dir)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The vault is away and the first place is full: the log goes to the second place, the server forgets what is there, and
// nothing is missing when the vault is back, though the receiver ended meanwhile.
func TestLogGoesToTheSecondPlaceWhenTheFirstIsFull(t *testing.T) {
	second := filepath.Join(elsewhere(t), "second")
	const segment = 1 << 20 // small ones: much less has to be written
	s, v := pgtest.New(t, "--wal-segsize=1"), newVault(t)
	dir := strings.TrimPrefix(v.Address(), "file://")
	options := backup.ReceiverOptions{Vault: v, Database: "orders", Spool: filepath.Join(t.TempDir(), "spool"), SpoolMax: 1, Spill: second, PartialEvery: 200 * time.Millisecond}
	r, err := backup.NewReceiver(options)
	if err != nil {
		t.Fatal(err)
	}
	r.NeverLeave()
	stop := archive(t, r, s)
	l := startLoad(t, s)
	s.Exec("postgres", "create table filler (body text)")
	until(t, "some rows", func() bool { return l.mark().count > 20 })
	base(t, v, s)
	until(t, "the log to be stored as it comes", func() bool { st := r.Status(); return st.Archived > 0 && st.VaultError == "" })
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	until(t, "the vault to be missed", func() bool { return r.Status().VaultError != "" })
	until(t, "log in the second place", func() bool {
		s.Exec("postgres", "insert into filler select repeat('x', 2000) from generate_series(1, 500)", "truncate filler")
		st := r.Status()
		return st.Spilled >= 4*segment && st.Waiting > st.Spilled && st.SpillHolds > 0 && st.SpillRoom > st.SpillHolds && st.SpillError == ""
	})
	archived := r.Status().Archived
	conf, err := backup.ReadFrom(s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the server to let go of what lies there", func() bool {
		s.Exec("postgres", "checkpoint")
		q, err := backup.QueueAt(t.Context(), conf)
		return err == nil && q.At > archived+2*segment
	})
	if n := sealedIn(t, second); n < 4 {
		t.Errorf("%d segments are in the second place", n)
	}
	_ = stop() // as if its host had stopped
	end := l.end()
	if err := os.WriteFile(filepath.Join(second, ".half"), []byte("cut off"), 0o600); err != nil { // what a crash leaves
		t.Fatal(err)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if r, err = backup.NewReceiver(options); err != nil {
		t.Fatal(err)
	}
	stop = archive(t, r, s)
	for deadline := time.Now().Add(5 * time.Minute); r.Status().Archived < end.lsn; time.Sleep(20 * time.Millisecond) { // each piece is synced several times
		if time.Now().After(deadline) {
			t.Fatalf("the vault has not got everything: %+v", r.Status())
		}
	}
	_ = stop()
	if left, err := os.ReadDir(second); err != nil || len(left) > 0 {
		t.Errorf("left in the second place: %v, %v", left, err)
	}
	c, err := restore.Load(t.Context(), v, "orders")
	if err != nil {
		t.Fatal(err)
	}
	if hole, ok := restore.Beyond(c); ok {
		t.Errorf("the log has a hole: %+v", hole)
	}
	wantRows(t, v, restore.Target{Kind: restore.Latest}, end.count)
}

// Who does not archive any more brings what it kept, whoever does now; what is damaged is set aside and named.
func TestWhatASecondPlaceHoldsIsBroughtOnceAndWhatIsDamagedIsNamed(t *testing.T) {
	v := newVault(t)
	l, dir := v.Log(7, 1<<20), t.TempDir()
	for i := range 3 {
		content := make([]byte, 1<<20)
		content[i] = 1
		name, raw, err := l.Seal(1, wal.LSN(i)<<20, content, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			raw[len(raw)-1] ^= 1
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var bad []string
	drain := func(ctx context.Context) (int, error) {
		return backup.DrainSpill(ctx, v, dir, func(object string, err error) {
			if !errors.Is(err, vault.ErrBadSeal) {
				t.Errorf("damaged: %v", err)
			}
			bad = append(bad, object)
		})
	}
	if n, err := drain(t.Context()); n != 2 || err != nil || len(bad) != 1 || sealedIn(t, dir) != 0 {
		t.Errorf("%d brought, %v; damaged %v; %d left", n, err, bad, sealedIn(t, dir))
	}
	if n, err := drain(t.Context()); n != 0 || err != nil || len(bad) != 1 {
		t.Errorf("again: %d brought, %v; damaged %v", n, err, bad)
	}
	held, err := l.Held(t.Context())
	if err != nil || len(held) != 2 || held[0].Start != 0 || held[1].Start != 2<<20 {
		t.Errorf("the vault holds %+v, %v", held, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.bad")); err != nil || len(left) != 1 {
		t.Errorf("set aside: %v, %v", left, err)
	}
	if n, err := backup.DrainSpill(t.Context(), v, filepath.Join(dir, "nothing"), nil); n != 0 || err != nil {
		t.Errorf("of a place that is not there: %d, %v", n, err)
	}
}
