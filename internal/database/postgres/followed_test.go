package postgres_test

import (
	"errors"
	"fmt"
	"os"
	program "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/database/postgres/walscan"
)

// A standby's data that somebody runs as a primary, without a promotion, have another log under the same timeline: they are
// taken for nobody's copy any more. Those that were promoted are told apart by their timeline, as ever.
func TestAStandbyThatWasRunAsAPrimaryByHandIsNoCopy(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	a := pgtest.New(t, pgtest.Options{}, "127.46.8.1")[0]
	must(t, a.Init(ctx, 1))
	must(t, a.Start(ctx, true))
	mark := filepath.Join(filepath.Dir(a.DataDir()), "followed.json")
	a.Await(t, "the timeline that it follows is kept", func(database.Local) bool {
		text, err := os.ReadFile(mark)
		return err == nil && strings.Contains(string(text), `"timeline":1`)
	})
	must(t, a.StopFast(ctx))
	if l := a.Observe(ctx); l.Data != database.DataPresent {
		t.Fatalf("a stopped standby: %+v", l)
	}
	sign := filepath.Join(a.DataDir(), "standby.signal")
	must(t, os.Rename(sign, sign+".away"))
	byHand(t, a, "CREATE TABLE forged AS SELECT 1 AS n\n")
	must(t, os.Rename(sign+".away", sign))
	l := a.Observe(ctx)
	if l.Data != database.DataForeign || !strings.Contains(l.Why, "followed timeline 1") || !strings.Contains(l.Why, "by hand") {
		t.Errorf("observed: %s, %s", l.Data, l.Why)
	}
	if _, err := a.Recruit(ctx, 2, 0); err == nil {
		t.Error("it answered an election")
	}
	if err := a.Start(ctx, true); err == nil {
		t.Error("it was started")
	}
	if err := a.Follow(ctx, a.Endpoint, 1); err == nil {
		t.Error("it followed")
	}
}

// In the middle of a promotion the files of the next timeline are there, and the server is still a standby. Whoever takes that
// timeline for the followed one calls the new primary forged.
func TestATimelineThatIsBeingPromotedToIsNotFollowed(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.8.2", "127.46.8.3")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	b.Await(t, "it streams", func(l database.Local) bool { return l.Receiving })
	mark := filepath.Join(filepath.Dir(b.DataDir()), "followed.json")
	kept := func() string {
		text, err := os.ReadFile(mark)
		if err != nil {
			return ""
		}
		return string(text)
	}
	streamed := fmt.Sprintf(`"timeline":%d`, a.Answers(t).Timeline)
	b.Await(t, "the timeline that it streams is kept", func(database.Local) bool { return strings.Contains(kept(), streamed) })
	next := a.Answers(t).Timeline + 1
	wal := filepath.Join(b.DataDir(), "pg_wal")
	must(t, os.WriteFile(filepath.Join(wal, walscan.HistoryName(next)), fmt.Appendf(nil, "%d\t0/3000000\tthe moment in a promotion\n", next-1), 0o600))
	must(t, os.WriteFile(filepath.Join(wal, fmt.Sprintf("%08X0000000000000003", next)), make([]byte, 16<<20), 0o600))
	looked := time.Now()
	b.Await(t, "it was looked at", func(l database.Local) bool { return l.Timeline == next && time.Since(looked) > 3*time.Second })
	if !strings.Contains(kept(), streamed) {
		t.Errorf("it streams timeline %d, and this is kept: %s", next-1, kept())
	}
	if l := b.Observe(ctx); l.Data != database.DataPresent {
		t.Errorf("%s: %s", l.Data, l.Why)
	}
}

// byHand runs statements in a server of its own over a node's data, as somebody may who knows where they lie.
func byHand(t *testing.T, n *pgtest.Node, statements string) {
	t.Helper()
	info, err := os.Stat(n.DataDir())
	must(t, err)
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal(errors.New("no owner"))
	}
	cmd := program.Command(filepath.Join(n.BinDir(), "postgres"), "--single", "-D", n.DataDir(), "-c", "synchronous_standby_names=", "-c", "default_transaction_read_only=off", "postgres")
	cmd.Stdin = strings.NewReader(statements)
	cmd.Dir = n.DataDir()
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("run the data by hand: %v\n%s", err, out)
	}
}
