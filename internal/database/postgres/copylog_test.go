package postgres_test

import (
	"testing"

	"holdfast/internal/database/postgres"
	"holdfast/internal/database/postgres/pgtest"
)

// The log that is written while a copy is made is more than any slot may keep: the copy ends well all the same.
func TestACopyLastsLongerThanTheLogIsKept(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{Parameters: []postgres.Parameter{
		{Name: "max_slot_wal_keep_size", Value: "64MB"}, {Name: "wal_keep_size", Value: "0"}, {Name: "max_wal_size", Value: "32MB"}, {Name: "min_wal_size", Value: "32MB"},
	}}, "127.46.33.1", "127.46.33.2", "127.46.33.3")
	a, b, c := nodes[0], nodes[1], nodes[2]
	pgtest.Primary(t, a)
	fill(t, a)
	pgtest.Join(t, b, a, 1)
	c.SetLimits(0, 20<<20) // so that it lasts for seconds
	done := make(chan error, 1)
	go func() { done <- c.Clone(ctx, b.Endpoint, a.Endpoint, 1) }()
	const behind = `SELECT coalesce((SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), coalesce(flush_lsn, '0/0')) FROM pg_stat_replication
 WHERE application_name = 'holdfast-copy-log'), 1 << 30)::bigint`
	ended, round := false, 0
	var err error
	for round < 6 && !ended { // 96 MiB of log
		select {
		case err = <-done:
			ended = true
			t.Logf("the copy ended after %d rounds", round) // a machine that writes slowly proves less
			continue
		default:
		}
		if count(t, b, behind) > 1<<20 {
			continue // it has not begun, or not come so far yet
		}
		round++
		exec(t, a, "INSERT INTO big SELECT g, 'more' FROM generate_series(100000, 100050) g")
		exec(t, a, "SELECT pg_switch_wal()")
		exec(t, a, "CHECKPOINT")
		exec(t, b, "CHECKPOINT")
	}
	if !ended {
		err = <-done
	}
	must(t, err)
	if round == 0 {
		t.Fatal("the log was never streamed while the copy was made")
	}
	must(t, c.Follow(ctx, a.Endpoint, 1))
	sound(t, c, a)
}
