package index

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"sort"
)

// Index is one index that was read. It may be used by many goroutines.
type Index struct {
	header
	entryBytes []byte // entries * stride() bytes
	packNames  []string
	kindList   []kind
}

// Open reads an index of version 2, whatever lies behind it. It keeps data, which must not change. Every entry is checked here,
// so that what asks later need not: bytes that are no index, or whose entries are out of order or lead nowhere, are ErrDamaged.
func Open(data []byte) (*Index, error) {
	if len(data) < headerSize || int64(len(data)) > math.MaxUint32 {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrDamaged, len(data))
	}
	if data[0] != version2 {
		return nil, fmt.Errorf("%w: it is of version %d", ErrDamaged, data[0])
	}
	x := &Index{header: readHeader(data)}
	if x.entries == 0 { // what other fields say then, nothing asks
		return &Index{}, nil
	}
	if x.keySize < keyMin || x.keySize > keyMax || x.valueSize < valueMin || x.valueSize > valueMax {
		return nil, fmt.Errorf("%w: keys of %d bytes and values of %d", ErrDamaged, x.keySize, x.valueSize)
	}
	if x.namesAt() > int64(len(data)) { // before any room is taken for what the header promises
		return nil, fmt.Errorf("%w: it has %d bytes and promises %d entries, %d packs", ErrDamaged, len(data), x.entries, x.packs)
	}
	x.entryBytes = data[headerSize:x.packsAt()]
	if err := x.readPacks(data); err != nil {
		return nil, err
	}
	for n := range x.kinds {
		x.kindList = append(x.kindList, readKind(data[x.formatsAt()+int64(n)*formatSize:]))
	}
	return x, x.check()
}

// readPacks copies the names at once, so that it takes no more room than data does, whatever the rows say.
func (x *Index) readPacks(data []byte) error {
	rows := data[x.packsAt():x.formatsAt()]
	first, last := int64(len(data)), int64(0)
	name := func(n int) (from, to int64) {
		from = int64(binary.BigEndian.Uint32(rows[n*packSize+1:]))
		return from, from + int64(rows[n*packSize])
	}
	for n := range x.packs {
		from, to := name(n)
		if to > int64(len(data)) {
			return fmt.Errorf("%w: the name of pack %d lies at byte %d of %d", ErrDamaged, n, from, len(data))
		}
		first, last = min(first, from), max(last, to)
	}
	if first >= last { // no pack, or none with a name
		x.packNames = make([]string, x.packs)
		return nil
	}
	names := string(data[first:last])
	for n := range x.packs {
		from, to := name(n)
		x.packNames = append(x.packNames, names[from-first:to-first])
	}
	return nil
}

// check looks at what the entries refer to, and at their order, on which every search relies.
func (x *Index) check() error {
	for n := range x.entries {
		key, value := x.key(n), x.value(n)
		switch {
		case key[0] != 0 && !isPrefix(key[0]):
			return fmt.Errorf("%w: entry %d has the prefix %q", ErrDamaged, n, key[0])
		case n > 0 && bytes.Compare(x.key(n-1), key) >= 0:
			return fmt.Errorf("%w: entry %d is out of order", ErrDamaged, n)
		case packNumber(value) >= x.packs:
			return fmt.Errorf("%w: entry %d is in pack %d of %d", ErrDamaged, n, packNumber(value), x.packs)
		case kindNumber(value) >= x.kinds:
			return fmt.Errorf("%w: entry %d has the format %d of %d", ErrDamaged, n, kindNumber(value), x.kinds)
		}
	}
	return nil
}

// Len is the number of entries.
func (x *Index) Len() int { return x.entries }

// Packs are the names of the packs in which its contents lie, without an order. The caller must not change them.
func (x *Index) Packs() []string { return x.packNames }

// Find gives the entry of one content.
func (x *Index) Find(id ID) (Info, bool) {
	if 1+int(id.length) != x.keySize {
		return Info{}, false
	}
	var room [keyMax]byte
	key := append(append(room[:0], id.prefix), id.hash[:id.length]...)
	n := sort.Search(x.entries, func(n int) bool { return bytes.Compare(x.key(n), key) >= 0 })
	if n == x.entries || !bytes.Equal(x.key(n), key) {
		return Info{}, false
	}
	return x.info(n), true
}

// Each gives the entries whose ids, as texts, are from <= id < to, in ascending order; to "" = up to the end. Contents without a
// prefix are those below "g". An error of each ends it and is returned.
func (x *Index) Each(from, to string, each func(Info) error) error {
	first, end := x.span(from, to)
	for n := first; n < end; n++ {
		if err := each(x.info(n)); err != nil {
			return err
		}
	}
	return nil
}

// span gives the entries that [Index.Each] means: first <= n < end.
func (x *Index) span(from, to string) (first, end int) {
	at := func(bound string) int {
		return sort.Search(x.entries, func(n int) bool { return x.id(n).compareText(bound) >= 0 })
	}
	if end = x.entries; to != "" {
		end = at(to)
	}
	return at(from), end
}

func (x *Index) entry(n int) []byte { return x.entryBytes[n*x.stride() : (n+1)*x.stride()] }
func (x *Index) key(n int) []byte   { return x.entry(n)[:x.keySize] }
func (x *Index) value(n int) []byte { return x.entry(n)[x.keySize:] }

func (x *Index) id(n int) ID {
	key := x.key(n)
	id := ID{prefix: key[0]}
	id.length = byte(copy(id.hash[:], key[1:]))
	return id
}

func (x *Index) info(n int) Info {
	v := x.value(n)
	k := x.kindList[kindNumber(v)]
	i := Info{
		ID:          x.id(n),
		Pack:        x.packNames[packNumber(v)],
		Time:        int64(x.base) + int64(binary.BigEndian.Uint32(v)),
		Offset:      binary.BigEndian.Uint32(v[4:]) &^ deletedBit,
		Deleted:     v[4]&0x80 != 0,
		Original:    uint24(v[8:]),
		Packed:      uint24(v[11:]),
		Compression: k.compression,
		Version:     k.version,
		KeyID:       k.keyID,
	}
	if len(v) >= withLong {
		i.Original |= uint32(v[18]>>4) << 24
		i.Packed |= uint32(v[18]&0xf) << 24
	}
	return i
}

func packNumber(value []byte) int {
	n := int(binary.BigEndian.Uint16(value[14:]))
	if len(value) >= withManyPack {
		n |= int(value[17]) << 16
	}
	return n
}

func kindNumber(value []byte) int {
	if len(value) >= withFormat {
		return int(value[16])
	}
	return 0
}
