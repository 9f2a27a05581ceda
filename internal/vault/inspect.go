package vault

import (
	"context"
	"crypto/rand"
	"fmt"
	"path"
	"strings"
	"time"

	"holdfast/internal/vault/store"
)

// Contents is what lies in a vault, as a list of it says: nothing is read or decrypted.
type Contents struct {
	Objects  int       `json:"objects"`
	Bytes    int64     `json:"bytes"`
	Segments int       `json:"segments"`          // of write-ahead log, beginnings of some among them
	Bundles  int       `json:"bundles,omitempty"` // objects that hold many of those
	LastLog  time.Time `json:"last_log,omitzero"` // when the newest of them was stored, by the store's clock
}

// Address is where the vault lies, for people.
func (v *Vault) Address() string { return v.files.Address() }

// Contents adds up what the vault holds.
func (v *Vault) Contents(ctx context.Context) (Contents, error) {
	var c Contents
	err := v.files.List(ctx, "", func(i store.Info) error {
		c.Objects++
		c.Bytes += i.Size
		if strings.HasPrefix(i.Name, "wal/") && path.Base(i.Name) != coveredFile {
			if b, ok := parseBundleName(i.Name); ok {
				c.Bundles++
				c.Segments += b.count
				return nil // it holds what was stored long before
			}
			c.Segments++
			if i.ModTime.After(c.LastLog) {
				c.LastLog = i.ModTime.UTC()
			}
		}
		return nil
	})
	if err != nil {
		return Contents{}, fmt.Errorf("look through vault %s: %w", v.name, err)
	}
	return c, nil
}

// checkFile is the one blob that a test of writing replaces.
const checkFile = "check"

// TryWrite stores a small blob of its own, and reads it back.
func (v *Vault) TryWrite(ctx context.Context) error {
	want := rand.Text()
	if err := v.files.Replace(ctx, checkFile, store.Bytes(want)); err != nil {
		return fmt.Errorf("write to vault %s: %w", v.name, err)
	}
	got, err := store.Read(ctx, v.files, checkFile)
	if err != nil {
		return fmt.Errorf("read back from vault %s: %w", v.name, err)
	}
	if len(got) != len(want) { // another test of writing may have come between: it is as long
		return fmt.Errorf("read back from vault %s: %d bytes instead of %d", v.name, len(got), len(want))
	}
	return nil
}
