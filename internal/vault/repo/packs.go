package repo

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"holdfast/internal/vault/repo/format"
	"holdfast/internal/vault/repo/index"
)

// A pack is: random bytes; contents, each sealed; random bytes up to a multiple of packUnit; an index of its own, sealed, so that
// what it holds is known when every index blob is lost; a trailer that says where that index lies.

const (
	packData    = "p" // of contents without a prefix
	packSpecial = "q" // of contents with one

	packPreamble = 32   // random bytes
	packUnit     = 4096 // bytes

	// nameBytes are drawn for the name of a pack.
	nameBytes = 16
)

// packKind is the kind of pack that a content goes into.
func packKind(id ContentID) string {
	if id.Prefix() == "" {
		return packData
	}
	return packSpecial
}

// A pack is filled by many, then stored by one, again and again until that succeeds.
type packState byte

const (
	filling packState = iota
	storing           // somebody does just now
	failed            // it was tried; it may be there all the same
)

// pack is one that is not known to be stored. Whoever reads or changes it holds the writer's lock, but for data of a pack that is
// being stored, which whoever stores it may read without.
type pack struct {
	kind, name string
	data       []byte
	sizeFull   int           // from how many bytes on it is full
	entries    index.Builder // of its contents, and of what was deleted meanwhile
	state      packState
	whole      bool // data has the index and the trailer
}

// newPack begins one in the given room, which is full from so many bytes on.
func newPack(kind, session string, room []byte, sizeFull int) *pack {
	p := &pack{kind: kind, name: kind + randomHex(nameBytes) + "-" + session, sizeFull: sizeFull, entries: index.Builder{}}
	p.data = appendRandom(room[:0], packPreamble)
	return p
}

func appendRandom(to []byte, n int) []byte {
	to = slices.Grow(to, n)
	_, _ = rand.Read(to[len(to) : len(to)+n]) // never fails (crypto/rand)
	return to[:len(to)+n]
}

// add appends a sealed content, and says in i where.
func (p *pack) add(i Info, sealed []byte) (Info, error) {
	if uint64(len(p.data))+uint64(len(sealed)) > math.MaxUint32 {
		return i, fmt.Errorf("store %s: it is too large for a pack", i.ID)
	}
	i.Pack, i.Offset, i.Packed = p.name, uint32(len(p.data)), uint32(len(sealed))
	p.grow(len(sealed))
	p.data = append(p.data, sealed...)
	p.entries.Add(i)
	return i, nil
}

const (
	// packSmall is the size, in bytes, up to which a pack takes room as it needs it: most sessions store no more.
	packSmall = 1 << 20
	// packOver is by how many bytes a full pack is longer than it need be: it ends with a whole content, an index and a trailer.
	packOver = 2 << 20
)

// grow makes room for n bytes more. A pack that is not small takes all that it will need at once: to take it little by little costs
// four times as much memory and as much copying, and all who write wait meanwhile.
func (p *pack) grow(n int) {
	if need := len(p.data) + n; need > cap(p.data) && need > packSmall {
		p.data = slices.Grow(p.data, max(n, p.sizeFull+packOver-len(p.data)))
	}
}

// finished gives the bytes of a pack of these contents and entries.
func finished(s *format.Sealer, data []byte, entries index.Builder) ([]byte, error) {
	data = appendRandom(data, packUnit-len(data)%packUnit) // a whole unit where none was missing: so does kopia
	raw, err := entries.Encode(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the index of a pack: %w", err)
	}
	under := s.Hash(raw)
	at := len(data)
	if data, err = s.SealIndex(data, raw, under); err != nil {
		return nil, fmt.Errorf("make the index of a pack: %w", err)
	}
	t := trailer{under: under, offset: uint32(at), length: uint32(len(data) - at)}
	return t.append(data), nil
}

// trailer says where the index of a pack lies. It is not authentic: what it leads to is.
type trailer struct {
	under          []byte // what the index is sealed under: its hash
	offset, length uint32
}

const (
	trailerVersion = 1
	trailerSum     = 4   // bytes of its CRC-32
	trailerMax     = 256 // bytes, with the one behind that gives its length
)

// append appends the trailer: version, length of under, under, offset, length, all numbers as varints; a CRC-32 (IEEE, big-endian) of
// that; one byte with the length of all that.
func (t trailer) append(to []byte) []byte {
	begin := len(to)
	to = binary.AppendUvarint(to, trailerVersion)
	to = binary.AppendUvarint(to, uint64(len(t.under)))
	to = append(to, t.under...)
	to = binary.AppendUvarint(to, uint64(t.offset))
	to = binary.AppendUvarint(to, uint64(t.length))
	to = binary.BigEndian.AppendUint32(to, crc32.ChecksumIEEE(to[begin:]))
	return append(to, byte(len(to)-begin))
}

// readTrailer finds the trailer at the end of b, the last bytes of a pack.
func readTrailer(b []byte) (trailer, bool) {
	var t trailer
	if len(b) == 0 {
		return t, false
	}
	size := int(b[len(b)-1])
	if size <= trailerSum || size > len(b)-1 {
		return t, false
	}
	b = b[len(b)-1-size : len(b)-1]
	b, sum := b[:size-trailerSum], binary.BigEndian.Uint32(b[size-trailerSum:])
	if crc32.ChecksumIEEE(b) != sum {
		return t, false
	}
	version, b, ok := uvarint(b)
	if !ok || version != trailerVersion {
		return t, false
	}
	n, b, ok := uvarint(b)
	if !ok || n > uint64(len(b)) {
		return t, false
	}
	t.under, b = b[:n], b[n:]
	offset, b, ok := uvarint(b)
	if !ok || offset > math.MaxUint32 {
		return t, false
	}
	length, _, ok := uvarint(b)
	if !ok || length > math.MaxUint32 {
		return t, false
	}
	t.offset, t.length = uint32(offset), uint32(length)
	return t, true
}

func uvarint(b []byte) (uint64, []byte, bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}
