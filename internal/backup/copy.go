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

// copyFile stores one file as long as it was when it was listed: what grew is in the log. A file that has
// vanished is left out.
func (c *copier) copyFile(ctx context.Context, f file) (copied, error) {
	old, err := c.from.chunks(ctx, f)
	if err != nil {
		return copied{}, fmt.Errorf("back up %s: %w", f.path, err)
	}
	entry := vault.Entry{Path: path.Join(vault.DataDir, f.path), Mode: f.mode, ModTime: f.modTime}
	if c.take && len(old) > 0 && c.from.facts.Files[f.path].untouched(f.fact, c.from.facts.Scanned) {
		if done, err := c.takeWhole(entry, old, f.size); err != nil || done {
			return copied{reused: f.size}, err
		}
	}
	root, below := c.root, f.path
	if oid, rest, ok := pgdata.InSpace(f.path); ok && c.spaces[oid] != nil {
		root, below = c.spaces[oid], rest
	}
	in, err := root.Open(filepath.FromSlash(below))
	if errors.Is(err, fs.ErrNotExist) {
		c.bytes(int(f.size))
		return copied{}, nil
	}
	if err != nil {
		return copied{}, fmt.Errorf("back up %s: %w", f.path, err)
	}
	defer func() { _ = in.Close() }() // opened for reading alone
	out := c.to.Chunked(entry)
	done, err := c.pump(ctx, f, in, out, old)
	if err != nil {
		return done, fmt.Errorf("back up %s: %w", f.path, err)
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

func (c *copier) pump(ctx context.Context, f file, in *os.File, out *vault.ChunkWriter, old []vault.Chunk) (done copied, err error) {
	buf := make([]byte, readPiece)
	for at, i := int64(0), 0; at < f.size; i++ {
		piece := buf[:min(int64(len(buf)), f.size-at)]
		if err := c.pace(ctx, len(piece)); err != nil {
			return done, err
		}
		n, err := in.ReadAt(piece, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return done, err
		}
		var was *vault.Chunk
		if i < len(old) && old[i].Length == int64(n) {
			was = &old[i]
		}
		if err := c.store(ctx, f, in, out, piece[:n], at, was, &done); err != nil {
			return done, err
		}
		c.bytes(n)
		at += int64(n)
		if n < len(piece) {
			c.bytes(int(f.size - at))
			break // truncated since it was listed; the log repeats that
		}
	}
	return done, nil
}

// store adds one piece to the file: as the chunk that was there when that is sure, else by its bytes.
func (c *copier) store(ctx context.Context, f file, in *os.File, out *vault.ChunkWriter, piece []byte, at int64, was *vault.Chunk, done *copied) error {
	if c.take && was != nil && olderThan(piece, c.from.backup.Start) {
		if ok, err := out.Reuse(*was); err != nil || ok {
			done.reused += int64(len(piece))
			return err
		}
	}
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
