package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"holdfast/internal/vault/store"
	"holdfast/internal/vault/wal"
)

// readPiece reads a piece of log from where it lies, and proves that it is what its name says.
func (l *Log) readPiece(ctx context.Context, piece wal.Held) (walHeader, []byte, error) {
	if _, ok := parseBundleName(piece.Object); !ok {
		return l.read(ctx, piece.Object)
	}
	b, err := l.bundleAt(ctx, piece.Object)
	if err != nil {
		return walHeader{}, nil, err
	}
	i := int(piece.Start-b.first) / int(l.segmentSize)
	if b.timeline != piece.Timeline || piece.Start < b.first || i >= len(b.parts) {
		return walHeader{}, nil, fmt.Errorf("read log %s: it does not hold %s", piece.Object, piece.Start)
	}
	content, err := l.part(ctx, b, i)
	if err != nil {
		return walHeader{}, nil, fmt.Errorf("read log %s: segment %d of %d: %w", piece.Object, i+1, len(b.parts), err)
	}
	return walHeader{kind: walSegment, timeline: b.timeline, systemID: b.systemID, start: piece.Start, segmentSize: b.size, covers: b.parts[i].covers}, content, nil
}

// part reads one segment of a bundle. What one copy has damaged is read from another.
func (l *Log) part(ctx context.Context, b bundle, i int) ([]byte, error) {
	p := b.parts[i]
	read := func() ([]byte, error) {
		var raw bytes.Buffer
		if err := l.vault.files.Get(ctx, b.object, p.offset, p.length, &raw); err != nil {
			return nil, err
		}
		return l.vault.openPart(b, i, raw.Bytes())
	}
	content, err := read()
	if err != nil && l.elsewhere(ctx, b.object, err) {
		content, err = read()
	}
	return content, err
}

// elsewhere looks, after a part of a blob was no good, whether another copy has it whole: that is read first from then on.
func (l *Log) elsewhere(ctx context.Context, object string, err error) bool {
	if l.vault.members == nil || ctx.Err() != nil || errors.Is(err, store.ErrNotFound) {
		return false
	}
	found, err := l.vault.members.Examine(ctx, object)
	return err == nil && found
}

// bundleAt is the index of a bundle, read once: it never changes.
func (l *Log) bundleAt(ctx context.Context, object string) (bundle, error) {
	if b, ok := l.vault.bundles.get(object); ok {
		return b, nil
	}
	read := func() (bundle, error) {
		name, _ := parseBundleName(object) // the caller has seen that it is one
		var raw bytes.Buffer
		if err := l.vault.files.Get(ctx, object, 0, headSize(name.count), &raw); err != nil {
			return bundle{}, err
		}
		return l.vault.openBundle(object, raw.Bytes())
	}
	b, err := read()
	if err != nil && l.elsewhere(ctx, object, err) {
		b, err = read()
	}
	if err == nil && (b.systemID != l.systemID || b.size != l.segmentSize || path.Dir(object) != l.dir(b.timeline)) {
		err = errors.New("its content is of another place in the log")
	}
	if err != nil {
		return bundle{}, fmt.Errorf("read log %s: %w", object, err)
	}
	l.vault.bundles.put(b)
	return b, nil
}

// bundleHolds reports whether a bundle that has the place of a segment has its content, by the name that the segment's
// object has alone.
func (l *Log) bundleHolds(ctx context.Context, object, segment string) (bool, error) {
	b, err := l.bundleAt(ctx, object)
	if err != nil {
		return false, err
	}
	name, _ := parseBundleName(object)
	hash, ok := segmentHash(segment)
	i := name.index(path.Join(l.dir(b.timeline), segment))
	return ok && i >= 0 && b.parts[i].hash == hash, nil
}

// bundledCovers is [Log.Covers] of a segment in a bundle.
func (l *Log) bundledCovers(ctx context.Context, piece wal.Held) (time.Time, error) {
	b, err := l.bundleAt(ctx, piece.Object)
	if errors.Is(err, store.ErrNotFound) {
		return time.Time{}, nil
	}
	i := int(piece.Start-b.first) / int(l.segmentSize)
	if err != nil || piece.Start < b.first || i >= len(b.parts) {
		return time.Time{}, errors.Join(err, ctx.Err())
	}
	return b.parts[i].covers, nil
}

// bundledThere errs unless what a bundle took the place of may go from a copy: it was let go of by its own name and no bundle
// that must be there has its place, or each one that has is whole in this copy, with the same content.
func (v *Vault) bundledThere(ctx context.Context, c catalog, there store.Store, name string) error {
	if !c.bundles.covers(name) {
		if !c.rows[name].Gone {
			return errNoBundle
		}
		return nil
	}
	for object, r := range c.rows {
		b, ok := parseBundleName(object)
		if !ok || r.Gone || !b.has(name) {
			continue
		}
		raw, err := store.Read(ctx, there, object)
		if err != nil || v.checkBundle(object, raw) != nil {
			return errNoBundle
		}
		in, err := v.openBundle(object, raw)
		if err != nil {
			return errNoBundle
		}
		if hash, whole := segmentHash(name); whole && in.parts[b.index(name)].hash != hash {
			return errOtherBundle
		}
	}
	return nil
}
