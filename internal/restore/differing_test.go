package restore

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/pgdata"
)

// pages notes what is written where.
type pages struct {
	bytes  []byte
	wrote  []int64 // where each write began
	amount int
}

func (p *pages) WriteAt(b []byte, at int64) (int, error) {
	p.wrote, p.amount = append(p.wrote, at), p.amount+len(b)
	if need := int(at) + len(b) - len(p.bytes); need > 0 {
		p.bytes = append(p.bytes, make([]byte, need)...)
	}
	return copy(p.bytes[at:], b), nil
}

// Whatever lies there becomes the content, and no page is written that was the same.
func TestOnlyPagesThatDifferAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		content := make([]byte, rapid.IntRange(0, 6*pgdata.PageSize).Draw(t, "size"))
		for i := range content {
			content[i] = byte(i / pgdata.PageSize)
		}
		there := slices.Clone(content)[:min(len(content), rapid.IntRange(0, 6*pgdata.PageSize).Draw(t, "there"))]
		differ := map[int]bool{}
		for i := 0; i*pgdata.PageSize < len(content); i++ {
			from, to := i*pgdata.PageSize, min((i+1)*pgdata.PageSize, len(content))
			switch {
			case len(there) < to:
				differ[i] = true
			case rapid.Bool().Draw(t, "changed"):
				there[rapid.IntRange(from, to-1).Draw(t, "where")] ^= 0xff
				differ[i] = true
			}
		}
		const before = 3 // bytes of the file that are none of it
		p := &pages{bytes: append([]byte("abc"), there...)}
		if err := writeDiffering(p, content, slices.Clone(there), before); err != nil {
			t.Fatal(err)
		}
		if got := p.bytes[:before+len(content)]; !bytes.Equal(got[before:], content) || string(got[:before]) != "abc" {
			t.Fatal("it is not the content")
		}
		want := 0
		for i := range differ {
			want += min(pgdata.PageSize, len(content)-i*pgdata.PageSize)
		}
		if d := cmp.Diff(want, p.amount); d != "" {
			t.Errorf("bytes written (pages %v differ, written at %v): %s", differ, p.wrote, d)
		}
	})
}
