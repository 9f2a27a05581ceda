package compression

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand"
	"runtime"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func compressor(t testing.TB) *Compressor {
	t.Helper()
	c, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// stock compresses as kopia does: a stream, whose frame does not say how long it becomes.
func stock(t testing.TB, id ID, level zstd.EncoderLevel, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	b.Write(binary.BigEndian.AppendUint32(nil, uint32(id)))
	e, err := zstd.NewWriter(&b, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1))
	if err == nil {
		_, err = io.Copy(e, bytes.NewReader(p))
	}
	if err == nil {
		err = e.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// text is n bytes that become about a third as long.
func text(n int) []byte {
	draw := rand.New(rand.NewSource(1))
	words := make([][]byte, 300)
	for i := range words {
		words[i] = make([]byte, 2+draw.Intn(8))
		for j := range words[i] {
			words[i][j] = byte('a' + draw.Intn(26))
		}
	}
	var b []byte
	for len(b) < n {
		b = append(append(b, words[draw.Intn(len(words))]...), ' ')
	}
	return b[:n]
}

func TestAllOfKopiasLevelsAreRead(t *testing.T) {
	c := compressor(t)
	for id, level := range map[ID]zstd.EncoderLevel{
		Default: zstd.SpeedDefault, Fastest: zstd.SpeedFastest, Better: zstd.SpeedBetterCompression, Best: zstd.SpeedBestCompression,
	} {
		for _, n := range []int{0, 1, 1000, 1 << 20, 3 << 20} {
			p := text(n)
			packed := stock(t, id, level, p)
			got, err := c.Decompress([]byte("before"), packed, id, n)
			if err != nil || !bytes.Equal(got, append([]byte("before"), p...)) {
				t.Errorf("%d bytes at %#x give %d: %v", n, uint32(id), len(got), err)
			}
			if n > 0 {
				if _, err := c.Decompress(nil, packed, id, n-1); !errors.Is(err, ErrDamaged) {
					t.Errorf("%d bytes at %#x, where one less is allowed: %v", n, uint32(id), err)
				}
			}
		}
	}
}

// A content of the kept vault (internal/cli/testdata/vaults), unsealed: it is part of a backup there.
func TestWhatTheKeptVaultHoldsIsRead(t *testing.T) {
	packed, err := hex.DecodeString("0000110128b52ffd64983975010014027067646174612f676c6f62616c2f70675f636f6e74726f6c0a6261636b7570203102043041fdd48707d33cc7711b32c9")
	if err != nil {
		t.Fatal(err)
	}
	got, err := compressor(t).Decompress(nil, packed, Fastest, 15000)
	want := bytes.Repeat([]byte("pgdata/global/pg_control\n"), 600)
	copy(want[len(want)/2:], "backup 1")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestWhatIsCompressedIsReadHereAndByAStream(t *testing.T) {
	c := compressor(t)
	stream, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for _, p := range [][]byte{nil, {1}, text(1000), text(1 << 20), text(1<<20 + 1), text(5 << 20), make([]byte, 1<<20)} {
		packed, err := c.Compress([]byte("before"), p)
		if err != nil || !bytes.HasPrefix(packed, []byte("before\x00\x00\x11\x01")) {
			t.Fatalf("%d bytes begin with %x: %v", len(p), packed[:10], err)
		}
		packed = packed[len("before"):]
		if len(p) >= 1000 && len(packed) > len(p)*2/3 {
			t.Errorf("%d bytes became %d", len(p), len(packed))
		}
		got, err := c.Decompress(nil, packed, Fastest, len(p))
		if err != nil || !bytes.Equal(got, p) {
			t.Errorf("%d bytes give %d: %v", len(p), len(got), err)
		}
		if err := stream.Reset(bytes.NewReader(packed[HeaderBytes:])); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(stream); err != nil || !bytes.Equal(got, p) {
			t.Errorf("a stream reads %d of %d bytes: %v", len(got), len(p), err)
		}
	}
}

func TestTheRoomThatThereIsIsUsed(t *testing.T) {
	c, p := compressor(t), text(1<<20)
	dst := make([]byte, 0, 2<<20)
	packed, err := c.Compress(dst, p)
	if err != nil || &packed[0] != &dst[:1][0] {
		t.Errorf("compressing took other room: %v", err)
	}
	dst = make([]byte, 0, 1<<20)
	if got, err := c.Decompress(dst, packed, Fastest, len(p)); err != nil || &got[0] != &dst[:1][0] {
		t.Errorf("reading took other room: %v", err)
	}
}

// A bomb must not be unpacked further than it may be, with however much room.
func TestABombIsNotUnpacked(t *testing.T) {
	c := compressor(t)
	bomb := stock(t, Fastest, zstd.SpeedFastest, make([]byte, 256<<20))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := c.Decompress(make([]byte, 0, 4<<20), bomb, Fastest, 1<<20)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, ErrDamaged) {
		t.Errorf("%d bytes: %v", len(bomb), err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 32<<20 {
		t.Errorf("it took %d bytes of memory", took)
	}
}

func TestWhatIsNotACompressedContent(t *testing.T) {
	c, p := compressor(t), text(5000)
	packed, err := c.Compress(nil, p)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(packed)
	flipped[len(flipped)/2] ^= 4
	for name, try := range map[string]struct {
		packed []byte
		id     ID
		max    int
		want   error
	}{
		"nothing":         {nil, Fastest, 5000, ErrDamaged},
		"a short header":  {packed[:3], Fastest, 5000, ErrDamaged},
		"another header":  {packed, Default, 5000, ErrDamaged},
		"not compressed":  {packed, 0, 5000, ErrUnknown},
		"gzip":            {packed, 0x1000, 5000, ErrUnknown},
		"beyond the best": {packed, Best + 1, 5000, ErrUnknown},
		"cut off":         {packed[:len(packed)-1], Fastest, 5000, ErrDamaged},
		"a flipped bit":   {flipped, Fastest, 5000, ErrDamaged},
		"a byte too many": {append(bytes.Clone(packed), 0), Fastest, 5000, ErrDamaged},
		"no room":         {packed, Fastest, 0, ErrDamaged},
		"less than none":  {packed, Fastest, -1, ErrDamaged},
	} {
		if got, err := c.Decompress(nil, try.packed, try.id, try.max); !errors.Is(err, try.want) || got != nil {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

func TestACompressorServesManyAtOnceAndLeavesNothingRunning(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	c := compressor(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 20 {
				p := text(10_000*i + j)
				packed, err := c.Compress(nil, p)
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := c.Decompress(nil, packed, Fastest, len(p)); err != nil || !bytes.Equal(got, p) {
					t.Errorf("%d bytes: %v", len(p), err)
					return
				}
			}
		})
	}
	all.Wait()
}

func TestAnythingGoesThereAndBack(t *testing.T) {
	c := compressor(t)
	rapid.Check(t, func(t *rapid.T) {
		p := bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "part"), rapid.IntRange(1, 2000).Draw(t, "times"))
		packed, err := c.Compress(nil, p)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Decompress(nil, packed, Fastest, len(p)); err != nil || !bytes.Equal(got, p) {
			t.Fatalf("%d bytes: %v", len(p), err)
		}
	})
}

func FuzzDecompress(f *testing.F) {
	c := compressor(f)
	for _, n := range []int{0, 1, 100, 5000} {
		packed, err := c.Compress(nil, text(n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed, n)
	}
	f.Fuzz(func(t *testing.T, packed []byte, most int) {
		most = max(0, min(most, 1<<20))
		for id := Default; id <= Best; id++ {
			got, err := c.Decompress(nil, packed, id, most)
			if err != nil && !errors.Is(err, ErrDamaged) || len(got) > most {
				t.Errorf("%d bytes of %d: %v", len(got), most, err)
			}
		}
	})
}

func BenchmarkCompress(b *testing.B) {
	c, p := compressor(b), text(1<<20)
	dst := make([]byte, 0, 2<<20)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Compress(dst, p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecompress(b *testing.B) {
	c, p := compressor(b), text(1<<20)
	packed, err := c.Compress(nil, p)
	if err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 1<<20)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Decompress(dst, packed, Fastest, len(p)); err != nil {
			b.Fatal(err)
		}
	}
}
