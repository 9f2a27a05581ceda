package restore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
)

// killedChild says what a restore in a process of its own restores, where to, and when it kills itself.
const killedChild = "HOLDFAST_TEST_KILLED_RESTORE"

// Moments at which the child dies, beside a number of bytes it has fetched.
const (
	inTheLog     = "log"     // every file is there, and the log is begun
	inTheControl = "control" // only pg_control is not there yet, and is being written
	inTheReplay  = "replay"  // all of it is there, and a server replays the log
)

// TestTheRestoreThatIsKilled is no test by itself: it is the process that the next one begins again and again.
func TestTheRestoreThatIsKilled(t *testing.T) {
	with := strings.Split(os.Getenv(killedChild), "\n")
	if len(with) != 4 {
		t.Skip("run by TestARestoreThatIsKilledAgainAndAgainGoesOn alone")
	}
	vaultDir, dir, when, tell := with[0], with[1], with[2], with[3]
	v, err := vault.Open(t.Context(), (&world{vaultDir: vaultDir}).config())
	if err != nil {
		t.Fatal(err)
	}
	o := restore.Options{Vault: v, Choice: consistent(t, v), Dir: dir, Throwaway: true, Workers: 1}
	if o.Owner, err = restore.DefaultOwner(); err != nil {
		t.Fatal(err)
	}
	if when == inTheReplay {
		dieInTheReplay(t, o)
	}
	bytesMax := int64(1 << 62)
	if when != inTheLog && when != inTheControl {
		if _, err := fmt.Sscan(when, &bytesMax); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	var fetched int64
	o.Pace = func(_ context.Context, n int) error { // before so much more is written
		mu.Lock()
		defer mu.Unlock()
		log, err := os.ReadDir(filepath.Join(dir, "pg_wal"))
		_, control := os.Stat(filepath.Join(dir, "global", "pg_control.holdfast"))
		begun := err == nil && len(log) > 1 // archive_status is a directory of the backup
		if fetched >= bytesMax || when == inTheLog && begun || when == inTheControl && control == nil {
			err := os.WriteFile(tell, fmt.Append(nil, fetched), 0o600)
			return errors.Join(err, syscall.Kill(os.Getpid(), syscall.SIGKILL))
		}
		fetched += int64(n)
		return nil
	}
	_, err = restore.Run(context.Background(), o)
	t.Fatalf("it was to be killed, and ended with %v", err)
}

// dieInTheReplay lets a server start on what was restored and kills this process when it works there.
func dieInTheReplay(t *testing.T, o restore.Options) {
	go func() {
		pidFile := filepath.Join(o.Dir, "postmaster.pid")
		for {
			raw, err := os.ReadFile(pidFile)
			lines := strings.Split(string(raw), "\n")
			if err == nil && len(lines) > 5 && lines[4] != "" { // with the whole directory of its socket, which at first is empty
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
			time.Sleep(time.Millisecond)
		}
	}()
	wait := map[string]string{"restore_command": "while test -e postmaster.pid; do sleep 0.1; done; false"} // it is not over before
	_, err := restore.Database(context.Background(), o, restore.ScratchOptions{Settings: wait})
	t.Fatalf("it was to be killed, and ended with %v", err)
}

func consistent(t *testing.T, v *vault.Vault) restore.Choice {
	t.Helper()
	c, err := restore.Load(t.Context(), v, "orders")
	if err != nil {
		t.Fatal(err)
	}
	ch, err := restore.Choose(c, restore.Target{Kind: restore.Consistent})
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// A restore is killed (SIGKILL) at points of chance within its files, then within its log, then while it writes pg_control.
// Each time nothing can start on what it left, the next one goes on, and all together fetch next to nothing twice.
func TestARestoreThatIsKilledAgainAndAgainGoesOn(t *testing.T) {
	w := newWorld(t, "create table rows (id int primary key, body text)",
		"insert into rows select g, (select string_agg(md5((g || '.' || i)::text), '') from generate_series(1, 10) i) from generate_series(1, 30000) g", "vacuum rows", "checkpoint")
	b := w.base()
	dir, tell := filepath.Join(pgtest.Dir(t), "data"), filepath.Join(t.TempDir(), "fetched")
	seed := rand.Uint64()
	dice := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d, %d bytes", seed, b.Bytes)
	moments := []string{}
	for range 2 {
		moments = append(moments, fmt.Sprint(b.Bytes/10+dice.Int64N(b.Bytes/4))) // 70 % of all at most
	}
	var fetched int64 // of the files
	for _, when := range append(moments, inTheLog, inTheControl) {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTheRestoreThatIsKilled$", "-test.v")
		child.Env = append(os.Environ(), killedChild+"="+strings.Join([]string{w.vaultDir, dir, when, tell}, "\n"))
		out, err := child.CombinedOutput()
		if err == nil || child.ProcessState.Exited() {
			t.Fatalf("killed at %s: it was not: %v\n%s", when, err, out)
		}
		var n int64
		raw, err := os.ReadFile(tell)
		if err == nil {
			_, err = fmt.Sscan(string(raw), &n)
		}
		if err != nil {
			t.Fatal(err)
		}
		if when != inTheControl { // which fetches the log once more
			fetched += n
		}
		if _, err := os.Stat(filepath.Join(dir, "holdfast.restoring")); err != nil {
			t.Errorf("killed at %s: nothing says that it is half restored: %v", when, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "global", "pg_control")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("killed at %s: a server could start: %v", when, err)
		}
	}
	if fetched > b.Bytes*11/10 {
		t.Errorf("%d bytes were fetched for %d", fetched, b.Bytes)
	}
	ch := consistent(t, w.vault)
	if rec, err := restore.Recover(t.Context(), ch, restore.Promote, restore.ScratchOptions{Dir: dir, BinDir: w.server.BinDir, Owner: w.owner}); err == nil {
		t.Error("a server started on what was half restored")
		_ = rec.Stop(context.Background()) // the test has failed already
	}
	res, err := restore.Run(t.Context(), restore.Options{Vault: w.vault, Choice: ch, Dir: dir, Owner: w.owner, Throwaway: true})
	if err != nil {
		t.Fatal(err)
	}
	if res.Kept < res.Bytes*9/10 {
		t.Errorf("at the end %d of %d bytes were right already", res.Kept, res.Bytes)
	}
	if n := w.restoredRows(dir, ch); n != 30000 {
		t.Errorf("%d rows", n)
	}
}

// A restore is killed while its server replays: the same command ends that server, removes what it had beside, and goes on.
func TestARestoreThatIsKilledInItsReplayGoesOn(t *testing.T) {
	w := newWorld(t, "create table rows (id int primary key)", "insert into rows select generate_series(1, 1000)", "checkpoint")
	w.base()
	dir := filepath.Join(pgtest.Dir(t), "data")
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTheRestoreThatIsKilled$", "-test.v")
	child.Env = append(os.Environ(), killedChild+"="+strings.Join([]string{w.vaultDir, dir, inTheReplay, ""}, "\n"))
	out, err := child.CombinedOutput()
	t.Cleanup(func() {
		if err := restore.EndServer(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
	if err == nil || child.ProcessState.Exited() {
		t.Fatalf("it was not killed: %v\n%s", err, out)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	lines := strings.Split(string(raw), "\n")
	if err != nil || len(lines) < 5 {
		t.Fatalf("its server left no word of itself: %q, %v", raw, err)
	}
	ch := consistent(t, w.vault)
	place, err := restore.Survey(dir, ch, false, nil)
	if err != nil || place.State != "interrupted" {
		t.Errorf("the place is %q, %v", place.State, err)
	}
	o := restore.Options{Vault: w.vault, Choice: ch, Dir: dir, Owner: w.owner, Throwaway: true}
	if _, err := restore.Database(t.Context(), o, restore.ScratchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(lines[4]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s of the one that was killed is left: %v", lines[4], err)
	}
	if n := w.restoredRows(dir, ch); n != 1000 {
		t.Errorf("%d rows", n)
	}
}
