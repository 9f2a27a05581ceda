package backup

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/pgdata"
	"holdfast/internal/vault"
)

const (
	readPiece      = vault.ChunkSize // bytes read at once
	rereads        = 5               // a page that is being written settles within these
	rereadPause    = 10 * time.Millisecond
	badPagesListed = 100 // more are counted, not listed
)

// copier reads the data directory's files into the vault. It is used by many goroutines and changes nothing.
type copier struct {
	root      *os.Root
	spaces    map[string]*os.Root // tablespaces by their number
	to        *vault.Writer
	checksums bool
	start     uint64 // pages changed by log from here on are repaired by replay
	from      *earlier
	log       *slog.Logger
	take      bool // chunks of from without a changed page are taken over
	compare   bool // chunks that cannot have changed must be those of from
	bytes     func(n int)
	pace      func(ctx context.Context, n int) error // waits before n bytes are read
	keep      func() error                           // after each piece that was stored
}

// copied is what became of files.
type copied struct {
	bad     []string // pages whose checksum is wrong and stays wrong
	differs []string // stretches that are not what they were, though no log changed them
	reused  int64    // bytes that were taken over unread
}

func (c *copied) add(d copied) {
	c.bad, c.differs, c.reused = append(c.bad, d.bad...), append(c.differs, d.differs...), c.reused+d.reused
}

// reading is one file on its way into the vault. A large one goes by stretches, which many workers read at once: with one
// worker for each file, the largest table would be waited for by all the others.
type reading struct {
	*storing
	f      file
	entry  vault.Entry
	in     *os.File
	old    []vault.Chunk // what the earlier backup stored of it
	parts  []stretch
	unread atomic.Int32 // stretches that are not read yet; whoever reads the last one closes the file
	left   atomic.Int32 // stretches that are not read yet, and pieces that are not stored yet
	failed atomic.Bool  // it lacks something, and is not made part of the backup
}

// stretch is what one worker reads of a file.
type stretch struct {
	chunks []vault.Chunk // in their order; whoever stores one fills it in
	short  bool          // the file ends within it

	mu   sync.Mutex // guards done
	done copied
}

// stretchSize is how much of a file one worker reads, in bytes: whole chunks.
const stretchSize = 32 * vault.ChunkSize

// open begins a file; nil = there is nothing to read. One that has vanished is left out, and one whose chunks can all be taken over
// is made of them.
func (s *storing) open(ctx context.Context, f file) (*reading, error) {
	old, err := s.before(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("back up %s: %w", f.path, err)
	}
	entry := vault.Entry{Path: path.Join(vault.DataDir, f.path), Mode: f.mode, ModTime: f.modTime}
	if s.take && len(old) > 0 && s.from.facts.Files[f.path].untouched(f.fact, s.from.facts.Scanned) {
		done, err := s.takeWhole(entry, old, f.size)
		if err != nil {
			return nil, fmt.Errorf("back up %s: %w", f.path, err)
		}
		if done {
			s.note(copied{reused: f.size})
			return nil, nil
		}
	}
	root, below := s.root, f.path
	if oid, rest, ok := pgdata.InSpace(f.path); ok && s.spaces[oid] != nil {
		root, below = s.spaces[oid], rest
	}
	in, err := root.Open(filepath.FromSlash(below))
	if errors.Is(err, fs.ErrNotExist) {
		s.bytes(int(f.size))
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("back up %s: %w", f.path, err)
	}
	r := &reading{storing: s, f: f, entry: entry, in: in, old: old, parts: make([]stretch, max(1, (f.size+stretchSize-1)/stretchSize))}
	r.unread.Store(int32(len(r.parts)))
	r.left.Store(int32(len(r.parts)))
	return r, nil
}

// before lists what the earlier backup stored of f. Where that cannot be read, as when the pack of the list is gone, f is read as if
// there were none: else one lost pack would end every backup that comes after it.
func (s *storing) before(ctx context.Context, f file) ([]vault.Chunk, error) {
	old, err := s.from.chunks(ctx, f)
	if err == nil || ctx.Err() != nil {
		return old, err
	}
	s.unlisted.Do(func() {
		s.log.WarnContext(ctx, "earlier backup is not readable everywhere: such files are read whole", "backup", s.from.backup.ID, "first", f.path, "err", err)
	})
	return nil, nil
}

