package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"holdfast/internal/vault/repo/index"
	"holdfast/internal/vault/repo/split"
)

// indirectMax is how many lists of lists an object may have around its data. Two suffice for any object that can be written:
// a list holds some ten thousand names to a piece of 1 MiB.
const indirectMax = 8

// listPrefix is what kopia puts before the names of the contents of lists, so that they lie in packs of metadata. A list has
// the prefix of what it lists where that has one.
const listPrefix = "x"

// ObjectID names an object: one content, or a list (itself an object) of the objects that it is put together from. The zero
// value names none.
type ObjectID struct {
	content    ContentID
	indirect   uint8 // how many lists lie between this and the content
	compressed bool  // the content's bytes are compressed by the object and not by the repository, as formats before 2 had it
}

// DirectObject names the object that is one content.
func DirectObject(id ContentID) ObjectID { return ObjectID{content: id} }

// ListedObject names the object that is put together from what a list names.
func ListedObject(list ObjectID) (ObjectID, error) {
	if list.compressed || list.indirect >= indirectMax {
		return ObjectID{}, fmt.Errorf("object %s cannot be a list", list)
	}
	list.indirect++
	return list, nil
}

// ParseObjectID reads what [ObjectID.String] writes: "I" for each list, or "Z" for compressed bytes, or an old and idle "D",
// and then a content's name.
func ParseObjectID(s string) (ObjectID, error) {
	rest := strings.TrimLeft(s, "I")
	lists := len(s) - len(rest)
	rest, compressed := strings.CutPrefix(rest, "Z")
	rest = strings.TrimPrefix(rest, "D")
	if rest == "" {
		return ObjectID{}, fmt.Errorf("object %q: it names no content", s)
	}
	if lists > indirectMax || lists > 0 && compressed {
		return ObjectID{}, fmt.Errorf("object %q: no list can lie so", s)
	}
	id, err := index.ParseID(rest)
	if err != nil {
		return ObjectID{}, fmt.Errorf("object %q: %w", s, err)
	}
	return ObjectID{content: id, indirect: uint8(lists), compressed: compressed}, nil
}

// String is how kopia writes it; "" for none.
func (id ObjectID) String() string {
	if id == (ObjectID{}) {
		return ""
	}
	before := strings.Repeat("I", int(id.indirect))
	if id.compressed {
		before += "Z"
	}
	return before + id.content.String()
}

// Content is the content that the object is; ok is false for one that is put together from a list.
func (id ObjectID) Content() (content ContentID, compressed, ok bool) {
	if id.indirect > 0 || id == (ObjectID{}) {
		return ContentID{}, false, false
	}
	return id.content, id.compressed, true
}

// List is the list that the object is put together from; false for an object that is one content.
func (id ObjectID) List() (ObjectID, bool) {
	if id.indirect == 0 {
		return ObjectID{}, false
	}
	id.indirect--
	return id, true
}

// MarshalText implements [encoding.TextMarshaler].
func (id ObjectID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (id *ObjectID) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*id = ObjectID{}
		return nil
	}
	*id, err = ParseObjectID(string(text))
	return err
}

// Part is one stretch of an object that is put together from a list. The names in JSON are kopia's.
type Part struct {
	Start  int64    `json:"s,omitempty"` // in bytes, from the object's begin
	Length int64    `json:"l,omitempty"` // in bytes
	Object ObjectID `json:"o"`
}

// partList is a list as it is stored.
type partList struct {
	Stream  string `json:"stream"`
	Entries []Part `json:"entries"`
}

// listStream is what a list calls itself.
const listStream = "kopia:indirect"

// EncodeParts gives a list as kopia writes it, to the byte: equal lists have one name.
func EncodeParts(parts []Part) ([]byte, error) {
	raw, err := json.Marshal(partList{Stream: listStream, Entries: parts})
	if err != nil {
		return nil, fmt.Errorf("write a list of %d parts: %w", len(parts), err)
	}
	return append(raw, '\n'), nil
}

// decodeParts reads a list, and makes sure that its parts follow upon one another without a hole.
func decodeParts(raw []byte) ([]Part, error) {
	var list partList
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("read a list of parts: %w", err)
	}
	if list.Stream != listStream || len(list.Entries) == 0 {
		return nil, fmt.Errorf("it is no list of parts: %d entries of %q", len(list.Entries), list.Stream)
	}
	at := int64(0)
	for _, p := range list.Entries {
		if p.Start != at || p.Length < 0 || at+p.Length < at || p.Object == (ObjectID{}) {
			return nil, fmt.Errorf("its list of parts has a hole at byte %d", at)
		}
		at += p.Length
	}
	return list.Entries, nil
}

