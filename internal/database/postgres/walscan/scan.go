package walscan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Numbers of the log's format (src/include/access/xlog_internal.h, xlogrecord.h).
const (
	pageSize    = 8192
	shortHeader = 24
	longHeader  = 40
	recordHead  = 24
	crcAt       = 20 // the checksum covers the record's body, then its head up to here
	recordMax   = 1020 << 20

	firstIsContinued   = 0x0001
	hasLongHeader      = 0x0002
	firstIsOverwritten = 0x0008
	allPageFlags       = 0x000f

	rmgrLog   = 0
	rmgrMax   = 21 // built-in resource managers end at 21 in every supported version
	rmgrOwn   = 128
	logSwitch = 0x40
)

// knownPage reports whether a page is of PostgreSQL 14, 15, 16, 17 or 18.
func knownPage(magic uint16) bool {
	switch magic {
	case 0xD10D, 0xD110, 0xD113, 0xD116, 0xD118:
		return true
	}
	return false
}

// End is where the log ends.
type End struct {
	LSN      LSN       // end of the last complete record, aligned as PostgreSQL tells it; the start when there was none
	Timeline uint32    // that this record belongs to, or that owns LSN when there was none
	Last     LSN       // start of that record; 0 = none was found
	Records  int       // complete records from the start on
	Why      string    // what ended the scan
	Read     []Segment // files that were read, in order
	Through  bool      // a record ended at in.Through
}

// Input says what to scan.
type Input struct {
	Dir      string // pg_wal
	Start    LSN    // the beginning of a record (or of a page before one), such as a redo or a replay position
	Timeline uint32 // whose history to follow
	SegSize  uint64 // bytes of a log file
	SystemID uint64 // of the cluster; 0 = not compared
	Through  LSN    // a position that is known to be the end of a record; 0 = none
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errEnd wraps what ends a scan in good order: the log simply does not go on. Other errors are trouble of the
// disk, and make the position unknown.
var errEnd = errors.New("the log ends")

func ended(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errEnd, fmt.Sprintf(format, args...))
}

// Scan walks the log from in.Start and tells where it ends. The first record is believed for its checksum alone, each other
// one only if it names the one before. So a scan does not begin where the log may end already: what lies there may be a
// sound record of an earlier use of the file ([Before]).
func Scan(in Input) (End, error) {
	if in.SegSize < 1<<20 || in.SegSize > 1<<30 || in.SegSize&(in.SegSize-1) != 0 {
		return End{}, fmt.Errorf("scan the log: %d is no segment size", in.SegSize)
	}
	steps, err := History(in.Dir, in.Timeline)
	if err != nil {
		return End{}, fmt.Errorf("scan the log: %w", err)
	}
	s := &scanner{in: in, steps: steps}
	defer s.closeFile()
	end := End{LSN: in.Start, Timeline: s.owner(in.Start), Through: align(in.Start) == align(in.Through)}
	at := in.Start
	for {
		r, err := s.record(at, end.Last)
		if errors.Is(err, errEnd) {
			end.Why = err.Error()
			end.Read = s.read
			return end, nil
		}
		if err != nil {
			return End{}, fmt.Errorf("scan the log at %s: %w", at, err)
		}
		end.Last, end.LSN, end.Timeline = r.start, r.end, r.timeline
		end.Through = end.Through || r.end == align(in.Through)
		end.Records++
		at = r.end
	}
}

// scanner holds the page that was read last.
type scanner struct {
	in    Input
	steps []Switch

	file *os.File
	open Segment
	read []Segment

	page     [pageSize]byte
	pageAt   LSN
	pageOf   Segment
	havePage bool
	lastAt   LSN    // address of the last page that was accepted
	lastTLI  uint32 // and its timeline, which never goes back
}

type record struct {
	start, end LSN
	timeline   uint32
	body       []byte // head and all, as it was written
}

// owner is the timeline to which a position belongs in our history.
func (s *scanner) owner(at LSN) uint32 {
	for _, step := range s.steps {
		if at < step.LSN {
			return step.Parent
		}
	}
	return s.in.Timeline
}

