package upkeep

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"sync"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/snapshot"
)

// markLanes is how many directories and lists are read at a time: each may be a request to a place far away.
const markLanes = 8

// marks is what listed snapshots use. Nothing of it is ever taken back.
type marks struct {
	r    *repo.Repository
	gone *gonePacks

	mu       sync.Mutex // guards what follows
	contents map[uint64]struct{}
	walked   map[repo.ObjectID]struct{} // directories and lists; by their whole name, for what is skipped must have been walked
	listed   map[repo.ManifestID]bool   // snapshots
	lost     int                        // contents that are used and were given up
}

func newMarks(r *repo.Repository, gone *gonePacks) *marks {
	return &marks{r: r, gone: gone, contents: map[uint64]struct{}{}, walked: map[repo.ObjectID]struct{}{}, listed: map[repo.ManifestID]bool{}}
}

// mark is the begin of a content's hash. Two contents with the same one are both kept when one is used, which harms nothing, and a
// content takes a third of the memory that its whole hash would.
func mark(id repo.ContentID) uint64 {
	var begin [8]byte
	copy(begin[:], id.Hash())
	return binary.BigEndian.Uint64(begin[:])
}

func (m *marks) used(id repo.ContentID) bool {
	_, ok := m.contents[mark(id)]
	return ok
}

// object is what is still to be walked, with where it was found.
type object struct {
	id   repo.ObjectID
	dir  bool
	path string
}

// listedNow marks what the snapshots use that are listed and were not when it was called before. It gives their number. One that
// cannot be read is an error, and so is a content that no index knows: what is deleted meanwhile is not known to be unused then.
func (m *marks) listedNow(ctx context.Context) (int, error) {
	found, err := m.r.FindManifests(ctx, map[string]string{repo.TypeLabel: snapshot.ManifestType})
	if err != nil {
		return 0, fmt.Errorf("list snapshots: %w", err)
	}
	var roots []object
	for _, e := range found {
		if m.listed[e.ID] {
			continue
		}
		s, err := snapshot.Load(ctx, m.r, e.ID)
		if err != nil {
			return 0, fmt.Errorf("read snapshot %s: %w", e.ID, err)
		}
		if s.RootObjectID() == (repo.ObjectID{}) {
			return 0, fmt.Errorf("read snapshot %s: it has no root", e.ID)
		}
		m.listed[e.ID] = true
		roots = append(roots, object{s.RootObjectID(), s.RootEntry.Type == snapshot.TypeDir, "snapshot " + string(e.ID)})
	}
	n := len(roots)
	for len(roots) > 0 {
		if roots, err = m.step(ctx, roots); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// step walks some objects and gives what they lead to.
func (m *marks) step(ctx context.Context, from []object) (next []object, err error) {
	var mu sync.Mutex // guards next
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(markLanes)
	for _, o := range from {
		if !m.fresh(o) {
			continue
		}
		g.Go(func() error {
			more, err := m.walk(ctx, o)
			if err != nil {
				return fmt.Errorf("%s: %w", o.path, err)
			}
			mu.Lock()
			defer mu.Unlock()
			next = append(next, more...)
			return nil
		})
	}
	return next, g.Wait()
}

// fresh is false for an object that was walked already.
func (m *marks) fresh(o object) bool {
	content, _, direct := o.id.Content()
	m.mu.Lock()
	defer m.mu.Unlock()
	if direct && !o.dir {
		return !m.used(content)
	}
	_, ok := m.walked[o.id]
	m.walked[o.id] = struct{}{}
	return !ok
}

// walk marks the content of an object, or gives what the object leads to.
func (m *marks) walk(ctx context.Context, o object) ([]object, error) {
	var out []object
	if content, _, ok := o.id.Content(); ok {
		if err := m.use(ctx, content); err != nil {
			return nil, err
		}
	} else if list, ok := o.id.List(); ok {
		parts, err := m.r.Parts(ctx, list)
		if err != nil {
			return nil, err
		}
		out = append(out, object{id: list, path: o.path})
		for _, p := range parts {
			out = append(out, object{id: p.Object, path: o.path})
		}
	} else {
		return nil, errors.New("object without a name")
	}
	if !o.dir {
		return out, nil
	}
	d, err := snapshot.ReadDir(ctx, m.r, o.id)
	if err != nil {
		return nil, err
	}
	for _, e := range d.Entries {
		dir := e.Type == snapshot.TypeDir
		if e.ObjectID == (repo.ObjectID{}) {
			if dir {
				return nil, fmt.Errorf("directory %q has no object", e.Name)
			}
			continue // what has no content, as a device
		}
		out = append(out, object{e.ObjectID, dir, path.Join(o.path, e.Name)})
	}
	return out, nil
}

// use marks a content. One that is deleted is used all the same: that mark was wrong, and is taken away.
func (m *marks) use(ctx context.Context, id repo.ContentID) error {
	_, err := m.r.ContentInfo(ctx, id)
	lost := false
	if errors.Is(err, repo.ErrContentNotFound) {
		var asked error
		if lost, asked = m.givenUp(ctx, id); lost {
			err = nil
		}
		err = errors.Join(err, asked)
	}
	if err != nil {
		return fmt.Errorf("content %s: %w", id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if lost {
		m.lost++
	}
	m.contents[mark(id)] = struct{}{}
	return nil
}

// givenUp reports whether a content that counts as not there is data of files that was given up: its entry says that it was deleted,
// and its pack is gone or was given up. What no index knows is another matter, and so is what could still be had.
func (m *marks) givenUp(ctx context.Context, id repo.ContentID) (bool, error) {
	i, ok := m.r.Dropped(id)
	if !ok || id.Prefix() != "" {
		return false, nil
	}
	return m.gone.has(ctx, i.Pack)
}
