package lab

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// RuleZ is what holds after every scenario, whatever else it asserts: every acknowledged row is there exactly once, no
// server acknowledged what was sent after its successor had acknowledged, and each server that acknowledged anything
// is part of the history that the primary has now.
type RuleZ struct {
	Acknowledged int
	Wrong        []string // empty = it holds
	Lost         int      // rows acknowledged and not there
}

// CheckZ judges what writers were told; they have ended. It reads the rows from the primary.
func (w *World) CheckZ(primary string, writers []*Writer) RuleZ {
	w.t.Helper()
	var z RuleZ
	ctx, cancel := context.WithTimeout(w.t.Context(), servedMax)
	defer cancel()
	var all []Ack
	for _, wr := range writers {
		stored, err := w.stored(ctx, wr.Name)
		if err != nil {
			w.t.Fatalf("read back what %s wrote: %v", wr.Name, err)
		}
		acks := wr.Acks()
		all = append(all, acks...)
		lost, wrong := compareRows(acks, wr.Sent(), stored)
		z.Lost += lost
		for _, what := range wrong {
			z.Wrong = append(z.Wrong, wr.Name+": "+what)
		}
	}
	z.Acknowledged = len(all)
	if len(all) == 0 {
		z.Wrong = append(z.Wrong, "nothing was acknowledged, so nothing was checked")
	}
	z.Wrong = append(z.Wrong, overlaps(all)...)
	history, err := w.history(primary)
	if err != nil {
		w.t.Fatalf("read the history of the primary: %v", err)
	}
	z.Wrong = append(z.Wrong, strangers(all, history)...)
	return z
}

// stored reads one writer's ids from whoever is the primary, again until it answers.
func (w *World) stored(ctx context.Context, writer string) (ids []int64, err error) {
	for {
		for _, host := range w.Hosts {
			if ids, err = w.storedBy(ctx, host, writer); err == nil {
				return ids, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (w *World) storedBy(ctx context.Context, host, writer string) ([]int64, error) {
	conn, err := w.Connect(ctx, host)
	if err != nil {
		return nil, err
	}
	defer hangUp(conn)
	rows, err := conn.Query(ctx, "SELECT id FROM lab_acks WHERE writer = $1", writer)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// Connect opens a session through a host's listener, from where clients are.
func (w *World) Connect(ctx context.Context, host string) (*pgx.Conn, error) {
	w.t.Helper()
	pc, err := pgx.ParseConfig(w.DSN(host))
	if err != nil {
		return nil, err
	}
	pc.ConnectTimeout = openMax
	if w.Net != nil {
		pc.DialFunc = w.Net.Dial(outside)
	}
	return pgx.ConnectConfig(ctx, pc)
}

// compareRows says which acknowledged rows are not there exactly once, and which rows nobody sent.
func compareRows(acks []Ack, sent int64, stored []int64) (lost int, wrong []string) {
	times := map[int64]int{}
	for _, id := range stored {
		times[id]++
		if id < 1 || id > sent {
			wrong = append(wrong, fmt.Sprintf("row %d is there and was never sent", id))
		}
	}
	for _, a := range acks {
		switch n := times[a.ID]; {
		case n == 0:
			lost++
			wrong = append(wrong, fmt.Sprintf("row %d was acknowledged at %s on timeline %d and is lost", a.ID, a.Ended.UTC().Format("15:04:05.000"), a.Timeline))
		case n > 1:
			wrong = append(wrong, fmt.Sprintf("row %d is there %d times", a.ID, n))
		}
	}
	return lost, first(wrong)
}

// overlaps finds acknowledgements of a server for rows that were sent after a later server had acknowledged one.
func overlaps(acks []Ack) (wrong []string) {
	acks = slices.Clone(acks)
	slices.SortFunc(acks, func(a, b Ack) int {
		return cmp.Or(cmp.Compare(b.Timeline, a.Timeline), a.Ended.Compare(b.Ended))
	})
	var newer Ack // the earliest acknowledgement of any later timeline
	for i := 0; i < len(acks); {
		timeline, earliest := acks[i].Timeline, acks[i]
		for ; i < len(acks) && acks[i].Timeline == timeline; i++ {
			if a := acks[i]; newer.Timeline != 0 && a.Began.After(newer.Ended) {
				wrong = append(wrong, fmt.Sprintf("timeline %d acknowledged row %d, sent %s after timeline %d had acknowledged", a.Timeline, a.ID, a.Began.Sub(newer.Ended), newer.Timeline))
			}
		}
		if newer.Timeline == 0 || earliest.Ended.Before(newer.Ended) {
			newer = earliest
		}
	}
	return first(wrong)
}

// strangers finds servers that acknowledged and are not part of the history that stands now.
func strangers(acks []Ack, history []uint32) (wrong []string) {
	for _, a := range acks {
		if !slices.Contains(history, a.Timeline) {
			wrong = append(wrong, fmt.Sprintf("row %d was acknowledged on timeline %d, which is not in the history %v", a.ID, a.Timeline, history))
		}
	}
	return first(wrong)
}

// first keeps a list of wrongs readable.
func first(wrong []string) []string {
	const shown = 5
	if n := len(wrong); n > shown {
		return append(wrong[:shown:shown], fmt.Sprintf("and %d more", n-shown))
	}
	return wrong
}

// history lists the timelines of a primary, its own included, as its server wrote them (PostgreSQL's history files).
func (w *World) history(primary string) ([]uint32, error) {
	wal := filepath.Join(w.Root, "hosts", primary, "db", "records", "pgdata", "pg_wal")
	st, err := w.Status()
	if err != nil {
		return nil, err
	}
	now := st.Databases[0].Timeline
	text, err := os.ReadFile(filepath.Join(wal, fmt.Sprintf("%08X.history", now)))
	if err != nil && (!os.IsNotExist(err) || now != 1) { // the first timeline has no file
		return nil, err
	}
	history := []uint32{now}
	for line := range strings.Lines(string(text)) {
		word, _, found := strings.Cut(strings.TrimSpace(line), "\t")
		if !found {
			continue // a comment or an empty line
		}
		n, err := strconv.ParseUint(word, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read %q of a history file: %w", line, err)
		}
		history = append(history, uint32(n))
	}
	return history, nil
}
