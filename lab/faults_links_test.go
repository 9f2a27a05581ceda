package lab_test

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/api"
	"holdfast/lab"
)

// cutAndReturn cuts the primary's host off and mends the link at some moment, before the others have noticed, while they
// elect, just when the new primary opens, or after. Every other round its clients outside still reach it.
func cutAndReturn(r *lab.Round) {
	r.Fault()
	if (r.Point/(50*time.Millisecond))%2 == 0 {
		r.W.Net.Isolate(r.Was.Primary)
	} else {
		r.W.Net.Separate(r.Was.Primary, r.W.Others(r.Was.Primary)...)
	}
	r.Hold(r.Point)
	r.W.Net.Heal()
}

// cutBriefly cuts the primary's host off and mends the link before its silence counts: nothing moves, and nothing is lost.
func cutBriefly(r *lab.Round) {
	r.Fault()
	r.W.Net.Isolate(r.Was.Primary)
	r.Hold(r.Point)
	r.W.Net.Heal()
	r.Flows("over the mended link")
	r.Hold(10 * time.Second)
	r.Unmoved()
}

// brief are moments at which a cut link comes back in time: 2.5 s of silence count, and the last beat before the cut is up to
// a quarter of a second old.
func brief(all bool) []time.Duration {
	if !all {
		return []time.Duration{1700 * time.Millisecond, 2 * time.Second}
	}
	var points []time.Duration
	for at := time.Second; at <= 2*time.Second; at += 50 * time.Millisecond {
		points = append(points, at)
	}
	return points
}

// returns are the moments at which a cut link comes back: a new primary opens about six seconds after the cut.
func returns(all bool) []time.Duration {
	if !all {
		return []time.Duration{6 * time.Second, 6150 * time.Millisecond}
	}
	var points []time.Duration
	for at := time.Duration(0); at <= 8*time.Second; at += 50 * time.Millisecond {
		points = append(points, at)
	}
	return points
}

// cutOff cuts the primary's host off, with the clients on it.
func cutOff(r *lab.Round) {
	r.Fault()
	r.W.Net.Isolate(r.Was.Primary)
	r.Moved()
	r.Flows("without the host")
	r.Hold(8 * time.Second)
	r.Over()
	r.W.Net.Heal()
}

// cutOffFromHosts separates the primary from the other hosts and the agreed state; clients still reach it.
func cutOffFromHosts(r *lab.Round) {
	r.Fault()
	r.W.Net.Separate(r.Was.Primary, r.W.Others(r.Was.Primary)...)
	r.Moved()
	r.Flows("at the new primary")
	r.Hold(8 * time.Second)
	r.Over()
	r.W.Net.Heal()
}

// oneWay takes away one direction of the primary's link.
func oneWay(cut func(*lab.Network, string)) func(*lab.Round) {
	return func(r *lab.Round) {
		r.Fault()
		cut(r.W.Net, r.Was.Primary)
		now := r.Moved()
		r.Flows("at the new primary")
		r.Hold(12 * time.Second)
		r.Over()
		if again := r.W.Await("one primary", recoverMax, func(st api.Status) bool { return st.Databases[0].Open }).Databases[0]; again.Epoch != now.Epoch {
			r.Errorf("epoch %d came after %d: it flaps", again.Epoch, now.Epoch)
		}
		r.W.Net.Heal()
	}
}

// oneLink takes the link between the primary and one standby, both of which the third host reaches.
func oneLink(r *lab.Round) {
	far := r.Standbys()[0]
	r.Fault()
	r.W.Net.Cut(r.Was.Primary, far)
	r.W.Await(far+" does not count", recoverMax, func(st api.Status) bool { return !counts(st, far) })
	r.Flows("without the standby")
	r.Hold(12 * time.Second)
	r.Over()
	r.W.Net.Heal()
	r.Unmoved()
}

// The ports of etcd: its clients' and its members'.
const (
	etcdClients = 7402
	etcdMembers = 7403
)

// noEtcd takes the agreed state away from the primary's host alone: standbys still confirm it.
func noEtcd(r *lab.Round) {
	r.Fault()
	for _, h := range r.W.Others(r.Was.Primary) {
		r.W.Net.CutPorts(r.Was.Primary, h, etcdClients, etcdMembers)
	}
	r.Hold(8 * time.Second)
	r.Over()
	r.Served()
	r.W.Net.Heal()
	r.Unmoved()
}

// openSessions leaves sessions open beside a primary that is cut off, one idle and one in a transaction: both must be
// gone before anybody else acknowledges a commit.
func openSessions(r *lab.Round) {
	ends := make([]time.Time, 2)
	var watching sync.WaitGroup
	ctx, cancel := context.WithTimeout(r.Context(), recoverMax)
	defer cancel()
	for i, begin := range []string{"SELECT 1", "BEGIN; SELECT count(*) FROM lab_acks"} {
		pc, err := pgx.ParseConfig(r.W.DSN(r.Was.Primary))
		if err != nil {
			r.Fatal(err)
		}
		pc.DialFunc = r.W.Net.Dial(r.Was.Primary)
		conn, err := pgx.ConnectConfig(ctx, pc)
		if err == nil {
			_, err = conn.PgConn().Exec(ctx, begin).ReadAll()
		}
		if err != nil {
			r.Fatalf("open a session beside the primary: %v", err)
		}
		watching.Go(func() {
			// Nothing is asked any more: the session is only listened to until somebody ends it.
			if err := conn.PgConn().WaitForNotification(ctx); err != nil && ctx.Err() == nil {
				ends[i] = time.Now()
			}
			_ = conn.Close(context.WithoutCancel(ctx)) // it has ended
		})
	}
	r.Fault()
	r.W.Net.Isolate(r.Was.Primary)
	now := r.Moved()
	r.Flows("at the new primary")
	r.Hold(8 * time.Second)
	r.Over()
	r.W.Net.Heal()
	watching.Wait()
	newer := r.FirstOn(now.Timeline)
	for i, what := range []string{"an idle session", "a session in a transaction"} {
		switch end := ends[i]; {
		case end.IsZero():
			r.Errorf("%s beside the old primary lives on", what)
		case end.After(newer):
			r.Errorf("%s beside the old primary ended %s after the new one had acknowledged", what, end.Sub(newer))
		default:
			r.Logf("%s was cut %.2f s after the fault", what, end.Sub(r.FaultAt()).Seconds())
		}
	}
}
