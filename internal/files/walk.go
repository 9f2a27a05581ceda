package files

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault"
)

// named is one name of a directory, and how it is listed.
type named struct{ real, listed string }

// listed gives each name the one under which it is listed: itself, or where it is no UTF-8 one with its odd bytes
// written as %XX, unlike any other of the directory.
func listed(names []string) []named {
	out := make([]named, len(names))
	var odd []int
	for i, n := range names {
		out[i] = named{n, n}
		if !utf8.ValidString(n) {
			odd = append(odd, i)
		}
	}
	if len(odd) > 0 {
		taken := map[string]bool{}
		for _, n := range names {
			taken[n] = true
		}
		slices.SortFunc(odd, func(a, b int) int { return cmp.Compare(names[a], names[b]) })
		for _, i := range odd {
			name := Spelled(names[i])
			for taken[name] {
				name += "%"
			}
			taken[name], out[i].listed = true, name
		}
	}
	slices.SortFunc(out, func(a, b named) int { return cmp.Compare(a.listed, b.listed) })
	return out
}

// Spelled is a name with the bytes that are no UTF-8 written as %XX. Where that is another name of its directory, a list
// has it with one % or more behind it.
func Spelled(name string) string {
	var b strings.Builder
	for len(name) > 0 {
		r, n := utf8.DecodeRuneInString(name)
		if r == utf8.RuneError && n <= 1 {
			fmt.Fprintf(&b, "%%%02X", name[0])
			n = 1
		} else {
			b.WriteString(name[:n])
		}
		name = name[n:]
	}
	return b.String()
}

// place is a directory that is walked.
type place struct {
	at     *os.File
	listed string
	real   string
}

func (p place) of(n named) (listed, real string) {
	return path.Join(p.listed, n.listed), path.Join(p.real, n.real)
}

// walk sends every name below the root, in the order of the list.
func (c *capture) walk(ctx context.Context) error {
	at, err := openDirBelow(c.root, "")
	if err != nil {
		return err
	}
	defer func() { _ = at.Close() }() // opened for reading alone
	st, err := statOf(at)
	if err != nil {
		return err
	}
	p := &pending{node: vault.Node{Path: "."}}
	c.prev.find(".")
	describe(&p.node, &st)
	if p.node.Attrs, err = attrsOf(at); err != nil {
		return err
	}
	return c.into(ctx, place{at: at}, p)
}

// into sends a directory that is open, and what is in it.
func (c *capture) into(ctx context.Context, d place, p *pending) error {
	names, err := d.at.Readdirnames(-1)
	if err != nil {
		p.trouble = "it cannot be listed: " + err.Error()
	}
	if err := c.send(ctx, p); err != nil {
		return err
	}
	if p.trouble != "" {
		return nil
	}
	for _, n := range listed(names) {
		if err := c.visit(ctx, d, n); err != nil {
			return err
		}
	}
	return nil
}

func (c *capture) send(ctx context.Context, p *pending) error {
	select {
	case c.order <- p:
	case <-ctx.Done():
		return ctx.Err()
	}
	if p.done == nil {
		return nil
	}
	select {
	case c.work <- p:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// visit sends one name of a directory, with what is in it.
func (c *capture) visit(ctx context.Context, d place, n named) error {
	st, err := lstatAt(d.at, n.real)
	if errors.Is(err, unix.ENOENT) {
		return c.send(ctx, &pending{node: vault.Node{Path: n.listed}, gone: true})
	}
	listedPath, realPath := d.of(n)
	p := &pending{node: vault.Node{Path: listedPath}}
	if realPath != listedPath {
		p.node.Raw = []byte(realPath)
	}
	if err != nil {
		p.trouble = err.Error()
		return c.send(ctx, p)
	}
	describe(&p.node, &st)
	p.in = inodeOf(&st)
	if Excluded(c.o.Exclude, realPath, p.node.Kind == vault.KindDir) {
		return nil
	}
	switch p.node.Kind {
	case vault.KindDir:
		return c.enter(ctx, d, n, p)
	case vault.KindFile:
		c.file(p, uint64(st.Nlink))
	default:
		if err := c.other(d, n, p); err != nil {
			return err
		}
		c.meet(p, uint64(st.Nlink))
	}
	return c.send(ctx, p)
}

func (c *capture) enter(ctx context.Context, d place, n named, p *pending) error {
	c.prev.find(p.node.Path)
	at, err := openToRead(d.at, n.real, unix.O_DIRECTORY)
	if err != nil {
		p.gone = errors.Is(err, unix.ENOENT)
		if !p.gone {
			p.trouble = "it cannot be entered: " + err.Error()
		}
		return c.send(ctx, p)
	}
	defer func() { _ = at.Close() }() // opened for reading alone
	st, err := statOf(at)
	if err == nil {
		describe(&p.node, &st)
		p.node.Attrs, err = attrsOf(at)
	}
	if err != nil {
		p.trouble = err.Error()
		return c.send(ctx, p)
	}
	listedPath, realPath := d.of(n)
	return c.into(ctx, place{at: at, listed: listedPath, real: realPath}, p)
}

// file says whether a file must be read, or is as the earlier backup has it.
func (c *capture) file(p *pending, names uint64) {
	was, known := c.prev.find(p.node.Path)
	if c.meet(p, names) {
		return // its first name is read
	}
	if known && sameFile(was, p.node) && c.to.Has(was.Object) {
		p.node.Object, p.node.Attrs, p.node.Room, p.reused = was.Object, was.Attrs, was.Room, true
		c.distrustFresh(&p.node)
		return
	}
	p.done = make(chan struct{})
}

// sameFile reports whether nothing has touched a file since: not its content, and none of its attributes.
func sameFile(was, now vault.Node) bool {
	return was.Kind == vault.KindFile && was.ChgNs != 0 && was.ChgNs == now.ChgNs && was.ModNs == now.ModNs &&
		was.Size == now.Size && was.Inode == now.Inode && was.Object != ""
}

// meet notes a name of an inode that has several, and reports whether another one came before.
func (c *capture) meet(p *pending, names uint64) bool {
	if names < 2 {
		return false
	}
	m, again := c.met[p.in]
	if !again {
		m = &met{first: p.node.Path, left: names}
		c.met[p.in] = m
	}
	p.met = m
	if m.left--; m.left == 0 {
		delete(c.met, p.in)
	}
	return again
}

// other describes a symbolic link or a special file, which have no content of their own.
func (c *capture) other(d place, n named, p *pending) error {
	c.prev.find(p.node.Path)
	if p.node.Kind == "" {
		p.trouble = "it is of a kind that is not known"
		return nil
	}
	attrs, err := attrsAt(d.at, n.real)
	if err == nil && p.node.Kind == vault.KindSymlink {
		p.node.Target, err = readlink(d.at, n.real)
	}
	if errors.Is(err, unix.ENOENT) {
		p.gone = true
		return nil
	}
	if err != nil {
		p.trouble = err.Error()
		return nil
	}
	p.node.Attrs = attrs
	if p.node.Kind != vault.KindSymlink {
		return nil
	}
	if p.node.Object, _, err = c.to.Content(p.node.Path, strings.NewReader(string(p.node.Target)), make([]byte, 4096)); err != nil {
		return fmt.Errorf("store %q: %w", p.node.Path, err)
	}
	return nil
}

func readlink(dir *os.File, name string) ([]byte, error) {
	for size := 256; ; size *= 2 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
		if err != nil || n < size {
			return buf[:max(n, 0)], err
		}
	}
}
