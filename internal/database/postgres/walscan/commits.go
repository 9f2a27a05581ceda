package walscan

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Counts are the rows that one transaction changed in one table's file.
type Counts struct {
	Relation
	Inserted  int  `json:"inserted"`
	Updated   int  `json:"updated"`
	Deleted   int  `json:"deleted"`
	Truncated bool `json:"truncated,omitempty"`
}

// Outcome says how a transaction ended in the log.
type Outcome string

// Outcomes. A prepared transaction that was committed has one entry for each.
const (
	Committed         Outcome = "commit"
	Prepared          Outcome = "prepare"
	PreparedCommitted Outcome = "commit prepared"
)

// Transaction is one that ended, or was prepared, in the part of the log that was asked for.
type Transaction struct {
	XID      uint32
	Subs     []uint32 // subtransactions that took part: those that were rolled back are not among them
	Outcome  Outcome
	GID      string // of a prepared transaction, when what was read names it
	LSN      LSN    // of the record that says so
	End      LSN    // of that record: whoever had flushed up to here held it
	At       time.Time
	Database uint32
	Counts   []Counts   // sorted; system catalogs included
	Dropped  []Relation // files that its end removes: tables dropped, truncated or rewritten
	Partial  bool       // it may have begun before what was read: Counts are at least these
}

// Listing is what [Commits] found.
type Listing struct {
	Transactions []Transaction // in the order of the log
	End          End
	NextXID      uint32 // the first that was not in use at the position asked for; 0 = not known
	Unknown      int    // records behind that position that could not be taken apart
	Redo         LSN    // where the last checkpoint before that position begins; 0 = none was read
}

// Commits walks the log from in.Start and lists what was committed or prepared at and behind a position, which must
// be the end of a record. What lies before it only helps to count the rows of transactions that had begun there.
func Commits(in Input, after LSN) (Listing, error) {
	steps, err := History(in.Dir, in.Timeline)
	if err != nil {
		return Listing{}, fmt.Errorf("list the log's commits: %w", err)
	}
	s := &scanner{in: in, steps: steps}
	defer s.closeFile()
	l := &lister{after: align(after), rows: map[uint32]map[Relation]*Counts{}, gids: map[uint32]string{}}
	l.out.End = End{LSN: in.Start, Timeline: s.owner(in.Start)}
	for at := in.Start; ; {
		r, err := s.record(at, l.out.End.Last)
		if errors.Is(err, errEnd) {
			l.out.End.Why, l.out.End.Read = err.Error(), s.read
			return l.out, l.finish()
		}
		if err != nil {
			return Listing{}, fmt.Errorf("list the log's commits at %s: %w", at, err)
		}
		l.record(r, binary.LittleEndian.Uint16(s.page[:]))
		e := &l.out.End
		e.Last, e.LSN, e.Timeline = r.start, r.end, r.timeline
		e.Records++
		at = r.end
	}
}

// FirstRecord finds where the first record begins at or behind the start of a segment: the one before may go on
// into it.
func FirstRecord(in Input, number uint64) (LSN, error) {
	steps, err := History(in.Dir, in.Timeline)
	if err != nil {
		return 0, fmt.Errorf("find the first record: %w", err)
	}
	s := &scanner{in: in, steps: steps}
	defer s.closeFile()
	first, err := s.first(LSN(number * in.SegSize))
	if err != nil {
		return 0, fmt.Errorf("find the first record: %w", err)
	}
	return first, nil
}

// beforeMax is how far back [Before] looks: longer records are read from further back.
const beforeMax = 1 << 20

// Before finds where a record begins that ends at or before a position, in the last pages before it; 0 = it is not found
// there. A scan that begins there and comes to the position believes nothing behind it but what goes on from it.
func Before(in Input, at LSN) (LSN, error) {
	steps, err := History(in.Dir, in.Timeline)
	if err != nil {
		return 0, fmt.Errorf("find a record before %s: %w", at, err)
	}
	s := &scanner{in: in, steps: steps}
	defer s.closeFile()
	page := (at - 1) / pageSize * pageSize
	for back := LSN(0); back <= min(beforeMax, page); back = max(pageSize, 4*back) {
		s.lastAt, s.lastTLI = 0, 0 // pages are looked at backwards
		first, err := s.first(page - back)
		switch {
		case errors.Is(err, errEnd):
			return 0, nil
		case err != nil:
			return 0, fmt.Errorf("find a record before %s: %w", at, err)
		case first < at:
			return first, nil
		}
	}
	return 0, nil
}

// first finds where the first record begins in a page or behind it: the one before may go on for many pages.
func (s *scanner) first(at LSN) (LSN, error) {
	for rest := -1; ; at += pageSize {
		if err := s.load(at); err != nil {
			return 0, err
		}
		if rest < 0 {
			if s.flags()&firstIsContinued == 0 {
				return at, nil
			}
			rest = int(binary.LittleEndian.Uint32(s.page[16:]))
		}
		room := pageSize - s.headerSize()
		if rest < room {
			return align(at + LSN(s.headerSize()+rest)), nil
		}
		rest -= room
	}
}

// lister gathers rows by transaction until its end is read.
type lister struct {
	after LSN
	out   Listing
	rows  map[uint32]map[Relation]*Counts
	gids  map[uint32]string // of prepared transactions: their commit names only the number

	floor   uint32 // transactions below it may have begun before what was read
	floored bool
	newest  uint32 // highest number seen before the position
	seen    bool
	fixed   bool // NextXID stands
}

