package mount

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"path"

	"holdfast/internal/vault"
)

// name is the number of a name in the list of a backup: 0 is the root, and whoever is in a directory comes behind it.
// The list never changes, so the number also stands for the name towards the kernel.
type name = uint32

// index finds names in the list without holding it: about 20 bytes for each.
type index struct {
	at    []int64 // where the line of each name begins in the spool; one more at the end
	from  []int   // of a directory: where its names begin in kids
	count []uint32
	kids  []name // of all directories, those of one beside each other in the order of the list
	// first leads from a further name of an inode to its first one, and names says how many it has.
	first map[name]name
	names map[name]uint32
}

// pathSum stands for a path while the index is made.
type pathSum [16]byte

func sumOf(p string) pathSum {
	s := sha256.Sum256([]byte(p))
	return pathSum(s[:16])
}

// openDir is a directory whose names are being gathered.
type openDir struct {
	of   name
	path string
	kids []name
}

// gathering is an index that is being made.
type gathering struct {
	index
	open []openDir
	sums []pathSum        // of each name that is no directory
	more map[name]pathSum // further names of an inode: the path of the first
}

// gather reads the list of a backup once, into the spool and an index over it.
func gather(ctx context.Context, t *vault.Tree, to *spool) (*index, error) {
	c, err := t.Cursor(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	g := &gathering{index: index{first: map[name]name{}, names: map[name]uint32{}}, more: map[name]pathSum{}}
	for {
		n, err := c.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = g.add(n, to.size)
		}
		if err == nil {
			err = to.write(c.Line())
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
	}
	if err := to.flush(); err != nil {
		return nil, err
	}
	return g.end(to.size)
}

func (g *gathering) add(n vault.Node, at int64) error {
	if len(g.at) == math.MaxUint32-1 {
		return fmt.Errorf("show backup: it has more than %d names", len(g.at))
	}
	i := name(len(g.at))
	g.at, g.from, g.count = append(g.at, at), append(g.from, 0), append(g.count, 0)
	for i > 0 && len(g.open) > 0 && g.open[len(g.open)-1].path != path.Dir(n.Path) {
		g.leave()
	}
	if (i == 0) != (n.Path == ".") || i > 0 && len(g.open) == 0 {
		return fmt.Errorf("show backup: %q is in no directory of the list", n.Path)
	}
	if i > 0 {
		d := &g.open[len(g.open)-1]
		d.kids = append(d.kids, i)
	}
	if n.Kind == vault.KindDir {
		g.sums = append(g.sums, pathSum{})
		g.open = append(g.open, openDir{of: i, path: n.Path})
		return nil
	}
	g.sums = append(g.sums, sumOf(n.Path))
	if n.Link != "" {
		g.more[i] = sumOf(n.Link)
	}
	return nil
}

func (g *gathering) leave() {
	d := g.open[len(g.open)-1]
	g.open = g.open[:len(g.open)-1]
	g.from[d.of], g.count[d.of] = len(g.kids), uint32(len(d.kids))
	g.kids = append(g.kids, d.kids...)
}

// end closes what is open, and finds the first name of each inode that has several. One that is not in the list leaves
// its names files of their own.
func (g *gathering) end(size int64) (*index, error) {
	if len(g.at) == 0 {
		return nil, errors.New("show backup: its list is empty")
	}
	for len(g.open) > 0 {
		g.leave()
	}
	g.at = append(g.at, size)
	wanted := make(map[pathSum]name, len(g.more))
	for _, s := range g.more {
		wanted[s] = 0 // no first name is the root
	}
	if len(wanted) > 0 {
		for i, s := range g.sums {
			if _, ok := wanted[s]; ok && i > 0 {
				wanted[s] = name(i)
			}
		}
	}
	for i, s := range g.more {
		if to := wanted[s]; to != 0 {
			g.first[i] = to
			g.names[to]++
		}
	}
	x := g.index // by itself: what was needed to make it goes
	return &x, nil
}

// total is how many names there are.
func (x *index) total() int { return len(x.at) - 1 }

// in gives the names of a directory, in their order.
func (x *index) in(dir name) []name {
	return x.kids[x.from[dir]:][:x.count[dir]]
}

// inode is the name that stands for the inode of another, most often itself.
func (x *index) inode(i name) name {
	if to, ok := x.first[i]; ok {
		return to
	}
	return i
}

// links is how many names an inode has.
func (x *index) links(i name) uint32 { return 1 + x.names[i] }
