package files

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"holdfast/internal/clock"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// Options say what is backed up, and to where.
type Options struct {
	Vault      *vault.Vault
	Set        string // the plan's name for it
	Host       string
	Path       string            // the directory
	Exclude    []string          // patterns; see [Excluded]
	Earlier    *vault.FileBackup // what is as it was then is not read; nil = everything is read
	AllowEmpty bool              // a directory with no file is taken though Earlier has some
	Still      *Still            // files and a database stand still while it is taken; nil = they do not
	Workers    int               // files read at once; 0 = two for each core, at most 8
	Clock      clock.Clock       // nil = the real one
	Log        *slog.Logger      // nil = silent
	Progress   func(Progress)    // nil = nobody asks; called from one goroutine

	reading func(path string, at int64) // told how far a file is read, by whoever reads it; nil = nobody asks
}

// Progress is how far a backup is.
type Progress struct {
	Files  int   // names looked at
	Read   int64 // bytes
	Stored int64 // bytes
}

const (
	// window is how many names may wait for their contents at most: what is read ahead of the list.
	window = 1024
	// tries is how often a file that changes while it is read is read.
	tries = 3
	// freshMax: a file that was touched so shortly before it was looked at is read again next time, for a change in
	// the same tick of the file system's clock would leave no trace.
	freshMax = 2 * time.Second
	// checkpointFiles and checkpointBytes bound what a backup that is cut off has read in vain, and the memory that
	// the index of what is not flushed yet takes.
	checkpointFiles = 100_000
	checkpointBytes = 4 << 30
	// progressEvery is how many names pass between two words of progress.
	progressEvery = 500
)

// capture is one backup under way.
type capture struct {
	o    Options
	root *os.File
	to   *vault.TreeWriter
	b    vault.FileBackup
	prev *earlier

	order chan *pending // names in the order of the list
	work  chan *pending // those among them that are to be read
	met   map[inode]*met
}

// met is an inode with several names, of which one came by.
type met struct {
	first string // listed path
	left  uint64 // names that did not come by yet
	node  vault.Node
	added bool
}

// pending is one name on its way into the list.
type pending struct {
	node    vault.Node
	in      inode
	met     *met          // nil = it has one name
	done    chan struct{} // closed when it was read; nil = there is nothing to read
	changed bool
	gone    bool
	reused  bool
	read    int64
	trouble string // it is not in the backup
}

