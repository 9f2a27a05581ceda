package postgres

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/durable"
)

func TestHowFastAServerReplayed(t *testing.T) {
	life := func(lines ...string) string {
		return "2026-11-21 04:00:00.000 UTC [7] LOG:  starting PostgreSQL 15.18\n" + strings.Join(lines, "\n") + "\n"
	}
	const (
		starts = "2026-11-21 04:00:01.000 UTC [9] LOG:  redo starts at 0/2000000"
		sound  = "2026-11-21 04:00:03.000 UTC [9] LOG:  consistent recovery state reached at 0/A000000"
		early  = "2026-11-21 04:00:01.010 UTC [9] LOG:  consistent recovery state reached at 0/2000100"
		stream = "2026-11-21 04:00:03.100 UTC [10] LOG:  started streaming WAL from primary at 0/A000000 on timeline 3"
		done   = "2026-11-21 04:00:09.000 UTC [9] LOG:  redo done at 1/2000000 system usage: CPU: user: 0.10 s, system: 0.00 s, elapsed: 8.00 s"
	)
	for _, tt := range []struct {
		name string
		log  string
		want database.Recovery
	}{
		{"a standby, up to where it was consistent", life(starts, sound, stream), database.Recovery{Bytes: 0x8000000, Took: 2 * time.Second}},
		{"a primary that came back by itself, up to its end", life(starts, early, done), database.Recovery{Bytes: 0x100000000, Took: 8 * time.Second}},
		{"a standby that is promoted later waited for what it replayed", life(starts, sound, stream, done), database.Recovery{Bytes: 0x8000000, Took: 2 * time.Second}},
		{"too little to tell a rate", life(starts, early), database.Recovery{}},
		{"only the last life counts", life(starts, sound) + life(starts, early), database.Recovery{}},
		{"nothing was replayed", life(), database.Recovery{}},
		{"what a client wrote is no word of the server", life("2026-11-21 04:00:01.000 UTC [9] app@app LOG:  redo starts at 0/2000000", sound), database.Recovery{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, ok := recoveryOf(tt.log); got != tt.want || ok != (tt.want.Bytes > 0) {
				t.Errorf("%+v, %t; want %+v", got, ok, tt.want)
			}
		})
	}
}

func TestAFigureThatCannotBeReadIsMeasuredAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "recovery.json")
	for _, text := range []string{"", "{", `{"bytes":0,"took":5}`, `{"bytes":5,"took":-1}`} {
		if text != "" {
			if err := durable.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := readRecovery(path); r != nil || err != nil {
			t.Errorf("%q gives %+v, %v", text, r, err)
		}
	}
}
