package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Ack is one row of which a client was told that it is committed.
type Ack struct {
	ID           int64
	Began, Ended time.Time // when it was sent, and when the answer was there; both with the monotonic clock's reading
	Timeline     uint32    // of the server that acknowledged: each promotion has a number of its own
}

// Writer commits rows through one host's listener, each with an id that is sent once, and notes every acknowledgement.
type Writer struct {
	Name, Host string
	pc         *pgx.ConnConfig
	every      time.Duration
	stop       context.CancelFunc
	done       sync.WaitGroup

	mu   sync.Mutex // guards what follows
	sent int64
	acks []Ack
	errs []string // the last ones, for a failure's message
}

const (
	ackTable   = "CREATE TABLE IF NOT EXISTS lab_acks (writer text NOT NULL, id bigint NOT NULL)" // nothing unique: a twin must be seen
	warningKey = "holdfast.lab.warning"
	openMax    = 3 * time.Second // for a connection: a listener holds them while there is no primary
	errsKept   = 5
)

// Writer begins to write from one node to a host's listener, rate rows a second; it ends with the test at the latest.
func (w *World) Writer(name, from, host string, rate float64) *Writer {
	w.t.Helper()
	pc, err := pgx.ParseConfig(w.DSN(host))
	if err != nil {
		w.t.Fatal(err)
	}
	pc.ConnectTimeout = openMax
	pc.DialFunc = w.Net.Dial(from)
	pc.OnNotice = func(c *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			c.CustomData()[warningKey] = n.Message
		}
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(w.t.Context()))
	wr := &Writer{Name: name, Host: host, pc: pc, every: time.Duration(float64(time.Second) / rate), stop: stop}
	wr.done.Go(func() { wr.run(ctx) })
	w.t.Cleanup(wr.End)
	return wr
}

// End stops writing and waits for the last answer.
func (w *Writer) End() {
	w.stop()
	w.done.Wait()
}

// Acks lists what was acknowledged up to now, in the order of the answers.
func (w *Writer) Acks() []Ack {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.acks)
}

// Sent is the highest id that was ever sent.
func (w *Writer) Sent() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent
}

// Errors are the newest reasons why a row was not acknowledged.
func (w *Writer) Errors() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.errs)
}

func (w *Writer) run(ctx context.Context) {
	var conn *pgx.Conn
	defer func() { hangUp(conn) }()
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var err error
		if conn == nil {
			if conn, err = w.open(ctx); err != nil {
				conn = nil
			}
		}
		if err == nil {
			err = w.write(ctx, conn)
		}
		if err != nil && ctx.Err() == nil {
			hangUp(conn)
			conn = nil
			w.mu.Lock()
			w.errs = append(w.errs[max(0, len(w.errs)-errsKept+1):], time.Now().UTC().Format("15:04:05.000 ")+err.Error())
			w.mu.Unlock()
		}
	}
}

func (w *Writer) open(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, openMax)
	defer cancel()
	return pgx.ConnectConfig(ctx, w.pc)
}

// errWarned is a commit whose wait for a standby was given up: it is no acknowledgement.
var errWarned = errors.New("the server warned")

// write commits one row and notes the acknowledgement. It is carried to its end when ctx ends meanwhile.
func (w *Writer) write(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	w.mu.Lock()
	w.sent++ // an id is never sent twice: nobody knows what became of one that failed
	id := w.sent
	w.mu.Unlock()
	data := conn.PgConn().CustomData()
	delete(data, warningKey)
	const insert = "INSERT INTO lab_acks (writer, id) VALUES ($1, $2) RETURNING ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint"
	var timeline int64
	began := time.Now()
	err := conn.QueryRow(ctx, insert, w.Name, id).Scan(&timeline)
	ended := time.Now()
	if err != nil {
		return err
	}
	if warning, warned := data[warningKey]; warned {
		return fmt.Errorf("%w: %v", errWarned, warning)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acks = append(w.acks, Ack{ID: id, Began: began, Ended: ended, Timeline: uint32(timeline)})
	return nil
}

func hangUp(conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = conn.Close(ctx) // broken or done with: its goodbye does not matter
}
