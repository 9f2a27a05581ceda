package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
	"holdfast/internal/vault"
)

// stretchSize is how many bytes of a large file one worker writes. With one worker for each file, the largest table would be
// waited for by all the others.
const stretchSize = 32 * vault.ChunkSize

// smallMax is the size, in bytes, up to which a file is written as it comes, by one worker, and through the kernel's memory.
const smallMax = vault.ChunkSize / 4

// large is one new file that is written by stretches, by many workers at once. It goes past the kernel's memory: the server's
// recovery reads little of it, for the log that belongs to a base backup begins with whole pages. A scratch server's does not,
// for all of it is read at once.
type large struct {
	*run
	reader  *vault.Reader
	entry   vault.Entry
	rel     string
	out     *durable.Direct
	parts   []part
	left    atomic.Int32 // parts that are not written yet; whoever writes the last one ends the file
	written atomic.Int64
}

type part struct {
	at     int64
	chunks []vault.Chunk
}

// begin begins a file that is written by stretches; nil when it must be written from its beginning to its end, or is there already.
func (r *run) begin(ctx context.Context, reader *vault.Reader, e vault.Entry, rel string) (*large, error) {
	root, below := r.at(rel)
	if _, err := root.Lstat(below); !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	chunks, ok, err := reader.Chunks(ctx, e)
	if err != nil || !ok {
		return nil, nil // who reads it in order finds out why, and another copy of it
	}
	l := &large{run: r, reader: reader, entry: e, rel: rel}
	for some := range slices.Chunk(chunks, stretchSize/vault.ChunkSize) {
		l.parts = append(l.parts, part{at: int64(len(l.parts)) * stretchSize, chunks: some})
	}
	l.left.Store(int32(len(l.parts)))
	f, err := root.OpenFile(below, os.O_WRONLY|os.O_CREATE|os.O_EXCL, os.FileMode(e.Mode)|0o600)
	if err != nil {
		return nil, err
	}
	if r.o.Throwaway {
		l.out = durable.Through(f)
	} else if l.out, err = durable.NewDirect(f, e.Size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

// write writes one part.
func (l *large) write(ctx context.Context, p part) error {
	err := l.fill(ctx, p)
	if !l.o.Throwaway { // as in later, and sooner
		_ = unix.SyncFileRange(int(l.out.Fd()), p.at, stretchSize, unix.SYNC_FILE_RANGE_WRITE)
	}
	if l.left.Add(-1) == 0 {
		err = errors.Join(err, l.end())
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", l.rel, err)
	}
	return nil
}

// writeAll writes the whole file, or as much as there is before the first error.
func (l *large) writeAll(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var first error
	for _, p := range l.parts { // each is ended, so that the file is let go
		if err := l.write(ctx, p); err != nil && first == nil {
			first = err
			stop()
		}
	}
	return first
}

func (l *large) fill(ctx context.Context, p part) error {
	room := durable.DirectRoom(int(min(l.entry.Size, vault.ChunkSize)))
	for _, k := range p.chunks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if l.o.Pace != nil {
			if err := l.o.Pace(ctx, int(k.Length)); err != nil {
				return err
			}
		}
		content, err := l.reader.FetchInto(ctx, k, room)
		if err != nil {
			return err
		}
		if _, err := l.out.WriteAt(content, p.at); err != nil {
			return err
		}
		p.at += k.Length
		l.done.Add(k.Length)
		l.written.Add(k.Length)
	}
	return nil
}

// end lets go of the file, whole or not.
func (l *large) end() error {
	whole := l.written.Load() == l.entry.Size
	var err error
	if whole {
		err = l.out.Truncate(l.entry.Size) // its last write may have been longer
		l.later(l.rel, l.out.File)
	}
	if err = errors.Join(err, l.out.Close()); err != nil || !whole {
		return err
	}
	return l.own(l.rel)
}
