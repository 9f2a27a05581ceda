package format

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strings"
	"sync"

	"github.com/zeebo/blake3"
)

const (
	hashBytes = 32
	// boundBytes is how much of a content's or a blob's hash its seal is bound to, from its end (kopia's getPackedContentIV and
	// blobcrypto).
	boundBytes = 16
)

// Sealer names contents by their hash and seals them under it. Each has a key of its own, derived from its name, and is bound to the
// name: what was sealed under one does not open under another. It may be used by many goroutines.
type Sealer struct {
	secret [keyBytes]byte // of the hash
	hashes sync.Pool      // of *blake3.Hasher: one is 10 KiB
	keys   sync.Pool      // of hash.Hash: the HMAC that gives each content its key
}

// Sealer gives what seals and opens everything else in the repository.
func (f *Format) Sealer() (*Sealer, error) {
	// The salt is the purpose and the purpose is empty, as kopia has it (repo/encryption/encryption.go, deriveKey).
	key, err := hkdf.Key(sha256.New, f.config.MasterKey, []byte("encryption"), "", keyBytes)
	if err != nil {
		return nil, fmt.Errorf("derive the key of contents: %w", err)
	}
	s := &Sealer{secret: [keyBytes]byte(f.config.HashSecret)}
	h, err := blake3.NewKeyed(s.secret[:])
	if err != nil {
		return nil, fmt.Errorf("make the hash of contents: %w", err)
	}
	s.hashes.New = func() any { return h.Clone() } // nobody writes to h
	s.keys.New = func() any { return hmac.New(sha256.New, key) }
	return s, nil
}

// Hash gives the 32 bytes that name p. Nobody without the repository's key can tell from them what p is.
func (s *Sealer) Hash(p []byte) []byte {
	h := s.hashes.Get().(*blake3.Hasher)
	defer s.hashes.Put(h)
	h.Reset()
	_, _ = h.Write(p) // a hash takes all
	return h.Sum(make([]byte, 0, hashBytes))
}

// Overhead is how many bytes longer a content becomes by being sealed.
func (s *Sealer) Overhead() int { return nonceBytes + tagBytes }

// Seal appends a content to dst, sealed under its hash: a nonce, the ciphertext, a tag. plain must not overlap the room of dst.
func (s *Sealer) Seal(dst, plain, hash []byte) ([]byte, error) {
	return s.sealUnder(dst, plain, bound(hash))
}

// Open appends to dst the content that was sealed under a hash; ErrDamaged when it was not, or is not what it was.
func (s *Sealer) Open(dst, sealed, hash []byte) ([]byte, error) {
	return s.openUnder(dst, sealed, bound(hash))
}

// SealIndex appends to dst the index that lies at the end of a pack, sealed under its hash. Alone of all it is bound to the whole
// of it: the hash stands behind it, and not in a name.
func (s *Sealer) SealIndex(dst, plain, hash []byte) ([]byte, error) {
	return s.sealUnder(dst, plain, hash)
}

// OpenIndex appends to dst what [Sealer.SealIndex] sealed.
func (s *Sealer) OpenIndex(dst, sealed, hash []byte) ([]byte, error) {
	return s.openUnder(dst, sealed, hash)
}

func bound(hash []byte) []byte { return hash[max(0, len(hash)-boundBytes):] }

func (s *Sealer) sealUnder(dst, plain, id []byte) ([]byte, error) {
	aead, err := s.aead(id)
	if err != nil {
		return nil, err
	}
	return aead.Seal(slices.Grow(dst, len(plain)+s.Overhead()), nil, plain, id), nil
}

func (s *Sealer) openUnder(dst, sealed, id []byte) ([]byte, error) {
	if len(sealed) < s.Overhead() {
		return nil, fmt.Errorf("open %d bytes: %w: too short", len(sealed), ErrDamaged)
	}
	aead, err := s.aead(id)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(slices.Grow(dst, len(sealed)-s.Overhead()), nil, sealed, id)
	if err != nil {
		return nil, fmt.Errorf("open %d bytes: %w: they do not authenticate", len(sealed), ErrDamaged)
	}
	return plain, nil
}

// aead is the cipher of one content. The nonces are random, and lie before what they were used for.
func (s *Sealer) aead(id []byte) (cipher.AEAD, error) {
	h := s.keys.Get().(hash.Hash)
	defer s.keys.Put(h)
	h.Reset()
	h.Write(id)
	var key [sha256.Size]byte
	block, err := aes.NewCipher(h.Sum(key[:0]))
	if err != nil {
		return nil, fmt.Errorf("make the cipher of a content: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("make the cipher of a content: %w", err)
	}
	return aead, nil
}

// SealBlob seals a whole blob, such as an index or the marker of a session, and names it: the prefix, the hash of plain and, where
// there is a suffix, a dash and that. A suffix is a session's id, with whatever else the kind of blob puts behind.
func (s *Sealer) SealBlob(plain []byte, prefix, suffix string) (name string, sealed []byte, err error) {
	h := s.Hash(plain)
	name = prefix + hex.EncodeToString(h)
	if suffix != "" {
		name += "-" + suffix
	}
	sealed, err = s.Seal(nil, plain, h)
	return name, sealed, err
}

// OpenBlob opens what [Sealer.SealBlob] sealed; ErrDamaged also for a name that no blob can have.
func (s *Sealer) OpenBlob(name string, sealed []byte) ([]byte, error) {
	id, err := blobID(name)
	if err != nil {
		return nil, err
	}
	plain, err := s.Open(nil, sealed, id)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", name, err)
	}
	return plain, nil
}

// blobID is what a blob is bound to: the last 32 hexadecimal digits before the first dash.
func blobID(name string) ([]byte, error) {
	digits, _, _ := strings.Cut(name, "-")
	if len(digits) < 2*boundBytes {
		return nil, fmt.Errorf("open blob %s: %w: its name is too short", name, ErrDamaged)
	}
	id, err := hex.DecodeString(digits[len(digits)-2*boundBytes:])
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w: its name holds no hash", name, ErrDamaged)
	}
	return id, nil
}
