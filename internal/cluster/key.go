package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Key names a key whose value is T as JSON. Decoding is strict: a field that this build does not know is an
// error, because a host that only half understands a record must not act on it nor write it back shortened.
type Key[T any] string

// Load reads the value and its revision. An absent key is the zero T with revision 0.
func (k Key[T]) Load(ctx context.Context, s Store) (T, int64, error) {
	var zero T
	e, err := s.Get(ctx, string(k))
	if err != nil {
		return zero, 0, fmt.Errorf("load %s: %w", k, err)
	}
	if e.Revision == 0 {
		return zero, 0, nil
	}
	v, err := Decode[T](e)
	return v, e.Revision, err
}

// Swap replaces the value read at rev (0 = the key must be absent) and returns the new revision.
// ErrConflict when another write came first.
func (k Key[T]) Swap(ctx context.Context, s Store, rev int64, v T) (int64, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return 0, fmt.Errorf("encode %s: %w", k, err)
	}
	next, err := s.Put(ctx, string(k), b, rev)
	if err != nil {
		return 0, fmt.Errorf("swap %s at revision %d: %w", k, rev, err)
	}
	return next, nil
}

// Set writes the value unconditionally: for facts that have one writer.
func (k Key[T]) Set(ctx context.Context, s Store, v T) (int64, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return 0, fmt.Errorf("encode %s: %w", k, err)
	}
	rev, err := s.Set(ctx, string(k), b)
	if err != nil {
		return 0, fmt.Errorf("set %s: %w", k, err)
	}
	return rev, nil
}

// Decode reads one entry strictly: one JSON value, no unknown field, nothing behind it.
func Decode[T any](e Entry) (T, error) {
	var v, zero T
	d := json.NewDecoder(bytes.NewReader(e.Value))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return zero, fmt.Errorf("decode %s at revision %d: %w", e.Key, e.Revision, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return zero, fmt.Errorf("decode %s at revision %d: more than one JSON value", e.Key, e.Revision)
	}
	return v, nil
}
