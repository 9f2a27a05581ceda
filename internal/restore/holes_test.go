package restore

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// How far in time the log before a hole goes is told by the pieces before it: the newest that knows.
func TestTheLogBeforeAHoleHasItsTime(t *testing.T) {
	const segment = 1 << 20
	ctx := t.Context()
	v, err := vault.Create(ctx, vault.Config{URL: "file://" + t.TempDir(), Key: redact.Secret("a key of the test"), Application: "clinic"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = v.Close(ctx) }()
	log, at := v.Log(7, segment), time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	for n, covers := range map[int]time.Time{1: at, 2: at.Add(time.Minute), 3: {}, 5: at.Add(time.Hour), 6: at.Add(2 * time.Hour), 8: at.Add(3 * time.Hour)} {
		if err := log.PutSegment(ctx, 1, wal.LSN(n*segment), make([]byte, segment), covers); err != nil {
			t.Fatal(err)
		}
	}
	h, err := loadLog(ctx, log)
	if err != nil {
		t.Fatal(err)
	}
	want := []Mark{{End: 3 * segment, At: at.Add(time.Minute)}, {End: 7 * segment, At: at.Add(2 * time.Hour)}}
	if d := cmp.Diff(want, h.Before[1]); d != "" {
		t.Errorf("before the holes: %s", d)
	}
	if d := cmp.Diff(Mark{End: 9 * segment, At: at.Add(3 * time.Hour)}, h.Covered[1]); d != "" {
		t.Errorf("at the end: %s", d)
	}
	history := wal.History{{Timeline: 1}}
	if got := coveredOn(h, history, 4*segment); !got.Equal(at.Add(time.Minute)) {
		t.Errorf("up to the first hole it is known until %s", got)
	}
	if d := cmp.Diff(wal.Hole{Timeline: 1, From: 4 * segment, To: 5 * segment}, missing(h, history, 4*segment)); d != "" {
		t.Errorf("what is missing: %s", d)
	}
	if got := missing(h, history, 9*segment); got != (wal.Hole{}) {
		t.Errorf("behind all log %+v is missing", got)
	}
}
