package postgres_test

import (
	"errors"
	"os"
	program "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/pgtest"
)

// A standby's data that somebody runs as a primary, without a promotion, have another log under the same timeline: they are
// taken for nobody's copy any more. Those that were promoted are told apart by their timeline, as ever.
func TestAStandbyThatWasRunAsAPrimaryByHandIsNoCopy(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
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
