package vault

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"holdfast/internal/vault/wal"
)

// logLike is content that compresses, and differs everywhere.
func logLike(dice *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = "0123456789abcdef"[dice.IntN(16)]
	}
	return b
}

// However content comes, and wherever its beginnings are stored on the way, each object is what its name says, and none of
// what was compressed is compressed again.
func TestContentIsPackedAsItComes(t *testing.T) {
	v := &Vault{walKey: make([]byte, 32), nameKey: bytes.Repeat([]byte{1}, 32)}
	gcm, err := v.walCipher()
	if err != nil {
		t.Fatal(err)
	}
	dice := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, packFrame - 1, packFrame, packFrame + 1, 3*packFrame + packFrame/2, 4 * packFrame} {
		content := logLike(dice, size)
		for _, most := range []int{packFrame / 3, packFrame, 3 * packFrame} { // bytes at a time
			p, err := v.newPacking()
			if err != nil {
				t.Fatal(err)
			}
			var frames [][]byte
			for at := 0; ; {
				want := content[:at]
				raw := p.seal(walHeader{kind: walPartial, timeline: 1, systemID: 7, segmentSize: 16 << 20}, gcm)
				h, got, err := v.openWAL(raw)
				if err != nil || !bytes.Equal(got, want) || h.length != uint64(at) {
					t.Fatalf("%d of %d bytes, %d at a time: %d bytes came back of %d, %v", at, size, most, len(got), h.length, err)
				}
				if hash, err := v.walHash(want); err != nil || p.name() != hash {
					t.Fatalf("%d bytes are named %s, their hash is %s: %v", at, p.name(), hash, err)
				}
				for i, f := range frames {
					if &f[0] != &p.frames[i][0] {
						t.Fatalf("frame %d was made again", i)
					}
				}
				frames = append(frames[:0], p.frames...)
				if at == size {
					break
				}
				n := min(1+dice.IntN(most), size-at)
				lent := bytes.Clone(content[at : at+n])
				p.add(lent)
				clear(lent) // none of it is kept
				at += n
			}
			if len(p.frames) != size/packFrame {
				t.Errorf("%d bytes are in %d whole frames", size, len(p.frames))
			}
		}
	}
}

// What earlier versions stored, one frame with a checksum, is read as it was.
func TestAnObjectOfOneFrameIsRead(t *testing.T) {
	v := &Vault{walKey: make([]byte, 32), nameKey: make([]byte, 32)}
	gcm, err := v.walCipher()
	if err != nil {
		t.Fatal(err)
	}
	content := logLike(rand.New(rand.NewPCG(3, 4)), 2*packFrame+5)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	head := walHeader{kind: walSegment, timeline: 1, systemID: 7, segmentSize: 16 << 20, length: uint64(len(content))}.bytes()
	raw := gcm.Seal(bytes.Clone(head), head[walNonce:], enc.EncodeAll(content, nil), head)
	if _, got, err := v.openWAL(raw); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes of %d came back: %v", len(got), len(content), err)
	}
}

// A growing segment takes no more than a segment has, and nothing is stored of one that is empty.
func TestWhatAGrowingSegmentRefuses(t *testing.T) {
	v := &Vault{walKey: make([]byte, 32), nameKey: make([]byte, 32)}
	l := v.Log(7, 1<<20)
	if _, err := l.Grow(1, wal.LSN(1<<20+1)); err == nil {
		t.Error("a segment begins within another")
	}
	g, err := l.Grow(1, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Store(t.Context(), time.Time{}); err == nil {
		t.Error("nothing is stored as something")
	}
	if err := g.Add(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := g.Add([]byte{1}); err == nil || g.Len() != 1<<20 {
		t.Errorf("%d bytes are a segment of %d: %v", g.Len(), 1<<20, err)
	}
}

// BenchmarkAGrowingSegment packs 16 MiB of log whose beginning is sealed four times on the way: bytes/op and B/s are of log.
func BenchmarkAGrowingSegment(b *testing.B) {
	v := &Vault{walKey: make([]byte, 32), nameKey: make([]byte, 32)}
	gcm, err := v.walCipher()
	if err != nil {
		b.Fatal(err)
	}
	const size, part = 16 << 20, 4 << 20
	content := logLike(rand.New(rand.NewPCG(5, 6)), size)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		p, err := v.newPacking()
		if err != nil {
			b.Fatal(err)
		}
		for at := 0; at < size; at += part {
			p.add(content[at : at+part])
			_ = p.name()
			_ = p.seal(walHeader{kind: walPartial, segmentSize: size}, gcm)
		}
	}
}
