package files

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// What counts are the holes that a file has, not the blocks that it takes: those may be fewer, or not be there yet.
func TestTheRoomOfAFileIsWhatLiesOutsideItsHoles(t *testing.T) {
	full := bytes.Repeat([]byte("x"), 1<<20)
	for _, c := range []struct {
		name   string
		at     []int64 // where 1 MiB of data begins
		length int64
		want   int64
	}{
		{"a file without a hole, not flushed", []int64{0}, 1 << 20, 0},
		{"a hole at the end", []int64{0}, 8 << 20, 1 << 20},
		{"a hole at the beginning", []int64{7 << 20}, 8 << 20, 1 << 20},
		{"data, a hole, data, a hole", []int64{0, 4 << 20}, 8 << 20, 2 << 20},
		{"nothing but a hole", nil, 8 << 20, holeBlock},
		{"an empty file", nil, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "f"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }() // nobody reads it again
			if err := f.Truncate(c.length); err != nil {
				t.Fatal(err)
			}
			for _, at := range c.at {
				if _, err := f.WriteAt(full, at); err != nil {
					t.Fatal(err)
				}
			}
			if got := roomIn(f, c.length); got != c.want {
				t.Errorf("it takes %d bytes, want %d", got, c.want)
			}
			if at, err := f.Seek(0, 1); at != 0 || err != nil {
				t.Errorf("it would be read from %d on, %v", at, err)
			}
		})
	}
}
