package backup_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// killedTrial names the vault, the directory and the backup for a validation in a process of its own.
const killedTrial = "HOLDFAST_TEST_KILLED_TRIAL"

// TestTheValidationThatIsKilled is no test by itself: it is the process that the next one kills.
func TestTheValidationThatIsKilled(t *testing.T) {
	where := strings.Split(os.Getenv(killedTrial), "\n")
	if len(where) != 3 {
		t.Skip("run by TestAValidationOnItsWay alone")
	}
	v, err := vault.Open(t.Context(), killedConfig(where[0]))
	if err != nil {
		t.Fatal(err)
	}
	owner, err := restore.DefaultOwner()
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = backup.Validate(context.Background(), backup.ValidateOptions{
		Vault: v, Database: "orders", Dir: where[1], Backup: where[2], Owner: owner,
		Progress: func(p backup.Progress) {
			if p.Phase == "indexes" { // the server runs
				_, _ = os.Stdout.WriteString("running\n")
				select {}
			}
		},
	})
	t.Fatalf("it was to be killed, and ended with %v", err)
}

// postgresIn counts the processes that work somewhere below dir.
func postgresIn(t *testing.T, dir string) int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, l := range links {
		if at, err := os.Readlink(l); err == nil && strings.HasPrefix(at, dir+"/") {
			n++
		}
	}
	return n
}

// One small backup goes through what may befall its validation.
func TestAValidationOnItsWay(t *testing.T) {
	s := pgtest.New(t)
	dir := filepath.Join(t.TempDir(), "vault")
	v, err := vault.Create(t.Context(), killedConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	stop := archive(t, receiver(t, v), s)
	s.Exec("postgres", "create table rows (id int primary key)", "insert into rows select generate_series(1, 100)")
	b := base(t, v, s)
	_ = stop()
	s.Kill()
	t.Run("cut off, it gives no verdict, leaves nothing and can be made again, held back", func(t *testing.T) { cutOff(t, v, b) })
	t.Run("killed, it is removed with its server by the next one, and nothing else is", func(t *testing.T) { killedAndRemoved(t, v, dir, b) })
	t.Run("a backup whose log is damaged or gone is not proven", func(t *testing.T) {
		reopen := func() *vault.Vault {
			if err := v.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			if v, err = vault.Open(t.Context(), killedConfig(dir)); err != nil {
				t.Fatal(err)
			}
			return v
		}
		logDamaged(t, reopen, dir, b)
	})
}

func killedAndRemoved(t *testing.T, v *vault.Vault, vaultDir string, b vault.Backup) {
	dir := pgtest.Dir(t)
	child := exec.Command(os.Args[0], "-test.run=^TestTheValidationThatIsKilled$", "-test.v")
	child.Env = append(os.Environ(), killedTrial+"="+vaultDir+"\n"+dir+"\n"+b.ID)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	ran := false
	for !ran && lines.Scan() {
		ran = lines.Text() == "running"
	}
	if !ran {
		t.Fatalf("the child never ran a server: %v", child.Wait())
	}
	left, err := filepath.Glob(filepath.Join(dir, "validate-*"))
	if err != nil || len(left) != 1 {
		t.Fatalf("the child works in %v, %v", left, err)
	}
	// While it runs, nobody takes it away.
	if removed, err := backup.SweepTrials(t.Context(), dir); err != nil || len(removed) > 0 {
		t.Fatalf("removed %v under a validation that runs, %v", removed, err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
	if postgresIn(t, left[0]) == 0 {
		t.Fatal("its server ended with it: nothing would be tried here")
	}
	// What is not a validation's own: a directory of somebody's by the same beginning, and a program that stands in the data
	// directory.
	other := filepath.Join(dir, "validate-notes")
	if err := os.MkdirAll(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "notes.txt"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	person := exec.Command("sleep", "600")
	person.Dir = filepath.Join(left[0], "data")
	if err := person.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = person.Process.Kill() // gone is as good
		_ = person.Wait()
	}()

	val := proofIn(t, v, b.ID, dir) // the next validation finds it
	if !val.Passed {
		t.Errorf("the next one says %+v", val)
	}
	if _, err := os.Stat(left[0]); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", left[0], err)
	}
	if _, err := os.Stat(filepath.Join(other, "notes.txt")); err != nil {
		t.Errorf("somebody's own directory was taken away: %v", err)
	}
	// Nobody has waited for it: had it been ended, it were a zombie.
	if state := processState(t, person.Process.Pid); state == "" || state == "Z" || state == "X" {
		t.Errorf("a program that is no server was ended: its state is %q", state)
	}
	if n := postgresIn(t, left[0]); n > 1 { // the person's program alone, whose directory is gone
		t.Errorf("%d processes are left", n)
	}
}

// processState is the letter that the kernel has for a process, "" = there is none of that number.
func processState(t *testing.T, pid int) string {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), ") ") // behind the name, which is sleep
	return rest[:min(1, len(rest))]
}

func proofIn(t *testing.T, v *vault.Vault, id, dir string) vault.Validation {
	t.Helper()
	owner, err := restore.DefaultOwner()
	if err != nil {
		t.Fatal(err)
	}
	_, val, err := backup.Validate(t.Context(), backup.ValidateOptions{Vault: v, Database: "orders", Backup: id, Dir: dir, Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	return val
}

func flip(t *testing.T, file string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

func logDamaged(t *testing.T, reopen func() *vault.Vault, dir string, b vault.Backup) {
	all, err := filepath.Glob(filepath.Join(dir, "wal", "*", "*", "0*"))
	if err != nil || len(all) == 0 {
		t.Fatal(all, err)
	}
	for _, f := range all {
		flip(t, f)
	}
	wantFound(t, proof(t, reopen(), b.ID), "restore", "its seal does not fit", wal.SegmentName(b.Timeline, b.Start, b.SegmentSize))
	// The log is gone altogether: said with the positions between which it is missing.
	for _, f := range all {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	wantFound(t, proof(t, reopen(), b.ID), "log", "the log that makes it consistent is missing", b.Stop.String())
}

func cutOff(t *testing.T, v *vault.Vault, b vault.Backup) {
	owner, err := restore.DefaultOwner()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	dir := pgtest.Dir(t)
	_, _, err = backup.Validate(ctx, backup.ValidateOptions{Vault: v, Database: "orders", Dir: dir, Owner: owner, Progress: func(p backup.Progress) {
		if p.Phase == "heap" {
			cancel()
		}
	}})
	if err == nil {
		t.Error("a validation that was cut off gave a verdict")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("a validation that was cut off left %v (%v)", left, err)
	}
	if list, err := v.Backups(t.Context(), "orders"); err != nil || list[0].Validation != nil {
		t.Errorf("a validation that was cut off is on record: %+v, %v", list, err)
	}
	// Held back to a rate: the same verdict, later.
	_, val, err := backup.Validate(t.Context(), backup.ValidateOptions{Vault: v, Database: "orders", Backup: b.ID, Dir: dir, Owner: owner, Limit: 64 << 20})
	if err != nil || !val.Passed {
		t.Errorf("held back, it says %+v, %v", val, err)
	}
}
