package split

import (
	"errors"
	"fmt"
	"math/bits"
	"math/rand"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// cuts gives the ends of all contents that an object becomes, which is handed over in parts of 1 to most bytes.
func cuts(s Splitter, object []byte, part func() int) []int {
	var out []int
	s.Reset()
	for at := 0; at < len(object); {
		p := object[at:min(len(object), at+part())]
		n := s.Next(p)
		if n < 0 {
			at += len(p)
			continue
		}
		at += n
		out = append(out, at)
	}
	return out
}

func whole() int { return 1 << 30 }

// random gives the bytes that kopia's own test of its splitters cuts (repo/splitter/splitter_test.go).
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.New(rand.NewSource(5)).Read(b) // never fails
	return b
}

// The numbers are what kopia's test says of the same bytes.
func TestTheCutsAreKopias(t *testing.T) {
	object := random(5_000_000)
	for _, c := range []struct{ avg, count, shortest, longest int }{
		{32, 124235, 16, 64},
		{1024, 3835, 512, 2048},
		{2048, 1924, 1024, 4096},
		{32768, 112, 16413, 65536},
		{65536, 57, 32932, 131072},
	} {
		t.Run(fmt.Sprint(c.avg), func(t *testing.T) {
			s := newRolling(c.avg)
			ends := cuts(s, object, whole)
			shortest, longest := len(object), 0
			for i, end := range ends {
				if i > 0 {
					end -= ends[i-1]
				}
				shortest, longest = min(shortest, end), max(longest, end)
			}
			if len(ends) != c.count || shortest != c.shortest || longest != c.longest || s.Max() != c.longest {
				t.Errorf("%d contents of %d to %d bytes (%d at most), want %+v", len(ends), shortest, longest, s.Max(), c)
			}
		})
	}
}

// plainCuts is the rule, said as plainly as can be: the hash is computed anew at each byte.
func plainCuts(object []byte, avg int) []int {
	table := newTable()
	var out []int
	start := 0
	for i := range object {
		length := i + 1 - start
		if length < avg/2 {
			continue
		}
		var hash uint32
		for k := range window {
			var b byte // before the object there are zeroes
			if at := i - window + 1 + k; at >= 0 {
				b = object[at]
			}
			hash = bits.RotateLeft32(hash, 1) ^ table[b]
		}
		if hash&uint32(avg-1) == 0 || length == 2*avg {
			out = append(out, i+1)
			start = i + 1
		}
	}
	return out
}

func TestCutsFollowTheRuleHoweverTheBytesArrive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		avg := rapid.SampledFrom([]int{64, 128, 256, 1024}).Draw(t, "avg")
		object := make([]byte, rapid.IntRange(0, 8*avg).Draw(t, "length"))
		draw := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
		_, _ = draw.Read(object)
		if rapid.Bool().Draw(t, "few values") { // so that there are long runs without a cut, and hashes that repeat
			for i := range object {
				object[i] &= 1
			}
		}
		most := rapid.SampledFrom([]int{1, 2, 63, 64, 65, 200, 1 << 20}).Draw(t, "most")
		s := newRolling(avg)
		want := plainCuts(object, avg)
		for range 2 { // and again, for nothing may be left of the object before
			if got := cuts(s, object, func() int { return 1 + draw.Intn(most) }); !slices.Equal(got, want) {
				t.Fatalf("cut at %v, want %v", got, want)
			}
		}
	})
}

func TestZeroesAreCutAtTheRightPlaces(t *testing.T) {
	// The hash of zeroes alone is 0, so each content is as short as may be.
	s, err := New("DYNAMIC-128K-BUZHASH")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cuts(s, make([]byte, 200<<10), whole), []int{64 << 10, 128 << 10, 192 << 10}; !slices.Equal(got, want) {
		t.Errorf("cut at %v, want %v", got, want)
	}
}

// Golden: where the splitters of our vaults cut 12 MiB. A change here would store everything anew.
func TestCutsStayWhereTheyAre(t *testing.T) {
	object := random(12 << 20)
	for name, want := range map[string][]int{
		"FIXED-4M":           {4 << 20, 8 << 20, 12 << 20},
		"DYNAMIC-1M-BUZHASH": {1105510, 1892646, 2734957, 3779384, 5796708, 6721331, 8818483, 10915635, 11622079},
		"DYNAMIC-4M-BUZHASH": {5796708, 11622079},
	} {
		s, err := New(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := cuts(s, object, whole); !slices.Equal(got, want) {
			t.Errorf("%s cuts at %#v, want %v", name, got, want)
		}
	}
	s, err := New("DYNAMIC-128K-BUZHASH")
	if err != nil {
		t.Fatal(err)
	}
	if got := cuts(s, object, whole); len(got) != 69 || got[0] != 262144 || got[len(got)-1] != 12458589 {
		t.Errorf("it cuts %d times, first at %d, last at %d", len(got), got[0], got[len(got)-1])
	}
}

func TestWhichSplittersThereAre(t *testing.T) {
	for name, longest := range map[string]int{
		"FIXED-1M": 1 << 20, "FIXED-128K": 128 << 10, "FIXED-8M": 8 << 20, "FIXED": 4 << 20, "FIXED-256K": 256 << 10, "FIXED-512K": 512 << 10, "FIXED-2M": 2 << 20,
		"DYNAMIC-1M-BUZHASH": 2 << 20, "DYNAMIC-128K-BUZHASH": 256 << 10, "DYNAMIC-4M-BUZHASH": 8 << 20, "DYNAMIC": 8 << 20,
	} {
		if s, err := New(name); err != nil || s.Max() != longest {
			t.Errorf("%s: %v, want one of %d bytes at most", name, err, longest)
		}
	}
	for _, name := range []string{"", "FIXED-", "FIXED-3M", "FIXED-16M", "fixed-1m", "DYNAMIC-1M", "DYNAMIC-1M-RABINKARP", "DYNAMIC--BUZHASH", "FIXED-1M-BUZHASH"} {
		if _, err := New(name); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestEqualPartsHoweverTheBytesArrive(t *testing.T) {
	s, err := New("FIXED-128K")
	if err != nil {
		t.Fatal(err)
	}
	object := make([]byte, 300<<10)
	for _, part := range []int{1, 1000, 128<<10 - 1, 128 << 10, 128<<10 + 1, 1 << 20} {
		if got, want := cuts(s, object, func() int { return part }), []int{128 << 10, 256 << 10}; !slices.Equal(got, want) {
			t.Errorf("in parts of %d it is cut at %v", part, got)
		}
	}
	if n := s.Next(nil); n != -1 {
		t.Errorf("nothing is cut at %d", n)
	}
}

func BenchmarkDynamic(b *testing.B) {
	object := random(16 << 20)
	s, err := New("DYNAMIC-1M-BUZHASH")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(object)))
	b.ReportAllocs()
	for b.Loop() {
		for p := object; len(p) > 0; {
			n := s.Next(p)
			if n < 0 {
				break
			}
			p = p[n:]
		}
	}
}
