package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/database/postgres/replica"
	"holdfast/internal/problem"
	"holdfast/internal/redact"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// archive is a vault that the servers of a test are brought to, as a host's own adapter reads it.
type archive struct {
	vault *vault.Vault
	major int
}

// Replica implements [postgres.Vault].
func (a *archive) Replica(ctx context.Context, w postgres.Wanted) (postgres.Replica, error) {
	r, err := restore.FindReplica(ctx, a.vault, restore.Wanted{Database: "orders", SystemID: w.SystemID, Major: a.major, SegmentSize: w.SegmentSize, Chain: w.Chain})
	if err != nil {
		return nil, err
	}
	return found{r}, nil
}

type found struct{ *restore.Replica }

func (f found) String() string              { return "the vault" }
func (f found) Close(context.Context) error { return nil }

// Fill implements [postgres.Replica].
func (f found) Fill(ctx context.Context, o postgres.FillOrder) error {
	var owner restore.Owner
	if o.UID >= 0 {
		owner = restore.Owner{Set: true, UID: uint32(o.UID), GID: uint32(o.GID)}
	}
	_, err := f.Run(ctx, restore.ReplicaOptions{
		Dir: o.Dir, Owner: owner, Spaces: o.Spaces, Made: o.Made, Pace: func(ctx context.Context, n int) error { return o.Pay(ctx, int64(n)) }, Histories: o.Histories, Until: o.Until, Furnish: o.Furnish,
		Progress: func(p restore.Progress) {
			o.Progress(replica.Progress{Total: p.Total, Settled: p.Done, Moved: p.Done - p.Kept})
		},
	})
	return err
}

// keep archives a primary's log until the test ends, and makes one base backup of it.
func (a *archive) keep(t *testing.T, n *pgtest.Node) {
	t.Helper()
	dsn := fmt.Sprintf("host=%s port=%d user=%s dbname=postgres", n.SocketDir(), n.Endpoint.Port, postgres.Superuser)
	stream, err := backup.StreamFrom(dsn)
	must(t, err)
	read, err := backup.ReadFrom(dsn)
	must(t, err)
	r, err := backup.NewReceiver(backup.ReceiverOptions{Vault: a.vault, Database: "orders", Spool: filepath.Join(t.TempDir(), "spool"), PartialEvery: 200 * time.Millisecond})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := r.Run(ctx, stream); err != nil && ctx.Err() == nil {
				t.Logf("the archive goes on: %v", err)
				time.Sleep(50 * time.Millisecond) // between two tries: nothing waits for it
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	_, err = backup.Base(t.Context(), backup.BaseOptions{Conn: read, Primary: read, DataDir: n.DataDir(), Vault: a.vault, Database: "orders"})
	must(t, err)
}

// A standby is made of what the vault holds, goes on where the vault's log ends, and is refused without a trace when the vault
// cannot serve.
func TestAStandbyIsMadeOfWhatTheVaultHolds(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	v, err := vault.Create(ctx, vault.Config{URL: "file://" + filepath.Join(t.TempDir(), "vault"), Key: redact.Secret("k"), Application: "clinic", Host: "h1"})
	must(t, err)
	t.Cleanup(func() { must(t, v.Close(context.Background())) })
	a := &archive{vault: v, major: pgtest.Major(t)}
	nodes := pgtest.New(t, pgtest.Options{Vault: a}, "127.46.34.1", "127.46.34.2")
	p, s := nodes[0], nodes[1]
	pgtest.Primary(t, p)
	fill(t, p)
	chain := p.Answers(t).History
	refill := func() error { return s.Refill(ctx, p.Endpoint, p.Answers(t).Timeline, chain, 1) }

	refused := func(what string) {
		t.Helper()
		err := refill()
		if w, ok := errors.AsType[*problem.Problem](err); !ok || w.Code != "database.no-copy-in-vault" || !strings.Contains(w.Title, what) {
			t.Fatalf("want a refusal that says %q, got %v", what, err)
		}
		if l := s.Observe(ctx); l.Data != database.DataAbsent || l.FailedFrom != database.FromVault {
			t.Fatalf("it left %s, failed from %q", l.Data, l.FailedFrom)
		}
	}
	refused("holds no base backup")
	a.keep(t, p)
	exec(t, p, "UPDATE big SET text = repeat(md5((id + 1)::text), 30) WHERE id % 7 = 0")
	exec(t, p, "CHECKPOINT")
	major := a.major
	a.major = 9
	refused("is of PostgreSQL")
	a.major = major

	must(t, refill())
	l := s.Observe(ctx)
	if l.Data != database.DataPresent || l.Following != 0 || !l.Names.IsClosed() || l.Running {
		t.Fatalf("a fresh copy is %+v", l)
	}
	first := l.Incarnation
	pos, err := s.Recruit(ctx, 1, 1)
	must(t, err)
	if pos.Timeline != p.Answers(t).Timeline || pos.LSN > p.Answers(t).Flushed {
		t.Fatalf("its log ends at %v", pos)
	}
	must(t, s.Follow(ctx, p.Endpoint, 1))
	sound(t, s, p)

	// Onto what lies there: only what differs comes, and it is another incarnation.
	must(t, s.Kill(ctx, "the test wants it made anew"))
	must(t, refill())
	if again := s.Observe(ctx).Incarnation; again == first || again == "" {
		t.Fatalf("it was made anew, and is %q as before (%q)", again, first)
	}
	_, err = s.Recruit(ctx, 1, 1)
	must(t, err)
	must(t, s.Follow(ctx, p.Endpoint, 1))
	sound(t, s, p)
}
