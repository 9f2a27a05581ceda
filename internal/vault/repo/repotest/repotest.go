// Package repotest gives tests of the repository a place for its blobs.
package repotest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/vault/repo/kepttest"
	"holdfast/internal/vault/store"
)

// Store is a store in memory. It is used by many goroutines.
type Store struct {
	mu    sync.Mutex // above blobs
	blobs map[string]blob
}

type blob struct {
	raw []byte
	at  time.Time // when it was stored
}

// New gives an empty store.
func New() *Store { return &Store{blobs: map[string]blob{}} }

// Kept gives a store with the repository that kopia 0.23.1 wrote, and that [kepttest.Password] opens.
func Kept(t testing.TB) *Store {
	t.Helper()
	s := New()
	for name, raw := range kepttest.Blobs(t) {
		s.blobs["repository/"+name] = blob{raw: raw, at: time.Now()}
	}
	return s
}

// Spoil turns a bit of every byte of the blobs whose names begin with prefix, and says how many those are.
func (h *Store) Spoil(prefix string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for name, b := range h.blobs {
		if strings.HasPrefix(name, prefix) {
			b.raw = bytes.Clone(b.raw)
			for i := range b.raw {
				b.raw[i] ^= 1
			}
			h.blobs[name] = b
			n++
		}
	}
	return n
}

func readData(name string, d store.Data) ([]byte, error) {
	if name == "." || !fs.ValidPath(name) {
		return nil, fmt.Errorf("store %q: %w", name, fs.ErrInvalid)
	}
	in := d.Reader()
	raw, err := io.ReadAll(in)
	return raw, errors.Join(err, in.Close())
}

// Put implements [store.Store].
func (h *Store) Put(_ context.Context, name string, data store.Data) error {
	raw, err := readData(name, data)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if old, ok := h.blobs[name]; ok {
		if !bytes.Equal(old.raw, raw) {
			return fmt.Errorf("%s: %w", name, store.ErrDiffers)
		}
		return nil
	}
	h.blobs[name] = blob{raw: raw, at: time.Now()}
	return nil
}

// Replace implements [store.Store].
func (h *Store) Replace(_ context.Context, name string, data store.Data) error {
	raw, err := readData(name, data)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.blobs[name] = blob{raw: raw, at: time.Now()}
	return nil
}

func (h *Store) get(name string) (blob, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b, ok := h.blobs[name]
	if !ok {
		return blob{}, fmt.Errorf("%s: %w", name, store.ErrNotFound)
	}
	return b, nil
}

// Get implements [store.Store].
func (h *Store) Get(_ context.Context, name string, offset, length int64, to io.Writer) error {
	b, err := h.get(name)
	if err != nil {
		return err
	}
	raw := b.raw[min(offset, int64(len(b.raw))):]
	if length >= 0 && length > int64(len(raw)) {
		return fmt.Errorf("%s: %w", name, store.ErrShort)
	}
	if length >= 0 {
		raw = raw[:length]
	}
	_, err = to.Write(raw)
	return err
}

// Stat implements [store.Store].
func (h *Store) Stat(_ context.Context, name string) (store.Info, error) {
	b, err := h.get(name)
	return store.Info{Name: name, Size: int64(len(b.raw)), ModTime: b.at}, err
}

// List implements [store.Store].
func (h *Store) List(_ context.Context, prefix string, each func(store.Info) error) error {
	h.mu.Lock()
	var all []store.Info
	for name, b := range h.blobs {
		if strings.HasPrefix(name, prefix) {
			all = append(all, store.Info{Name: name, Size: int64(len(b.raw)), ModTime: b.at})
		}
	}
	h.mu.Unlock()
	for _, i := range all {
		if err := each(i); err != nil {
			return err
		}
	}
	return nil
}

// Names implements [store.Store].
func (h *Store) Names(_ context.Context, dir string) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	found := map[string]bool{}
	for name := range h.blobs {
		rest, ok := strings.CutPrefix(name, dir+"/")
		if dir == "" {
			rest, ok = name, true
		}
		if ok {
			first, _, _ := strings.Cut(rest, "/")
			found[first] = true
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// Delete implements [store.Store].
func (h *Store) Delete(_ context.Context, name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.blobs, name)
	return nil
}

// Address implements [store.Store].
func (h *Store) Address() string { return "memory" }
