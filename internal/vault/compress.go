package vault

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/kopia/kopia/repo/compression"
)

// pieceMax is how long the pieces of [splitter] are at most, so that no encoder need look further back.
const pieceMax = 1 << 20

// oneCore stands in for the library's compressor of the same name, and writes the same format. That one gives each piece
// to as many goroutines as there are processors; backups keep every processor busy with pieces of their own, and the
// handing over costs a seventh of the compression (191 and 220 MB/s of processor time on the pages of bench/backup).
type oneCore struct {
	compression.Compressor // which reads
	header                 []byte
	encoders               sync.Pool
}

// Compress implements [compression.Compressor].
func (c *oneCore) Compress(output io.Writer, input io.Reader) error {
	if _, err := output.Write(c.header); err != nil {
		return fmt.Errorf("write the header of a compressed piece: %w", err)
	}
	enc, ok := c.encoders.Get().(*zstd.Encoder)
	if !ok {
		var err error
		if enc, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(pieceMax)); err != nil {
			return fmt.Errorf("make a compressor: %w", err)
		}
	}
	enc.Reset(output)
	_, err := enc.ReadFrom(input)
	if err == nil {
		err = enc.Close()
	}
	if err != nil {
		return fmt.Errorf("compress: %w", err) // and the encoder is let go of
	}
	enc.Reset(nil)
	c.encoders.Put(enc)
	return nil
}

// compressOnOneCore puts it in place, once in a process and before it opens any repository. The library has one table of
// compressors for all, and no other way in.
var compressOnOneCore = sync.OnceFunc(func() {
	stock := compression.ByName[compressor]
	c := &oneCore{Compressor: stock, header: binary.BigEndian.AppendUint32(nil, uint32(stock.HeaderID()))}
	compression.ByName[compressor], compression.ByHeaderID[stock.HeaderID()] = c, c
})