// Backup makes one backup of a file set. What could not be read is named in it, and it counts as incomplete then. A
// directory that is missing, or empty where Earlier has files, is refused: most often its disk is not mounted.
func Backup(ctx context.Context, o Options) (vault.FileBackup, error) {
	if o.Clock == nil {
		o.Clock = clock.Real()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Workers <= 0 {
		o.Workers = min(8, 2*runtime.NumCPU())
	}
	root, err := openRoot(o.Path)
	if err != nil {
		return vault.FileBackup{}, absent(o.Set, o.Path, err)
	}
	defer func() { _ = root.Close() }() // opened for reading alone
	to, err := o.Vault.BeginTree(ctx, "holdfast-files "+o.Set)
	if err != nil {
		return vault.FileBackup{}, err
	}
	c := &capture{o: o, root: root, to: to, order: make(chan *pending, window), work: make(chan *pending, window), met: map[inode]*met{}}
	c.b = vault.FileBackup{Set: o.Set, Host: o.Host, Path: o.Path, Excluded: o.Exclude, Started: o.Clock.Now().UTC()}
	if err := c.still(ctx); err != nil {
		return vault.FileBackup{}, errors.Join(fmt.Errorf("back up files %s: %w", o.Set, err), to.Abort())
	}
	if o.Earlier != nil && o.Earlier.Files > 0 && c.b.Files == 0 && !o.AllowEmpty {
		return vault.FileBackup{}, errors.Join(emptied(o.Set, o.Path, o.Earlier.Files), to.Abort())
	}
	c.b.Ended = o.Clock.Now().UTC()
	return to.Commit(c.b)
}

func openRoot(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

func absent(set, path string, why error) *problem.Problem {
	return &problem.Problem{
		Code: "files.absent", Subject: set, Severity: problem.Critical,
		Title:   "its directory cannot be read: " + why.Error(),
		Meaning: "No backup of it is made. The earlier ones are as they were.",
		Remedy:  "mount the disk, or correct the path " + path + " in the plan",
	}
}

func emptied(set, path string, files int) *problem.Problem {
	return &problem.Problem{
		Code: "files.emptied", Subject: set, Severity: problem.Critical,
		Title:   fmt.Sprintf("%s holds no file, and the last backup has %d", path, files),
		Meaning: "No backup is made of it: most often a disk is not mounted. The earlier ones are as they were.",
		Remedy:  "mount the disk; when it is meant to be empty: holdfast files backup " + set + " --allow-empty",
	}
}

// take walks, reads and lists, each in goroutines of its own.
func (c *capture) take(ctx context.Context) error {
	if c.o.Earlier != nil {
		c.prev = openEarlier(ctx, c.o.Vault, *c.o.Earlier, c.o.Log)
		defer c.prev.close()
		c.b.Earlier = c.o.Earlier.ID
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(c.order)
		defer close(c.work)
		return c.walk(ctx)
	})
	for range c.o.Workers {
		g.Go(func() error {
			buf := make([]byte, 256<<10)
			for p := range c.work {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err := c.read(ctx, p, buf); err != nil {
					return err
				}
				close(p.done)
			}
			return nil
		})
	}
	g.Go(func() error { return c.collect(ctx) })
	return g.Wait()
}

// collect adds names to the list in their order, each once it was read.
func (c *capture) collect(ctx context.Context) error {
	var n, files int
	var bytes int64
	for p := range c.order {
		if p.done != nil {
			select {
			case <-p.done:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := c.add(ctx, p); err != nil {
			return err
		}
		if n++; n%progressEvery == 0 && c.o.Progress != nil {
			c.o.Progress(Progress{Files: n, Read: c.b.Read, Stored: c.to.Stored()})
		}
		if p.done == nil {
			continue
		}
		files, bytes = files+1, bytes+p.read
		if files >= checkpointFiles || bytes >= checkpointBytes {
			if err := c.to.Checkpoint(); err != nil {
				return err
			}
			files, bytes = 0, 0
		}
	}
	return ctx.Err()
}

// add puts one name into the list, unless it went or could not be read.
func (c *capture) add(ctx context.Context, p *pending) error {
	if err := c.shared(ctx, p); err != nil {
		return err
	}
	switch {
	case p.trouble != "":
		c.b.Unreadable.Add(p.node.Path + ": " + p.trouble)
		if p.node.Kind != vault.KindDir { // a directory that cannot be listed is there all the same
			return nil
		}
	case p.gone:
		c.b.Vanished++
		return nil
	}
	if p.changed {
		c.b.Changed.Add(p.node.Path)
	}
	c.b.Read += p.read
	switch p.node.Kind {
	case vault.KindFile:
		c.b.Files++
		if p.node.Link == "" {
			c.b.Bytes += p.node.Size
		}
		if p.reused {
			c.b.Reused++
		}
	case vault.KindDir:
		c.b.Dirs++
	default:
		c.b.Others++
	}
	return c.to.Add(p.node)
}

// shared lets further names of an inode share what its first name has stored. Where that did not come to be, or was of
// another inode in the end, the name is read by itself.
func (c *capture) shared(ctx context.Context, p *pending) error {
	m := p.met
	switch {
	case m == nil:
		return nil
	case p.node.Path == m.first:
		m.node, m.added = p.node, p.trouble == "" && !p.gone && p.node.Inode == p.in.number
		return nil
	case m.added:
		path, raw := p.node.Path, p.node.Raw
		p.node = m.node
		p.node.Path, p.node.Raw, p.node.Link = path, raw, m.first
		return nil
	case p.node.Kind != vault.KindFile:
		return nil
	}
	return c.read(ctx, p, make([]byte, 256<<10))
}