// copyFile reads one file of a single stretch.
func (s *storing) copyFile(ctx context.Context, f file) error {
	r, err := s.open(ctx, f)
	if r == nil {
		return err
	}
	return r.read(ctx, 0)
}

// read reads one stretch. With the last piece that is stored the file is part of the backup, as long as it was when it was listed: what
// grew is in the log.
func (r *reading) read(ctx context.Context, i int) error {
	err := ctx.Err()
	if err == nil {
		err = r.pump(ctx, i)
	}
	if r.unread.Add(-1) == 0 {
		err = errors.Join(err, r.in.Close())
	}
	if err != nil {
		r.failed.Store(true)
		err = fmt.Errorf("back up %s: %w", r.f.path, err)
	}
	return errors.Join(err, r.ended())
}

// ended counts a stretch that was read, or a piece that was stored, and makes a file of all of them behind the last one.
func (r *reading) ended() error {
	if r.left.Add(-1) > 0 || r.failed.Load() {
		return nil
	}
	done, err := r.join()
	if err != nil {
		return fmt.Errorf("back up %s: %w", r.f.path, err)
	}
	r.note(done)
	return nil
}

// join makes a file of its stretches.
func (r *reading) join() (done copied, err error) {
	out := r.to.Chunked(r.entry)
	for i := range r.parts {
		p := &r.parts[i]
		for _, k := range p.chunks {
			if err := out.Add(k); err != nil {
				return done, err
			}
		}
		done.add(p.done)
		if p.short {
			break // it was truncated since it was listed; the log repeats that
		}
	}
	return done, out.Keep()
}

// takeWhole makes a file of an earlier backup's chunks; false when the vault does not hold them all.
func (c *copier) takeWhole(entry vault.Entry, old []vault.Chunk, size int64) (bool, error) {
	out := c.to.Chunked(entry)
	sum := int64(0)
	for _, k := range old {
		if ok, err := c.to.HasChunk(k); err != nil || !ok {
			return false, err
		}
		if err := out.Add(k); err != nil {
			return false, err
		}
		sum += k.Length
	}
	if sum != size {
		return false, nil
	}
	c.bytes(int(size))
	return true, out.Keep()
}

// pump reads a stretch, and hands on what has to be stored of it.
func (r *reading) pump(ctx context.Context, i int) error {
	p, at := &r.parts[i], int64(i)*stretchSize
	end := min(at+stretchSize, r.f.size)
	p.chunks = make([]vault.Chunk, 0, (end-at+readPiece-1)/readPiece) // it must not move while some are filled in
	for at < end {
		size := min(readPiece, end-at)
		if err := r.pace(ctx, int(size)); err != nil {
			return err
		}
		var was *vault.Chunk
		if k := at / readPiece; k < int64(len(r.old)) && r.old[k].Length == size {
			was = &r.old[k]
		}
		if taken, err := r.takeOver(p, at, was); err != nil {
			return err
		} else if taken {
			at += size
			continue
		}
		n, err := r.readPiece(ctx, p, at, size, was)
		if err != nil {
			return err
		}
		at += n
		if p.short = n < size; p.short {
			r.bytes(int(end - at))
			break
		}
	}
	return nil
}

// takeOver adds the chunk that was there, when its pages' headers say that no log has changed them since.
func (r *reading) takeOver(p *stretch, at int64, was *vault.Chunk) (bool, error) {
	if !r.take || was == nil {
		return false, nil
	}
	older, err := headersOlder(r.in, at, was.Length, r.from.backup.Start)
	if err != nil || !older {
		return false, err
	}
	ok, err := r.to.HasChunk(*was)
	if ok {
		p.chunks = append(p.chunks, *was)
		p.note(copied{reused: was.Length})
		r.bytes(int(was.Length))
	}
	return ok, err
}

