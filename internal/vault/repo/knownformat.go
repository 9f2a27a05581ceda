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

	reading sync.Mutex // held while the blob is read again, and whenever raw and current change; taken before mu

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

// mayWrite errs unless something may be written now. It reads the format again when that was done long ago, or before the clock was
// set back.
func (r *Repository) mayWrite(ctx context.Context) error {
	if r.options.ReadOnly {
		return ErrReadOnly
	}
	k := r.format
	if fresh, err := k.state(r.now(), r.options.FormatKept); fresh || err != nil {
		return err
	}
	appeared, err := r.readFormat(ctx)
	if appeared {
		r.options.Fatal(err) // it may close the repository: nothing is locked
	}
	return err
}

// state says whether the format is believed still, and why nothing may be written any more.
func (k *knownFormat) state(now time.Time, kept time.Duration) (fresh bool, broken error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return now.Sub(k.readAt).Abs() < kept, k.broken
}

// readFormat reads the format again, unless somebody else was quicker. appeared = one that ends all writing, for the first time.
func (r *Repository) readFormat(ctx context.Context) (appeared bool, err error) {
	k := r.format
	k.reading.Lock()
	defer k.reading.Unlock()
	now := r.now()
	if fresh, err := k.state(now, r.options.FormatKept); fresh || err != nil {
		return false, err
	}
	raw, err := store.Read(ctx, r.blobs, blobDir+formatBlob)
	var f *format.Format
	if err == nil {
		f, err = r.judged(ctx, raw)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case errors.Is(err, format.ErrTooNew):
		k.broken = fmt.Errorf("the repository's format changed: %w", err)
		return true, k.broken
	case err != nil:
		return false, fmt.Errorf("look at the repository's format again: %w", err)
	}
	k.raw, k.current, k.readAt = raw, f, now
	return false, nil
}

// judged gives the format that a blob holds which lies there now. Under another password, as behind a rotation, that is taken to be
// the one that is known: a repository's keys never change, and the old password is good until it is retired. What such a blob
// demands besides is not seen until the repository is opened again.
func (r *Repository) judged(ctx context.Context, raw []byte) (*format.Format, error) {
	k := r.format
	if bytes.Equal(raw, k.raw) {
		return k.current, nil
	}
	id, err := format.UniqueIDOf(raw)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(id, k.current.UniqueID()) {
		return nil, errors.New("another repository lies there now")
	}
	f, err := r.options.Keys.Read(raw, k.password)
	if errors.Is(err, format.ErrWrongPassword) {
		r.options.Log.InfoContext(ctx, "the repository has another password now, and is written on with the old one")
		return k.current, nil
	}
	return f, err
}
