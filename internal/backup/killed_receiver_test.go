package backup_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/backup"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// killedReceiver names the vault, the server and the receiver's own directory for a receiver in a process of its own.
const killedReceiver = "HOLDFAST_TEST_KILLED_RECEIVER"

// TestTheReceiverThatIsKilled is no test by itself: it is the process that the next one kills.
func TestTheReceiverThatIsKilled(t *testing.T) {
	where := strings.Split(os.Getenv(killedReceiver), "\n")
	if len(where) != 3 {
		t.Skip("run by TestAReceiverThatDiesBetweenItsDiskAndTheSlotLeavesNoHole alone")
	}
	v, err := vault.Open(t.Context(), killedConfig(where[0]))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := pgconn.ParseConfig(where[1])
	if err != nil {
		t.Fatal(err)
	}
	r, err := backup.NewReceiver(backup.ReceiverOptions{Vault: v, Database: "orders", Spool: where[2], PartialEvery: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	r.NeverLeave() // the test asks the server what it has heard of this connection
	go func() {
		for last := (backup.Status{}); ; time.Sleep(time.Millisecond) {
			now := r.Status()
			if now.Flushed != last.Flushed || now.Archived != last.Archived {
				fmt.Printf("at %d %d\n", uint64(now.Flushed), uint64(now.Archived))
			}
			last = now
		}
	}()
	for { // the server may still be letting go of the connection of who was killed before
		fmt.Printf("ended: %v\n", r.Run(context.Background(), cfg))
		time.Sleep(50 * time.Millisecond)
	}
}

// momentMax is how long is waited for a receiver to stand as wanted. On a busy machine it may never, and is killed where it
// is then: what is asked afterwards holds wherever it dies.
const momentMax = 20 * time.Second

// killReceiver runs a receiver in a process of its own until it stands as wanted, and kills it there.
func killReceiver(t *testing.T, env string, there func(flushed, archived wal.LSN) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestTheReceiverThatIsKilled$", "-test.v")
	child.Env = append(os.Environ(), killedReceiver+"="+env)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	killed, begun := false, time.Now()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said = append(said, lines.Text())
		var flushed, archived wal.LSN
		if _, err := fmt.Sscanf(lines.Text(), "at %d %d", &flushed, &archived); err == nil && !killed {
			late := time.Since(begun) > momentMax
			if !there(flushed, archived) && !late {
				continue
			}
			if late {
				t.Logf("killed where it was after %s: on its disk %s, in the vault %s", momentMax, flushed, archived)
			}
			killed = true
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := child.Wait(); err == nil || child.ProcessState.Exited() || !killed {
		t.Fatalf("the receiver was not killed where it should be: %v\n%s", err, strings.Join(said[max(0, len(said)-20):], "\n"))
	}
}

// Scenario 23: a receiver dies between its own disk, the vault and the slot, again and again. The server never lets go of
// what the vault lacks, nothing is missing, and nothing is there with other content. HOLDFAST_LAB=all kills it twenty times.
func TestAReceiverThatDiesBetweenItsDiskAndTheSlotLeavesNoHole(t *testing.T) {
	s := pgtest.New(t)
	s.Exec("postgres", "alter system set wal_keep_size = '1GB'", "select pg_reload_conf()") // to compare with what the server wrote
	dir, spool := filepath.Join(t.TempDir(), "vault"), filepath.Join(t.TempDir(), "spool")
	v, err := vault.Create(t.Context(), killedConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	l := startLoad(t, s)
	env := strings.Join([]string{dir, s.ConnString("postgres"), spool}, "\n")
	var first, before wal.LSN
	away := false
	moments := []struct {
		name  string
		there func(flushed, archived wal.LSN) bool
	}{
		{"on its disk, not in the vault, and the server has heard so", func(flushed, archived wal.LSN) bool {
			if !away && archived > before {
				away = true
				if err := os.Rename(dir, dir+".away"); err != nil {
					t.Fatal(err)
				}
			}
			return away && flushed > archived && written(t, s) > archived
		}},
		{"in the vault, not confirmed yet", func(_, archived wal.LSN) bool { return archived > before && kept(t, s) < archived }},
		{"anywhere", func(_, archived wal.LSN) bool { return archived > before && rand.IntN(20) == 0 }},
	}
	for i := range times(len(moments), 20) {
		at := moments[i%len(moments)]
		killReceiver(t, env, func(flushed, archived wal.LSN) bool {
			if first == 0 && archived > 0 {
				first, before = archived, archived // where it began: the vault holds nothing yet
			}
			return at.there(flushed, archived)
		})
		if away {
			away = false
			if err := os.Rename(dir+".away", dir); err != nil {
				t.Fatal(err)
			}
		}
		before = l.mark().lsn
		s.Exec("postgres", "select pg_switch_wal()")
		confirmed := slotPosition(t, s)
		if holes := lacks(t, v, first, confirmed); len(holes) > 0 {
			t.Fatalf("killed %s: the server may let go of all before %s, and the vault lacks %v", at.name, confirmed, holes)
		}
	}
	last := l.end()
	r, err := backup.NewReceiver(backup.ReceiverOptions{Vault: v, Database: "orders", Spool: spool, PartialEvery: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	stop := archive(t, r, s)
	until(t, "the log in the vault", func() bool { return r.Status().Archived >= last.lsn })
	if err := stop(); err == nil {
		t.Error("a cancelled receiver returned nil")
	}
	if holes := lacks(t, v, first, last.lsn); len(holes) > 0 {
		t.Errorf("the vault lacks %v", holes)
	}
	sameAsTheServers(t, v, s)
}

// written is how far a receiver last told the server to have the log on its own disk or on the way there; 0 = nothing.
func written(t *testing.T, s *pgtest.Server) wal.LSN {
	t.Helper()
	conn := s.Conn("postgres")
	defer func() { _ = conn.Close(context.Background()) }() // every answer came
	var text string
	if err := conn.QueryRow(t.Context(), "select coalesce((select max(write_lsn) from pg_stat_replication), '0/0')::text").Scan(&text); err != nil {
		t.Fatal(err)
	}
	at, err := wal.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// kept is what the server keeps the log from for the archive now.
func kept(t *testing.T, s *pgtest.Server) wal.LSN {
	t.Helper()
	conn := s.Conn("postgres")
	defer func() { _ = conn.Close(context.Background()) }() // every answer came
	var text string
	if err := conn.QueryRow(t.Context(), "select coalesce(restart_lsn, '0/0')::text from pg_replication_slots where slot_name = 'holdfast_archive'").Scan(&text); err != nil {
		t.Fatal(err)
	}
	at, err := wal.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// slotPosition is what the server keeps the log from for the archive, once it has let go of a receiver that was killed.
func slotPosition(t *testing.T, s *pgtest.Server) (at wal.LSN) {
	t.Helper()
	conn := s.Conn("postgres")
	defer func() { _ = conn.Close(context.Background()) }() // every answer came
	until(t, "the server has let go of the killed receiver", func() bool {
		var text string
		var active bool
		if err := conn.QueryRow(t.Context(), "select restart_lsn::text, active from pg_replication_slots where slot_name = 'holdfast_archive'").Scan(&text, &active); err != nil {
			t.Fatal(err)
		}
		var err error
		if at, err = wal.ParseLSN(text); err != nil {
			t.Fatal(err)
		}
		return !active
	})
	return at
}

// lacks is what the vault does not hold of the log between two positions.
func lacks(t *testing.T, v *vault.Vault, from, to wal.LSN) []wal.Hole {
	t.Helper()
	log := v.Log(fastSystem(t, v), 0)
	held, err := log.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if to <= from {
		return nil
	}
	return wal.Holes(wal.History{{Timeline: 1}}, held, from, to, log.SegmentSize())
}

// sameAsTheServers compares each piece of log in a vault with the file that the server wrote.
func sameAsTheServers(t *testing.T, v *vault.Vault, s *pgtest.Server) {
	t.Helper()
	log := v.Log(fastSystem(t, v), 0)
	held, err := log.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	whole := map[wal.LSN]bool{}
	for _, h := range held {
		content, err := log.Fetch(t.Context(), h)
		if err != nil {
			t.Error(err)
			continue
		}
		written, err := os.ReadFile(filepath.Join(s.Dir, "pg_wal", fmt.Sprintf("%08X%08X%08X", h.Timeline, uint64(h.Start)>>32, uint64(h.Start)&0xffffffff/(16<<20))))
		if err != nil {
			t.Error(err)
			continue
		}
		if len(content) > len(written) || !bytes.Equal(content, written[:len(content)]) {
			t.Errorf("%+v holds something else than the server wrote", h)
		}
		if !h.Partial && whole[h.Start] {
			t.Errorf("%+v is there twice", h)
		}
		whole[h.Start] = whole[h.Start] || !h.Partial
	}
	if len(whole) < 3 {
		t.Errorf("only %d segments were compared", len(whole))
	}
}
