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
	"os"
	"path"
	"path/filepath"
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
	take      bool // chunks of from without a changed page are taken over
	compare   bool // chunks that cannot have changed must be those of from
	bytes     func(n int)
	pace      func(ctx context.Context, n int) error // waits before n bytes are read
	keep      func() error                           // after each piece that was stored
}

// copied is what became of one file.
type copied struct {
	bad     []string // pages whose checksum is wrong and stays wrong
	differs []string // stretches that are not what they were, though no log changed them
	reused  int64    // bytes that were taken over unread, or read and not stored
}

// reading is one file on its way into the vault. A large one goes by stretches, which many workers read at once: with one
// worker for each file, the largest table would be waited for by all the others.
type reading struct {
	*copier
	f     file
	in    *os.File
	old   []vault.Chunk // what the earlier backup stored of it
	parts []stretch
	left  atomic.Int32 // stretches that are not read yet; whoever reads the last one looks at all
}

// stretch is what one worker has read of a file.
type stretch struct {
	out   *vault.ChunkWriter
	done  copied
	short bool // the file ends within it
	err   error
}

// stretchSize is how much of a file one worker reads, in bytes: whole chunks.
const stretchSize = 32 * vault.ChunkSize

// open begins a file. There is nothing to read of one that has vanished, which is left out, and of one whose chunks can all
// be taken over.
func (c *copier) open(ctx context.Context, f file) (*reading, copied, error) {
	old, err := c.from.chunks(ctx, f)
	if err != nil {
		return nil, copied{}, fmt.Errorf("back up %s: %w", f.path, err)
	}
	entry := vault.Entry{Path: path.Join(vault.DataDir, f.path), Mode: f.mode, ModTime: f.modTime}
	if c.take && len(old) > 0 && c.from.facts.Files[f.path].untouched(f.fact, c.from.facts.Scanned) {
		if done, err := c.takeWhole(entry, old, f.size); err != nil || done {
			return nil, copied{reused: f.size}, err
		}
	}
	root, below := c.root, f.path
	if oid, rest, ok := pgdata.InSpace(f.path); ok && c.spaces[oid] != nil {
		root, below = c.spaces[oid], rest
	}
	in, err := root.Open(filepath.FromSlash(below))
	if errors.Is(err, fs.ErrNotExist) {
		c.bytes(int(f.size))
		return nil, copied{}, nil
	}
	if err != nil {
		return nil, copied{}, fmt.Errorf("back up %s: %w", f.path, err)
	}
	r := &reading{copier: c, f: f, in: in, old: old, parts: make([]stretch, max(1, (f.size+stretchSize-1)/stretchSize))}
	for i := range r.parts {
		r.parts[i].out = c.to.Chunked(entry)
	}
	r.left.Store(int32(len(r.parts)))
	return r, copied{}, nil
}

// copyFile stores one file of a single stretch.
func (c *copier) copyFile(ctx context.Context, f file) (copied, error) {
	r, done, err := c.open(ctx, f)
	if r == nil {
		return done, err
	}
	return r.read(ctx, 0)
}

// read stores one stretch. With the last one the file is part of the backup, as long as it was when it was listed: what grew
// is in the log. What became of all of it is given then.
func (r *reading) read(ctx context.Context, i int) (copied, error) {
	if r.parts[i].err = ctx.Err(); r.parts[i].err == nil {
		r.parts[i].err = r.pump(ctx, i)
	}
	if r.left.Add(-1) > 0 {
		return copied{}, r.parts[i].err
	}
	done, err := r.join()
	if err = errors.Join(err, r.in.Close()); err != nil {
		return done, fmt.Errorf("back up %s: %w", r.f.path, err)
	}
	return done, nil
}

// join makes a file of its stretches.
func (r *reading) join() (done copied, err error) {
	for _, p := range r.parts {
		if p.err != nil {
			return done, p.err
		}
	}
	out := r.parts[0].out
	for i, p := range r.parts {
		if i > 0 {
			if err := out.Join(p.out); err != nil {
				return done, err
			}
		}
		done.bad, done.differs, done.reused = append(done.bad, p.done.bad...), append(done.differs, p.done.differs...), done.reused+p.done.reused
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
		if ok, err := out.Reuse(k); err != nil || !ok {
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

func (r *reading) pump(ctx context.Context, i int) error {
	p, at := &r.parts[i], int64(i)*stretchSize
	end := min(at+stretchSize, r.f.size)
	buf := make([]byte, min(readPiece, end-at))
	for at < end {
		piece := buf[:min(int64(len(buf)), end-at)]
		if err := r.pace(ctx, len(piece)); err != nil {
			return err
		}
		var was *vault.Chunk
		if k := at / readPiece; k < int64(len(r.old)) && r.old[k].Length == int64(len(piece)) {
			was = &r.old[k]
		}
		if taken, err := r.takeOver(p, at, was); err != nil {
			return err
		} else if taken {
			at += int64(len(piece))
			continue
		}
		n, err := r.in.ReadAt(piece, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n < len(piece) {
			was = nil
		}
		if err := r.store(ctx, r.f, r.in, p.out, piece[:n], at, was, &p.done); err != nil {
			return err
		}
		r.bytes(n)
		at += int64(n)
		if p.short = n < len(piece); p.short {
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
	ok, err := p.out.Reuse(*was)
	if ok {
		p.done.reused += was.Length
		r.bytes(int(was.Length))
	}
	return ok, err
}

// store adds one piece to the file by its bytes.
func (c *copier) store(ctx context.Context, f file, in *os.File, out *vault.ChunkWriter, piece []byte, at int64, was *vault.Chunk, done *copied) error {
	if f.relation && c.checksums {
		bad, err := c.verify(ctx, f, in, piece, at)
		if err != nil {
			return err
		}
		done.bad = append(done.bad, bad...)
	}
	now, err := out.Append(piece)
	if err != nil {
		return err
	}
	if c.compare && was != nil && !now.Equal(*was) && olderThan(piece, c.from.backup.Start) && logged(piece) {
		first := at/pgdata.PageSize + int64(f.segment)*pgdata.SegmentPages
		done.differs = append(done.differs, fmt.Sprintf("%s blocks %d to %d", f.path, first, first+int64(len(piece))/pgdata.PageSize-1))
	}
	return c.keep()
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
