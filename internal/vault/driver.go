package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/content"

	"holdfast/internal/vault/store"
)

// driverName is our storage's type in kopia's connection file. The stock program never sees that file: it opens the
// same blobs with its own drivers.
const driverName = "holdfast"

// repositoryDir is where the repository's blobs lie in a store.
const repositoryDir = "repository"

// driver is kopia's storage on a [store.Store]. kopia's own drivers replace whatever has the same name, and the one
// for file systems never syncs the directory.
type driver struct {
	blob.DefaultProviderImplementation
	store store.Store
	token string
}

type driverOptions struct {
	Token string `json:"token"`
}

// kopia's only public way to open a repository looks storages up by name in a table of its own process, and hands
// them nothing but what its connection file says. Hence these two package-level values: the stores that are open,
// by the token that is all the file says of them.
var (
	openStores     sync.Map // token -> store.Store
	registerDriver = sync.OnceFunc(func() {
		blob.AddSupportedStorage(driverName, driverOptions{}, func(_ context.Context, o *driverOptions, _ bool) (blob.Storage, error) {
			s, ok := openStores.Load(o.Token)
			if !ok {
				return nil, errors.New("open repository: its store is closed")
			}
			return &driver{store: s.(store.Store), token: o.Token}, nil
		})
	})
)

// newDriver offers a store to kopia until forget is called.
func newDriver(s store.Store) (d *driver, forget func()) {
	registerDriver()
	d = &driver{store: s, token: rand.Text()}
	openStores.Store(d.token, s)
	return d, func() { openStores.Delete(d.token) }
}

func (d *driver) ConnectionInfo() blob.ConnectionInfo {
	return blob.ConnectionInfo{Type: driverName, Config: &driverOptions{Token: d.token}}
}

func (d *driver) DisplayName() string { return "Holdfast vault: " + d.store.Address() }

func blobName(id blob.ID) string { return repositoryDir + "/" + string(id) }

func known(err error) error {
	switch {
	case errors.Is(err, store.ErrUnseen): // kopia goes on as with what is not there, and whoever reads it hears why
		return fmt.Errorf("%w: %w", blob.ErrBlobNotFound, err)
	case errors.Is(err, store.ErrNotFound):
		return blob.ErrBlobNotFound
	}
	return err
}

func (d *driver) GetBlob(ctx context.Context, id blob.ID, offset, length int64, out blob.OutputBuffer) error {
	out.Reset()
	if offset < 0 {
		return fmt.Errorf("read %s from %d: %w", id, offset, blob.ErrInvalidRange)
	}
	if err := d.store.Get(ctx, blobName(id), offset, length, out); err != nil {
		out.Reset()
		if info, lookErr := d.store.Stat(ctx, blobName(id)); length >= 0 && lookErr == nil && offset+length > info.Size {
			err = fmt.Errorf("read %d bytes of %s from %d: %w", length, id, offset, blob.ErrInvalidRange)
		}
		return known(err)
	}
	return blob.EnsureLengthExactly(out.Length(), length)
}

func (d *driver) GetMetadata(ctx context.Context, id blob.ID) (blob.Metadata, error) {
	info, err := d.store.Stat(ctx, blobName(id))
	if err != nil {
		return blob.Metadata{}, known(err)
	}
	return blob.Metadata{BlobID: id, Length: info.Size, Timestamp: info.ModTime}, nil
}

// PutBlob stores packs, indexes and sessions once and for ever; only kopia's few central blobs may change.
func (d *driver) PutBlob(ctx context.Context, id blob.ID, data blob.Bytes, opts blob.PutOptions) error {
	switch {
	case opts.HasRetentionOptions() || opts.DoNotRecreate:
		return blob.ErrUnsupportedPutBlobOption
	case !opts.SetModTime.IsZero():
		return blob.ErrSetTimeUnsupported
	}
	put := d.store.Put
	if changes(id) {
		put = d.store.Replace
	}
	if err := put(ctx, blobName(id), data); err != nil {
		return err
	}
	if opts.GetModTime != nil {
		info, err := d.store.Stat(ctx, blobName(id))
		if err != nil {
			return known(err)
		}
		*opts.GetModTime = info.ModTime
	}
	return nil
}

// changes names the blobs that kopia rewrites on purpose: format, storage configuration, maintenance schedule.
func changes(id blob.ID) bool { return strings.HasPrefix(string(id), "kopia.") }

// DeleteBlob deletes. Where that is not allowed, the markers of writing sessions stay, which kopia deletes after each
// flush: they only keep a clean-up from what is being written. Anything else that cannot be deleted is an error.
func (d *driver) DeleteBlob(ctx context.Context, id blob.ID) error {
	err := d.store.Delete(ctx, blobName(id))
	if errors.Is(err, store.ErrDenied) && strings.HasPrefix(string(id), sessionMarkers) {
		return nil
	}
	return err
}

// sessionMarkers is how the names of kopia's session blobs begin.
const sessionMarkers = string(content.BlobIDPrefixSession)

func (d *driver) ListBlobs(ctx context.Context, prefix blob.ID, each func(blob.Metadata) error) error {
	return d.store.List(ctx, blobName(prefix), func(i store.Info) error {
		id := blob.ID(strings.TrimPrefix(i.Name, repositoryDir+"/"))
		return each(blob.Metadata{BlobID: id, Length: i.Size, Timestamp: i.ModTime})
	})
}
