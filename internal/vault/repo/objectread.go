package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

// contents is what objects are read from: a repository, or a writer, which sees also what it has not flushed.
type contents interface {
	Content(ctx context.Context, id ContentID) ([]byte, error)
	ContentInfo(ctx context.Context, id ContentID) (Info, error)
}

// OpenObject opens an object for reading. A content that is missing is [ErrContentNotFound], here or where it is reached.
func (r *Repository) OpenObject(ctx context.Context, id ObjectID) (*ObjectReader, error) {
	return openObject(ctx, r, id)
}

// OpenObject is [Repository.OpenObject], and sees what this session stored.
func (w *Writer) OpenObject(ctx context.Context, id ObjectID) (*ObjectReader, error) {
	return openObject(ctx, w, id)
}

// Parts reads a list, which [ObjectID.List] gives. Its parts begin at 0 and follow upon one another.
func (r *Repository) Parts(ctx context.Context, list ObjectID) ([]Part, error) {
	return readParts(ctx, r, list)
}

// Parts is [Repository.Parts], and sees what this session stored.
func (w *Writer) Parts(ctx context.Context, list ObjectID) ([]Part, error) {
	return readParts(ctx, w, list)
}

// VerifyObject gives every content of an object, those of its lists too, each once. It reads the lists and asks for the rest:
// a content that is unknown is [ErrContentNotFound]. One that is deleted is given too, as long as it can be read: a clean-up marks what a
// backup uses that was not listed yet, and takes such marks away again. Whoever is about to rely on it asks [Repository.ContentInfo].
func (r *Repository) VerifyObject(ctx context.Context, id ObjectID) ([]ContentID, error) {
	return verifyObject(ctx, r, id)
}

// VerifyObject is [Repository.VerifyObject], and sees what this session stored.
func (w *Writer) VerifyObject(ctx context.Context, id ObjectID) ([]ContentID, error) {
	return verifyObject(ctx, w, id)
}

func verifyObject(ctx context.Context, from contents, id ObjectID) ([]ContentID, error) {
	seen := map[ContentID]bool{}
	var out []ContentID
	var look func(ObjectID) error
	look = func(id ObjectID) error {
		if list, ok := id.List(); ok {
			if err := look(list); err != nil {
				return fmt.Errorf("the list of object %s: %w", id, err)
			}
			parts, err := readParts(ctx, from, list)
			if err != nil {
				return err
			}
			for _, p := range parts {
				if err := look(p.Object); err != nil {
					return err
				}
			}
			return nil
		}
		content, _, ok := id.Content()
		if !ok {
			return errors.New("object without a name")
		}
		if seen[content] {
			return nil
		}
		if _, err := from.ContentInfo(ctx, content); err != nil {
			return fmt.Errorf("object %s: %w", id, err)
		}
		seen[content] = true
		out = append(out, content)
		return nil
	}
	if err := look(id); err != nil {
		return nil, fmt.Errorf("verify object %s: %w", id, err)
	}
	return out, nil
}

// readDirect gives all of an object that is one content.
func readDirect(ctx context.Context, from contents, id ObjectID) ([]byte, error) {
	content, compressed, ok := id.Content()
	if !ok {
		return nil, fmt.Errorf("object %q is no content", id)
	}
	if compressed {
		return nil, fmt.Errorf("object %s is compressed by itself, which no repository of this format needs", id)
	}
	raw, err := from.Content(ctx, content)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", id, err)
	}
	return raw, nil
}

func readParts(ctx context.Context, from contents, list ObjectID) ([]Part, error) {
	r, err := openObject(ctx, from, list)
	if err != nil {
		return nil, fmt.Errorf("read list %s: %w", list, err)
	}
	raw, err := io.ReadAll(r)
	if err == nil {
		err = r.Close()
	}
	var parts []Part
	if err == nil {
		parts, err = decodeParts(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("read list %s: %w", list, err)
	}
	return parts, nil
}

func openObject(ctx context.Context, from contents, id ObjectID) (*ObjectReader, error) {
	list, ok := id.List()
	if ok {
		parts, err := readParts(ctx, from, list)
		if err != nil {
			return nil, fmt.Errorf("open object %s: %w", id, err)
		}
		last := parts[len(parts)-1]
		return &ObjectReader{ctx: ctx, from: from, id: id, parts: parts, length: last.Start + last.Length, held: -1}, nil
	}
	raw, err := readDirect(ctx, from, id)
	if err != nil {
		return nil, fmt.Errorf("open %w", err)
	}
	return &ObjectReader{ctx: ctx, from: from, id: id, parts: []Part{{Length: int64(len(raw)), Object: id}}, length: int64(len(raw)), data: raw}, nil
}

// ObjectReader reads one object: every byte that it gives is authentic. It is used by one goroutine, and keeps one part in
// memory at a time.
type ObjectReader struct {
	ctx    context.Context // io.Reader has none
	from   contents
	id     ObjectID
	parts  []Part
	length int64 // of the object, in bytes
	at     int64 // the next byte to read; may lie behind the end
	held   int   // which of parts data is; -1 = none
	data   []byte
}

// Length is the object's size in bytes.
func (r *ObjectReader) Length() int64 { return r.length }

// Close lets go of the object.
func (r *ObjectReader) Close() error {
	r.data, r.held = nil, -1
	return nil
}

// Seek implements [io.Seeker]. It reads nothing; a position behind the end is one where nothing more comes.
func (r *ObjectReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.length
	case io.SeekStart:
	default:
		return r.at, fmt.Errorf("seek in object %s: from where is %d?", r.id, whence)
	}
	if offset < 0 {
		return r.at, fmt.Errorf("seek in object %s: to byte %d", r.id, offset)
	}
	r.at = offset
	return offset, nil
}

// Read implements [io.Reader].
func (r *ObjectReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	rest, err := r.rest()
	if err != nil {
		return 0, err
	}
	n := copy(p, rest)
	r.at += int64(n)
	return n, nil
}

// WriteTo implements [io.WriterTo].
func (r *ObjectReader) WriteTo(to io.Writer) (total int64, err error) {
	for {
		rest, err := r.rest()
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := to.Write(rest)
		r.at += int64(n)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// rest is what the part at the reader's position still has: at least one byte, or io.EOF.
func (r *ObjectReader) rest() ([]byte, error) {
	if r.at >= r.length {
		return nil, io.EOF
	}
	// The first part that ends behind the position: parts without a byte are passed over.
	i, _ := slices.BinarySearchFunc(r.parts, r.at, func(p Part, at int64) int {
		if p.Start+p.Length > at {
			return 1
		}
		return -1
	})
	if i != r.held {
		r.data, r.held = nil, -1
		data, err := r.part(r.parts[i])
		if err != nil {
			return nil, fmt.Errorf("read object %s at byte %d: %w", r.id, r.parts[i].Start, err)
		}
		r.data, r.held = data, i
	}
	return r.data[r.at-r.parts[i].Start:], nil
}

// part reads all of one part, which is a content but where objects were joined that had lists of their own.
func (r *ObjectReader) part(p Part) (data []byte, err error) {
	if _, _, direct := p.Object.Content(); direct {
		data, err = readDirect(r.ctx, r.from, p.Object)
	} else {
		var in *ObjectReader
		if in, err = openObject(r.ctx, r.from, p.Object); err == nil && in.length == p.Length {
			data, err = io.ReadAll(in)
		}
	}
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != p.Length {
		return nil, fmt.Errorf("part %s has %d bytes, %d were stored", p.Object, len(data), p.Length)
	}
	return data, nil
}
