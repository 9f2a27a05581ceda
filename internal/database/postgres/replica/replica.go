// Package replica makes a data directory equal to that of a running server, moving only the blocks that differ.
// Start at [Copier.Fetch]. It knows files, blocks and hashes, and nothing of PostgreSQL: what to copy, in which
// order, and what a torn read means is its caller's business.
//
// Nothing that it does needs to be remembered: whoever is killed in the middle begins again, and finds the blocks
// that came over the first time.
package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/clock"
)

const (
	// BlockSize is what is compared and moved as one: eight pages. Larger ones would make scattered changes of one
	// page each move most of a table; smaller ones would cost more hashing calls than they save.
	BlockSize = 64 << 10
	// HashSize is that of SHA-256, which every supported server computes by itself.
	HashSize = 32

	unitBlocks = 256 // blocks that one worker compares at once: 16 MiB
	readBlocks = 16  // blocks that are fetched at once: 1 MiB
)

// File is one file or directory of the server that is copied.
type File struct {
	Path string // relative to the data directory, with slashes
	Size int64  // when it was listed; what it grows by later is not wanted
	Dir  bool
}

// Source is one session with that server. It is used by one goroutine at a time.
type Source interface {
	// Hashes gives the SHA-256 of n blocks of a file from block first on, one after the other. A block at the end
	// is shorter, one beyond the end is empty. nil = there is no such file any more.
	Hashes(ctx context.Context, path string, first, n int64) ([]byte, error)
	// Read gives up to n bytes of a file. Fewer mean that it ends there; nil, that it is gone.
	Read(ctx context.Context, path string, offset int64, n int) ([]byte, error)
}

// Options say where to, from whom, and how fast.
type Options struct {
	Dir      string
	UID, GID int      // owner of what is made; -1 = whoever we are
	Sources  []Source // one worker each; at least one
	Limit    int64    // bytes a second that may come over, all workers together; 0 = no limit
	Clock    clock.Clock
	Progress func(Progress) // called often, by one goroutine at a time; nil = not wanted
}

// Progress is how far a copy is, in bytes.
type Progress struct {
	Total   int64
	Settled int64 // compared and found equal, or moved
	Moved   int64 // came over
}

// Copier makes one directory a copy.
type Copier struct {
	o    Options
	root *os.Root
	pace *Pace
	log  *Pace // of what is paid first

	total          int64
	settled, moved atomic.Int64
	telling        sync.Mutex

	mu    sync.Mutex         // guards what follows
	files map[string]*target // all that Fetch was asked for
}

// target is one file on its way.
type target struct {
	File
	had int64 // bytes that lay here before

	mu   sync.Mutex // guards what follows
	ends int64      // where the source said that it ends; Size if it never did
	gone bool
}

// New opens the directory, which must exist. The caller closes the Copier.
func New(o Options) (*Copier, error) {
	if len(o.Sources) == 0 {
		return nil, errors.New("copy a data directory: no source")
	}
	root, err := os.OpenRoot(o.Dir) // nothing that a source names can lead out of it
	if err != nil {
		return nil, fmt.Errorf("copy a data directory: %w", err)
	}
	if o.Clock == nil {
		o.Clock = clock.Real()
	}
	return &Copier{o: o, root: root, pace: NewPace(o.Limit, o.Clock), log: NewPace(o.Limit, o.Clock), files: map[string]*target{}}, nil
}

// Close lets the directory go.
func (c *Copier) Close() error { return c.root.Close() }

// PayFirst waits until n bytes may come over beside the files, ahead of them: what the source writes meanwhile must not
// fall behind. Together they keep to the limit; what alone is more than that is held to it.
func (c *Copier) PayFirst(ctx context.Context, n int64) error {
	if c.o.Limit > 0 {
		c.pace.owe(n)
	}
	c.moved.Add(n)
	return c.log.Take(ctx, n)
}

// Moved is how many bytes came over.
func (c *Copier) Moved() int64 { return c.moved.Load() }

