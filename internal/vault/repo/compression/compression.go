// Package compression packs contents as kopia does (repo/compression): four bytes that say how, then one zstd frame.
package compression

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// ID says how a content is compressed; it stands in the index and again before the content. 0 = not at all.
type ID uint32

// The ids of zstd at kopia's four levels (repo/compression/compression_ids.go). Whoever reads need not tell them apart.
const (
	Default ID = 0x1100
	Fastest ID = 0x1101
	Better  ID = 0x1102
	Best    ID = 0x1103
)

// HeaderBytes is how long the id before a compressed content is.
const HeaderBytes = 4

// windowBytes is how long the pieces of our splitter are at most, so that no encoder need look further back.
const windowBytes = 1 << 20

// ErrDamaged is returned for what is not a whole compressed content, or is longer than it may be.
var ErrDamaged = errors.New("damaged")

// ErrUnknown is returned for a content that is compressed in a way this program does not know.
var ErrUnknown = errors.New("compressed in a way that this program does not know")

// Compressor compresses and reads. It may be used by many goroutines: each works on its own content alone, for they are many, and
// handing a content's parts to more goroutines costs a seventh of the time. No more work at once than there are processors.
type Compressor struct {
	encoder *zstd.Encoder
	decoder *zstd.Decoder
}

// New makes a compressor. It holds memory and no goroutine, and need not be closed.
func New() (*Compressor, error) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(windowBytes))
	if err != nil {
		return nil, fmt.Errorf("make a compressor: %w", err)
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("make a decompressor: %w", err)
	}
	return &Compressor{encoder: e, decoder: d}, nil
}

// Compress appends src to dst, compressed as [Fastest]. What cannot be made shorter becomes a few bytes longer.
func (c *Compressor) Compress(dst, src []byte) ([]byte, error) {
	dst = binary.BigEndian.AppendUint32(dst, uint32(Fastest))
	ToldRead(src)
	return c.encoder.EncodeAll(src, dst), nil
}

// Decompress appends to dst what packed holds. id is what the index says of it, and max how long it is at most, in bytes: as much
// room is made at once. ErrUnknown for an id that is none of zstd's, ErrDamaged for packed bytes that do not fit it.
func (c *Compressor) Decompress(dst, packed []byte, id ID, max int) ([]byte, error) {
	if id < Default || id > Best {
		return nil, fmt.Errorf("decompress: %w: %#x", ErrUnknown, uint32(id))
	}
	if len(packed) < HeaderBytes || ID(binary.BigEndian.Uint32(packed)) != id {
		return nil, fmt.Errorf("decompress: %w: it does not begin as %#x does", ErrDamaged, uint32(id))
	}
	if max < 0 {
		return nil, fmt.Errorf("decompress: %w: to %d bytes", ErrDamaged, max)
	}
	// The decoder takes the room that there is as the limit, so there must be no more than is allowed.
	dst = slices.Grow(dst, max)
	ToldRead(packed)
	out, err := c.decoder.DecodeAll(packed[HeaderBytes:], dst[:len(dst):len(dst)+max])
	if err != nil {
		return nil, fmt.Errorf("decompress: %w: %w", ErrDamaged, err)
	}
	ToldWritten(out[len(dst):])
	return out, nil
}
