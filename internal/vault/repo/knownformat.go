package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"holdfast/internal/vault/repo/format"
	"holdfast/internal/vault/store"
)

// knownFormat is the format as it was last read. Another program may change it: it may ask of everybody who goes on writing for
// something that did not exist when this program was made.
type knownFormat struct {
	password string

	mu      sync.Mutex // guards what follows
	raw     []byte     // the blob's bytes
	current *format.Format
	readAt  time.Time
	broken  error // why nothing may be written any more
}

func (k *knownFormat) now() *format.Format {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current
}

// mayWrite errs unless something may be written now. It reads the format again when that was done long ago.
func (r *Repository) mayWrite(ctx context.Context) error {
	if r.options.ReadOnly {
		return ErrReadOnly
	}
	k := r.format
	k.mu.Lock()
	defer k.mu.Unlock()
	now := r.now()
	switch {
	case k.broken != nil:
		return k.broken
	case now.Sub(k.readAt) < r.options.FormatKept:
		return nil
	}
	raw, err := store.Read(ctx, r.blobs, blobDir+formatBlob)
	if err != nil {
		return fmt.Errorf("look at the repository's format again: %w", err)
	}
	if !bytes.Equal(raw, k.raw) {
		f, err := format.Read(raw, k.password)
		switch {
		case errors.Is(err, format.ErrTooNew):
			k.broken = fmt.Errorf("the repository's format changed: %w", err)
			r.options.Fatal(k.broken)
			return k.broken
		case err != nil:
			return fmt.Errorf("look at the repository's format again: %w", err)
		case !bytes.Equal(f.UniqueID(), k.current.UniqueID()):
			return errors.New("look at the repository's format again: another repository lies there now")
		}
		k.raw, k.current = raw, f
	}
	k.readAt = now
	return nil
}
