package index_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/vault/repo/index"
)

// testing.T and rapid.T.
type tester interface {
	Helper()
	Errorf(string, ...any)
	Fatalf(string, ...any)
	Fatal(...any)
}

type finder interface {
	Find(index.ID) (index.Info, bool)
	Each(from, to string, each func(index.Info) error) error
}

func listed(t tester, x finder, from, to string) (out []index.Info) {
	t.Helper()
	if err := x.Each(from, to, func(i index.Info) error { out = append(out, i); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func equalMerged(t tester, got, want finder) {
	t.Helper()
	if d := cmp.Diff(listed(t, want, "", ""), listed(t, got, "", ""), cmp.AllowUnexported(index.ID{})); d != "" {
		t.Errorf("they differ (-want +got):\n%s", d)
	}
}

// genID draws from few ids, so that entries meet, or from very many.
func genID(length int) *rapid.Generator[index.ID] {
	return rapid.Custom(func(t *rapid.T) index.ID {
		prefix := rapid.SampledFrom([]string{"", "", "g", "k", "m", "x", "z"}).Draw(t, "prefix")
		hash := make([]byte, length)
		if rapid.Bool().Draw(t, "few") {
			hash[0] = rapid.SampledFrom([]byte{0, 0xa0, 0xff}).Draw(t, "hash")
		} else {
			copy(hash, rapid.SliceOfN(rapid.Byte(), length, length).Draw(t, "hash"))
		}
		id, err := index.MakeID(prefix, hash)
		if err != nil {
			t.Fatal(err)
		}
		return id
	})
}

func genInfo(id *rapid.Generator[index.ID]) *rapid.Generator[index.Info] {
	return rapid.Custom(func(t *rapid.T) index.Info {
		length := rapid.OneOf(rapid.Uint32Range(0, 9), rapid.SampledFrom([]uint32{1<<24 - 1, 1 << 24, 1<<28 - 1}), rapid.Uint32Range(0, 1<<28-1))
		return index.Info{
			ID:          id.Draw(t, "id"),
			Pack:        rapid.SampledFrom([]string{"", "p1", "p2", "q1", "p" + string(bytes.Repeat([]byte("x"), 254))}).Draw(t, "pack"),
			Time:        rapid.OneOf(rapid.Int64Range(5, 6), rapid.SampledFrom([]int64{0, math.MaxUint32})).Draw(t, "time"),
			Offset:      rapid.OneOf(rapid.Uint32Range(0, 3), rapid.Just[uint32](1<<30-1)).Draw(t, "offset"),
			Packed:      length.Draw(t, "packed"),
			Original:    length.Draw(t, "original"),
			Compression: rapid.SampledFrom([]uint32{0, 0, 0x1100, math.MaxUint32}).Draw(t, "compression"),
			Deleted:     rapid.Bool().Draw(t, "deleted"),
			Version:     rapid.SampledFrom([]byte{2, 2, 3}).Draw(t, "version"),
			KeyID:       rapid.SampledFrom([]byte{0, 0, 0, 7}).Draw(t, "key"),
		}
	})
}

func built(infos ...index.Info) index.Builder {
	b := index.Builder{}
	for _, i := range infos {
		b.Add(i)
	}
	return b
}

func opened(t tester, b index.Builder) *index.Index {
	t.Helper()
	data, err := b.Encode(bytes.NewReader(bytes.Repeat([]byte("random suffix..."), 2)))
	if err != nil {
		t.Fatal(err)
	}
	x, err := index.Open(data)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// What counts of several entries of a content does not depend on the order in which, or how often, they come.
func TestTheEntryThatCountsIsTheSameInWhateverOrderTheyCome(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := genID(4).Draw(t, "id")
		infos := rapid.SliceOfN(genInfo(rapid.Just(id)), 1, 6).Draw(t, "infos")
		mixed := append(rapid.Permutation(infos).Draw(t, "mixed"), rapid.SampledFrom(infos).Draw(t, "again"))
		half := rapid.IntRange(0, len(infos)).Draw(t, "half")
		parts := built(infos[half:]...)
		for _, i := range built(infos[:half]...) { // merged first, each part by itself
			parts.Add(i)
		}
		want := built(infos...)
		if got := built(mixed...); !maps.Equal(got, want) {
			t.Errorf("mixed: %+v, want %+v", got, want)
		}
		if !maps.Equal(parts, want) {
			t.Errorf("in parts: %+v, want %+v", parts, want)
		}
		winner := want[id]
		for _, i := range infos {
			if i.Beats(winner) || i.Beats(i) || (i != winner && !winner.Beats(i)) {
				t.Errorf("%+v is beaten by %+v", winner, i)
			}
			if newer := i.Time > winner.Time || i.Time == winner.Time && winner.Deleted && !i.Deleted; newer {
				t.Errorf("%+v counts, and not %+v", winner, i)
			}
		}
	})
}

func TestWhichEntryCounts(t *testing.T) {
	id, err := index.ParseID("k0123")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name           string
		winner, looser index.Info
	}{
		{"the newer one, even deleted", index.Info{Time: 2, Deleted: true, Pack: "p1"}, index.Info{Time: 1, Pack: "p2"}},
		{"the newer one, even not deleted", index.Info{Time: 2, Pack: "p1"}, index.Info{Time: 1, Deleted: true, Pack: "p2"}},
		{"of one second the one that is not deleted", index.Info{Time: 2, Pack: "p1"}, index.Info{Time: 2, Deleted: true, Pack: "p2"}},
		{"else the greater pack", index.Info{Time: 2, Pack: "p2"}, index.Info{Time: 2, Pack: "p1", Offset: 9}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.winner.ID, c.looser.ID = id, id
			for _, b := range []index.Builder{built(c.winner, c.looser), built(c.looser, c.winner)} {
				if b[id] != c.winner {
					t.Errorf("%+v counts", b[id])
				}
			}
			m := index.Merged{opened(t, built(c.looser)), opened(t, built(c.winner))}
			if got, ok := m.Find(id); !ok || got != c.winner {
				t.Errorf("found %+v, %v", got, ok)
			}
		})
	}
}

