package index

import "encoding/binary"

// An index of version 2 is, all numbers big-endian:
//
//	header   version (1 byte), bytes of a key (1), bytes of a value (2), entries (4), packs (4), formats (1), base time (4)
//	entries  key and value of each, in ascending order of the keys
//	packs    of each: bytes of its name (1), where the name begins, counted from the start of the index (4)
//	formats  of each: compressor (4), format version (1), encryption key (1)
//	names    of the packs
//	random   32 bytes in the index at the end of a pack; none in index blobs
//
// A key is the prefix of the content id (0 = none) and its hash; all keys of one index have the same length. A value is:
//
//	 0  time (4), in seconds after the base time
//	 4  offset in the pack (4); the highest bit says that the content is deleted
//	 8  original length, lower 24 bits
//	11  packed length, lower 24 bits
//	14  number of the pack, lower 16 bits
//	16  number of the format, where an index has more than one
//	17  number of the pack, bits 16 to 23, where an index has more than 65,536
//	18  bits 24 to 27 of the original length (upper half) and of the packed one, where any is 16 MiB or more
//
// An optional byte brings along those before it.
const (
	version2   = 2
	headerSize = 17
	packSize   = 5
	formatSize = 6
	randomSize = 32

	valueMin     = 16
	withFormat   = 17
	withManyPack = 18
	withLong     = 19
	valueMax     = withLong

	keyMin = 2 // a prefix and one byte of hash
	keyMax = 1 + maxHash

	maxFormats = 255
	maxPacks   = 1 << 24
	fewPacks   = 1 << 16
	maxLength  = 1 << 28 // of a content, in bytes: not reached
	short      = 1 << 24 // of a content, in bytes: not reached where the value has no byte 18
	maxOffset  = 1 << 30 // in a pack: not reached
	deletedBit = 1 << 31
)

// header is the fixed part of an index.
type header struct {
	keySize, valueSize    int
	entries, packs, kinds int
	base                  uint32 // unix seconds; 0 in all that was ever written
}

func (h header) stride() int      { return h.keySize + h.valueSize }
func (h header) packsAt() int64   { return headerSize + int64(h.entries)*int64(h.stride()) }
func (h header) formatsAt() int64 { return h.packsAt() + int64(h.packs)*packSize }
func (h header) namesAt() int64   { return h.formatsAt() + int64(h.kinds)*formatSize }

func (h header) append(to []byte) []byte {
	to = append(to, version2, byte(h.keySize))
	to = binary.BigEndian.AppendUint16(to, uint16(h.valueSize))
	to = binary.BigEndian.AppendUint32(to, uint32(h.entries))
	to = binary.BigEndian.AppendUint32(to, uint32(h.packs))
	to = append(to, byte(h.kinds))
	return binary.BigEndian.AppendUint32(to, h.base)
}

// readHeader reads headerSize bytes.
func readHeader(data []byte) header {
	return header{
		keySize:   int(data[1]),
		valueSize: int(binary.BigEndian.Uint16(data[2:])),
		entries:   int(binary.BigEndian.Uint32(data[4:])),
		packs:     int(binary.BigEndian.Uint32(data[8:])),
		kinds:     int(data[12]),
		base:      binary.BigEndian.Uint32(data[13:]),
	}
}

// kind is how a content was written: one row of the formats.
type kind struct {
	compression    uint32
	version, keyID byte
}

func kindOf(i Info) kind { return kind{i.Compression, i.Version, i.KeyID} }

func (k kind) append(to []byte) []byte {
	return append(binary.BigEndian.AppendUint32(to, k.compression), k.version, k.keyID)
}

func readKind(data []byte) kind {
	return kind{binary.BigEndian.Uint32(data), data[4], data[5]}
}

func uint24(b []byte) uint32 { return uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]) }

func putUint24(b []byte, v uint32) { b[0], b[1], b[2] = byte(v>>16), byte(v>>8), byte(v) }
