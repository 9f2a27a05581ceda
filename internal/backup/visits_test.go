package backup_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
)

// What is written while the archive is away from a busy server is taken when it comes by, and the server notes nothing of
// its coming and going.
func TestAServerThatIsLeftAndVisitedLosesNothing(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	r := receiver(t, v)
	r.LeaveAlways(50 * time.Millisecond)
	stop := archive(t, r, s)
	base(t, v, s)
	said := func() string {
		raw, err := os.ReadFile(s.Dir + ".log")
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	before := len(said())
	load := startLoad(t, s)
	conn := s.Conn("postgres")
	seen := map[int32]bool{}
	until(t, "the archive comes by again and again", func() bool {
		rows, err := conn.Query(t.Context(), "select pid from pg_stat_activity where backend_type = 'walsender' and application_name = 'holdfast-archive'")
		if err != nil {
			t.Fatal(err)
		}
		pids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pids {
			seen[p] = true
		}
		return len(seen) >= 5
	})
	m := load.end()
	until(t, "the vault holds the last commit", func() bool { return r.Status().Archived >= m.lsn })
	for _, unusual := range []string{"ERROR", "FATAL", "unexpected EOF", "could not send", "could not receive"} {
		if text := said()[before:]; strings.Contains(text, unusual) {
			t.Errorf("the server says %q:\n%s", unusual, text)
		}
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("the receiver ended with %v", err)
	}
	wantRows(t, v, restore.Target{Kind: restore.Latest}, m.count)
}
