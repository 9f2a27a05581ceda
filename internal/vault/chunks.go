package vault

import (
	"context"
	"errors"
	"fmt"

	"holdfast/internal/vault/repo"
)

// ChunkSize is how many bytes of a file one chunk holds, but for a file's last. It divides a relation's 1 GiB
// files evenly and holds whole pages, so that a chunk is always the same pages.
const ChunkSize = 1 << 20

// Chunk is a stretch of a stored file. Two chunks of one vault with equal content are Equal.
type Chunk struct {
	Length int64
	object repo.ObjectID
}

// Equal reports whether both hold the same bytes.
func (c Chunk) Equal(d Chunk) bool { return c.Length == d.Length && c.object == d.object }

// Chunks lists what a file is made of, in its order. A file that was not stored by pieces of ChunkSize has
// no list that could be used: ok is false.
func (r *Reader) Chunks(ctx context.Context, e Entry) (list []Chunk, ok bool, err error) {
	list, err = r.parts(ctx, e)
	if err != nil {
		return nil, false, fmt.Errorf("list the chunks of %s: %w", e.Path, err)
	}
	at := int64(0)
	for i, k := range list {
		if k.Length > ChunkSize || i < len(list)-1 && k.Length != ChunkSize {
			return nil, false, nil
		}
		at += k.Length
	}
	return list, at == e.Size, nil
}

// parts lists what a file is made of, whatever the sizes are.
func (r *Reader) parts(ctx context.Context, e Entry) ([]Chunk, error) {
	id, err := repo.ParseObjectID(e.object)
	if err != nil {
		return nil, err
	}
	index, indirect := id.List()
	if !indirect {
		return []Chunk{{Length: e.Size, object: id}}, nil
	}
	entries, err := r.vault.repo.Parts(ctx, index)
	if err != nil {
		return nil, err
	}
	list := make([]Chunk, 0, len(entries))
	at := int64(0)
	for _, x := range entries {
		if x.Start != at || x.Length < 0 {
			return nil, fmt.Errorf("its list of chunks has a hole at byte %d", at)
		}
		at += x.Length
		list = append(list, Chunk{Length: x.Length, object: x.Object})
	}
	return list, nil
}

// ChunkWriter stores one file by chunks: new ones by their bytes, and ones of an earlier backup by name, which
// costs nothing. What comes out is a file like any other: nothing depends on the earlier backup.
type ChunkWriter struct {
	w       *Writer
	entry   Entry
	at      int64
	entries []repo.Part
}

// Chunked begins a file. e.Size is ignored: what is added counts.
func (w *Writer) Chunked(e Entry) *ChunkWriter {
	e.Size = 0
	return &ChunkWriter{w: w, entry: e}
}

// Append adds the next ChunkSize bytes of the file, or its last ones. One goroutine writes one file.
func (c *ChunkWriter) Append(p []byte) (Chunk, error) {
	if err := errors.Join(c.w.vault.broken(), c.w.work.alive(c.w.ctx)); err != nil {
		return Chunk{}, err
	}
	if len(p) > ChunkSize || c.at%ChunkSize != 0 {
		return Chunk{}, fmt.Errorf("store %s: %d bytes at %d are no chunk", c.entry.Path, len(p), c.at)
	}
	obj := c.w.repo.NewObject(c.w.ctx, repo.ObjectOptions{Splitter: splitter, Compress: true})
	_, err := obj.Write(p)
	var id repo.ObjectID
	if err == nil {
		id, err = obj.Result()
	}
	if err = errors.Join(err, obj.Close()); err != nil {
		return Chunk{}, fmt.Errorf("store %s: %w", c.entry.Path, err)
	}
	k := Chunk{Length: int64(len(p)), object: id}
	c.add(k)
	return k, nil
}

// Reuse adds a chunk that the vault holds. It is false, and nothing is added, when the vault does not hold it
// any more: then its bytes must be stored again.
func (c *ChunkWriter) Reuse(k Chunk) (bool, error) {
	if k.Length > ChunkSize || c.at%ChunkSize != 0 {
		return false, fmt.Errorf("store %s: %d bytes at %d are no chunk", c.entry.Path, k.Length, c.at)
	}
	if err := c.w.work.alive(c.w.ctx); err != nil {
		return false, err
	}
	id, _, direct := k.object.Content()
	if !direct {
		return false, nil
	}
	about, err := c.w.vault.repo.ContentInfo(c.w.ctx, id)
	if errors.Is(err, repo.ErrContentNotFound) || err == nil && about.Deleted {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a chunk of %s: %w", c.entry.Path, err)
	}
	c.add(k)
	return true, nil
}

// Join adds the chunks of d, which is not used any more: stretches of one file may be stored by several goroutines. All but
// the last one must be whole chunks.
func (c *ChunkWriter) Join(d *ChunkWriter) error {
	for _, e := range d.entries {
		if c.at%ChunkSize != 0 {
			return fmt.Errorf("store %s: what follows at %d is no chunk", c.entry.Path, c.at)
		}
		c.add(Chunk{Length: e.Length, object: e.Object})
	}
	return nil
}

func (c *ChunkWriter) add(k Chunk) {
	c.entries = append(c.entries, repo.Part{Start: c.at, Length: k.Length, Object: k.object})
	c.at += k.Length
}

// Keep ends the file and makes it part of the backup.
func (c *ChunkWriter) Keep() error {
	if len(c.entries) == 0 {
		if _, err := c.Append(nil); err != nil {
			return err
		}
	}
	id, err := c.list()
	if err != nil {
		return fmt.Errorf("store %s: %w", c.entry.Path, err)
	}
	c.entry.Size, c.entry.object = c.at, id.String()
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.w.entries[c.entry.Path] = c.entry
	return nil
}

// list writes the list of the chunks, without reading them back.
func (c *ChunkWriter) list() (repo.ObjectID, error) {
	if len(c.entries) == 1 {
		return c.entries[0].Object, nil
	}
	return c.w.repo.StoreParts(c.w.ctx, c.entries, repo.ObjectOptions{Compress: true})
}

// Checkpoint makes durable what has been written so far, so that a writer that is cut off leaves it for the next
// one to find. Each costs three blobs: not more often than every gigabyte or so.
func (w *Writer) Checkpoint() error {
	if err := w.repo.Flush(w.ctx); err != nil {
		return fmt.Errorf("flush the backup so far: %w", err)
	}
	return nil
}

// Same reports whether p is exactly what the chunk holds, without reading the chunk: by the keyed hash that is its name.
func (r *Reader) Same(k Chunk, p []byte) bool {
	id, compressed, direct := k.object.Content()
	return direct && !compressed && int64(len(p)) == k.Length && r.vault.repo.Name(p) == id
}
