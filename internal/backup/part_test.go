package backup

import (
	"testing"
	"time"
)

// The beginning of a segment is stored as often as was asked for, unless all of it follows at once.
func TestWhenABeginningIsStored(t *testing.T) {
	const size = 16 << 20
	last := time.Date(2026, 11, 21, 14, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		what                       string
		written, flushed, archived uint64
		came, after                time.Duration // since the last piece
		want                       bool
	}{
		{"nothing came", 1 << 20, 1 << 20, 1 << 20, -1, time.Hour, false},
		{"what came is not on the disk yet", 2 << 20, 1 << 20, 1 << 20, time.Second, 2 * time.Second, true},
		{"a piece was stored a moment ago", 2 << 20, 2 << 20, 1 << 20, time.Second, 2*time.Second - 1, false},
		{"a little came", 2 << 20, 2 << 20, 1 << 20, time.Second, 2 * time.Second, true},
		{"the segment will be full after more than three seconds", 5 << 20, 5 << 20, 0, time.Second, 2 * time.Second, true},
		{"the segment will be full within three seconds", 6 << 20, 6 << 20, 0, time.Second, 2 * time.Second, false},
		{"the rest of the segment will be there within three seconds", 10 << 20, 10 << 20, 6 << 20, time.Second, 2 * time.Second, false},
		{"the segment was to be full, and is not", 15 << 20, 15 << 20, 0, 2 * time.Second, 3 * time.Second, true},
		{"all that waits came before the last piece was stored", 8 << 20, 8 << 20, 4 << 20, -1, 2 * time.Second, true},
		{"the first one after a start", 1, 1, 0, 1000 * time.Hour, 1000 * time.Hour, true},
	} {
		s := &spool{size: size, segs: []*spooled{{written: c.written, flushed: c.flushed, archived: c.archived, came: last.Add(c.came)}}}
		if got := s.partDue(last, 2*time.Second, last.Add(c.after)); got != c.want {
			t.Errorf("%s: stored %t, want %t", c.what, got, c.want)
		}
	}
	if (&spool{size: size}).partDue(last, time.Second, last.Add(time.Hour)) {
		t.Error("a beginning of nothing is stored")
	}
}
