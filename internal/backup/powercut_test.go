package backup_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
)

// cutLoad commits one row after the other until its server is gone, and knows when each was acknowledged.
type cutLoad struct {
	mu    sync.Mutex // guards acked
	acked []time.Time
	ended chan struct{}
}

func startCutLoad(t *testing.T, s *pgtest.Server, from int) *cutLoad {
	t.Helper()
	l, conn := &cutLoad{ended: make(chan struct{})}, s.Conn("postgres")
	go func() {
		defer close(l.ended)
		defer func() { _ = conn.Close(context.Background()) }() // its server is gone
		for id := from; ; id++ {
			if _, err := conn.Exec(context.Background(), "insert into rows values ($1::int, repeat(md5($1::int::text), 20))", id); err != nil {
				return
			}
			l.mu.Lock()
			l.acked = append(l.acked, time.Now())
			l.mu.Unlock()
		}
	}()
	return l
}

// before is how many rows were acknowledged before a moment.
func (l *cutLoad) before(at time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, a := range l.acked {
		if a.Before(at) {
			n++
		}
	}
	return n
}

// The host of a primary that is written to loses its power, and so does the one that archives it: what is left is the
// vault. A restore of the latest holds every commit up to the moment that was stated right before, by the server's clock and by how
// long ago it was, and no hole. Twenty cuts at moments of chance, with HOLDFAST_LAB=all.
func TestNoMoreIsLostFromTheVaultThanWasStated(t *testing.T) {
	if os.Getenv("HOLDFAST_LAB") != "all" {
		t.Skip("it takes minutes: HOLDFAST_LAB=all")
	}
	s, v := pgtest.New(t), newVault(t)
	s.Exec("postgres", "create table rows (id int primary key, body text not null)")
	rows, lost, age := 0, 0, time.Duration(0)
	for cut := range 20 {
		if cut > 0 {
			s.Start() // what the vault lacks is still there: only its host was away
			conn := s.Conn("postgres")
			err := errors.Join(conn.QueryRow(t.Context(), "select count(*) from rows").Scan(&rows), conn.Close(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
		}
		r := receiver(t, v) // with an empty disk of its own
		stop := archive(t, r, s)
		l := startCutLoad(t, s, rows+1)
		until(t, "log to be stored", func() bool { return r.Status().Archived > 0 && l.before(time.Now()) > 0 })
		if cut%5 == 0 {
			base(t, v, s)
		}
		began := time.Now()
		until(t, "commits to be stated as stored", func() bool { return r.Status().CoveredUntil.After(began) })
		time.Sleep(rand.N(2 * time.Second)) // the moment is chance's; nothing waits for it
		at := time.Now()
		stated := r.Status()
		stood := at.Add(-stated.Behind)
		if stated.CoveredUntil.After(stood) {
			stood = stated.CoveredUntil
		}
		s.Kill()
		_ = stop() // its context has ended, and its disk is lost
		<-l.ended

		count, highest := restored(t, v, restore.Target{Kind: restore.Latest})
		want, acknowledged := rows+l.before(stood), rows+l.before(time.Now())
		if stated.Behind < 0 || count < want || count != highest {
			t.Fatalf("cut %d: %d rows, highest %d; %d were acknowledged by %s, which was stated %s before the cut: %+v", cut, count, highest, want, stood, at.Sub(stood), stated)
		}
		lost, age = lost+max(acknowledged-count, 0), max(age, stated.Behind)
	}
	t.Logf("20 cuts: %d acknowledged rows were lost from the vault, none that was stated to be there; stated was at most %s before the cut", lost, age.Round(time.Millisecond))
}