// follows compares transaction numbers, which wrap round.
func follows(a, b uint32) bool { return int32(a-b) > 0 }

func (l *lister) record(r record, magic uint16) {
	behind := r.start >= l.after
	d, err := decode(r.body, magic)
	if err != nil {
		if behind {
			l.out.Unknown++
		}
		return
	}
	if behind && !l.fixed {
		l.fixed = true
		if l.seen {
			l.out.NextXID = l.newest + 1
		}
	}
	l.number(d.xid)
	switch d.rmgr {
	case rmgrLog:
		if op := d.info & 0xf0; (op == opCheckpointShutdown || op == opCheckpointOnline) && len(d.data) >= 28 {
			l.next(binary.LittleEndian.Uint32(d.data[24:]))
			if !behind {
				l.out.Redo = LSN(binary.LittleEndian.Uint64(d.data))
			}
		}
	case rmgrStandby:
		if d.info&0xf0 == opRunning && len(d.data) >= 16 {
			l.next(binary.LittleEndian.Uint32(d.data[12:]))
		}
	case rmgrTransaction:
		if err := l.end(r, d, behind); err != nil && behind {
			l.out.Unknown++
		}
	case rmgrHeap, rmgrHeap2:
		l.heap(d)
	}
}

// number notes that a transaction number is in use.
func (l *lister) number(xid uint32) {
	if xid >= 3 && (!l.seen || follows(xid, l.newest)) {
		l.newest, l.seen = xid, true
	}
}

// next notes that every number below this one was in use.
func (l *lister) next(xid uint32) {
	if xid < 3 {
		return
	}
	if !l.floored {
		l.floor, l.floored = xid, true
	}
	l.number(xid - 1)
}

func (l *lister) heap(d decoded) {
	if len(d.rels) == 0 || d.xid == 0 {
		return
	}
	op := d.info & opMask
	if d.rmgr == rmgrHeap2 {
		if op == opMultiInsert && len(d.data) >= 4 {
			l.of(d).Inserted += int(binary.LittleEndian.Uint16(d.data[2:]))
		}
		return
	}
	switch op {
	case opInsert:
		l.of(d).Inserted++
	case opUpdate, opHotUpdate:
		l.of(d).Updated++
	case opDelete:
		if len(d.data) >= 8 && d.data[7]&superDeleted != 0 {
			l.of(d).Inserted--
			return
		}
		l.of(d).Deleted++
	case opTruncate:
		l.of(d).Truncated = true
	}
}

func (l *lister) of(d decoded) *Counts {
	m := l.rows[d.xid]
	if m == nil {
		m = map[Relation]*Counts{}
		l.rows[d.xid] = m
	}
	rel := d.rels[0]
	if m[rel] == nil {
		m[rel] = &Counts{Relation: rel}
	}
	return m[rel]
}

// end takes the end of a transaction.
func (l *lister) end(r record, d decoded, behind bool) error {
	op := d.info & opMask
	var e ending
	var err error
	switch op {
	case opPrepare:
		e, err = prepared(d)
	case opCommit, opAbort, opCommitPrepared, opAbortPrepared:
		e, err = finish(d)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	t := Transaction{
		XID: e.xid, Subs: e.subs, GID: e.gid, LSN: r.start, End: r.end, At: e.at, Database: e.database, Dropped: e.dropped,
		Counts: l.counts(e), Partial: !l.floored || follows(l.floor, e.xid),
	}
	switch op {
	case opCommit:
		t.Outcome = Committed
	case opPrepare:
		t.Outcome = Prepared
		l.gids[t.XID] = t.GID
	case opCommitPrepared:
		t.Outcome = PreparedCommitted
		t.GID = cmp.Or(t.GID, l.gids[t.XID])
	}
	if op != opPrepare {
		delete(l.rows, e.xid)
		for _, x := range e.subs {
			delete(l.rows, x)
		}
	}
	if behind && t.Outcome != "" {
		l.out.Transactions = append(l.out.Transactions, t)
	}
	return nil
}

// counts adds up what a transaction and its subtransactions changed.
func (l *lister) counts(e ending) []Counts {
	sum := map[Relation]*Counts{}
	for _, xid := range append([]uint32{e.xid}, e.subs...) {
		for rel, c := range l.rows[xid] {
			if sum[rel] == nil {
				sum[rel] = &Counts{Relation: rel}
			}
			s := sum[rel]
			s.Inserted, s.Updated, s.Deleted, s.Truncated = s.Inserted+c.Inserted, s.Updated+c.Updated, s.Deleted+c.Deleted, s.Truncated || c.Truncated
		}
	}
	var out []Counts
	for _, c := range sum {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Counts) int {
		return cmp.Or(cmp.Compare(a.Database, b.Database), cmp.Compare(a.Tablespace, b.Tablespace), cmp.Compare(a.Node, b.Node))
	})
	return out
}

// finish checks that the position asked for lies within what was read.
func (l *lister) finish() error {
	if l.out.End.LSN < l.after {
		return fmt.Errorf("list the log's commits: it ends at %s, before %s: %s", l.out.End.LSN, l.after, l.out.End.Why)
	}
	if !l.fixed && l.seen {
		l.out.NextXID = l.newest + 1
	}
	return nil
}