// Growth is how many bytes more the directory will need to hold files; what is there and not wanted is counted as
// given back, except what spare names.
func Growth(dir string, files []File, spare func(path string) bool) (int64, error) {
	want := map[string]int64{}
	var more int64
	for _, f := range files {
		if !f.Dir {
			want[f.Path] = f.Size
			more += f.Size
		}
	}
	err := filepath.WalkDir(dir, func(full string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, full)
		if err != nil || d.IsDir() || spare(filepath.ToSlash(rel)) {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		more -= info.Size()
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", dir, err)
	}
	return more, nil
}

// Tidy removes what lies below the folder within ("." = everywhere) and is not among files, except what spare
// names, and makes the directories of files.
func (c *Copier) Tidy(within string, files []File, spare func(path string) bool) error {
	want := make(map[string]bool, len(files)) // true = a directory
	for _, f := range files {
		want[f.Path] = f.Dir
	}
	var drop []string
	err := fs.WalkDir(c.root.FS(), within, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		dir, wanted := want[p]
		switch {
		case p == within, spare(p):
			return nil
		case wanted && dir == d.IsDir() && (dir || d.Type().IsRegular()):
			return nil
		}
		drop = append(drop, p)
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list what is here: %w", err)
	}
	for _, p := range drop {
		if err := c.root.RemoveAll(p); err != nil {
			return fmt.Errorf("remove what the source does not have: %w", err)
		}
	}
	dirs := slices.DeleteFunc(slices.Clone(files), func(f File) bool { return !f.Dir })
	slices.SortFunc(dirs, func(a, b File) int { return strings.Compare(a.Path, b.Path) }) // parents first
	for _, d := range dirs {
		if err := c.root.Mkdir(d.Path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make a directory: %w", err)
		}
		if err := c.own(d.Path); err != nil {
			return err
		}
	}
	return nil
}

func (c *Copier) own(p string) error {
	if c.o.UID < 0 {
		return nil
	}
	return c.root.Lchown(p, c.o.UID, c.o.GID)
}

// Fetch makes each of files equal to the source's. Blocks that are equal already do not travel. A file that is
// being written meanwhile may come over in pieces of different moments.
func (c *Copier) Fetch(ctx context.Context, files []File) error {
	units := make(chan unit)
	var wanted []*target
	for _, f := range files {
		if f.Dir {
			continue
		}
		t := &target{File: f, ends: f.Size}
		wanted = append(wanted, t)
		c.total += f.Size
	}
	// The largest first, so that no worker is left alone with a big one at the end.
	slices.SortStableFunc(wanted, func(a, b *target) int { return int(min(max(b.Size-a.Size, -1), 1)) })
	c.mu.Lock()
	for _, t := range wanted {
		c.files[t.Path] = t
	}
	c.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(units)
		for _, t := range wanted {
			if err := c.prepare(t); err != nil {
				return err
			}
			for first := int64(0); first*BlockSize < t.Size; first += unitBlocks {
				select {
				case units <- unit{t, first}:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		return nil
	})
	for _, source := range c.o.Sources {
		g.Go(func() error {
			w := &worker{c: c, source: source, buf: make([]byte, BlockSize)}
			for u := range units {
				if err := w.do(ctx, u); err != nil {
					return fmt.Errorf("copy %s: %w", u.file.Path, err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	c.tell(true)
	return nil
}

// prepare makes sure that a file is there and not longer than wanted.
func (c *Copier) prepare(t *target) error {
	f, err := c.root.OpenFile(t.Path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) { // its directory came after the listing
		if err = c.makeParents(path.Dir(t.Path)); err == nil {
			f, err = c.root.OpenFile(t.Path, os.O_RDWR|os.O_CREATE, 0o600)
		}
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", t.Path, err)
	}
	defer func() { _ = f.Close() }() // Sync looks at it again
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("look at %s: %w", t.Path, err)
	}
	t.had = min(info.Size(), t.Size)
	if info.Size() > t.Size {
		if err := f.Truncate(t.Size); err != nil {
			return fmt.Errorf("shorten %s: %w", t.Path, err)
		}
	}
	return c.own(t.Path)
}

func (c *Copier) makeParents(dir string) error {
	if dir == "." {
		return nil
	}
	if err := c.makeParents(path.Dir(dir)); err != nil {
		return err
	}
	if err := c.root.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return c.own(dir)
}

// Put writes a small file of ours, durably, its name included.
func (c *Copier) Put(p string, content []byte) error {
	if err := c.put(p, content); err != nil {
		return err
	}
	return c.syncOne(path.Dir(p))
}

func (c *Copier) put(p string, content []byte) (err error) {
	f, err := c.root.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", p, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(content); err != nil {
		return fmt.Errorf("write %s: %w", p, err)
	}
	if err := c.own(p); err != nil {
		return err
	}
	return f.Sync()
}

// Remove takes a file away and makes that durable.
func (c *Copier) Remove(p string) error {
	if err := c.root.Remove(p); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove %s: %w", p, err)
	}
	return c.syncOne(path.Dir(p))
}
