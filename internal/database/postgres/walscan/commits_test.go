package walscan_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/database/postgres/walscan"
)

// single makes a cluster, runs scripts on it in single-user mode, and tells where the log ended before each.
func single(t *testing.T, scripts ...string) (in walscan.Input, ends []walscan.LSN) {
	t.Helper()
	data := smallCluster(t)
	dir := filepath.Join(data, "pg_wal")
	segments, err := walscan.Segments(dir, segSize)
	if err != nil {
		t.Fatal(err)
	}
	in = walscan.Input{Dir: dir, Timeline: 1, SegSize: segSize}
	in.Start, err = walscan.FirstRecord(in, segments[0].Number)
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range scripts {
		end, err := walscan.Scan(in)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end.LSN)
		asServer(t, script, "postgres", "--single", "-D", data, "-c", "fsync=off", "-c", "wal_keep_size=512MB", "-c", "max_prepared_transactions=5",
			"-c", "autovacuum=off", "postgres")
	}
	return in, ends
}

// firstOwn is above every system catalog's file: single-user mode goes on numbering where initdb ended.
const firstOwn = 13550

// words are a transaction as its author would tell it: rows of his own tables only.
func words(x walscan.Transaction) string {
	s := string(x.Outcome)
	if x.GID != "" {
		s += " " + x.GID
	}
	if len(x.Subs) > 0 {
		s += fmt.Sprintf(" with %d parts", len(x.Subs))
	}
	for _, c := range x.Counts {
		if c.Node >= firstOwn {
			s += fmt.Sprintf(" +%d ~%d -%d", c.Inserted, c.Updated, c.Deleted)
		}
	}
	if x.Partial {
		s += " at least"
	}
	return s
}

func TestCommitsAreListedWithTheirRows(t *testing.T) {
	in, ends := single(t, `create table t (a int primary key, b text);
insert into t select g, 'x' from generate_series(1, 10) g;
begin;
insert into t values (900, 'prepared before');
prepare transaction 'before';
`, `insert into t values (11, 'eleven');
begin;
insert into t values (12, 'rolled back');
rollback;
begin;
insert into t values (13, 'thirteen');
savepoint one;
insert into t values (14, 'given up');
rollback to savepoint one;
savepoint two;
insert into t values (15, 'kept');
update t set b = 'y' where a <= 3;
release savepoint two;
commit;
delete from t where a in (1, 2);
begin;
insert into t values (16, 'prepared');
savepoint three;
insert into t values (17, 'prepared too');
prepare transaction 'both';
commit prepared 'both';
begin;
insert into t values (18, 'only prepared');
prepare transaction 'left';
begin;
insert into t values (19, 'never');
prepare transaction 'undone';
rollback prepared 'undone';
commit prepared 'before';
insert into t values (11, 'again') on conflict (a) do update set b = 'twice';
create table u (a int);
insert into u select generate_series(1, 5000);
copy t from stdin;
20	a
21	b
\.
`)
	got, err := walscan.Commits(in, ends[1])
	if err != nil {
		t.Fatal(err)
	}
	if got.Unknown > 0 {
		t.Errorf("%d records were not understood", got.Unknown)
	}
	var told []string
	for _, x := range got.Transactions {
		told = append(told, words(x))
	}
	want := []string{
		"commit +1 ~0 -0",
		"commit with 2 parts +2 ~3 -0",
		"commit +0 ~0 -2",
		"prepare both with 1 parts +2 ~0 -0",
		"commit prepared both with 1 parts +2 ~0 -0",
		"prepare left +1 ~0 -0",
		"prepare undone +1 ~0 -0",
		"commit prepared before +1 ~0 -0",
		"commit +0 ~1 -0",
		"commit",
		"commit +5000 ~0 -0",
		"commit +2 ~0 -0",
	}
	told = slices.DeleteFunc(told, func(s string) bool { return strings.HasPrefix(s, "commit at least") })
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	againstPostgres(t, in, ends[1], got.Transactions)
}

var ended = regexp.MustCompile(`rmgr: Transaction .*tx: +(\d+), lsn: ([0-9A-F/]+), .*desc: (COMMIT_PREPARED|PREPARE|COMMIT) (?:gid \S+, )?(\d+)?`)

// againstPostgres holds numbers and places against PostgreSQL's own tool.
func againstPostgres(t *testing.T, in walscan.Input, from walscan.LSN, got []walscan.Transaction) {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "pg_waldump"), "-p", in.Dir, "-s", from.String(), "--rmgr=Transaction")
	var out bytes.Buffer
	cmd.Stdout = &out
	_ = cmd.Run() // it always ends with an error: the log ends
	var theirs, ours []string
	for _, m := range ended.FindAllStringSubmatch(out.String(), -1) {
		l, err := walscan.ParseLSN(m[2])
		if err != nil {
			t.Fatal(err)
		}
		theirs = append(theirs, l.String()+" "+strings.ToLower(strings.ReplaceAll(m[3], "_", " ")))
	}
	for _, x := range got {
		ours = append(ours, x.LSN.String()+" "+string(x.Outcome))
	}
	if len(theirs) == 0 {
		t.Fatalf("pg_waldump found nothing:\n%s", out.String())
	}
	if diff := cmp.Diff(theirs, ours); diff != "" {
		t.Errorf("PostgreSQL (-), we (+):\n%s\n%s", diff, out.String())
	}
}

func TestRowsOfATransactionThatBeganBeforeAreCounted(t *testing.T) {
	in, _ := single(t, `create table t (a int);
checkpoint;
begin;
insert into t select generate_series(1, 3000);
insert into t select generate_series(1, 500);
commit;
`)
	all, err := walscan.Commits(in, in.Start)
	if err != nil {
		t.Fatal(err)
	}
	last := all.Transactions[len(all.Transactions)-1]
	got, err := walscan.Commits(in, last.LSN)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Transactions) != 1 || words(got.Transactions[0]) != "commit +3500 ~0 -0" {
		t.Errorf("got %v", got.Transactions)
	}
	if got.NextXID != last.XID+1 {
		t.Errorf("the next transaction is %d, want %d", got.NextXID, last.XID+1)
	}
	short := in
	short.Start = last.LSN
	if got, err = walscan.Commits(short, last.LSN); err != nil || len(got.Transactions) != 1 || !got.Transactions[0].Partial {
		t.Errorf("what was not read is not told to be missing: %v, %v", got.Transactions, err)
	}
	if _, err := walscan.Commits(in, all.End.LSN+1<<20); err == nil {
		t.Error("a position behind the end of the log was accepted")
	}
}
