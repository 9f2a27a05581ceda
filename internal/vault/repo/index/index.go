// Package index keeps what a repository knows of its contents: in which pack each lies, and where in it. [Builder] collects
// entries and writes an index, [Open] reads one, and [Merged] asks many at once. The bytes are those of kopia's index format,
// version 2, laid out in format.go.
package index

import (
	"cmp"
	"errors"
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

// Beats reports whether i counts, and not other, where both are entries of one content: the newer one; of two that are equally
// old the one that is not deleted, for a content must not vanish because it was stored in the second in which it was deleted;
// then that in the pack whose name is greater. So far it is kopia's rule. Entries that still tie are of one pack, and differ in
// damaged or foreign indexes only; the other fields decide then, so that whoever merges, in whatever order, comes to the same.
func (i Info) Beats(other Info) bool {
	return cmp.Or(
		cmp.Compare(i.Time, other.Time),
		cmp.Compare(rank(other.Deleted), rank(i.Deleted)),
		cmp.Compare(i.Pack, other.Pack),
		cmp.Compare(i.Offset, other.Offset),
		cmp.Compare(i.Packed, other.Packed),
		cmp.Compare(i.Original, other.Original),
		cmp.Compare(i.Compression, other.Compression),
		cmp.Compare(i.Version, other.Version),
		cmp.Compare(i.KeyID, other.KeyID),
	) > 0
}

func rank(b bool) int {
	if b {
		return 1
	}
	return 0
}
