package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"holdfast/internal/vault/repo"
)

// ObjectOpener is a repository or a writer.
type ObjectOpener interface {
	OpenObject(ctx context.Context, id repo.ObjectID) (*repo.ObjectReader, error)
}

// ReadDir reads one directory.
func ReadDir(ctx context.Context, r ObjectOpener, id repo.ObjectID) (*DirManifest, error) {
	in, err := r.OpenObject(ctx, id)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(in)
	if err = errors.Join(err, in.Close()); err != nil {
		return nil, err
	}
	var d DirManifest
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, fmt.Errorf("object %s is no directory: %w", id, err)
	}
	if d.Stream != DirStream {
		return nil, fmt.Errorf("object %s is no directory, but %q", id, d.Stream)
	}
	for _, e := range d.Entries {
		if e == nil || !properName(e.Name) {
			return nil, fmt.Errorf("object %s is no directory: it has an entry without a proper name", id)
		}
	}
	return &d, nil
}

// properName reports whether a name stays in its directory.
func properName(name string) bool {
	return name != "" && name != "." && name != ".." && path.Base(name) == name && name != "/"
}

// Each walks a tree, each directory before what is in it, in the order of its entries. The root has the path ".". When each
// returns [fs.SkipDir] for a directory its entries are passed over, as for one that was seen in another snapshot; any other
// error ends the walk and is returned as it is.
func Each(ctx context.Context, r *repo.Repository, root *DirEntry, each func(path string, e *DirEntry) error) error {
	if root == nil {
		return errors.New("walk a snapshot: it has no root")
	}
	return walk(ctx, r, ".", root, each)
}

func walk(ctx context.Context, r ObjectOpener, at string, e *DirEntry, each func(string, *DirEntry) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := each(at, e)
	if e.Type == TypeDir && errors.Is(err, fs.SkipDir) {
		return nil
	}
	if err != nil || e.Type != TypeDir {
		return err
	}
	d, err := ReadDir(ctx, r, e.ObjectID)
	if err != nil {
		return fmt.Errorf("read directory %q: %w", at, err)
	}
	for _, below := range d.Entries {
		if err := walk(ctx, r, path.Join(at, below.Name), below, each); err != nil {
			return err
		}
	}
	return nil
}