// record reads the record at a position, which may be the first byte of a page.
func (s *scanner) record(at, before LSN) (record, error) {
	at = align(at)
	if at%pageSize == 0 {
		if err := s.load(at); err != nil {
			return record{}, err
		}
		at += LSN(s.headerSize())
		if s.flags()&firstIsContinued != 0 {
			return record{}, ended("a record that begins nowhere goes on at %s", at)
		}
	} else {
		if err := s.load(at - at%pageSize); err != nil {
			return record{}, err
		}
		if int(at%pageSize) < s.headerSize() {
			return record{}, ended("%s lies in a page header", at)
		}
	}
	r := record{start: at, timeline: s.owner(at)}
	if s.pageOf.Timeline < r.timeline {
		// Only the parent's file has this page, and what it holds from the fork on is not our history.
		return record{}, ended("timeline %d is not there yet at %s", r.timeline, at)
	}
	total := binary.LittleEndian.Uint32(s.page[at%pageSize:])
	if total < recordHead || total > recordMax {
		return record{}, ended("no record begins at %s", at)
	}
	// The length alone is not believed before the head is checked: a head is 24 bytes and may cross pages.
	body := make([]byte, 0, min(int(total), pageSize))
	pos := at
	for uint32(len(body)) < total {
		if pos%pageSize == 0 {
			if err := s.load(pos); err != nil {
				return record{}, err
			}
			if s.flags()&firstIsOverwritten != 0 {
				// The primary crashed within this record and went on over its remains: the next one begins
				// here, after the last whole one (XLOG_OVERWRITE_CONTRECORD).
				return s.record(pos, before)
			}
			if s.flags()&firstIsContinued == 0 {
				return record{}, ended("the record at %s does not go on at %s", at, pos)
			}
			if rest := binary.LittleEndian.Uint32(s.page[16:]); rest != total-uint32(len(body)) {
				return record{}, ended("the record at %s goes on at %s with another length", at, pos)
			}
			pos += LSN(s.headerSize())
		}
		n := min(pageSize-int(pos%pageSize), int(total)-len(body))
		known := len(body)
		body = append(body, s.page[pos%pageSize:int(pos%pageSize)+n]...)
		if known < recordHead && len(body) >= recordHead {
			if err := s.checkHead(body, r.start, before); err != nil {
				return record{}, err
			}
		}
		pos += LSN(n)
	}
	sum := crc32.Update(crc32.Checksum(body[recordHead:], castagnoli), castagnoli, body[:crcAt])
	if sum != binary.LittleEndian.Uint32(body[crcAt:]) {
		return record{}, ended("the record at %s has a wrong checksum", at)
	}
	r.end, r.body = align(pos), body
	if s.owner(r.end-1) != r.timeline {
		return record{}, ended("the record at %s goes on past the end of timeline %d", at, r.timeline)
	}
	if body[17] == rmgrLog && body[16]&0xf0 == logSwitch {
		size := LSN(s.in.SegSize)
		r.end = (r.end + size - 1) / size * size // the rest of the segment is padding
	}
	return r, nil
}

func (s *scanner) checkHead(head []byte, at, before LSN) error {
	if m := head[17]; m > rmgrMax && m < rmgrOwn {
		return ended("the record at %s is of no known kind", at)
	}
	prev := LSN(binary.LittleEndian.Uint64(head[8:]))
	if before != 0 && prev != before {
		return ended("the record at %s follows %s, not %s", at, prev, before)
	}
	if before == 0 && prev >= at {
		return ended("the record at %s follows a later one", at)
	}
	return nil
}

func align(l LSN) LSN { return (l + 7) &^ 7 }

func (s *scanner) flags() uint16 { return binary.LittleEndian.Uint16(s.page[2:]) }
func (s *scanner) tli() uint32   { return binary.LittleEndian.Uint32(s.page[4:]) }

func (s *scanner) headerSize() int {
	if s.flags()&hasLongHeader != 0 {
		return longHeader
	}
	return shortHeader
}

