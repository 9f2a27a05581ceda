package backup_test

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/backup"
	"holdfast/internal/redact"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
)

// killedChild names the vault, the server, its directory, and where it is killed, for a backup that is made in a process of its own.
const killedChild = "HOLDFAST_TEST_KILLED_BACKUP"

// killedLate is how far such a backup goes, in bytes, behind the place where it is to be killed.
const killedLate = 8 << 20

func killedConfig(dir string) vault.Config {
	return vault.Config{URL: "file://" + dir, Key: redact.Secret("k"), Keys: &vaultKeys, Application: "clinic", Host: "h1"}
}

// TestTheBackupThatIsKilled is no test by itself: it is the process that the next one kills.
func TestTheBackupThatIsKilled(t *testing.T) {
	where := strings.Split(os.Getenv(killedChild), "\n")
	if len(where) != 4 {
		t.Skip("run by TestABackupThatWasKilledGoesOn alone")
	}
	at, err := strconv.ParseInt(where[3], 10, 64)
	if err != nil {
		t.Fatal(err)
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
		Conn: cfg, DataDir: where[2], Vault: v, Database: "orders", Workers: 1, Limit: 20 << 20,
		Progress: func(p backup.Progress) {
			fmt.Printf("at %d\n", p.Done)
			if p.Done > at+killedLate { // who is to kill it was held, and the end must not come first
				select {}
			}
		},
	})
	t.Fatalf("it was to be killed, and ended with %v", err)
}

// times is how often something is done in CI, and in make lab.
func times(ci, lab int) int {
	if os.Getenv("HOLDFAST_LAB") == "all" {
		return lab
	}
	return ci
}

// killBackup makes a backup in a process of its own, and kills it when it has read so many bytes.
func killBackup(t *testing.T, env string, at int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestTheBackupThatIsKilled$", "-test.v")
	child.Env = append(os.Environ(), fmt.Sprintf("%s=%s\n%d", killedChild, env, at))
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	killed := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said = append(said, lines.Text())
		var done int64
		if _, err := fmt.Sscanf(lines.Text(), "at %d", &done); err == nil && done > at && !killed {
			killed = true
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := child.Wait(); err == nil || child.ProcessState.Exited() || !killed {
		t.Fatalf("the child was not killed at %d bytes: %v\n%s", at, err, strings.Join(said[max(0, len(said)-20):], "\n"))
	}
}

// packBytes is how much a vault in a directory holds of files' content.
func packBytes(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "repository", "p"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(d.Name(), ".holdfast-tmp-") { // a pack that was being written is none
			return err
		}
		i, err := d.Info()
		if err == nil {
			n += i.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A backup is killed -9 when half of it is stored: nothing is listed, its session ends, and the next one stores the rest, and less
// than a tenth of what is stored once more.
// HOLDFAST_LAB=all kills it at twenty more moments before that.
func TestABackupThatWasKilledGoesOnFromWhatIsStored(t *testing.T) {
	s := pgtest.New(t)
	// Rows that nothing makes smaller: what is stored twice would show.
	s.Exec("postgres", "create table noise (id int primary key, body bytea)", "alter table noise alter body set storage plain",
		"alter table noise set (autovacuum_enabled = off)", // a vacuum between two backups would change every page
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
	const noise = 60000 * 640
	points := []int64{24 << 20}
	for range times(0, 20) {
		points = append(points, rand.Int64N(noise))
	}
	for _, at := range points {
		killBackup(t, strings.Join([]string{dir, s.ConnString("postgres"), s.Dir}, "\n"), at)
		if list, err := v.Backups(t.Context(), "orders"); err != nil || len(list) > 0 {
			t.Fatalf("killed at %d bytes, and a backup is listed: %+v, %v", at, list, err)
		}
		until(t, "the server has ended the killed backup's session", func() bool {
			var others int
			conn := s.Conn("postgres")
			defer func() { _ = conn.Close(context.Background()) }() // its answer came
			err := conn.QueryRow(t.Context(), "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()").Scan(&others)
			return err == nil && others == 0
		})
	}
	before := packBytes(t, dir)
	stop := archive(t, receiver(t, v), s)
	b := base(t, v, s)
	if err := stop(); err == nil {
		t.Error("a cancelled receiver returned nil")
	}
	if b.Stored > noise-8<<20 {
		t.Errorf("%d bytes were stored, of %d that nothing makes smaller and half of which were stored before", b.Stored, noise)
	}
	// What a backup of all of it stores, with nothing there before.
	fresh, err := vault.Create(t.Context(), killedConfig(filepath.Join(t.TempDir(), "fresh")))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := fresh.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	stop = archive(t, receiver(t, fresh), s)
	all := base(t, fresh, s)
	if err := stop(); err == nil {
		t.Error("a cancelled receiver returned nil")
	}
	if again := before + b.Stored - all.Stored; again > before/10 {
		t.Errorf("%d bytes were stored when it was killed, %d after that, and %d are all of it: %d were stored again", before, b.Stored, all.Stored, again)
	}
}

// What a killed writer left half written is not what the vault holds.
func TestWhatIsHalfWrittenDoesNotCountAsStored(t *testing.T) {
	dir := t.TempDir()
	packs := filepath.Join(dir, "repository", "p")
	if err := os.MkdirAll(packs, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"whole", "other.holdfast-tmp-01"} {
		if err := os.WriteFile(filepath.Join(packs, name), make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n := packBytes(t, dir); n != 100 {
		t.Errorf("%d bytes, want 100", n)
	}
}
