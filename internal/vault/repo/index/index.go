// Package index keeps what a repository knows of its contents: in which pack each lies, and where in it. [Builder] collects
// entries and writes an index, [Open] reads one, and [Merged] asks many at once. The bytes are those of kopia's index format,
// version 2.
package index

import (
	"errors"
	"io"
)

// Info is the entry of one content.
type Info struct {
	ID          ID
	Pack        string // the blob that holds it
	Time        int64  // when the entry was made, in unix seconds
	Offset      uint32 // where it begins in the pack, in bytes
	Packed      uint32 // bytes in the pack
	Original    uint32 // bytes of what was stored, before compression and encryption
	Compression uint32 // header id of the compressor, 0 = none
	Deleted     bool
	Version     byte // format version under which it was written
	KeyID       byte // which encryption key; 0 so far
}

// ErrDamaged is returned by Open for bytes that are no index.
var ErrDamaged = errors.New("the index is damaged")

// Builder collects entries, one for each content. Use Add, so that the entry that counts stays.
type Builder map[ID]Info

// Add keeps i, or what is there for the same content: whichever counts, see [Info.Beats].
func (b Builder) Add(i Info) {
	if old, ok := b[i.ID]; !ok || i.Beats(old) {
		b[i.ID] = i
	}
}

// Beats reports whether i counts, and not other, where both are entries of one content.
func (i Info) Beats(other Info) bool { return i.Time > other.Time }

// Encode writes an index of version 2. random gives the 32 bytes behind it that make the index blob of a writer unlike any other;
// nil leaves them out, as in compacted index blobs, which say the same whoever makes them.
func (b Builder) Encode(random io.Reader) ([]byte, error) { return nil, errors.New("not yet") }

// Shards divides the entries by their ids into builders of about max entries. None of them is empty.
func (b Builder) Shards(max int) []Builder { return nil }

// Index is one index that was read. It may be used by many goroutines.
type Index struct{}

// Open reads an index of version 2, whatever lies behind it. It keeps data, which must not change. Damaged bytes are ErrDamaged.
func Open(data []byte) (*Index, error) { return nil, errors.New("not yet") }

// Len is the number of entries.
func (x *Index) Len() int { return 0 }

// Find gives the entry of one content.
func (x *Index) Find(id ID) (Info, bool) { return Info{}, false }

// Each gives the entries whose ids, as texts, are from <= id < to, in ascending order; to "" = up to the end. Contents without a
// prefix are those below "g". An error of each ends it and is returned.
func (x *Index) Each(from, to string, each func(Info) error) error { return errors.New("not yet") }

// Merged is many indexes as one: of each content the entry that counts.
type Merged []*Index

// Find gives the entry of one content that counts.
func (m Merged) Find(id ID) (Info, bool) { return Info{}, false }

// Each is [Index.Each]; a content that is in several indexes is given once.
func (m Merged) Each(from, to string, each func(Info) error) error { return errors.New("not yet") }
