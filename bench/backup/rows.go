package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// vocabulary is how many words there are; a few of them are most of a text, as in a language.
const vocabulary = 4096

func makeWords(dice *rand.Rand) []string {
	out := make([]string, vocabulary)
	for i := range out {
		var w strings.Builder
		for range 1 + dice.IntN(4) {
			w.WriteByte("bcdfghklmnprstvwz"[dice.IntN(17)])
			w.WriteByte("aeiou"[dice.IntN(5)])
		}
		out[i] = w.String()
	}
	return out
}

// copyRows fills the tables: the same rows in every run of the same size.
func copyRows(ctx context.Context, conn *pgx.Conn, mb int) error {
	dice := rand.New(rand.NewPCG(42, 0))
	words := makeWords(dice)
	begin := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	customer := func() int32 { return 1 + dice.Int32N(50000) }
	states, kinds := []string{"open", "paid", "sent", "done"}, []string{"letter", "report", "invoice", "note"}
	for _, t := range []struct {
		name    string
		columns []string
		rows    int
		row     func(i int) []any
	}{
		{"words", []string{"id", "word"}, len(words), func(i int) []any { return []any{int64(i), words[i]} }},
		{"accounts", []string{"id", "branch", "balance", "filler"}, 1500 * mb, func(i int) []any {
			filler := fmt.Sprintf("%016x%s %s %s", dice.Uint64(), words[dice.IntN(vocabulary)], words[dice.IntN(vocabulary)], words[dice.IntN(vocabulary)])
			return []any{int64(i + 1), int32(i % 100), dice.Int64N(1_000_000), filler}
		}},
		{"documents", []string{"id", "customer", "kind", "created", "about", "body"}, 500 * mb, func(i int) []any {
			var body strings.Builder
			for n := range 60 + i%80 {
				if n > 0 {
					body.WriteByte(' ')
				}
				body.WriteString(words[int(vocabulary*math.Pow(dice.Float64(), 2.5))])
			}
			about := fmt.Sprintf(`{"author": "user%d", "pages": %d, "mark": "%016x"}`, i%97, 1+i%30, dice.Uint64())
			return []any{int64(i + 1), customer(), kinds[i%4], begin.Add(time.Duration(i) * 37 * time.Second), about, body.String()}
		}},
		{"orders", []string{"id", "customer", "state", "placed", "total", "remark"}, 1600 * mb, func(i int) []any {
			var remark *string
			if i%5 == 0 {
				text := words[dice.IntN(vocabulary)] + " " + words[dice.IntN(vocabulary)]
				remark = &text
			}
			total := pgtype.Numeric{Int: big.NewInt(dice.Int64N(100000)), Exp: -2, Valid: true}
			return []any{int64(i + 1), customer(), states[dice.IntN(4)], begin.Add(time.Duration(i) * 11 * time.Second), total, remark}
		}},
		{"events", []string{"id", "at", "host", "value"}, 1200 * mb, func(i int) []any {
			var id [16]byte
			binary.BigEndian.PutUint64(id[:], dice.Uint64())
			binary.BigEndian.PutUint64(id[8:], dice.Uint64())
			return []any{id, begin.Add(time.Duration(i) * 7 * time.Second), int32(i % 200), dice.Float64()}
		}},
	} {
		rows := pgx.CopyFromSlice(t.rows, func(i int) ([]any, error) { return t.row(i), nil })
		if _, err := conn.CopyFrom(ctx, pgx.Identifier{t.name}, t.columns, rows); err != nil {
			return fmt.Errorf("fill %s: %w", t.name, err)
		}
	}
	return nil
}
