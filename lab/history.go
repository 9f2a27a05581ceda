package lab

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// History is what several sessions wrote to and read from a few registers through listeners, with the times of each
// call, for a judgement whether one register each could have answered so.
type History struct {
	w     *World
	begun time.Time
	stop  context.CancelFunc
	done  sync.WaitGroup

	mu    sync.Mutex // guards what follows
	calls []Call
	last  int64 // value written last: each is written once
}

// Call is one read or write of a register. Registers begin with 0.
type Call struct {
	Client   int
	Register int
	Write    bool
	Value    int64         // written, or shown
	Began    time.Duration // since the recording began
	Ended    time.Duration // of a write without an answer: [Unanswered]
}

// Unanswered is the end of a write that may take effect at any time, or not at all.
const Unanswered = time.Duration(1) << 62

const (
	registers  = 3
	callEvery  = 50 * time.Millisecond
	makeValues = "CREATE TABLE IF NOT EXISTS lab_registers (id int PRIMARY KEY, value bigint NOT NULL); " +
		"INSERT INTO lab_registers SELECT id, 0 FROM generate_series(0, 2) id ON CONFLICT DO NOTHING; UPDATE lab_registers SET value = 0"
)

// History begins to record: one session from outside and one beside the server for each host, through its listener. It
// ends with the test at the latest.
func (w *World) History() *History {
	w.t.Helper()
	conn, err := w.Connect(w.t.Context(), w.Hosts[0])
	if err == nil {
		_, err = conn.PgConn().Exec(w.t.Context(), makeValues).ReadAll()
		hangUp(conn)
	}
	if err != nil {
		w.t.Fatalf("make the registers: %v", err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(w.t.Context()))
	h := &History{w: w, begun: time.Now(), stop: stop}
	for i, host := range w.Hosts {
		for k, from := range []string{outside, host} {
			pc, err := pgx.ParseConfig(w.DSN(host))
			if err != nil {
				w.t.Fatal(err)
			}
			pc.ConnectTimeout, pc.DialFunc = openMax, w.Net.Dial(from)
			h.done.Go(func() { h.run(ctx, 2*i+k, pc) })
		}
	}
	w.t.Cleanup(h.end)
	return h
}

func (h *History) end() {
	h.stop()
	h.done.Wait()
}

// Calls ends the recording, and lists what had an answer, and every write without one.
func (h *History) Calls() []Call {
	h.end()
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls
}

func (h *History) run(ctx context.Context, id int, pc *pgx.ConnConfig) {
	var conn *pgx.Conn
	defer func() { hangUp(conn) }()
	tick := time.NewTicker(callEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if conn == nil {
			opening, cancel := context.WithTimeout(ctx, openMax)
			c, err := pgx.ConnectConfig(opening, pc)
			cancel()
			if err != nil {
				continue
			}
			conn = c
		}
		if h.call(ctx, id, conn) != nil {
			hangUp(conn)
			conn = nil
		}
	}
}

// call makes one call and notes it. A read without an answer tells nothing; a write without one may have happened.
func (h *History) call(ctx context.Context, id int, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	c := Call{Client: id, Register: rand.IntN(registers), Write: rand.IntN(3) == 0}
	if c.Write {
		h.mu.Lock()
		h.last++
		c.Value = h.last
		h.mu.Unlock()
	}
	c.Began = time.Since(h.begun)
	var err error
	if c.Write {
		_, err = conn.Exec(ctx, "UPDATE lab_registers SET value = $1 WHERE id = $2", c.Value, c.Register)
	} else {
		err = conn.QueryRow(ctx, "SELECT value FROM lab_registers WHERE id = $1", c.Register).Scan(&c.Value)
	}
	c.Ended = time.Since(h.begun)
	if err != nil {
		c.Ended = Unanswered
	}
	if err == nil || c.Write {
		h.mu.Lock()
		h.calls = append(h.calls, c)
		h.mu.Unlock()
	}
	return err
}
