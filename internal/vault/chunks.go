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

// StoreChunk stores ChunkSize bytes of a file, or its last ones. Many goroutines may.
func (w *Writer) StoreChunk(p []byte) (Chunk, error) {
	if err := errors.Join(w.vault.broken(), w.work.alive(w.ctx)); err != nil {
		return Chunk{}, err
	}
	if len(p) > ChunkSize {
		return Chunk{}, fmt.Errorf("%d bytes are no chunk", len(p))
	}
	obj := w.repo.NewObject(w.ctx, repo.ObjectOptions{Splitter: splitter, Compress: true})
	_, err := obj.Write(p)
	var id repo.ObjectID
	if err == nil {
		id, err = obj.Result()
	}
	if err = errors.Join(err, obj.Close()); err != nil {
		return Chunk{}, err
	}
	return Chunk{Length: int64(len(p)), object: id}, nil
}

// HasChunk reports whether the vault holds a chunk still, so that a file may be made of it. Where it does not, its bytes must be stored
// again.
func (w *Writer) HasChunk(k Chunk) (bool, error) {
	if err := w.work.alive(w.ctx); err != nil {
		return false, err
	}
	if _, _, direct := k.object.Content(); !direct {
		return false, nil
	}
	has, err := w.repo.Has(w.ctx, k.object)
	if err != nil {
		return false, fmt.Errorf("look for a chunk: %w", err)
	}
	return has, nil
}

// ChunkWriter makes one file of chunks: new ones that were stored, and ones of an earlier backup, which cost nothing. What comes out
// is a file like any other: nothing depends on the earlier backup.
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

// Add adds the next chunk, which [Writer.StoreChunk] gave, or of which [Writer.HasChunk] said that it is there. All but the last one
// must be ChunkSize long. One goroutine makes one file.
func (c *ChunkWriter) Add(k Chunk) error {
	if k.Length > ChunkSize || c.at%ChunkSize != 0 {
		return fmt.Errorf("store %s: %d bytes at %d are no chunk", c.entry.Path, k.Length, c.at)
	}
	c.entries = append(c.entries, repo.Part{Start: c.at, Length: k.Length, Object: k.object})
	c.at += k.Length
	return nil
}

// Keep ends the file and makes it part of the backup.
func (c *ChunkWriter) Keep() error {
	if len(c.entries) == 0 {
		none, err := c.w.StoreChunk(nil)
		if err == nil {
			err = c.Add(none)
		}
		if err != nil {
			return fmt.Errorf("store %s: %w", c.entry.Path, err)
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
