package backup_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// restoredTo starts what a restore to target makes, and asks it.
func restoredTo(t *testing.T, v *vault.Vault, target restore.Target, query string) (answer string, err error) {
	t.Helper()
	ctx := t.Context()
	c, err := restore.Load(ctx, v, "orders")
	if err != nil {
		t.Fatal(err)
	}
	choice, err := restore.Choose(c, target)
	if err != nil {
		return "", err
	}
	owner, err := restore.DefaultOwner()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(pgtest.Dir(t), "restored")
	if _, err := restore.Run(ctx, restore.Options{Vault: v, Choice: choice, Dir: dir, Owner: owner, Throwaway: true}); err != nil {
		return "", err
	}
	rec, err := restore.Recover(ctx, choice, restore.Promote, restore.ScratchOptions{Dir: dir, Owner: owner})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, rec.Stop(context.Background())) }()
	conn, err := pgx.Connect(ctx, rec.ConnString("postgres"))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(ctx) }() // it was asked
	return answer, conn.QueryRow(ctx, query).Scan(&answer)
}

// Targets that name a transaction or a restore point are met to the row on a real server, also right before a DROP TABLE;
// one that the log does not hold is refused, and never taken for its end.
func TestATransactionANameAndRightBeforeADropAreMetExactly(t *testing.T) {
	if os.Getenv("HOLDFAST_LAB") != "all" {
		t.Skip("it takes long: make lab runs it (HOLDFAST_LAB=all)")
	}
	s, v := pgtest.New(t), newVault(t)
	r := receiver(t, v)
	stop := archive(t, r, s)
	s.Exec("postgres", "create table rows (id int primary key)")
	base(t, v, s)
	conn := s.Conn("postgres")
	defer func() { _ = conn.Close(context.Background()) }()
	commit := func(statement string) (xid uint32) {
		t.Helper()
		tx, err := conn.Begin(t.Context())
		if err == nil {
			_, err = tx.Exec(t.Context(), statement)
		}
		if err == nil {
			err = tx.QueryRow(t.Context(), "select (pg_current_xact_id()::text::bigint % 4294967296)::bigint").Scan(&xid)
		}
		if err == nil {
			err = tx.Commit(t.Context())
		}
		if err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		return xid
	}
	commit("insert into rows values (1)")
	two := commit("insert into rows values (2)")
	s.Exec("postgres", "select pg_create_restore_point('before upgrade')")
	commit("insert into rows values (3)")
	dropped := commit("drop table rows")
	commit("create table other (id int)")
	var end string
	if err := conn.QueryRow(t.Context(), "select pg_current_wal_lsn()::text").Scan(&end); err != nil {
		t.Fatal(err)
	}
	last, err := wal.ParseLSN(end)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the log in the vault", func() bool { return r.Status().Archived >= last })
	_ = stop() // its context has ended

	const rows, tables = "select coalesce(string_agg(id::text, ' ' order by id), '') from rows", "select coalesce(string_agg(relname, ' ' order by relname), '') from pg_class where relname in ('rows', 'other')"
	for name, c := range map[string]struct {
		target      restore.Target
		query, want string
	}{
		"a transaction":             {restore.Target{Kind: restore.AtXID, XID: two}, rows, "1 2"},
		"right before it":           {restore.Target{Kind: restore.AtXID, XID: two, Exclusive: true}, rows, "1"},
		"a name":                    {restore.Target{Kind: restore.AtName, Name: "before upgrade"}, rows, "1 2"},
		"right before a DROP TABLE": {restore.Target{Kind: restore.AtXID, XID: dropped, Exclusive: true}, rows, "1 2 3"},
		"with the DROP TABLE":       {restore.Target{Kind: restore.AtXID, XID: dropped}, tables, ""},
		"the latest":                {restore.Target{Kind: restore.Latest}, tables, "other"},
		"the end of the log":        {restore.Target{Kind: restore.AtLSN, LSN: last}, tables, "other"},
		"the end of the backup":     {restore.Target{Kind: restore.Consistent}, rows, ""},
	} {
		if got, err := restoredTo(t, v, c.target, c.query); err != nil || got != c.want {
			t.Errorf("%s: %q, want %q: %v", name, got, c.want, err)
		}
	}
	commits := fmt.Sprintf("5 transactions were committed in it: the first is %d, the last %d ", two-1, dropped+1)
	for _, c := range []struct {
		target restore.Target
		says   string
	}{
		{restore.Target{Kind: restore.AtXID, XID: dropped + 1000}, commits},
		{restore.Target{Kind: restore.AtXID, XID: dropped + 1000, Exclusive: true}, commits},
		{restore.Target{Kind: restore.AtName, Name: "after upgrade"}, `The restore points in it are ["before upgrade"].`},
	} {
		got, err := restoredTo(t, v, c.target, tables)
		p, refused := errors.AsType[*problem.Problem](err)
		if !refused || p.Code != "restore.not-in-log" || !strings.Contains(p.Meaning, c.says) || !strings.Contains(p.Meaning, "to "+last.String()) {
			t.Errorf("%s, which the log does not hold: %q, %v, want %q", c.target, got, err, c.says)
		}
	}
}