// ObjectOptions is how an object is stored.
type ObjectOptions struct {
	Prefix   string // before the names of its contents: "" for data, one letter g to z for metadata
	Splitter string // where it is cut into pieces; "" = as the repository says
	Compress bool   // its pieces, where that makes them smaller; metadata always is
}

// ObjectWriter stores one object. One goroutine writes one object; many may be open. It keeps less than one piece in memory.
type ObjectWriter struct {
	ctx   context.Context // io.Writer has none
	w     *Writer
	opt   ObjectOptions
	split split.Splitter
	piece []byte // what came since the last cut
	at    int64  // bytes before piece
	parts []Part
	id    ObjectID // the result, once it is there
	err   error    // the first one: nothing after it counts
}

// NewObject begins an object. What it stores counts from the next [Writer.Flush] on.
func (w *Writer) NewObject(ctx context.Context, o ObjectOptions) *ObjectWriter {
	ow := &ObjectWriter{ctx: ctx, w: w, opt: o}
	name := o.Splitter
	if name == "" {
		name = w.repo.splitter()
	}
	if ow.split, ow.err = split.New(name); ow.err != nil {
		ow.err = fmt.Errorf("store an object: %w", ow.err)
	}
	return ow
}

// Write adds to the object. Each piece is stored by whoever writes its last byte.
func (o *ObjectWriter) Write(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	if o.id != (ObjectID{}) {
		return 0, errors.New("store an object: it is ended")
	}
	done := 0
	for done < len(p) {
		n := o.split.Next(p[done:])
		if n < 0 {
			o.piece = append(o.piece, p[done:]...)
			break
		}
		piece := p[done : done+n]
		if len(o.piece) > 0 {
			o.piece = append(o.piece, piece...)
			piece = o.piece
		}
		if o.err = o.store(piece); o.err != nil {
			return done, o.err
		}
		o.piece = o.piece[:0]
		done += n
	}
	return len(p), nil
}

func (o *ObjectWriter) store(piece []byte) error {
	id, err := o.w.Store(o.ctx, piece, o.opt.Prefix, o.opt.Compress || o.opt.Prefix != "")
	if err != nil {
		return fmt.Errorf("store an object at byte %d: %w", o.at, err)
	}
	o.parts = append(o.parts, Part{Start: o.at, Length: int64(len(piece)), Object: DirectObject(id)})
	o.at += int64(len(piece))
	return nil
}

// Result ends the object and names it. An empty object is one empty content.
func (o *ObjectWriter) Result() (ObjectID, error) {
	if o.err != nil || o.id != (ObjectID{}) {
		return o.id, o.err
	}
	if len(o.piece) > 0 || len(o.parts) == 0 {
		if o.err = o.store(o.piece); o.err != nil {
			return ObjectID{}, o.err
		}
	}
	o.piece = nil
	if len(o.parts) == 1 {
		o.id = o.parts[0].Object
		return o.id, nil
	}
	o.id, o.err = o.w.StoreParts(o.ctx, o.parts, o.opt)
	return o.id, o.err
}

// Close lets go of what was not stored. It does not end an object that has no [ObjectWriter.Result] yet: there is none then.
func (o *ObjectWriter) Close() error {
	o.piece, o.parts = nil, nil
	if o.id == (ObjectID{}) && o.err == nil {
		o.err = errors.New("store an object: it is closed")
	}
	return nil
}

// StoreParts stores the list of an object whose parts are stored, and names that object. Of o the prefix and the compression
// of the parts count; the list is cut as the repository says.
func (w *Writer) StoreParts(ctx context.Context, parts []Part, o ObjectOptions) (ObjectID, error) {
	raw, err := EncodeParts(parts)
	if err != nil {
		return ObjectID{}, err
	}
	if o.Prefix == "" {
		o.Prefix = listPrefix
	}
	o.Splitter = ""
	list := w.NewObject(ctx, o)
	_, err = list.Write(raw)
	var id ObjectID
	if err == nil {
		id, err = list.Result()
	}
	if err = errors.Join(err, list.Close()); err != nil {
		return ObjectID{}, fmt.Errorf("store a list of %d parts: %w", len(parts), err)
	}
	return ListedObject(id)
}

// splitter is where objects are cut that say nothing of it.
func (r *Repository) splitter() string { return r.format.now().Splitter() }