// Any entries that the format can say come back as they were, whatever else the index holds.
func TestWhatIsEncodedIsOpened(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.SampledFrom([]int{1, 16, 32}).Draw(t, "length")
		b := built(rapid.SliceOfN(genInfo(genID(length)), 1, 40).Draw(t, "infos")...)
		x := opened(t, b)
		if x.Len() != len(b) {
			t.Errorf("%d entries, want %d", x.Len(), len(b))
		}
		got := listed(t, x, "", "")
		if !slices.IsSortedFunc(got, func(a, b index.Info) int { return a.ID.Compare(b.ID) }) {
			t.Error("they are out of order")
		}
		if !maps.Equal(built(got...), b) {
			t.Errorf("%+v came back, want %+v", got, b)
		}
		for _, i := range b {
			if found, ok := x.Find(i.ID); !ok || found != i {
				t.Errorf("found %+v, %v, want %+v", found, ok, i)
			}
		}
		other := genID(rapid.SampledFrom([]int{1, 16, 32}).Draw(t, "length of another")).Draw(t, "another")
		if _, ok := x.Find(other); ok != (b[other] != index.Info{}) {
			t.Errorf("%s is found: %v", other, ok)
		}
		first, err1 := b.Encode(nil)
		second, err2 := maps.Clone(b).Encode(nil)
		if err := errors.Join(err1, err2); err != nil || !bytes.Equal(first, second) {
			t.Errorf("equal entries give other bytes, %v", err)
		}
	})
}

// Asking many indexes is asking one that has all their entries, and so is asking what compaction makes of them.
func TestManyIndexesAreAskedAsOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m index.Merged
		all := index.Builder{}
		for _, infos := range rapid.SliceOfN(rapid.SliceOfN(genInfo(genID(2)), 1, 12), 1, 6).Draw(t, "indexes") {
			m = append(m, opened(t, built(infos...)))
			for _, i := range infos {
				all.Add(i)
			}
		}
		bound := rapid.SampledFrom([]string{"", "0", "00", "a", "a0", "ff", "g", "k", "ka", "z", "{"})
		from, to := bound.Draw(t, "from"), bound.Draw(t, "to")
		var want []index.Info
		for _, i := range all {
			if text := i.ID.String(); text >= from && (to == "" || text < to) {
				want = append(want, i)
			}
		}
		slices.SortFunc(want, func(a, b index.Info) int { return a.ID.Compare(b.ID) })
		if got := listed(t, m, from, to); !slices.Equal(got, want) {
			t.Errorf("from %q to %q: %+v, want %+v", from, to, got, want)
		}
		for id, i := range all {
			if got, ok := m.Find(id); !ok || got != i {
				t.Errorf("found %+v, %v, want %+v", got, ok, i)
			}
		}
		equalMerged(t, m.Joined(rapid.IntRange(0, 12).Draw(t, "small")), m)
		max := rapid.IntRange(1, 30).Draw(t, "max")
		equalMerged(t, shards(t, m, max, len(all)), m)
	})
}

