package walscan

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"
)

// Resource managers and the operations of theirs that are read here (src/include/access/rmgrlist.h, xact.h,
// heapam_xlog.h, standbydefs.h, catalog/pg_control.h). The numbers are the same in PostgreSQL 14 to 18.
const (
	rmgrTransaction = 1
	rmgrStandby     = 8
	rmgrHeap2       = 9
	rmgrHeap        = 10

	opCheckpointShutdown = 0x00
	opCheckpointOnline   = 0x10
	opRunning            = 0x10

	opCommit         = 0x00
	opPrepare        = 0x10
	opAbort          = 0x20
	opCommitPrepared = 0x30
	opAbortPrepared  = 0x40
	hasMore          = 0x80

	opInsert      = 0x00
	opDelete      = 0x10
	opUpdate      = 0x20
	opTruncate    = 0x30
	opHotUpdate   = 0x40
	opMultiInsert = 0x50
	opMask        = 0x70

	superDeleted = 1 << 3 // of a delete: it takes back a speculative insert
)

// What a commit record has (xact.h, XACT_XINFO_HAS_...).
const (
	hasDatabase  = 1 << 0
	hasSubs      = 1 << 1
	hasFiles     = 1 << 2
	hasInvals    = 1 << 3
	hasTwoPhase  = 1 << 4
	hasGID       = 1 << 7
	hasDropStats = 1 << 8
)

// pageMagic14, 15 and 18 begin versions whose records differ from those before.
const (
	magic14 = 0xD10D
	magic18 = 0xD118
)

// Relation names a table's file: it changes when the table is rewritten or truncated.
type Relation struct {
	Tablespace uint32 `json:"tablespace"`
	Database   uint32 `json:"database"`
	Node       uint32 `json:"node"`
}

// decoded is a record taken apart: which tables its blocks are of, and its main data.
type decoded struct {
	xid   uint32
	rmgr  byte
	info  byte
	rels  []Relation
	data  []byte
	magic uint16
}

// cursor reads little-endian numbers, and remembers when there were too few bytes.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.bad = true
		return make([]byte, max(0, min(n, 1<<16)))
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) u8() byte    { return c.take(1)[0] }
func (c *cursor) u16() uint16 { return binary.LittleEndian.Uint16(c.take(2)) }
func (c *cursor) u32() uint32 { return binary.LittleEndian.Uint32(c.take(4)) }
func (c *cursor) u64() uint64 { return binary.LittleEndian.Uint64(c.take(8)) }

// count is a number of items of a size, which must all be there.
func (c *cursor) count(size int) int {
	n := int(int32(c.u32()))
	if n < 0 || n*size > len(c.b) {
		c.bad = true
		return 0
	}
	return n
}

func (c *cursor) xids(n int) []uint32 {
	var out []uint32
	for range n {
		out = append(out, c.u32())
	}
	return out
}

// decode takes a record apart (xlogreader.c, DecodeXLogRecord).
func decode(body []byte, magic uint16) (decoded, error) {
	le := binary.LittleEndian
	d := decoded{xid: le.Uint32(body[4:]), info: body[16], rmgr: body[17], magic: magic}
	c := &cursor{b: body[recordHead:]}
	behind, mainLen := 0, 0
	var last Relation
	for len(c.b) > behind && !c.bad {
		switch id := c.u8(); {
		case id == 255:
			mainLen = int(c.u8())
			behind += mainLen
		case id == 254:
			mainLen = int(c.u32())
			behind += mainLen
		case id == 253: // origin
			c.take(2)
		case id == 252: // top-level transaction, with wal_level=logical
			c.take(4)
		case id <= 32:
			n, err := c.block(&d, &last)
			if err != nil {
				return d, err
			}
			behind += n
		default:
			return d, fmt.Errorf("a part of kind %d is not known", id)
		}
	}
	if c.bad || len(c.b) != behind || mainLen > len(c.b) {
		return d, fmt.Errorf("its parts do not add up")
	}
	d.data = c.b[len(c.b)-mainLen:]
	return d, nil
}

