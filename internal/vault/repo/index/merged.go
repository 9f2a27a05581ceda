package index

import (
	"bytes"
	"fmt"
	"iter"
)

// Merged is many indexes as one: of each content the entry that counts, see [Info.Beats].
type Merged []*Index

// Len is the number of entries, each content counted as often as there are indexes that have it.
func (m Merged) Len() (n int) {
	for _, x := range m {
		n += x.Len()
	}
	return n
}

// Find gives the entry of one content that counts.
func (m Merged) Find(id ID) (best Info, found bool) {
	for _, x := range m {
		if i, ok := x.Find(id); ok && (!found || i.Beats(best)) {
			best, found = i, true
		}
	}
	return best, found
}

// Each is [Index.Each]; a content that is in several indexes is given once.
func (m Merged) Each(from, to string, each func(Info) error) error {
	for i := range m.all(from, to) {
		if err := each(i); err != nil {
			return err
		}
	}
	return nil
}

func (m Merged) all(from, to string) iter.Seq[Info] {
	return func(yield func(Info) bool) {
		for c := m.cursors(from, to); len(c) > 0; {
			best := c.next()
			for len(c) > 0 && c[0].id(c[0].at) == best.ID {
				if i := c.next(); i.Beats(best) {
					best = i
				}
			}
			if !yield(best) {
				return
			}
		}
	}
}

// Compact writes indexes that say the same as m, each with at most max entries and what follows upon those of the one before, without
// random bytes: whoever compacts the same comes to the same. each is given one after the other, with how many there will be in all; no
// more than one is in memory. No entries give no indexes. An error of each ends it and is returned.
func (m Merged) Compact(max int, each func(data []byte, of int) error) error {
	bounds := m.bounds(max)
	for n, from := range bounds {
		to := ""
		if n+1 < len(bounds) {
			to = bounds[n+1]
		}
		data, err := encode(m.all(from, to))
		if err != nil {
			return fmt.Errorf("join %d indexes: %w", len(m), err)
		}
		if err := each(data, len(bounds)); err != nil {
			return err
		}
	}
	return nil
}

// bounds are the ids, as texts, with which the parts begin of which each has max entries, but the last.
func (m Merged) bounds(max int) (out []string) {
	if n := m.Len(); 0 < n && n <= max { // however many contents are in several of them
		return []string{""}
	}
	n := 0
	for i := range m.all("", "") {
		if n%max == 0 {
			out = append(out, i.ID.String())
		}
		n++
	}
	return out
}

// Joined makes one index of those that have at most small entries, so that a search among very many is quick. The others stay,
// and so do all when those could not be written as one.
func (m Merged) Joined(small int) Merged {
	var out, join Merged
	for _, x := range m {
		switch {
		case x.Len() == 0:
		case x.Len() <= small && (len(join) == 0 || x.keySize == join[0].keySize):
			join = append(join, x)
		default:
			out = append(out, x)
		}
	}
	if len(join) < 2 {
		return m
	}
	data, err := encode(join.all("", ""))
	if err != nil {
		return m
	}
	x, err := Open(data)
	if err != nil {
		return m
	}
	return append(out, x)
}

// cursor is how far one index was read; at < end.
type cursor struct {
	*Index
	at, end int
	key     []byte // of the entry at at
}

// cursors are a heap: none has a greater key than the two behind it, at 2n+1 and 2n+2, so that the first has the least. (Package
// container/heap takes several times as long, for it calls through an interface.)
type cursors []cursor

func (m Merged) cursors(from, to string) (c cursors) {
	for _, x := range m {
		if at, end := x.span(from, to); at < end {
			c = append(c, cursor{x, at, end, x.key(at)})
		}
	}
	for n := len(c)/2 - 1; n >= 0; n-- {
		c.sink(n)
	}
	return c
}

// next takes the entry of the first cursor.
func (c *cursors) next() Info {
	all := *c
	first := &all[0]
	i := first.info(first.at)
	if first.at++; first.at < first.end {
		first.key = first.Index.key(first.at)
	} else {
		last := len(all) - 1
		all[0], all[last] = all[last], cursor{}
		*c = all[:last]
	}
	c.sink(0)
	return i
}

// sink moves the cursor at n behind those with lesser keys.
func (c cursors) sink(n int) {
	for {
		least := 2*n + 1
		if least >= len(c) {
			return
		}
		if right := least + 1; right < len(c) && bytes.Compare(c[right].key, c[least].key) < 0 {
			least = right
		}
		if bytes.Compare(c[n].key, c[least].key) <= 0 {
			return
		}
		c[n], c[least] = c[least], c[n]
		n = least
	}
}
