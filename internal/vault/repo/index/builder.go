package index

import (
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"slices"
)

// Builder collects entries, one for each content. Use Add, so that the entry that counts stays.
type Builder map[ID]Info

// Add keeps i, or what is there for the same content: whichever counts, see [Info.Beats].
func (b Builder) Add(i Info) {
	if old, ok := b[i.ID]; !ok || i.Beats(old) {
		b[i.ID] = i
	}
}

// Shards divides the entries by their ids into about as many builders as have max entries each (by the hash FNV-1a, as kopia
// does, so the shards are not quite equal). None of them is empty, and they may share memory with b. max is at least 1.
func (b Builder) Shards(max int) []Builder {
	n := shardCount(len(b), max)
	switch n {
	case 0:
		return nil
	case 1:
		return []Builder{b}
	}
	shards := make([]Builder, n)
	for i := range shards {
		shards[i] = Builder{}
	}
	for id, i := range b {
		shards[shardOf(id, n)][id] = i
	}
	return slices.DeleteFunc(shards, func(s Builder) bool { return len(s) == 0 })
}

func shardCount(entries, max int) int { return (entries + max - 1) / max }

// shardOf says in which of n shards a content is.
func shardOf(id ID, n int) int {
	var room [1 + 2*maxHash]byte
	h := fnv.New32a()
	h.Write(id.appendText(room[:0])) // it never errs
	return int(h.Sum32() % uint32(n))
}

// Encode writes an index of version 2. random gives the 32 bytes that kopia has behind the index at the end of a pack; nil leaves
// them out, as in index blobs. Without them equal entries give equal bytes. ErrUnfit: there are no entries, their ids differ in
// length, or a field is too large.
func (b Builder) Encode(random io.Reader) ([]byte, error) {
	data, err := encode(slices.Values(slices.SortedFunc(maps.Values(b), func(a, b Info) int { return a.ID.Compare(b.ID) })))
	if err != nil || random == nil {
		return data, err
	}
	var suffix [randomSize]byte
	if _, err := io.ReadFull(random, suffix[:]); err != nil {
		return nil, fmt.Errorf("make an index unlike any other: %w", err)
	}
	return append(data, suffix[:]...), nil
}
