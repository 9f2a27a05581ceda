package vault

import (
	"bytes"
	"context"
	"crypto/cipher"
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"holdfast/internal/vault/repo/compression"
	"holdfast/internal/vault/wal"
)

// packFrame is how much content of the log, in bytes, one zstd frame has. Whole frames are made once, and what follows them is
// made anew each time it is stored; a smaller one would compress less.
const packFrame = 1 << 20

// packing is content of the log as it comes: each whole frame of it is hashed and compressed once, however often the beginning
// that is there by then is stored.
type packing struct {
	hash   *blake3.Hasher // of the content of all whole frames
	enc    *zstd.Encoder
	frames [][]byte // whole ones, compressed
	room   []byte   // for the next one
	open   []byte   // content behind them, less than a frame
	size   uint64   // of all content, in bytes
}

func (v *Vault) newPacking() (*packing, error) {
	hash, err := blake3.NewKeyed(v.nameKey)
	if err != nil {
		return nil, err
	}
	// What is sealed needs no checksum of zstd's.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	return &packing{hash: hash, enc: enc}, nil
}

// packed is content that is there as a whole.
func (v *Vault) packed(content []byte) (*packing, error) {
	p, err := v.newPacking()
	if err == nil {
		p.add(content)
	}
	return p, err
}

// add takes what follows, and keeps none of it.
func (p *packing) add(content []byte) {
	p.size += uint64(len(content))
	for len(p.open)+len(content) >= packFrame {
		n := packFrame - len(p.open)
		frame := content[:n]
		if len(p.open) > 0 {
			frame = append(p.open, frame...)
			p.open = frame[:0]
		}
		content = content[n:]
		_, _ = p.hash.Write(frame) // a hash takes all
		compression.ToldRead(frame)
		p.room = p.enc.EncodeAll(frame, p.room[:0])
		p.frames = append(p.frames, bytes.Clone(p.room))
	}
	p.open = append(p.open, content...)
}

// name is what [Vault.walHash] gives of the content.
func (p *packing) name() string {
	h := p.hash.Clone()
	_, _ = h.Write(p.open) // a hash takes all
	return walName(h)
}

// seal gives the object's bytes.
func (p *packing) seal(h walHeader, gcm cipher.AEAD) []byte {
	h.length = p.size
	head := h.bytes()
	room := walHeaderSize + p.enc.MaxEncodedSize(len(p.open)) + gcm.Overhead()
	for _, f := range p.frames {
		room += len(f)
	}
	out := append(make([]byte, 0, room), head...)
	for _, f := range p.frames {
		out = append(out, f...)
	}
	if len(p.open) > 0 {
		out = p.enc.EncodeAll(p.open, out)
	}
	return gcm.Seal(out[:walHeaderSize], head[walNonce:], out[walHeaderSize:], head) // in its place
}

// Growing is a segment of the log that comes bit by bit, and whose beginnings are stored on the way. What was added is hashed and
// compressed once; only enciphering and storing begin with its first byte each time. One goroutine uses it.
type Growing struct {
	log      *Log
	timeline uint32
	start    wal.LSN
	name     string
	packing  *packing
}

// Grow begins the segment at start.
func (l *Log) Grow(timeline uint32, start wal.LSN) (*Growing, error) {
	name := wal.SegmentName(timeline, start, l.segmentSize)
	if start.SegmentStart(l.segmentSize) != start {
		return nil, fmt.Errorf("store log segment %s: %s is not where a segment begins", name, start)
	}
	p, err := l.vault.newPacking()
	if err != nil {
		return nil, fmt.Errorf("store log segment %s: %w", name, err)
	}
	return &Growing{log: l, timeline: timeline, start: start, name: name, packing: p}, nil
}

// Len is how many bytes were added.
func (g *Growing) Len() uint64 { return g.packing.size }

// Add takes the bytes that follow, and keeps none of them.
func (g *Growing) Add(content []byte) error {
	if g.Len()+uint64(len(content)) > g.log.segmentSize {
		return fmt.Errorf("store log segment %s: %d bytes are no part of a segment of %d", g.name, g.Len()+uint64(len(content)), g.log.segmentSize)
	}
	g.packing.add(content)
	return nil
}

// Store stores what was added: the beginning of the segment, or all of it. drop then removes shorter beginnings; where it is never
// called they stay until the next one that is. covers is the sender's clock when it sent the last byte, zero = unknown. Storing
// the same content again is no error, other content for the same piece is a *DuplicateError.
func (g *Growing) Store(ctx context.Context, covers time.Time) (drop func(context.Context) error, err error) {
	size := g.Len()
	if size == 0 {
		return nil, fmt.Errorf("store log segment %s: nothing of it is there", g.name)
	}
	h := walHeader{kind: walSegment, timeline: g.timeline, systemID: g.log.systemID, start: g.start, segmentSize: g.log.segmentSize, covers: covers}
	prefix := g.name + "-"
	if size < g.log.segmentSize {
		h.kind, prefix = walPartial, fmt.Sprintf("%s.partial-%08x-", g.name, size)
	}
	object, names, err := g.log.put(ctx, g.name, prefix, h, g.packing)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		return g.log.dropPartials(ctx, g.timeline, names, g.name, size, object)
	}, nil
}
