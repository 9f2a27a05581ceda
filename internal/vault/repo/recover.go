package repo

import (
	"bytes"
	"context"
	"fmt"

	"holdfast/internal/vault/repo/format"
	"holdfast/internal/vault/repo/index"
)

// tailBytes is how much of a pack's end is read first: the index of most packs lies in it.
const tailBytes = 8192

// Recover gives the entries that lie at the end of a pack, which no index may know. size is the pack's, in bytes; 0 = not known. commit =
// they become part of what the next Flush writes, where they count more than what this session has. format.ErrDamaged: it is no pack,
// or not whole.
func (w *Writer) Recover(ctx context.Context, pack string, size int64, commit bool) ([]Info, error) {
	x, err := w.repo.packIndex(ctx, pack, size)
	if err != nil {
		return nil, fmt.Errorf("ask pack %s what it holds: %w", pack, err)
	}
	var out []Info
	if err := x.Each("", "", func(i Info) error { out = append(out, i); return nil }); err != nil {
		return nil, fmt.Errorf("ask pack %s what it holds: %w", pack, err)
	}
	if !commit {
		return out, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.ended(); err != nil {
		return nil, err
	}
	b := w.batch()
	for _, i := range out {
		if old, ok := w.overlay(i.ID); !ok || i.Beats(old) {
			b.entries[i.ID] = i
		}
	}
	w.changes++
	return out, nil
}

// Told reports whether the indexes tell of everything that a pack holds, so that nothing is lost with it: of each content they have
// an entry that is as new, in whatever pack, be it one that was deleted so long ago that it counts as not there. size and errors are
// those of [Writer.Recover].
func (r *Repository) Told(ctx context.Context, pack string, size int64) (bool, error) {
	if err := r.keepFresh(ctx); err != nil {
		return false, err
	}
	x, err := r.packIndex(ctx, pack, size)
	if err != nil {
		return false, fmt.Errorf("ask pack %s what it holds: %w", pack, err)
	}
	told := true
	err = x.Each("", "", func(i Info) error {
		known, _, ok := r.known.find(i.ID)
		told = told && (ok && known.Time >= i.Time || !ok && i.Deleted)
		return nil
	})
	return told, err
}

// packIndex reads the index at the end of a pack.
func (r *Repository) packIndex(ctx context.Context, pack string, size int64) (*index.Index, error) {
	if size <= 0 {
		b, err := r.StatBlob(ctx, pack)
		if err != nil {
			return nil, err
		}
		size = b.Size
	}
	from := max(0, size-tailBytes)
	tail, err := r.part(ctx, pack, from, size-from)
	if err != nil {
		return nil, err
	}
	t, ok := readTrailer(tail)
	if !ok || int64(t.offset)+int64(t.length) > size {
		return nil, fmt.Errorf("%w: it does not end as a pack does", format.ErrDamaged)
	}
	sealed := tail
	if at := int64(t.offset) - from; at >= 0 {
		sealed = tail[at : at+int64(t.length)]
	} else if sealed, err = r.part(ctx, pack, int64(t.offset), int64(t.length)); err != nil {
		return nil, err
	}
	raw, err := r.seal.OpenIndex(nil, sealed, t.under)
	if err != nil {
		return nil, err
	}
	return index.Open(raw)
}

func (r *Repository) part(ctx context.Context, blob string, offset, length int64) ([]byte, error) {
	var b bytes.Buffer
	if err := r.blobs.Get(ctx, blobDir+blob, offset, length, &b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
