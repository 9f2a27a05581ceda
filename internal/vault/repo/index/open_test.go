package index_test

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"

	"holdfast/internal/vault/repo/index"
)

// pair is an index of two entries in two packs, written in two ways: values of 17 bytes, keys of 3.
func pair(t testing.TB) []byte {
	t.Helper()
	a, _ := index.ParseID("0102")
	b, _ := index.ParseID("k0102")
	data, err := built(index.Info{ID: a, Pack: "p1", Version: 2}, index.Info{ID: b, Pack: "q1", Version: 3}).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDamagedIndexesAreRefused(t *testing.T) {
	const entries, stride, packs = 17, 20, 17 + 2*20
	if _, err := index.Open(pair(t)); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func([]byte) []byte{
		"nothing":                 func(d []byte) []byte { return nil },
		"half a header":           func(d []byte) []byte { return d[:16] },
		"another version":         func(d []byte) []byte { d[0] = 1; return d },
		"cut off":                 func(d []byte) []byte { return d[:len(d)-1] },
		"keys without a hash":     func(d []byte) []byte { d[1] = 1; return d },
		"keys too long":           func(d []byte) []byte { d[1] = 34; return d },
		"values too short":        func(d []byte) []byte { d[3] = 15; return d },
		"values too long":         func(d []byte) []byte { d[2] = 1; return d },
		"too many entries":        func(d []byte) []byte { binary.BigEndian.PutUint32(d[4:], math.MaxUint32); return d },
		"too many packs":          func(d []byte) []byte { binary.BigEndian.PutUint32(d[8:], math.MaxUint32); return d },
		"too many formats":        func(d []byte) []byte { d[12] = 255; return d },
		"no packs":                func(d []byte) []byte { binary.BigEndian.PutUint32(d[8:], 0); return d },
		"a strange prefix":        func(d []byte) []byte { d[entries] = 'a'; return d },
		"out of order":            func(d []byte) []byte { d[entries] = 'z'; return d },
		"twice the same":          func(d []byte) []byte { copy(d[entries+stride:], d[entries:entries+3]); return d },
		"a pack that is not":      func(d []byte) []byte { d[entries+3+15] = 2; return d },
		"a format that is not":    func(d []byte) []byte { d[entries+3+16] = 2; return d },
		"a name beyond the end":   func(d []byte) []byte { binary.BigEndian.PutUint32(d[packs+1:], uint32(len(d)-1)); return d },
		"a name far beyond":       func(d []byte) []byte { binary.BigEndian.PutUint32(d[packs+1:], math.MaxUint32); return d },
		"a name that is too long": func(d []byte) []byte { d[packs] = 255; return d },
	} {
		t.Run(name, func(t *testing.T) {
			if x, err := index.Open(damage(pair(t))); !errors.Is(err, index.ErrDamaged) {
				t.Errorf("%v, %v", x, err)
			}
		})
	}
}

// An index may be empty where one was written so, and then it has nothing.
func TestAnEmptyIndexHasNothing(t *testing.T) {
	data := make([]byte, 17)
	data[0], data[1] = 2, 255
	x, err := index.Open(data)
	if err != nil || x.Len() != 0 || len(listed(t, x, "", "")) != 0 {
		t.Fatalf("%v, %v", x, err)
	}
	if _, ok := x.Find(index.ID{}); ok {
		t.Error("nothing is found in nothing")
	}
}

// Whatever the bytes are: no panic, no more room than a few times their own, and what is opened can be asked, and says the same
// when it is written again.
func FuzzOpen(f *testing.F) {
	f.Add([]byte{})
	f.Add(pair(f))
	b := index.Builder{}
	for n := range 5 {
		id, _ := index.MakeID([]string{"", "k"}[n%2], []byte{byte(n), 1})
		b.Add(index.Info{ID: id, Pack: "p", Packed: 1 << 25, Deleted: n == 3, Compression: uint32(n)})
	}
	long, err := b.Encode(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(long)
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := index.Open(slices.Clone(data))
		if err != nil {
			if !errors.Is(err, index.ErrDamaged) {
				t.Fatalf("%v is no ErrDamaged", err)
			}
			return
		}
		all := listed(t, x, "", "")
		if len(all) != x.Len() {
			t.Fatalf("%d of %d entries are listed", len(all), x.Len())
		}
		for _, i := range all {
			if found, ok := x.Find(i.ID); !ok || found != i {
				t.Fatalf("%+v is found as %+v, %v", i, found, ok)
			}
		}
		again, err := built(all...).Encode(nil)
		if errors.Is(err, index.ErrUnfit) { // such as an offset that is readable and too great to be written
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		y, err := index.Open(again)
		if err != nil {
			t.Fatalf("what was written again: %v", err)
		}
		equalMerged(t, y, x)
	})
}
