package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault"
)

// read stores the content of a file, and describes it as it was when it was read. What the file's side refuses is noted
// in p; an error is the vault's.
func (c *capture) read(ctx context.Context, p *pending, buf []byte) error {
	for try := 1; ; try++ {
		again, err := c.readOnce(ctx, p, buf)
		if err != nil || !again {
			return err
		}
		if try == tries {
			p.changed = true
			return nil
		}
	}
}

// readOnce reads a file once; again = it changed meanwhile.
func (c *capture) readOnce(ctx context.Context, p *pending, buf []byte) (again bool, err error) {
	f, err := c.openBelow(p.node.RealPath())
	if errors.Is(err, unix.ENOENT) {
		p.gone = true
		return false, nil
	}
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOTDIR) {
		p.trouble = "it became something else while it was looked at"
		return false, nil
	}
	if err != nil {
		p.trouble = err.Error()
		return false, nil
	}
	defer func() { _ = f.Close() }() // opened for reading alone
	before, settled, err := c.settled(ctx, f)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err == nil && vault.KindOf(before.Mode) != vault.KindFile {
		p.trouble = "it became something else while it was looked at"
		return false, nil
	}
	if err == nil {
		describe(&p.node, &before)
		if p.node.Sparse {
			p.node.Room = roomIn(f, p.node.Size)
		}
		p.node.Attrs, err = attrsOf(f)
	}
	if err != nil {
		p.trouble = err.Error()
		return false, nil
	}
	// What is appended while it is read comes with the next backup: a file that grows as fast as it is read has an end too.
	from := &source{ctx: ctx, r: io.LimitReader(f, before.Size), path: p.node.Path, told: c.o.reading}
	name, n, err := c.to.Content(p.node.Path, from, buf)
	p.read += n
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case from.err != nil:
		p.trouble = from.err.Error()
		return false, nil
	case err != nil:
		return false, fmt.Errorf("store %q: %w", p.node.Path, err)
	}
	p.node.Object, p.node.Size = name, n
	after, err := statOf(f)
	if err != nil {
		p.trouble = err.Error()
		return false, nil
	}
	c.distrustFresh(&p.node)
	return !settled || n != before.Size || after.Size != before.Size || after.Mtim != before.Mtim || after.Ctim != before.Ctim, nil
}

// distrustFresh forgets the change time of what was touched just now, so that the next backup reads it.
func (c *capture) distrustFresh(n *vault.Node) {
	if age := c.o.Clock.Now().UnixNano() - n.ChgNs; age < int64(freshMax) {
		n.ChgNs = 0
	}
}

// source tells an error of what is read from one of where it is stored.
type source struct {
	ctx  context.Context // bounds one reading
	r    io.Reader
	err  error
	path string
	at   int64
	told func(path string, at int64) // nil = nobody asks
}

func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	if s.at += int64(n); s.told != nil {
		s.told(s.path, s.at)
	}
	return n, err
}

// openBelow opens a file below the root, following no symbolic link on the way: who may write into the set could
// otherwise lead a backup that runs as root to files outside it.
func (c *capture) openBelow(rel string) (*os.File, error) {
	dir, name := path.Split(rel)
	at, err := openDirBelow(c.root, strings.TrimSuffix(dir, "/"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = at.Close() }() // opened for reading alone
	return openToRead(at, name, 0)
}

// openDirBelow opens a directory below another, following no symbolic link. rel = "" is the directory itself, anew.
func openDirBelow(root *os.File, rel string) (*os.File, error) {
	at, err := openAt(root, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil || rel == "" || rel == "." {
		return at, err
	}
	for part := range strings.SplitSeq(rel, "/") {
		if part == "" || part == "." || part == ".." {
			return nil, errors.Join(fmt.Errorf("%q is no path below the directory", rel), at.Close())
		}
		next, err := openAt(at, part, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		_ = at.Close() // opened for reading alone
		if err != nil {
			return nil, err
		}
		at = next
	}
	return at, nil
}

// earlier goes through the list of the backup before in step with the walk.
type earlier struct {
	log *slog.Logger
	at  *vault.Cursor // nil = over
	now vault.Node
	any bool
}

func openEarlier(ctx context.Context, v *vault.Vault, b vault.FileBackup, log *slog.Logger) *earlier {
	e := &earlier{log: log.With("backup", b.ID)}
	at, err := v.OpenTree(b).Cursor(ctx)
	if err != nil {
		e.log.Warn("list of the earlier backup is not readable: everything is read", "err", err)
		return e
	}
	e.at = at
	return e
}

func (e *earlier) close() {
	if e.at != nil {
		e.at.Close()
		e.at = nil
	}
}

// find gives what the earlier backup has under a path. Paths are asked for in the order of the list.
func (e *earlier) find(p string) (vault.Node, bool) {
	if e == nil {
		return vault.Node{}, false
	}
	for e.at != nil && (!e.any || vault.ComparePaths(e.now.Path, p) < 0) {
		n, err := e.at.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				e.log.Warn("list of the earlier backup is damaged: the rest is read", "err", err)
			}
			e.close()
			return vault.Node{}, false
		}
		e.now, e.any = n, true
	}
	return e.now, e.at != nil && e.any && e.now.Path == p
}
