package vault

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/sharded"

	"holdfast/internal/vault/filestore"
)

// driverName is our storage's type in kopia's connection file. On the disk it lays files out exactly as
// kopia's own "filesystem" does, so the stock program opens the same directory.
const driverName = "holdfast-fs"

type driverOptions struct {
	Path string `json:"path"`
}

// driver is kopia's storage on a [filestore.Store]. kopia's own syncs files since 0.23 but never the
// directory, and replaces whatever has the same name.
type driver struct {
	sharded.Storage
	blob.DefaultProviderImplementation
	path string
}

func newDriver(_ context.Context, opt *driverOptions, create bool) (blob.Storage, error) {
	files, err := filestore.Open(opt.Path)
	if err != nil {
		return nil, err
	}
	return &driver{Storage: sharded.New(driverFiles{files}, opt.Path, sharded.Options{}, create), path: opt.Path}, nil
}

func (d *driver) ConnectionInfo() blob.ConnectionInfo {
	return blob.ConnectionInfo{Type: driverName, Config: &driverOptions{Path: d.path}}
}

func (d *driver) DisplayName() string { return "Holdfast vault: " + d.path }

// driverFiles gives sharded.Storage its files. Paths come in absolute, below the store's root.
type driverFiles struct{ files *filestore.Store }

func (d driverFiles) name(p string) (string, error) {
	rel, err := filepath.Rel(d.files.Root(), p)
	return filepath.ToSlash(rel), err
}

func (d driverFiles) GetBlobFromPath(ctx context.Context, _, path string, offset, length int64, out blob.OutputBuffer) error {
	name, err := d.name(path)
	if err != nil {
		return err
	}
	out.Reset()
	if err := d.files.Get(ctx, name, offset, length, out); err != nil {
		if errors.Is(err, filestore.ErrNotFound) {
			return blob.ErrBlobNotFound
		}
		return err
	}
	return blob.EnsureLengthExactly(out.Length(), length)
}

func (d driverFiles) GetMetadataFromPath(ctx context.Context, _, path string) (blob.Metadata, error) {
	name, err := d.name(path)
	if err != nil {
		return blob.Metadata{}, err
	}
	info, err := d.files.Stat(ctx, name)
	if errors.Is(err, filestore.ErrNotFound) {
		return blob.Metadata{}, blob.ErrBlobNotFound
	}
	return blob.Metadata{Length: info.Size, Timestamp: info.ModTime}, err
}

// PutBlobInPath stores packs, indexes and sessions once and for ever; only kopia's few central blobs may change.
func (d driverFiles) PutBlobInPath(ctx context.Context, _, path string, data blob.Bytes, opts blob.PutOptions) error {
	if opts.HasRetentionOptions() || opts.DoNotRecreate {
		return blob.ErrUnsupportedPutBlobOption
	}
	name, err := d.name(path)
	if err != nil {
		return err
	}
	if changes(filepath.Base(path)) {
		err = d.files.Replace(ctx, name, data)
	} else {
		err = d.files.Put(ctx, name, data)
	}
	if err != nil {
		return err
	}
	if !opts.SetModTime.IsZero() {
		if err := os.Chtimes(path, opts.SetModTime, opts.SetModTime); err != nil {
			return err
		}
	}
	if opts.GetModTime != nil {
		info, err := d.files.Stat(ctx, name)
		if err != nil {
			return err
		}
		*opts.GetModTime = info.ModTime
	}
	return nil
}

// changes names the blobs that kopia rewrites on purpose: format, storage configuration, maintenance schedule.
func changes(base string) bool { return strings.HasPrefix(base, "kopia.") }

func (d driverFiles) DeleteBlobInPath(ctx context.Context, _, path string) error {
	name, err := d.name(path)
	if err != nil {
		return err
	}
	return d.files.Delete(ctx, name)
}

func (d driverFiles) ReadDir(_ context.Context, path string) ([]os.FileInfo, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	infos := make([]os.FileInfo, 0, len(entries))
	for _, e := range entries {
		fi, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted since it was listed
		}
		if err != nil {
			return nil, err
		}
		infos = append(infos, fi)
	}
	return infos, nil
}
