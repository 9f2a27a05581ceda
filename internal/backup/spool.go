package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
	"holdfast/internal/vault/wal"
)

// spool is the log between the server and the vault, on this host's disk. The stream appends, the flusher
// makes durable whatever has come (one sync for many messages), the archiver takes from the front.
type spool struct {
	dir  string
	size uint64 // segment size in bytes
	max  int64  // bytes that may wait

	syncing sync.Mutex // of who syncs; taken before mu, so that no segment is dropped that is being synced

	mu   sync.Mutex    // guards everything below and the segments' fields
	segs []*spooled    // oldest first; the stream appends to the last
	wake chan struct{} // something came
	ripe chan struct{} // a segment is full, or its timeline has ended
	room chan struct{} // a segment is gone
}

// spooled is one segment on its way.
type spooled struct {
	timeline uint32
	start    wal.LSN
	file     *os.File
	written  uint64    // bytes from start
	flushed  uint64    // 0 <= flushed <= written
	archived uint64    // 0 <= archived <= flushed: bytes that the vault holds
	came     time.Time // when the newest byte did
	ended    bool      // no more will come: the timeline ends here
}

// openSpool takes the directory over. What an earlier run left there is removed: the server keeps all that
// the vault does not hold (its slot follows the vault, not this disk), and after a power cut the tail of a
// leftover file could not be told from garbage.
func openSpool(dir string, size uint64, limit int64) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.spool"))
	if err != nil {
		return nil, fmt.Errorf("open spool %s: %w", dir, err)
	}
	for _, p := range old {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open spool: %w", err)
		}
	}
	return &spool{dir: dir, size: size, max: max(limit, int64(2*size)), wake: make(chan struct{}, 1), ripe: make(chan struct{}, 1), room: make(chan struct{}, 1)}, nil
}

// append adds log that begins at lsn and must follow what came before. now is when it came.
func (s *spool) append(timeline uint32, lsn wal.LSN, data []byte, now time.Time) error {
	for len(data) > 0 {
		seg, err := s.current(timeline, lsn)
		if err != nil {
			return err
		}
		n := min(uint64(len(data)), s.size-seg.written)
		if _, err := seg.file.WriteAt(data[:n], int64(seg.written)); err != nil {
			return fmt.Errorf("spool log at %s: %w", lsn, err)
		}
		s.mu.Lock()
		seg.written += n
		seg.came = now
		full := seg.written == s.size
		s.mu.Unlock()
		if full {
			signal(s.ripe)
		}
		lsn += wal.LSN(n)
		data = data[n:]
	}
	signal(s.wake)
	return nil
}

// current is the segment that lsn belongs to, opened if it begins there.
func (s *spool) current(timeline uint32, lsn wal.LSN) (*spooled, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.segs); n > 0 {
		last := s.segs[n-1]
		next := last.start + wal.LSN(last.written)
		if !last.ended && (last.timeline != timeline || next != lsn) {
			return nil, fmt.Errorf("spool log: the server sent %s on timeline %d after %s on timeline %d", lsn, timeline, next, last.timeline)
		}
		if !last.ended && last.written < s.size {
			return last, nil
		}
	}
	if lsn.SegmentStart(s.size) != lsn {
		return nil, fmt.Errorf("spool log: the server began at %s, inside a segment", lsn)
	}
	f, err := os.OpenFile(filepath.Join(s.dir, wal.SegmentName(timeline, lsn, s.size)+".spool"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("spool log at %s: %w", lsn, err)
	}
	seg := &spooled{timeline: timeline, start: lsn, file: f}
	s.segs = append(s.segs, seg)
	return seg, durable.SyncDir(s.dir)
}

// end marks that the last segment's timeline ends where it stands.
func (s *spool) end() {
	s.mu.Lock()
	if n := len(s.segs); n > 0 {
		s.segs[n-1].ended = true
	}
	s.mu.Unlock()
	signal(s.wake)
	signal(s.ripe)
}

