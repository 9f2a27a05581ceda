package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
)

// ErrUnfit is returned for entries that the format cannot say, or none at all.
var ErrUnfit = errors.New("it cannot be written to an index")

var errEmpty = fmt.Errorf("%w: there are no entries", ErrUnfit)

// encode writes an index of entries that come in ascending order, each content once. It reads them twice: what an entry looks
// like depends on all of them.
func encode(sorted iter.Seq[Info]) ([]byte, error) {
	e, err := plan(sorted)
	if err != nil {
		return nil, fmt.Errorf("write an index: %w", err)
	}
	data := make([]byte, 0, e.namesAt()+int64(e.nameBytes)+randomSize)
	data = e.header.append(data)
	for i := range sorted {
		data = e.appendEntry(data, i)
	}
	nameAt := uint32(e.namesAt())
	for _, name := range e.packNames {
		data = binary.BigEndian.AppendUint32(append(data, byte(len(name))), nameAt)
		nameAt += uint32(len(name))
	}
	for _, k := range e.kindList {
		data = k.append(data)
	}
	for _, name := range e.packNames {
		data = append(data, name...)
	}
	return data, nil
}

// encoding is what has to be known of all entries before the first can be written.
type encoding struct {
	header
	packOf    map[string]int
	packNames []string // numbered as the entries come upon them
	nameBytes int
	kindOf    map[kind]int
	kindList  []kind // likewise
}

func plan(sorted iter.Seq[Info]) (*encoding, error) {
	e := &encoding{header: header{valueSize: valueMin}, packOf: map[string]int{}, kindOf: map[kind]int{}}
	for i := range sorted {
		if err := e.admit(i); err != nil {
			return nil, err
		}
	}
	e.packs, e.kinds = len(e.packNames), len(e.kindList)
	if e.kinds > 1 {
		e.valueSize = max(e.valueSize, withFormat)
	}
	if e.packs > fewPacks {
		e.valueSize = max(e.valueSize, withManyPack)
	}
	switch {
	case e.entries == 0:
		return nil, errEmpty
	case e.kinds > maxFormats:
		return nil, fmt.Errorf("%w: %d ways of writing contents", ErrUnfit, e.kinds)
	case e.packs > maxPacks:
		return nil, fmt.Errorf("%w: %d packs", ErrUnfit, e.packs)
	case e.namesAt()+int64(e.nameBytes)+randomSize > math.MaxUint32:
		return nil, fmt.Errorf("%w: %d entries", ErrUnfit, e.entries)
	}
	return e, nil
}

// admit checks one entry, and counts what is its.
func (e *encoding) admit(i Info) error {
	if e.entries == 0 {
		e.keySize = 1 + int(i.ID.length)
	}
	switch {
	case i.ID.IsZero() || 1+int(i.ID.length) != e.keySize:
		return fmt.Errorf("%w: %q among ids of %d bytes", ErrUnfit, i.ID, e.keySize-1)
	case i.Time < 0 || i.Time > math.MaxUint32:
		return fmt.Errorf("%w: %s is of the second %d", ErrUnfit, i.ID, i.Time)
	case i.Offset >= maxOffset, i.Packed >= maxLength, i.Original >= maxLength:
		return fmt.Errorf("%w: %s has %d bytes, from byte %d of its pack on, and %d originally", ErrUnfit, i.ID, i.Packed, i.Offset, i.Original)
	case len(i.Pack) > math.MaxUint8:
		return fmt.Errorf("%w: %s lies in a pack whose name has %d bytes", ErrUnfit, i.ID, len(i.Pack))
	}
	e.entries++
	if i.Packed >= short || i.Original >= short {
		e.valueSize = withLong
	}
	if _, ok := e.packOf[i.Pack]; !ok {
		e.packOf[i.Pack] = len(e.packNames)
		e.packNames = append(e.packNames, i.Pack)
		e.nameBytes += len(i.Pack)
	}
	if k := kindOf(i); len(e.kindList) <= maxFormats {
		if _, ok := e.kindOf[k]; !ok {
			e.kindOf[k] = len(e.kindList)
			e.kindList = append(e.kindList, k)
		}
	}
	return nil
}

func (e *encoding) appendEntry(to []byte, i Info) []byte {
	to = append(append(to, i.ID.prefix), i.ID.hash[:i.ID.length]...)
	pack, offset := e.packOf[i.Pack], i.Offset
	if i.Deleted {
		offset |= deletedBit
	}
	var v [valueMax]byte
	binary.BigEndian.PutUint32(v[0:], uint32(i.Time))
	binary.BigEndian.PutUint32(v[4:], offset)
	putUint24(v[8:], i.Original)
	putUint24(v[11:], i.Packed)
	binary.BigEndian.PutUint16(v[14:], uint16(pack))
	v[16] = byte(e.kindOf[kindOf(i)])
	v[17] = byte(pack >> 16)
	v[18] = byte(i.Original>>24)<<4 | byte(i.Packed>>24)
	return append(to, v[:e.valueSize]...)
}
