package replica

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sync/errgroup"
)

// unit is a part of a file, from block first on.
type unit struct {
	file  *target
	first int64
}

// worker compares and moves, with a session of its own.
type worker struct {
	c      *Copier
	source Source
	buf    []byte // one block
}

// do makes one unit equal.
func (w *worker) do(ctx context.Context, u unit) error {
	t := u.file
	if t.over(u.first * BlockSize) {
		return nil
	}
	f, err := w.c.root.OpenFile(t.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // Sync opens it once more, and hears of every error
	last := min(u.first+unitBlocks, (t.Size+BlockSize-1)/BlockSize)
	known := min(last, (t.had+BlockSize-1)/BlockSize) // blocks of which something lies here
	differ := make([]bool, last-u.first)
	for i := range differ {
		differ[i] = true
	}
	if known > u.first {
		gone, err := w.compare(ctx, f, u, known, differ)
		if err != nil || gone {
			return err
		}
	}
	return w.move(ctx, f, u, differ)
}

// over reports whether nothing at or after offset is wanted any more.
func (t *target) over(offset int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.gone || offset >= t.ends
}

// endsAt notes that the source's file ends earlier than it did when it was listed.
func (t *target) endsAt(offset int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ends = min(t.ends, offset)
}

func (t *target) isGone() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gone = true
}

// compare clears differ for each block that is the same here and there.
func (w *worker) compare(ctx context.Context, f *os.File, u unit, known int64, differ []bool) (gone bool, err error) {
	there, err := w.source.Hashes(ctx, u.file.Path, u.first, known-u.first)
	if err != nil {
		return false, err
	}
	if there == nil {
		u.file.isGone()
		return true, nil
	}
	if int64(len(there)) != (known-u.first)*HashSize {
		return false, nil // it vanished in between, or begins to: reading tells
	}
	for i := range known - u.first {
		at := (u.first + i) * BlockSize
		n, err := f.ReadAt(w.buf[:min(BlockSize, u.file.Size-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		here := sha256.Sum256(w.buf[:n])
		if bytes.Equal(here[:], there[i*HashSize:(i+1)*HashSize]) && int64(n) == min(BlockSize, u.file.Size-at) {
			differ[i] = false
			w.c.settle(int64(n))
		}
	}
	return false, nil
}

// move fetches and writes the blocks that differ, neighbours together.
func (w *worker) move(ctx context.Context, f *os.File, u unit, differ []bool) error {
	for i := 0; i < len(differ); {
		if !differ[i] {
			i++
			continue
		}
		n := 1
		for i+n < len(differ) && differ[i+n] && n < readBlocks {
			n++
		}
		at := (u.first + int64(i)) * BlockSize
		more, err := w.fetch(ctx, f, u.file, at, int(min(int64(n)*BlockSize, u.file.Size-at)))
		if err != nil || !more {
			return err
		}
		i += n
	}
	return nil
}

// fetch brings n bytes over; more is false when the source's file ends before they do.
func (w *worker) fetch(ctx context.Context, f *os.File, t *target, at int64, n int) (more bool, err error) {
	if err := w.c.pace.Take(ctx, int64(n)); err != nil {
		return false, err
	}
	data, err := w.source.Read(ctx, t.Path, at, n)
	if err != nil {
		return false, err
	}
	if data == nil {
		t.isGone()
		return false, nil
	}
	data = data[:min(len(data), n)]
	if len(data) > 0 {
		if _, err := f.WriteAt(data, at); err != nil {
			return false, err
		}
	}
	w.c.moved.Add(int64(len(data)))
	w.c.settle(int64(n))
	if len(data) < n {
		t.endsAt(at + int64(len(data)))
		return false, nil
	}
	return true, nil
}

// settle counts bytes that are as they should be.
func (c *Copier) settle(n int64) {
	c.settled.Add(n)
	c.tell(false)
}

// tell tells of the progress; whoever comes while another tells goes on.
func (c *Copier) tell(wait bool) {
	if c.o.Progress == nil {
		return
	}
	if wait {
		c.telling.Lock()
	} else if !c.telling.TryLock() {
		return
	}
	defer c.telling.Unlock()
	c.o.Progress(Progress{Total: c.total, Settled: c.settled.Load(), Moved: c.moved.Load()})
}

// Sync brings all that was fetched, and every directory, to the disk. What an earlier copy wrote that was killed
// before its own Sync is among it, even where nothing had to be moved. Files that vanished at the source go.
func (c *Copier) Sync(ctx context.Context) error {
	g, working := errgroup.WithContext(ctx)
	g.SetLimit(2 * len(c.o.Sources))
	for _, t := range c.files {
		if working.Err() != nil {
			break
		}
		g.Go(func() error { return c.finish(t) })
	}
	err := g.Wait()
	if err == nil {
		err = ctx.Err() // then some files were left out
	}
	if err != nil {
		return fmt.Errorf("bring the copy to the disk: %w", err)
	}
	err = fs.WalkDir(c.root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return c.syncOne(p)
	})
	if err != nil {
		return fmt.Errorf("bring the copy to the disk: %w", err)
	}
	return nil
}

// finish cuts a file where it ended at the source, and syncs it.
func (c *Copier) finish(t *target) error {
	if t.gone {
		if err := c.root.Remove(t.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	f, err := c.root.OpenFile(t.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if t.ends < t.Size {
		if err := f.Truncate(t.ends); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

func (c *Copier) syncOne(p string) error {
	d, err := c.root.Open(p)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
