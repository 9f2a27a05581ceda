package vault

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/kopia/kopia/repo/compression"
)

// What we compress is read by the library's own compressor of that name, and the other way round.
func TestStockReadsWhatOneCoreCompressed(t *testing.T) {
	t.Parallel()
	compressOnOneCore()
	compressOnOneCore()
	ours, ok := compression.ByName[compressor].(*oneCore)
	if !ok || compression.ByHeaderID[ours.HeaderID()] != compression.Compressor(ours) {
		t.Fatal("it is not in place")
	}
	if _, twice := ours.Compressor.(*oneCore); twice {
		t.Fatal("it was put over itself")
	}
	page := func(seed uint64, n int) []byte {
		rng, b := rand.New(rand.NewPCG(seed, 1)), make([]byte, n)
		for i := range b {
			b[i] = byte(rng.IntN(4))
		}
		return b
	}
	pieces := [][]byte{nil, page(1, 1), page(2, 8192), page(3, pieceMax), make([]byte, pieceMax)}
	var done sync.WaitGroup
	for worker := range 4 {
		done.Go(func() {
			for i := range 20 {
				in := pieces[(worker+i)%len(pieces)]
				for _, way := range []struct {
					name     string
					from, to compression.Compressor
				}{{"ours to stock", ours, ours.Compressor}, {"stock to ours", ours.Compressor, ours}} {
					var packed, out bytes.Buffer
					if err := way.from.Compress(&packed, bytes.NewReader(in)); err != nil {
						t.Error(way.name, err)
					}
					if err := way.to.Decompress(&out, &packed, true); err != nil || !bytes.Equal(out.Bytes(), in) {
						t.Errorf("%s: %d bytes come back as %d: %v", way.name, len(in), out.Len(), err)
					}
				}
			}
		})
	}
	done.Wait()
}