// load makes the page at an address the current one. Where a timeline forked off inside a segment, that segment
// may lie there once for each timeline: the newest is tried first, and for the part before the fork the older
// ones too, for the copy of a standby that has only begun to receive the new timeline may end early.
func (s *scanner) load(at LSN) error {
	if s.havePage && s.pageAt == at {
		return nil
	}
	s.havePage = false
	number := uint64(at) / s.in.SegSize
	var why error
	for _, tli := range s.candidates(at, number) {
		seg := Segment{Timeline: tli, Number: number}
		err := s.fetch(seg, at)
		if err == nil {
			err = s.checkPage(at)
		}
		if err == nil {
			s.havePage, s.pageAt, s.pageOf = true, at, seg
			s.lastAt, s.lastTLI = at, s.tli()
			return nil
		}
		if !errors.Is(err, errEnd) {
			return err
		}
		if why == nil {
			why = err
		}
	}
	if why == nil {
		return ended("no timeline of ours holds %s", at)
	}
	return why
}

// candidates are the timelines whose file of this segment may hold the page, newest first: all that began in
// or before it, down to the one that the page itself belongs to.
func (s *scanner) candidates(at LSN, number uint64) []uint32 {
	var out []uint32
	low := s.owner(at)
	for i := len(s.steps) - 1; i >= -1; i-- {
		tli, begin := uint32(0), LSN(0)
		switch {
		case i >= 0:
			tli, begin = s.steps[i].Timeline, s.steps[i].LSN
		case len(s.steps) > 0:
			tli = s.steps[0].Parent
		default:
			tli = s.in.Timeline
		}
		if uint64(begin)/s.in.SegSize <= number && tli >= low {
			out = append(out, tli)
		}
	}
	return out
}

func (s *scanner) fetch(seg Segment, at LSN) error {
	if s.file == nil || s.open != seg {
		s.closeFile()
		f, err := os.Open(filepath.Join(s.in.Dir, seg.Name(s.in.SegSize)))
		if errors.Is(err, fs.ErrNotExist) {
			return ended("there is no file %s", seg.Name(s.in.SegSize))
		}
		if err != nil {
			return err
		}
		s.file, s.open = f, seg
		s.read = append(s.read, seg)
	}
	_, err := s.file.ReadAt(s.page[:], int64(uint64(at)%s.in.SegSize))
	if errors.Is(err, io.EOF) {
		return ended("the file %s is cut short", seg.Name(s.in.SegSize))
	}
	return err
}

func (s *scanner) closeFile() {
	if s.file != nil {
		_ = s.file.Close() // read only
		s.file = nil
	}
}

// checkPage verifies the header of the page that was fetched.
func (s *scanner) checkPage(at LSN) error {
	le := binary.LittleEndian
	if !knownPage(le.Uint16(s.page[0:])) {
		return ended("no page begins at %s", at)
	}
	if s.flags()&^allPageFlags != 0 {
		return ended("the page at %s has unknown flags", at)
	}
	if LSN(le.Uint64(s.page[8:])) != at {
		return ended("the page at %s is of %s, from an earlier use of the file", at, LSN(le.Uint64(s.page[8:])))
	}
	first := uint64(at)%s.in.SegSize == 0
	if first != (s.flags()&hasLongHeader != 0) {
		return ended("the page at %s has the wrong kind of header", at)
	}
	if first {
		if id := le.Uint64(s.page[24:]); s.in.SystemID != 0 && id != s.in.SystemID {
			return ended("the page at %s is of another system, %d", at, id)
		}
		if size := le.Uint32(s.page[32:]); uint64(size) != s.in.SegSize {
			return ended("the page at %s is of segments of %d bytes", at, size)
		}
	}
	// A page keeps the timeline on which its first byte was written, so the page of a fork has the parent's.
	tli := s.tli()
	if owner := s.owner(at); tli != owner {
		return ended("the page at %s is of timeline %d, our history has %d there", at, tli, owner)
	}
	if at > s.lastAt && tli < s.lastTLI {
		return ended("the page at %s goes back to timeline %d", at, tli)
	}
	return nil
}

// Sync makes what a scan has read durable.
func Sync(dir string, size uint64, read []Segment) error {
	for _, seg := range read {
		f, err := os.OpenFile(filepath.Join(dir, seg.Name(size)), os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("sync the log: %w", err)
		}
		err = f.Sync()
		_ = f.Close() // the sync is what counts
		if err != nil {
			return fmt.Errorf("sync the log file %s: %w", seg.Name(size), err)
		}
	}
	return nil
}
