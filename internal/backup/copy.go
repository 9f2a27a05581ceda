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
	readPiece      = 1 << 20 // bytes read at once; a whole number of pages and one chunk of the vault
	rereads        = 5       // a page that is being written settles within these
	rereadPause    = 10 * time.Millisecond
	badPagesListed = 100 // more are counted, not listed
)

// copier reads the data directory's files into the vault. It is used by many goroutines and changes nothing.
type copier struct {
	root      *os.Root
	to        *vault.Writer
	checksums bool
	start     uint64 // pages changed by log from here on are repaired by replay
	bytes     func(n int)
}

// copyFile stores one file as long as it was when it was listed: what grew is in the log. A file that has
// vanished is left out. bad lists pages whose checksum is wrong and stays wrong.
func (c *copier) copyFile(ctx context.Context, f file) (bad []string, err error) {
	in, err := c.root.Open(filepath.FromSlash(f.path))
	if errors.Is(err, fs.ErrNotExist) {
		c.bytes(int(f.size))
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("back up %s: %w", f.path, err)
	}
	defer func() { _ = in.Close() }() // opened for reading alone
	out := c.to.File(vault.Entry{Path: path.Join(vault.DataDir, f.path), Mode: f.mode, ModTime: f.modTime})
	bad, err = c.pump(ctx, f, in, out)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("back up %s: %w", f.path, err), out.Discard())
	}
	return bad, out.Keep()
}

func (c *copier) pump(ctx context.Context, f file, in *os.File, out io.Writer) (bad []string, err error) {
	buf := make([]byte, readPiece)
	for at := int64(0); at < f.size; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		piece := buf[:min(int64(len(buf)), f.size-at)]
		n, err := in.ReadAt(piece, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if f.relation && c.checksums {
			more, err := c.verify(ctx, f, in, piece[:n], at)
			if err != nil {
				return nil, err
			}
			bad = append(bad, more...)
		}
		if _, err := out.Write(piece[:n]); err != nil {
			return nil, err
		}
		c.bytes(n)
		at += int64(n)
		if n < len(piece) {
			c.bytes(int(f.size - at))
			break // truncated since it was listed; the log repeats that
		}
	}
	return bad, nil
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
	for try := 0; ; try++ {
		raw, err := root.ReadFile(filepath.FromSlash(pgdata.ControlFile))
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
