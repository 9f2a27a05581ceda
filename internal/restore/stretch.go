package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"

	"holdfast/internal/vault"
)

// stretchSize is how many bytes of a large file one worker writes. With one worker for each file, the largest table would be
// waited for by all the others.
const stretchSize = 32 * vault.ChunkSize

// large is one new file that many workers write at once.
type large struct {
	*run
	reader  *vault.Reader
	entry   vault.Entry
	rel     string
	out     *os.File
	parts   []part
	left    atomic.Int32 // parts that are not written yet; whoever writes the last one ends the file
	written atomic.Int64
}

type part struct {
	at     int64
	chunks []vault.Chunk
}

// spread begins a large file; nil when it must be written from its beginning to its end, or is there already.
func (r *run) spread(ctx context.Context, reader *vault.Reader, e vault.Entry, rel string) (*large, error) {
	if e.Size <= stretchSize {
		return nil, nil
	}
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
	l.out, err = root.OpenFile(below, os.O_WRONLY|os.O_CREATE|os.O_EXCL, os.FileMode(e.Mode)|0o600)
	return l, err
}

// write writes one part.
func (l *large) write(ctx context.Context, p part) error {
	err := l.fill(ctx, p)
	if l.left.Add(-1) == 0 {
		err = errors.Join(err, l.end())
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", l.rel, err)
	}
	return nil
}

func (l *large) fill(ctx context.Context, p part) error {
	for _, k := range p.chunks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if l.o.Pace != nil {
			if err := l.o.Pace(ctx, int(k.Length)); err != nil {
				return err
			}
		}
		content, err := l.reader.Fetch(ctx, k)
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
	if whole {
		l.later(l.rel, l.out)
	}
	if err := l.out.Close(); err != nil || !whole {
		return err
	}
	return l.own(l.rel)
}