// flush makes durable what was appended before the call.
func (s *spool) flush() error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	s.mu.Lock()
	var todo []*spooled
	var upTo []uint64
	for _, seg := range s.segs {
		if seg.flushed < seg.written {
			todo, upTo = append(todo, seg), append(upTo, seg.written)
		}
	}
	s.mu.Unlock()
	for i, seg := range todo {
		if err := unix.Fdatasync(int(seg.file.Fd())); err != nil {
			return fmt.Errorf("sync spool: %w", err)
		}
		s.mu.Lock()
		seg.flushed = upTo[i]
		s.mu.Unlock()
	}
	return nil
}

// part is a piece that the archiver is to store.
type part struct {
	seg     *spooled
	length  uint64
	had     uint64 // of these, the vault has so many
	whole   bool
	retired bool // nothing more follows in this segment
}

// next is the oldest piece that waits: a whole segment, the end of a timeline, or, when partial is set, the
// beginning of the segment that is being filled.
func (s *spool) next(partial bool) (part, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.segs) == 0 {
		return part{}, false
	}
	seg := s.segs[0]
	p := part{seg: seg, length: seg.flushed, had: seg.archived}
	switch {
	case seg.flushed == s.size:
		p.whole, p.retired = true, true
		return p, true
	case seg.ended && seg.flushed == seg.written:
		p.retired = true
		return p, true
	case partial && seg.flushed > seg.archived:
		return p, true
	}
	return part{}, false
}

// partDue reports whether the beginning of the segment that is being filled should be stored now: it grew, the last piece was
// stored so long ago, and at the rate at which log came since the segment will not be full within half of that again. A
// beginning is enciphered and stored from the segment's first byte on, and all of it once more with the whole segment.
func (s *spool) partDue(last time.Time, every time.Duration, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	waited, most := now.Sub(last), every+every/2
	if len(s.segs) == 0 || waited < every {
		return false
	}
	seg := s.segs[0]
	if seg.written <= seg.archived {
		return false
	}
	came := seg.came.Sub(last)
	full := time.Duration(float64(came) * float64(s.size-seg.archived) / float64(seg.written-seg.archived)) // after last
	return waited >= most || came <= 0 || full > most
}

// read gives a piece's bytes.
func (p part) read() ([]byte, error) {
	b := make([]byte, p.length)
	if _, err := p.seg.file.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("read spool at %s: %w", p.seg.start, err)
	}
	return b, nil
}

// stored notes that the vault holds a piece, and drops the segment when nothing more follows in it.
func (s *spool) stored(p part) error {
	s.mu.Lock()
	p.seg.archived = p.length
	gone := p.retired && len(s.segs) > 0 && s.segs[0] == p.seg // else the other of vault and second place has it too, and was quicker
	if gone {
		s.segs = s.segs[1:]
	}
	s.mu.Unlock()
	if !gone {
		return nil
	}
	signal(s.room)
	if err := errors.Join(p.seg.file.Close(), os.Remove(p.seg.file.Name())); err != nil {
		return fmt.Errorf("drop spooled log: %w", err)
	}
	return nil
}

// waiting is how many bytes are not in the vault.
func (s *spool) waiting() (bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seg := range s.segs {
		bytes += int64(seg.written - seg.archived)
	}
	return bytes
}

// full reports whether the stream must wait.
func (s *spool) full() bool { return s.over(s.max) }

// over reports whether more than so many bytes of segments are here.
func (s *spool) over(bytes int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.segs))*int64(s.size) > bytes
}

// flushedTo is the position up to which everything is on this disk or in the vault; 0 before anything came.
func (s *spool) flushedTo() wal.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	var at wal.LSN
	for _, seg := range s.segs {
		at = seg.start + wal.LSN(seg.flushed)
		if seg.flushed < seg.written {
			break
		}
	}
	return at
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// close drops what is left.
func (s *spool) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, seg := range s.segs {
		errs = append(errs, seg.file.Close(), os.Remove(seg.file.Name()))
	}
	s.segs = nil
	return errors.Join(errs...)
}
