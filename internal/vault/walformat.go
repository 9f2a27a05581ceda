package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"holdfast/internal/vault/wal"
)

// Layout of one object of the log, version 1 (docs/decisions/0004): a fixed header, then the sealed
// compressed content. The header is authenticated with the content.
//
//	0  8   magic and version
//	8  1   kind: 's' segment, 'p' partial segment, 'h' history, 'c' covered-until mark
//	9  3   zero
//	12 4   timeline
//	16 8   system identifier
//	24 8   first position; 0 for a history; the end for a mark
//	32 8   length of the content in bytes
//	40 8   segment size in bytes; 0 for a history
//	48 8   covers: microseconds since 1970; 0 = unknown
//	56 12  nonce
//	68     zstd(content), in one or several frames, sealed with AES-256-GCM
//
// Integers are big-endian.
const (
	walMagic      = "HFWAL\x00\x00\x01"
	walHeaderSize = 68
	walNonce      = 56
	walContentMax = 1 << 30 // PostgreSQL's largest segment
)

type walKind byte

const (
	walSegment walKind = 's'
	walPartial walKind = 'p'
	walHistory walKind = 'h'
	walCovered walKind = 'c'
)

type walHeader struct {
	kind        walKind
	timeline    uint32
	systemID    uint64
	start       wal.LSN
	length      uint64
	segmentSize uint64
	covers      time.Time
}

func (h walHeader) bytes() []byte {
	b := make([]byte, walHeaderSize)
	copy(b, walMagic)
	b[8] = byte(h.kind)
	be := binary.BigEndian
	be.PutUint32(b[12:], h.timeline)
	be.PutUint64(b[16:], h.systemID)
	be.PutUint64(b[24:], uint64(h.start))
	be.PutUint64(b[32:], h.length)
	be.PutUint64(b[40:], h.segmentSize)
	if !h.covers.IsZero() {
		be.PutUint64(b[48:], uint64(h.covers.UnixMicro()))
	}
	_, _ = rand.Read(b[walNonce:]) // never fails (crypto/rand)
	return b
}

func parseWALHeader(b []byte) (walHeader, error) {
	if len(b) < walHeaderSize || string(b[:8]) != walMagic {
		return walHeader{}, errors.New("not an object of this log, or of another version")
	}
	be := binary.BigEndian
	h := walHeader{
		kind: walKind(b[8]), timeline: be.Uint32(b[12:]), systemID: be.Uint64(b[16:]),
		start: wal.LSN(be.Uint64(b[24:])), length: be.Uint64(b[32:]), segmentSize: be.Uint64(b[40:]),
	}
	if us := int64(be.Uint64(b[48:])); us != 0 {
		h.covers = time.UnixMicro(us).UTC()
	}
	if h.length > walContentMax {
		return walHeader{}, fmt.Errorf("states %d bytes of content", h.length)
	}
	return h, nil
}

// sealWAL gives the object's bytes.
func (v *Vault) sealWAL(h walHeader, p *packing) ([]byte, error) {
	gcm, err := v.walCipher()
	if err != nil {
		return nil, err
	}
	return p.seal(h, gcm), nil
}

// openWAL authenticates an object and gives its content.
func (v *Vault) openWAL(raw []byte) (walHeader, []byte, error) {
	h, err := parseWALHeader(raw)
	if err != nil {
		return h, nil, err
	}
	gcm, err := v.walCipher()
	if err != nil {
		return h, nil, err
	}
	packed, err := gcm.Open(nil, raw[walNonce:walHeaderSize], raw[walHeaderSize:], raw[:walHeaderSize])
	if err != nil {
		return h, nil, errors.New("damaged: its seal does not fit")
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(walContentMax))
	if err != nil {
		return h, nil, err
	}
	defer dec.Close()
	content, err := dec.DecodeAll(packed, make([]byte, 0, h.length))
	if err != nil {
		return h, nil, fmt.Errorf("decompress: %w", err)
	}
	if uint64(len(content)) != h.length {
		return h, nil, fmt.Errorf("holds %d bytes, states %d", len(content), h.length)
	}
	return h, content, nil
}

func (v *Vault) walCipher() (cipher.AEAD, error) {
	block, err := aes.NewCipher(v.walKey)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// walHash is the part of a name that tells contents apart. It is keyed, so that a name does not let a
// stranger confirm a guess about the content.
func (v *Vault) walHash(content []byte) (string, error) {
	h, err := blake3.NewKeyed(v.nameKey)
	if err != nil {
		return "", err
	}
	_, _ = h.Write(content) // a hash takes all
	return walName(h), nil
}

func walName(h *blake3.Hasher) string { return hex.EncodeToString(h.Sum(nil)[:16]) }