// readPiece reads size bytes at a place, or what there is of them, and hands them on. What is wrong with its pages is found here: read
// again behind the end of the backup, a page might be from after it.
func (r *reading) readPiece(ctx context.Context, p *stretch, at, size int64, was *vault.Chunk) (int64, error) {
	room := r.room()
	n, err := r.in.ReadAt(room[:size], at)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	content := room[:n]
	if r.f.relation && r.checksums {
		bad, err := r.verify(ctx, r.f, r.in, content, at)
		if err != nil {
			return 0, err
		}
		p.note(copied{bad: bad})
	}
	if int64(n) < size {
		was = nil
	}
	if n == 0 {
		r.giveBack(room)
		return 0, nil
	}
	if held, err := r.unchanged(content, was); err != nil || held {
		p.chunks = append(p.chunks, *was)
		r.bytes(n)
		r.giveBack(room)
		return int64(n), err
	}
	p.chunks = append(p.chunks, vault.Chunk{})
	return int64(n), r.hand(ctx, piece{of: r, part: p, chunk: &p.chunks[len(p.chunks)-1], content: content, at: at, was: was})
}

// unchanged reports whether a piece is what the earlier backup has there, and the vault has that still. Most of what is read again is;
// handed on, it would leave the processor's own memory and come back for nothing. What is read because a page of it changed is not.
func (r *reading) unchanged(content []byte, was *vault.Chunk) (bool, error) {
	if r.take || was == nil || !r.from.reader.Same(*was, content) {
		return false, nil
	}
	return r.to.HasChunk(*was)
}

func (p *stretch) note(done copied) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done.add(done)
}

// verify checks the pages of a piece, and reads a page with a wrong sum again: one that is just being
// written settles, or has been changed after the backup began and is repaired by replay.
func (c *copier) verify(ctx context.Context, f file, in *os.File, piece []byte, at int64) (bad []string, err error) {
	for off := 0; off+pgdata.PageSize <= len(piece); off += pgdata.PageSize {
		p := piece[off : off+pgdata.PageSize]
		block := uint32((at+int64(off))/pgdata.PageSize) + f.segment*pgdata.SegmentPages
		for try := 0; !pgdata.Good(p, block); try++ {
			if pgdata.PageLSN(p) >= c.start && try > 0 {
				break // changed since the start: replay writes it whole
			}
			if try == rereads {
				bad = append(bad, fmt.Sprintf("%s block %d", f.path, block))
				break
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(rereadPause):
			}
			if _, err := in.ReadAt(p, at+int64(off)); err != nil && !errors.Is(err, io.EOF) {
				return nil, err
			}
		}
	}
	return bad, nil
}

// readControl reads pg_control until its checksum holds: the server may be writing it at that moment.
func readControl(ctx context.Context, root *os.Root) ([]byte, error) {
	return wholeControl(ctx, func() ([]byte, error) { return root.ReadFile(filepath.FromSlash(pgdata.ControlFile)) })
}

func wholeControl(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	for try := 0; ; try++ {
		raw, err := read()
		if err != nil {
			return nil, fmt.Errorf("read pg_control: %w", err)
		}
		if controlWhole(raw) {
			return raw, nil
		}
		if try == 20 {
			return nil, errors.New("read pg_control: its checksum is wrong each time")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(rereadPause):
		}
	}
}

// controlWhole reports whether pg_control carries the CRC-32C of what stands before it. Where it stands
// depends on the version, always after the settings and before offset 512 (one sector, written at once).
func controlWhole(raw []byte) bool {
	table := crc32.MakeTable(crc32.Castagnoli)
	for off := 200; off+4 <= min(len(raw), 512); off += 4 {
		if crc32.Checksum(raw[:off], table) == binary.LittleEndian.Uint32(raw[off:]) {
			return true
		}
	}
	return false
}

// storeBytes stores what is in memory under a name in the data directory.
func storeBytes(to *vault.Writer, name string, content []byte, at time.Time) error {
	out := to.File(vault.Entry{Path: path.Join(vault.DataDir, name), Mode: 0o600, ModTime: at})
	if _, err := bytes.NewReader(content).WriteTo(out); err != nil {
		return errors.Join(err, out.Discard())
	}
	return out.Keep()
}
