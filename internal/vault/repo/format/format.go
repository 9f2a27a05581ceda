// Package format reads and writes the format blob of a repository, and seals what is stored in it. It is kopia's repository
// format version 3 (kopia repo/format, repo/hashing, repo/encryption, internal/blobcrypto as of v0.23), in the settings that
// vaults have: BLAKE3-256 keyed, AES256-GCM-HMAC-SHA256, no error correction. Start at [Read]; it gives a [Format], and that a [Sealer].
//
// A password opens nothing but the format blob: inside lie the keys, drawn at random when the repository was made, that all else
// is named and sealed with. So another password is another wrap of the same bytes ([Format.Rewrap]).
package format

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// ErrWrongPassword is returned when a format blob does not open with a password. Its seal holds no proof of the password alone:
// a blob whose sealed part was damaged says the same.
var ErrWrongPassword = errors.New("the key does not open the repository")

// ErrDamaged is returned for bytes that are no format blob, and for what does not authenticate or is too short to.
var ErrDamaged = errors.New("damaged")

// ErrTooNew is returned for a format that asks for what this program cannot do: another version or algorithm, or a feature that
// whoever opens the repository must know. The text names it.
var ErrTooNew = errors.New("the repository asks for what this program cannot do")

const (
	keyBytes      = 32 // of every key here
	uniqueIDBytes = 32
	nonceBytes    = 12
	tagBytes      = 16

	// DefaultMaxPackSize is how long packs become, in bytes, where nothing else is asked for.
	DefaultMaxPackSize = 20 << 20
	// minPackSize and maxPackSize are the bounds that kopia sets (repo/format/format_provider.go).
	minPackSize = 10 << 20
	maxPackSize = 120 << 20
)

// New is what can be chosen of a new repository; all else is fixed.
type New struct {
	Splitter    string // the repository's own, for objects that name none
	MaxPackSize int    // bytes, 10 MiB to 120 MiB; 0 = DefaultMaxPackSize
}

// Format is what an opened format blob says. It does not change, and may be used by many goroutines.
type Format struct {
	outer  outer
	plain  []byte // what was sealed, byte for byte: a new wrap keeps even what this program does not know
	config config
	keys   *Keyring // that opened it
}

// Make gives the bytes of a new format blob. Its keys, and the nonce of its seal, are drawn from random.
func Make(password string, n New, random io.Reader) ([]byte, error) {
	return (*Keyring)(nil).Make(password, n, random)
}

// Make is the package's [Make], and remembers what the password gives.
func (k *Keyring) Make(password string, n New, random io.Reader) ([]byte, error) {
	if n.MaxPackSize == 0 {
		n.MaxPackSize = DefaultMaxPackSize
	}
	if n.MaxPackSize < minPackSize || n.MaxPackSize > maxPackSize {
		return nil, fmt.Errorf("make a format: packs of %d bytes: they are %d to %d long", n.MaxPackSize, minPackSize, maxPackSize)
	}
	var drawn [uniqueIDBytes + 2*keyBytes]byte
	if _, err := io.ReadFull(random, drawn[:]); err != nil {
		return nil, fmt.Errorf("draw the keys of a repository: %w", err)
	}
	id, keys := drawn[:uniqueIDBytes], drawn[uniqueIDBytes:]
	plain, err := json.Marshal(sealed{Format: newConfig(n, keys[:keyBytes], keys[keyBytes:])})
	if err != nil {
		return nil, fmt.Errorf("encode a format: %w", err)
	}
	return newOuter(id).wrap(plain, k, password, random)
}

// Read opens a format blob: ErrDamaged, ErrWrongPassword, ErrTooNew. It takes a quarter of a second, and 64 MiB of memory meanwhile,
// for a password is made hard to guess.
func Read(blob []byte, password string) (*Format, error) {
	return (*Keyring)(nil).Read(blob, password)
}

// Read is the package's [Read], and takes that long only with a password and a repository that are not remembered.
func (k *Keyring) Read(blob []byte, password string) (*Format, error) {
	o, err := parseOuter(blob)
	if err != nil {
		return nil, err
	}
	plain, err := o.unwrap(k, password)
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(plain)
	if err != nil {
		return nil, err
	}
	return &Format{outer: o, plain: plain, config: c, keys: k}, nil
}

// UniqueIDOf is [Format.UniqueID] of a blob that is not opened, so that nothing proves it: ErrDamaged, ErrTooNew.
func UniqueIDOf(blob []byte) ([]byte, error) {
	o, err := parseOuter(blob)
	return o.UniqueID, err
}

// Rewrap gives the same format as a blob that another password opens. It takes as long as [Read].
func (f *Format) Rewrap(password string) ([]byte, error) {
	return f.outer.wrap(f.plain, f.keys, password, rand.Reader)
}

// Demanding gives the same format with the demand that whoever opens it knows a feature, as a later kopia may write it: for tests of
// what becomes of a repository that is open then.
func (f *Format) Demanding(feature, password string) ([]byte, error) {
	var s map[string]map[string]json.RawMessage
	if err := json.Unmarshal(f.plain, &s); err != nil {
		return nil, fmt.Errorf("decode a format: %w", err)
	}
	asks, err := json.Marshal([]required{{Feature: feature}})
	if err != nil {
		return nil, fmt.Errorf("encode a demand: %w", err)
	}
	s["format"]["requiredFeatures"] = asks
	plain, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode a format: %w", err)
	}
	return f.outer.wrap(plain, f.keys, password, rand.Reader)
}

// Same reports whether two blobs hold the same format, under whatever passwords they were opened with.
func (f *Format) Same(g *Format) bool {
	return bytes.Equal(f.outer.UniqueID, g.outer.UniqueID) && bytes.Equal(f.plain, g.plain)
}

// DeriveKey gives a key of length bytes for a purpose, from the repository's own and not from the password (kopia's
// repo.DeriveKey since v0.9): HKDF-SHA256 with the unique id as salt.
func (f *Format) DeriveKey(purpose string, length int) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, f.config.MasterKey, f.outer.UniqueID, purpose, length)
	if err != nil {
		return nil, fmt.Errorf("derive the key for %s: %w", purpose, err)
	}
	return key, nil
}

// Splitter is the name of the repository's own splitter.
func (f *Format) Splitter() string { return f.config.Splitter }

// MaxPackSize is how long packs become, in bytes.
func (f *Format) MaxPackSize() int { return f.config.MaxPackSize }

// UniqueID tells the repository from every other.
func (f *Format) UniqueID() []byte { return slices.Clone(f.outer.UniqueID) }

// Epochs gives the parameters of the index's epochs.
func (f *Format) Epochs() Epochs { return f.config.EpochParameters }
