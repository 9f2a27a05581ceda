package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Fetch reads one chunk. Its bytes are authentic, or it is an error.
func (r *Reader) Fetch(ctx context.Context, k Chunk) ([]byte, error) {
	return r.FetchInto(ctx, k, nil)
}

// FetchInto is [Reader.Fetch], and puts the chunk into room, over whatever is there, where it is long enough.
func (r *Reader) FetchInto(ctx context.Context, k Chunk, room []byte) ([]byte, error) {
	content, err := r.chunk(ctx, k, room)
	if err != nil && r.vault.doubt(ctx, k.object) {
		content, err = r.chunk(ctx, k, room)
	}
	if err != nil {
		return nil, fmt.Errorf("read chunk %s from the vault: %w", k.object, err)
	}
	if int64(len(content)) != k.Length {
		return nil, fmt.Errorf("read chunk %s from the vault: %d bytes, %d were stored", k.object, len(content), k.Length)
	}
	return content, nil
}

// chunk asks for the content by its name: a reader of objects would copy it once more.
func (r *Reader) chunk(ctx context.Context, k Chunk, room []byte) ([]byte, error) {
	if id, compressed, direct := k.object.Content(); direct && !compressed {
		return r.vault.repo.ContentInto(ctx, id, room)
	}
	f, err := r.vault.repo.OpenObject(ctx, k.object)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(f)
	return content, errors.Join(err, f.Close())
}