// shards compacts m, and looks at how that is divided: contents is how many there are.
func shards(t tester, m index.Merged, max, contents int) (out index.Merged) {
	t.Helper()
	last := ""
	err := m.Compact(max, func(data []byte, of int) error {
		x, err := index.Open(data)
		if err != nil {
			return err
		}
		if want := (contents + max - 1) / max; of != want || x.Len() > max || len(out) < of-1 && x.Len() < max {
			t.Errorf("index %d of %d, of which there should be %d, has %d of %d entries", len(out), of, want, x.Len(), contents)
		}
		out = append(out, x)
		return x.Each("", "", func(i index.Info) error {
			if i.ID.String() <= last {
				t.Errorf("%s comes behind %s", i.ID, last)
			}
			last = i.ID.String()
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// An index may have more packs than two bytes number, and more than one way in which contents were written.
func TestAnIndexHasManyPacks(t *testing.T) {
	b := index.Builder{}
	for n := range 70_000 {
		id, err := index.MakeID("", []byte{byte(n >> 16), byte(n >> 8), byte(n)})
		if err != nil {
			t.Fatal(err)
		}
		b.Add(index.Info{ID: id, Pack: fmt.Sprintf("p%d", n), Time: 1, Original: uint32(n), Version: byte(2 + n%2)})
	}
	x := opened(t, b)
	if got := listed(t, x, "", ""); !maps.Equal(built(got...), b) {
		t.Error("other entries came back")
	}
	for _, shard := range b.Shards(1000) {
		if len(shard) < 700 || len(shard) > 1300 {
			t.Errorf("a shard of about 1,000 has %d", len(shard))
		}
	}
}

func TestWhatTheFormatCannotSayIsRefused(t *testing.T) {
	id, _ := index.ParseID("0123")
	longer, _ := index.ParseID("012345")
	for name, b := range map[string]index.Builder{
		"nothing":            {},
		"no id":              built(index.Info{}),
		"ids of two lengths": built(index.Info{ID: id}, index.Info{ID: longer}),
		"a great offset":     built(index.Info{ID: id, Offset: 1 << 30}),
		"packed too large":   built(index.Info{ID: id, Packed: 1 << 28}),
		"too large":          built(index.Info{ID: id, Original: 1 << 28}),
		"before 1970":        built(index.Info{ID: id, Time: -1}),
		"after 2106":         built(index.Info{ID: id, Time: 1 << 32}),
		"a long pack":        built(index.Info{ID: id, Pack: string(make([]byte, 256))}),
		"many formats":       manyFormats(),
	} {
		t.Run(name, func(t *testing.T) {
			if data, err := b.Encode(nil); !errors.Is(err, index.ErrUnfit) {
				t.Errorf("%d bytes, %v", len(data), err)
			}
		})
	}
}

func manyFormats() index.Builder {
	b := index.Builder{}
	for n := range 256 {
		id, _ := index.MakeID("", []byte{byte(n)})
		b.Add(index.Info{ID: id, Compression: uint32(n)})
	}
	return b
}

func TestEachEndsWithTheErrorOfTheCaller(t *testing.T) {
	id, _ := index.ParseID("0123")
	other, _ := index.ParseID("0124")
	x := opened(t, built(index.Info{ID: id}, index.Info{ID: other}))
	enough := errors.New("enough")
	for _, f := range []finder{x, index.Merged{x, x}} {
		calls := 0
		if err := f.Each("", "", func(index.Info) error { calls++; return enough }); !errors.Is(err, enough) || calls != 1 {
			t.Errorf("%v after %d calls", err, calls)
		}
	}
	if x := (index.Merged{}); len(listed(t, x, "", "")) != 0 || x.Len() != 0 {
		t.Error("nothing has entries")
	}
}
