package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/internal/vault/repo/compression"
	"holdfast/internal/vault/repo/format"
	"holdfast/internal/vault/repo/index"
	"holdfast/internal/vault/store"
)

// writtenVersion is the format version that entries of new contents bear.
const writtenVersion = 3

// Content reads one content, also one that is deleted, as long as an index knows it. Its bytes are authentic, or it is an error:
// [ErrContentNotFound] where no index knows it; store.ErrNotFound where its pack is gone, with store.ErrUnseen beside it where
// the pack may be in a place that does not answer; [format.ErrDamaged].
func (r *Repository) Content(ctx context.Context, id ContentID) ([]byte, error) {
	return r.ContentInto(ctx, id, nil)
}

// ContentInto is [Repository.Content], and puts the content into room, over whatever is there, where it is long enough.
func (r *Repository) ContentInto(ctx context.Context, id ContentID, room []byte) ([]byte, error) {
	i, err := r.ContentInfo(ctx, id)
	if err != nil {
		return nil, err
	}
	var p []byte
	err = r.whereItLies(ctx, i, func(i Info) (err error) {
		p, err = r.readContent(ctx, i, room)
		return err
	})
	return p, err
}

// whereItLies reads a content where its entry says that it lies, and where the pack is gone, where it lies by now.
func (r *Repository) whereItLies(ctx context.Context, i Info, read func(Info) error) error {
	err := read(i)
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	// It may have been moved into another pack since the indexes were read. A pack goes long after what was in it was moved, so
	// that indexes of a moment ago need not be read again for each content of a pack that is lost.
	if r.refreshOlder(ctx, indexesMoment) != nil {
		return err
	}
	if now, _, ok := r.known.find(i.ID); ok && now.Pack != i.Pack {
		return read(now)
	}
	return err
}

// ContentInfo says where a content lies. A deleted one is given too, unless that was so long ago that it counts as not there.
func (r *Repository) ContentInfo(ctx context.Context, id ContentID) (Info, error) {
	if err := r.keepFresh(ctx); err != nil {
		return Info{}, err
	}
	i, counts, _ := r.known.find(id)
	if !counts {
		return Info{}, fmt.Errorf("look up %s: %w", id, ErrContentNotFound)
	}
	return i, nil
}

// EachContent gives every content, in the order of their names, and calls each from one goroutine. deletedToo = also those that
// are deleted, unless that was so long ago that they count as not there.
func (r *Repository) EachContent(ctx context.Context, deletedToo bool, each func(Info) error) error {
	return r.eachBetween(ctx, "", "", deletedToo, each)
}

// EachContentOf is [Repository.EachContent] for the contents of one prefix: "" = those without, "m" = manifests.
func (r *Repository) EachContentOf(ctx context.Context, prefix string, deletedToo bool, each func(Info) error) error {
	from, to := between(prefix)
	return r.eachBetween(ctx, from, to, deletedToo, each)
}

// between gives the bounds of the names with a prefix: hexadecimal digits come before every prefix.
func between(prefix string) (from, to string) {
	if prefix == "" {
		return "", "g"
	}
	return prefix, string(prefix[0] + 1)
}

func (r *Repository) eachBetween(ctx context.Context, from, to string, deletedToo bool, each func(Info) error) error {
	if err := r.keepFresh(ctx); err != nil {
		return err
	}
	r.known.mu.RLock()
	all, watermark := r.known.merged, r.known.watermark
	r.known.mu.RUnlock()
	return all.Each(from, to, func(i Info) error {
		if i.Deleted && (!deletedToo || expired(i, watermark)) {
			return nil
		}
		return each(i)
	})
}

// revision changes whenever another set of indexes counts.
func (r *Repository) revision() int64 {
	r.known.mu.RLock()
	defer r.known.mu.RUnlock()
	return r.known.revision
}

// Name is the id that these bytes have without a prefix.
func (r *Repository) Name(p []byte) ContentID {
	id, _ := index.MakeID("", r.seal.Hash(p)) // errs for a hash that is too long or empty, which this one is not
	return id
}

// readContent reads what an entry speaks of from the store, into room where that is long enough.
func (r *Repository) readContent(ctx context.Context, i Info, room []byte) ([]byte, error) {
	packed := r.room()
	defer r.giveBack(packed)
	sealed, err := r.readSealed(ctx, i, *packed)
	if err != nil {
		return nil, err
	}
	*packed = sealed
	return r.open(i, sealed, room)
}

// readSealed reads the bytes of a content as they lie in its pack, into room.
func (r *Repository) readSealed(ctx context.Context, i Info, room []byte) ([]byte, error) {
	b := bytes.NewBuffer(room[:0])
	b.Grow(int(i.Packed) + bytes.MinRead) // with less, looking for the end takes room once more
	if err := r.blobs.Get(ctx, blobDir+i.Pack, int64(i.Offset), int64(i.Packed), b); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			err = &LostPackError{Pack: i.Pack, Err: err}
		}
		return nil, fmt.Errorf("read content %s in %s: %w", i.ID, i.Pack, err)
	}
	if b.Len() != int(i.Packed) {
		return nil, fmt.Errorf("read content %s in %s: %d bytes of %d: %w", i.ID, i.Pack, b.Len(), i.Packed, store.ErrShort)
	}
	return b.Bytes(), nil
}

// open gives what a content is, in room where that is long enough. The caller owns the bytes.
func (r *Repository) open(i Info, sealed, room []byte) ([]byte, error) {
	plain, err := r.unseal(i, sealed, room[:0])
	if err == nil && len(plain) != int(i.Original) {
		err = fmt.Errorf("%w: %d bytes, %d were stored", format.ErrDamaged, len(plain), i.Original)
	}
	if err != nil {
		return nil, fmt.Errorf("read content %s in %s at %d: %w", i.ID, i.Pack, i.Offset, err)
	}
	return plain, nil
}

func (r *Repository) unseal(i Info, sealed, to []byte) ([]byte, error) {
	if i.KeyID != 0 {
		return nil, fmt.Errorf("%w: it is sealed with key %d", format.ErrTooNew, i.KeyID)
	}
	under := i.ID.Hash()
	if i.Compression == 0 {
		return r.seal.Open(slices.Grow(to, max(0, len(sealed)-r.seal.Overhead())), sealed, under)
	}
	room := r.room()
	defer r.giveBack(room)
	packed, err := r.seal.Open(*room, sealed, under)
	if err != nil {
		return nil, err
	}
	*room = packed
	return r.zip.Decompress(to, packed, compression.ID(i.Compression), int(i.Original))
}

// sealContent gives a content as it lies in a pack, in room, and how it is compressed: what does not become shorter is not.
func (r *Repository) sealContent(p []byte, id ContentID, compress bool, room []byte) (sealed []byte, header compression.ID, err error) {
	if compress {
		packed := r.room()
		defer r.giveBack(packed)
		if *packed, err = r.zip.Compress(*packed, p); err != nil {
			return nil, 0, err
		}
		if len(*packed) < len(p) {
			p, header = *packed, compression.Fastest
		}
	}
	sealed, err = r.seal.Seal(room[:0], p, id.Hash())
	return sealed, header, err
}
