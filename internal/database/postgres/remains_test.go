package postgres_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/database/postgres/walscan"
	"holdfast/internal/pgcontrol"
)

// A standby's file holds what it had before behind the log's end, since its server writes no more of a page than has come.
// PostgreSQL believes none of it, so an election must not either: the promotion would come out behind what was told.
func TestRemainsBehindTheLogAreNotTold(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.43.1", "127.46.43.2")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	exec(t, a, "CREATE TABLE x (a int)")
	dir := filepath.Join(b.DataDir(), "pg_wal")
	var at, last walscan.LSN
	for at%8192 < 1000 || at%8192 > 7000 || at/8192 != last/8192 { // the last record and as much again in one page
		exec(t, a, "INSERT INTO x VALUES (1)")
		flushed := a.Answers(t).Flushed
		at = walscan.LSN(b.Await(t, "it replayed all", func(l database.Local) bool { return l.Replayed >= flushed }).Replayed)
		last = lastRecord(t, b, dir)
	}
	must(t, a.Kill(ctx, "a fault of the test"))
	replayed := b.Answers(t).Replayed
	at, last = walscan.LSN(replayed), lastRecord(t, b, dir)
	c, err := pgcontrol.Read(filepath.Dir(dir))
	must(t, err)
	path := filepath.Join(dir, walscan.Segment{Timeline: c.Timeline, Number: uint64(at) / c.SegSize}.Name(c.SegSize))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	remains := make([]byte, at-last)
	_, err = f.ReadAt(remains, int64(uint64(last)%c.SegSize))
	must(t, err)
	_, err = f.WriteAt(remains, int64(uint64(at)%c.SegSize))
	must(t, err)
	must(t, f.Close())

	pos, err := b.Recruit(ctx, 2, 0)
	must(t, err)
	if pos.LSN != replayed {
		t.Fatalf("%s is told, but the log ends at %s", pos.LSN, replayed)
	}
	must(t, b.Promote(ctx, 2, 3, b.Answers(t).History))
}

// lastRecord is where the last record of a standby's log begins.
func lastRecord(t *testing.T, n *pgtest.Node, dir string) walscan.LSN {
	t.Helper()
	c, err := pgcontrol.Read(filepath.Dir(dir))
	must(t, err)
	newest, err := walscan.Newest(dir, c.Timeline, c.SegSize)
	must(t, err)
	end, err := walscan.Scan(walscan.Input{Dir: dir, Start: walscan.LSN(c.Redo), Timeline: newest, SegSize: c.SegSize})
	must(t, err)
	return end.Last
}

// A server that comes out of its promotion with less log than it was chosen for may have forgotten what was acknowledged. It
// counts for that no more, however much it writes afterwards.
func TestAPromotionThatForgotIsForsworn(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.44.1", "127.46.44.2")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	must(t, a.Kill(ctx, "a fault of the test"))
	_, err := b.Recruit(ctx, 2, 0)
	must(t, err)
	was := b.Answers(t)

	path := filepath.Join(b.Config.Dir, "promise.json")
	raw, err := os.ReadFile(path)
	must(t, err)
	var p database.Promise
	must(t, json.Unmarshal(raw, &p))
	p.Told += 64
	raw, err = json.Marshal(p)
	must(t, err)
	must(t, os.WriteFile(path, raw, 0o644))

	if err := b.Promote(ctx, 2, 3, was.History); err == nil || !strings.Contains(err.Error(), "told in the election") {
		t.Fatalf("it came out well: %v", err)
	}
	must(t, b.Start(ctx, true))
	l := b.Answers(t)
	if l.PromiseOK || l.Promise.Epoch != 2 || l.Flushed < p.Told {
		t.Fatalf("it still counts, or its log has not grown past %s: %+v of %s at %s", p.Told, l.Promise, l.Incarnation, l.Flushed)
	}
	if err := b.Promote(ctx, 2, 4, l.History); !errors.Is(err, database.ErrStale) {
		t.Fatalf("it was promoted once more: %v", err)
	}
	if _, err = b.Recruit(ctx, 3, 0); err != nil {
		t.Fatal(err)
	}
	if l := b.Observe(ctx); l.Incarnation == was.Incarnation || !l.PromiseOK {
		t.Errorf("asked again it is %s, before %s", l.Incarnation, was.Incarnation)
	}
}
