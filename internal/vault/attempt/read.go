package attempt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"holdfast/internal/vault/store"
)

// Answer is what a store gives when it is asked for a part of an object.
type Answer struct {
	Body  io.ReadCloser
	Size  int64  // of the part
	ETag  string // which object it is
	Range string // the Content-Range header
}

// Nothing is the answer of an object that ends where it was to be read from.
func Nothing(from int64) Answer {
	return Answer{Body: io.NopCloser(strings.NewReader("")), Range: fmt.Sprintf("bytes %d-", from)}
}

// Ask asks for length bytes from an offset on, once; length below 0 means to the end. With etag, only of that object.
type Ask func(ctx context.Context, from, length int64, etag string) (Answer, error)

// Reading is a Get on its way: what has come already is not asked for again.
type Reading struct {
	Offset, Length int64 // Length below 0 = to the end, until the first answer says where that is
	To             io.Writer

	done int64 // bytes that were handed on
	etag string
}

// Run reads until everything has come. A connection that breaks is taken up where it broke, and only of the same object.
func (r *Reading) Run(ctx context.Context, t Tries, ask Ask) error {
	return t.Further(ctx, func(ctx context.Context) (bool, error) {
		before := r.done
		err := r.on(ctx, t.Patience, ask)
		return r.done-before >= slowest, err
	})
}

// on asks for what is missing, once.
func (r *Reading) on(ctx context.Context, p Patience, ask Ask) (err error) {
	ctx, end := context.WithCancelCause(ctx)
	late := time.AfterFunc(p.Silence, func() { end(ErrSlow) })
	defer func() {
		late.Stop()
		if err != nil && ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		end(nil)
	}()
	from, length := r.Offset+r.done, r.Length
	if length >= 0 {
		length -= r.done
	}
	a, err := ask(ctx, from, length, r.etag)
	if err != nil {
		return err
	}
	defer func() { _ = a.Body.Close() }() // only read
	if (length >= 0 || from > 0) && !strings.HasPrefix(a.Range, fmt.Sprintf("bytes %d-", from)) {
		return Final{fmt.Errorf("the store was asked for the bytes from %d on and gave others (%q)", from, a.Range)}
	}
	if r.Length < 0 {
		r.Length = r.done + a.Size
	}
	r.etag = a.ETag
	missing := r.Length - r.done
	if a.Size != missing {
		return Final{fmt.Errorf("%d bytes from %d on are not all there: %w", r.Length, r.Offset, store.ErrShort)}
	}
	late.Reset(p.Allow(missing))
	return r.take(a.Body, missing)
}

// take hands the content on. A writer that refuses is no fault of the store.
func (r *Reading) take(body io.Reader, missing int64) error {
	w := &watched{to: r.To}
	n, err := io.CopyN(w, body, missing)
	r.done += n
	if w.err != nil {
		return Final{w.err}
	}
	return err
}

type watched struct {
	to  io.Writer
	err error
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	if err != nil {
		w.err = err
	}
	return n, err
}