// block reads one block's head, and tells how many bytes of the block follow later.
func (c *cursor) block(d *decoded, last *Relation) (int, error) {
	flags, n := c.u8(), 0
	n += int(c.u16())
	if flags&0x10 != 0 { // a page image
		n += int(c.u16())
		c.u16() // hole
		info := c.u8()
		compressed := info&(0x04|0x08|0x10) != 0
		if d.magic == magic14 {
			compressed = info&0x02 != 0
		}
		if info&0x01 != 0 && compressed {
			c.u16()
		}
	}
	if flags&0x80 == 0 {
		*last = Relation{Tablespace: c.u32(), Database: c.u32(), Node: c.u32()}
	}
	c.u32() // block number
	d.rels = append(d.rels, *last)
	if c.bad {
		return 0, fmt.Errorf("a block's head is cut short")
	}
	return n, nil
}

// ending is what a record says of a transaction's end.
type ending struct {
	xid      uint32
	subs     []uint32
	at       time.Time
	database uint32
	dropped  []Relation
	gid      string
}

// postgresEpoch is where PostgreSQL's clock begins.
func postgresTime(micros int64) time.Time {
	return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(micros) * time.Microsecond)
}

// finish reads a commit or an abort, also of a prepared transaction (xactdesc.c, ParseCommitRecord).
func finish(d decoded) (ending, error) {
	c := &cursor{b: d.data}
	e := ending{xid: d.xid, at: postgresTime(int64(c.u64()))}
	more := uint32(0)
	if d.info&hasMore != 0 {
		more = c.u32()
	}
	if more&hasDatabase != 0 {
		e.database = c.u32()
		c.u32()
	}
	if more&hasSubs != 0 {
		e.subs = c.xids(c.count(4))
	}
	if more&hasFiles != 0 {
		for range c.count(12) {
			e.dropped = append(e.dropped, Relation{Tablespace: c.u32(), Database: c.u32(), Node: c.u32()})
		}
	}
	if more&hasDropStats != 0 {
		size := 12
		if d.magic >= magic18 {
			size = 16
		}
		c.take(size * c.count(size))
	}
	if more&hasInvals != 0 && d.info&opMask != opAbort && d.info&opMask != opAbortPrepared {
		c.take(16 * c.count(16))
	}
	if more&hasTwoPhase != 0 {
		e.xid = c.u32()
		if more&hasGID != 0 {
			end := bytes.IndexByte(c.b, 0)
			if end < 0 {
				return e, fmt.Errorf("its name of a prepared transaction does not end")
			}
			e.gid = string(c.take(end + 1)[:end])
		}
	}
	if c.bad {
		return e, fmt.Errorf("the end of a transaction is cut short")
	}
	return e, nil
}

// prepared reads a PREPARE TRANSACTION (twophase.c, TwoPhaseFileHeader).
func prepared(d decoded) (ending, error) {
	c := &cursor{b: d.data}
	c.take(8) // magic number and length
	e := ending{xid: c.u32(), database: c.u32()}
	e.at = postgresTime(int64(c.u64()))
	c.u32() // owner
	subs := int(c.u32())
	c.take(8) // files to be removed at commit and at abort
	if d.magic != magic14 {
		c.take(8) // statistics to be dropped likewise
	}
	c.take(4)         // invalidations
	c.take(2)         // a flag, and padding
	n := int(c.u16()) // bytes of the name, with its final zero
	c.take(16)        // origin
	name := c.take(n) // padded to eight
	c.take((8 - n%8) % 8)
	if subs < 0 || subs*4 > len(c.b) || c.bad || n == 0 {
		return e, fmt.Errorf("a prepared transaction is cut short")
	}
	e.gid, e.subs = string(name[:n-1]), c.xids(subs)
	return e, nil
}
