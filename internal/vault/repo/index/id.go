package index

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
)

// maxHash is the longest hash that an ID holds, in bytes.
const maxHash = 32

// ID names a content: an optional letter from g to z, which says what kind of content it is, and the hash of what it holds.
// IDs are comparable with ==, and the zero ID names nothing. Its text is the letter and the hash in lower-case hexadecimal digits.
type ID struct {
	prefix byte // 0 = none, else 'g' to 'z'
	length byte // bytes of hash that are used; those behind are 0
	hash   [maxHash]byte
}

// ErrID is returned for what is no content id.
var ErrID = errors.New("not a content id")

// MakeID is the ID of a content with that hash (1 to 32 bytes) and prefix ("" or one letter from g to z).
func MakeID(prefix string, hash []byte) (ID, error) {
	var id ID
	if len(hash) == 0 || len(hash) > maxHash {
		return ID{}, fmt.Errorf("%w: a hash of %d bytes", ErrID, len(hash))
	}
	switch {
	case prefix == "":
	case len(prefix) == 1 && isPrefix(prefix[0]):
		id.prefix = prefix[0]
	default:
		return ID{}, fmt.Errorf("%w: prefix %q", ErrID, prefix)
	}
	id.length = byte(copy(id.hash[:], hash))
	return id, nil
}

// ParseID reads the text of an ID; "" is the zero ID. Digits may be upper-case. Errors are ErrID.
func ParseID(text string) (ID, error) {
	if text == "" {
		return ID{}, nil
	}
	digits := len(text) % 2 // an odd length has a letter before the digits
	hash, err := hex.DecodeString(text[digits:])
	if err != nil {
		return ID{}, fmt.Errorf("%w: %q", ErrID, text)
	}
	id, err := MakeID(text[:digits], hash)
	if err != nil {
		return ID{}, fmt.Errorf("read %q: %w", text, err)
	}
	return id, nil
}

func isPrefix(c byte) bool { return c >= 'g' && c <= 'z' }

// appendText appends the text of the ID.
func (id ID) appendText(to []byte) []byte {
	if id.prefix != 0 {
		to = append(to, id.prefix)
	}
	return hex.AppendEncode(to, id.hash[:id.length])
}

func (id ID) String() string { return string(id.appendText(nil)) }

// Prefix is the letter before the hash, or "".
func (id ID) Prefix() string {
	if id.prefix == 0 {
		return ""
	}
	return string(rune(id.prefix))
}

// Hash gives the bytes of the hash; they are the caller's own.
func (id ID) Hash() []byte { return bytes.Clone(id.hash[:id.length]) }

// IsZero reports whether the ID names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// Compare orders IDs as an index does: those without a prefix first, then by prefix, then by hash. It is the order of their texts
// too. Negative: id comes before other.
func (id ID) Compare(other ID) int {
	if id.prefix != other.prefix {
		return int(id.prefix) - int(other.prefix)
	}
	return bytes.Compare(id.hash[:id.length], other.hash[:other.length])
}

// MarshalText gives the text of the ID, so that JSON has it as a string.
func (id ID) MarshalText() ([]byte, error) { return id.appendText(nil), nil }

// UnmarshalText is [ParseID].
func (id *ID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseID(string(text))
	return err
}

// compareText compares the text of the ID with a bound, without making a string of it.
func (id ID) compareText(bound string) int {
	var room [1 + 2*maxHash]byte
	return bytes.Compare(id.appendText(room[:0]), []byte(bound))
}
