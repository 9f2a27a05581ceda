package backup_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/backup"
	"holdfast/internal/redact"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
)

// killedChild names the vault, the server and its directory for a backup that is made in a process of its own.
const killedChild = "HOLDFAST_TEST_KILLED_BACKUP"

const killedKeep = 2 << 20 // bytes after which the child's vault keeps what it has; they count when a pack of 20 MB is full

func killedConfig(dir string) vault.Config {
	return vault.Config{URL: "file://" + dir, Key: redact.Secret("k"), Application: "clinic", Host: "h1"}
}

// TestTheBackupThatIsKilled is no test by itself: it is the process that the next one kills.
func TestTheBackupThatIsKilled(t *testing.T) {
	where := strings.Split(os.Getenv(killedChild), "\n")
	if len(where) != 3 {
		t.Skip("run by TestABackupThatWasKilledGoesOn alone")
	}
	v, err := vault.Open(t.Context(), killedConfig(where[0]))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := pgx.ParseConfig(where[1])
	if err != nil {
		t.Fatal(err)
	}
	_, err = backup.Base(context.Background(), backup.BaseOptions{
		Conn: cfg, DataDir: where[2], Vault: v, Database: "orders", Workers: 1, CheckpointEvery: killedKeep, Limit: 20 << 20,
		Progress: func(p backup.Progress) { fmt.Printf("at %d\n", p.Done) },
	})
	t.Fatalf("it was to be killed, and ended with %v", err)
}

func TestABackupThatWasKilledGoesOnFromWhatIsStored(t *testing.T) {
	s := pgtest.New(t)
	// Rows that nothing makes smaller: what is stored twice would show.
	s.Exec("postgres", "create table noise (id int primary key, body bytea)", "alter table noise alter body set storage plain",
		"insert into noise select g, (select string_agg(sha256((g || '.' || i)::bytea), '') from generate_series(1, 20) i) from generate_series(1, 60000) g", "checkpoint")
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
	child := exec.Command(os.Args[0], "-test.run=^TestTheBackupThatIsKilled$", "-test.v")
	child.Env = append(os.Environ(), killedChild+"="+strings.Join([]string{dir, s.ConnString("postgres"), s.Dir}, "\n"))
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	for lines, killed := bufio.NewScanner(out), false; lines.Scan(); {
		said = append(said, lines.Text())
		var at int64
		if _, err := fmt.Sscanf(lines.Text(), "at %d", &at); err == nil && at > 24<<20 && !killed {
			killed = true
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := child.Wait(); err == nil || child.ProcessState.Exited() {
		t.Fatalf("the child was not killed: %v\n%s", err, strings.Join(said, "\n"))
	}
	if list, err := v.Backups(t.Context(), "orders"); err != nil || len(list) > 0 {
		t.Fatalf("a backup that was killed is listed: %+v, %v", list, err)
	}
	stop := archive(t, receiver(t, v), s)
	b := base(t, v, s)
	if err := stop(); err == nil {
		t.Error("a cancelled receiver returned nil")
	}
	const noise = 60000 * 640
	if b.Stored > noise-8<<20 {
		t.Errorf("%d bytes were stored, of %d that nothing makes smaller and half of which were stored before", b.Stored, noise)
	}
}
