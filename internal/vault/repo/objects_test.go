package repo_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/repotest"
	"holdfast/internal/vault/store"
)

const heapPassword = "no secret"

// openHeap opens the repository in a store, as one of the hosts that do.
func openHeap(t *testing.T, s store.Store, o repo.Options) *repo.Repository {
	t.Helper()
	r, err := repo.Open(t.Context(), s, heapPassword, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return r
}

func madeHeap(t *testing.T) *repotest.Store {
	t.Helper()
	h := repotest.New()
	if err := repo.Initialize(t.Context(), h, heapPassword, nil); err != nil {
		t.Fatal(err)
	}
	return h
}

func openWriter(t *testing.T, r *repo.Repository) *repo.Writer {
	t.Helper()
	w, err := r.NewWriter(t.Context(), repo.WriteOptions{Purpose: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return w
}

// genContent is up to some MiB, made from a seed; a part of it may be zeros, which a splitter by content cuts at its longest.
func genContent(t *rapid.T) []byte {
	n := rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(1<<20-2, 1<<20+2), rapid.IntRange(0, 3<<20)).Draw(t, "bytes")
	raw := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(rapid.IntRange(0, 200).Draw(t, "seed"))}).Read(raw) // never fails
	if n > 0 {
		from := rapid.IntRange(0, n-1).Draw(t, "zeros from")
		clear(raw[from:rapid.IntRange(from, n).Draw(t, "zeros to")])
	}
	return raw
}

func genOptions(t *rapid.T) repo.ObjectOptions {
	return repo.ObjectOptions{
		Prefix:   rapid.SampledFrom([]string{"", "", "k"}).Draw(t, "prefix"),
		Splitter: rapid.SampledFrom([]string{"", "FIXED-128K", "DYNAMIC-128K-BUZHASH", "DYNAMIC-1M-BUZHASH"}).Draw(t, "splitter"),
		Compress: rapid.Bool().Draw(t, "compress"),
	}
}

type fataler interface {
	Helper()
	Fatal(...any)
}

// storeBy writes an object in several goes.
func storeBy(t fataler, w *repo.Writer, o repo.ObjectOptions, raw []byte, goes func() int) repo.ObjectID {
	t.Helper()
	out := w.NewObject(context.Background(), o)
	for rest := raw; len(rest) > 0; {
		n := min(goes(), len(rest))
		if got, err := out.Write(rest[:n]); err != nil || got != n {
			t.Fatal(got, err)
		}
		rest = rest[n:]
	}
	id, err := out.Result()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := out.Result(); err != nil || again != id {
		t.Fatal("asked again it is", again, err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return id
}

type opener interface {
	OpenObject(context.Context, repo.ObjectID) (*repo.ObjectReader, error)
	VerifyObject(context.Context, repo.ObjectID) ([]repo.ContentID, error)
	Parts(context.Context, repo.ObjectID) ([]repo.Part, error)
}

func readAll(t fataler, from opener, id repo.ObjectID) []byte {
	t.Helper()
	in, err := from.OpenObject(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(struct{ io.Reader }{in})
	if err = errors.Join(err, in.Close()); err != nil {
		t.Fatal(err)
	}
	if in.Length() != int64(len(raw)) {
		t.Fatal("it says that it has", in.Length(), "bytes, and gives", len(raw))
	}
	return raw
}

// Whatever is written, in whatever goes and with whatever cuts, is read back; the same bytes cut alike have the same name; and
// another handle on the place sees it after a flush.
func TestObjectsComeBackAsTheyWereWritten(t *testing.T) {
	h := madeHeap(t)
	mine, other := openHeap(t, h, repo.Options{}), openHeap(t, h, repo.Options{ReadOnly: true})
	w := openWriter(t, mine)
	rapid.Check(t, func(t *rapid.T) {
		raw, o := genContent(t), genOptions(t)
		id := storeBy(t, w, o, raw, func() int { return rapid.IntRange(1, 2<<20).Draw(t, "go") })
		if whole := storeBy(t, w, o, raw, func() int { return len(raw) }); whole != id {
			t.Fatalf("written at once it is %s, and in goes %s", whole, id)
		}
		sameBytes(t, w, id, raw)
		if !rapid.Bool().Draw(t, "flush") {
			return
		}
		ctx := context.Background()
		if err := errors.Join(w.Flush(ctx), other.Refresh(ctx)); err != nil {
			t.Fatal(err)
		}
		sameBytes(t, mine, id, raw)
		sameBytes(t, other, id, raw)
	})
}

func sameBytes(t *rapid.T, from opener, id repo.ObjectID, want []byte) {
	t.Helper()
	if got := readAll(t, from, id); !bytes.Equal(got, want) {
		t.Fatalf("%d bytes came back as %d others", len(want), len(got))
	}
	all, err := from.VerifyObject(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	needed := map[string]bool{}
	list, ok := id.List()
	if !ok {
		needed[id.String()] = true
	} else {
		parts, err := from.Parts(context.Background(), list)
		if err != nil || len(parts) < 2 {
			t.Fatalf("a list of %d parts: %v", len(parts), err)
		}
		for _, p := range parts {
			needed[p.Object.String()] = true
		}
		needed[list.String()] = true // all lists here are one content
	}
	if len(all) != len(needed) {
		t.Fatalf("%d contents are named, and it has %d", len(all), len(needed))
	}
	for _, c := range all {
		if !needed[c.String()] {
			t.Errorf("%s is none of its contents", c)
		}
	}
}

// A reader is at any moment where bytes.Reader would be.
func TestObjectsAreSoughtIn(t *testing.T) {
	w := openWriter(t, openHeap(t, madeHeap(t), repo.Options{}))
	rapid.Check(t, func(t *rapid.T) {
		raw := genContent(t)
		id := storeBy(t, w, repo.ObjectOptions{Splitter: "FIXED-128K"}, raw, func() int { return len(raw) })
		in, err := w.OpenObject(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		model := bytes.NewReader(raw)
		t.Repeat(map[string]func(*rapid.T){
			"seek": func(t *rapid.T) {
				whence := rapid.IntRange(0, 2).Draw(t, "whence")
				offset := rapid.Int64Range(-int64(len(raw))-2, int64(len(raw))+2).Draw(t, "offset")
				got, err := in.Seek(offset, whence)
				want, wantErr := model.Seek(offset, whence)
				if (err == nil) != (wantErr == nil) || err == nil && got != want {
					t.Fatalf("it is at %d, %v, and should be at %d, %v", got, err, want, wantErr)
				}
			},
			"read": func(t *rapid.T) {
				got := make([]byte, rapid.IntRange(0, 300_000).Draw(t, "n"))
				want := make([]byte, len(got))
				n, err := io.ReadFull(in, got)
				m, wantErr := io.ReadFull(model, want)
				if n != m || err != wantErr || !bytes.Equal(got, want) {
					t.Fatalf("%d bytes, %v, and should be %d, %v", n, err, m, wantErr)
				}
			},
			"write": func(t *rapid.T) {
				var got, want bytes.Buffer
				if _, err := io.Copy(&got, in); err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(&want, model); err != nil || !bytes.Equal(got.Bytes(), want.Bytes()) {
					t.Fatalf("the rest is %d bytes, and should be %d", got.Len(), want.Len())
				}
			},
		})
		if _, err := in.Seek(0, 3); err == nil {
			t.Error("it seeks from nowhere")
		}
	})
}

// Parts that were stored as objects of their own, with lists of their own, may be put together again.
func TestObjectsArePutTogether(t *testing.T) {
	ctx := t.Context()
	w := openWriter(t, openHeap(t, madeHeap(t), repo.Options{}))
	var want []byte
	var parts []repo.Part
	for i, n := range []int{300_000, 0, 1, 500_000} {
		raw := bytes.Repeat([]byte{byte(i), 1, 2}, n)[:n]
		id := storeBy(t, w, repo.ObjectOptions{Splitter: "FIXED-128K"}, raw, func() int { return n })
		parts = append(parts, repo.Part{Start: int64(len(want)), Length: int64(n), Object: id})
		want = append(want, raw...)
	}
	id, err := w.StoreParts(ctx, parts, repo.ObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if list, ok := id.List(); !ok || !strings.HasPrefix(list.String(), "x") {
		t.Errorf("its list is %s", list)
	}
	if got := readAll(t, w, id); !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back as %d others", len(want), len(got))
	}
	parts[3].Length++
	if id, err = w.StoreParts(ctx, parts, repo.ObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	in, err := w.OpenObject(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, in); err == nil || n != 300_001 {
		t.Errorf("a part that is shorter than its list says is read: %d bytes, %v", n, err)
	}
}

func TestAnObjectThatIsNotThereIsAnError(t *testing.T) {
	ctx := t.Context()
	r := openHeap(t, madeHeap(t), repo.Options{})
	w := openWriter(t, r)
	id := storeBy(t, w, repo.ObjectOptions{}, make([]byte, 3<<20), func() int { return 1 << 20 })
	if _, err := r.OpenObject(ctx, id); !errors.Is(err, repo.ErrContentNotFound) {
		t.Errorf("before the flush others see it: %v", err)
	}
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	all, err := r.VerifyObject(ctx, id)
	if err != nil || len(all) != 2 { // three times the same megabyte, and the list
		t.Fatal(all, err)
	}
	if err := errors.Join(w.Delete(ctx, all[1]), w.Flush(ctx)); err != nil {
		t.Fatal(err)
	}
	if marked, err := r.VerifyObject(ctx, id); err != nil || !slices.Equal(marked, all) { // it can be read until the mark takes effect
		t.Errorf("an object with a content that is deleted has %v, not %v: %v", marked, all, err)
	}
	if err := errors.Join(w.Indexes().AdvanceWatermark(ctx, time.Now().Add(time.Minute)), r.Refresh(ctx)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.VerifyObject(ctx, id); !errors.Is(err, repo.ErrContentNotFound) {
		t.Errorf("an object with a content that counts no more is whole: %v", err)
	}
	if again := storeBy(t, w, repo.ObjectOptions{}, make([]byte, 3<<20), func() int { return 1 << 20 }); again != id {
		t.Fatalf("%s is now %s", id, again)
	}
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := r.VerifyObject(ctx, id); err != nil {
		t.Errorf("it was stored again: %v", err)
	}
}

func TestAnObjectThatFailsIsNeverNamed(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := openWriter(t, openHeap(t, madeHeap(t), repo.Options{}))
	unknown := w.NewObject(ctx, repo.ObjectOptions{Splitter: "AT-WILL"})
	if _, err := unknown.Write([]byte("a")); err == nil {
		t.Error("an unknown splitter cuts")
	}
	if id, err := unknown.Result(); err == nil {
		t.Errorf("it is %s", id)
	}
	closed := w.NewObject(ctx, repo.ObjectOptions{})
	_, err := closed.Write([]byte("a"))
	if err = errors.Join(err, closed.Close()); err != nil {
		t.Fatal(err)
	}
	if id, err := closed.Result(); err == nil {
		t.Errorf("what was closed is %s", id)
	}
	cancel()
	bad := w.NewObject(ctx, repo.ObjectOptions{Prefix: "not one letter"})
	if _, err := bad.Write(make([]byte, 1<<20)); err == nil {
		t.Error("a prefix that is none is taken")
	}
	if id, err := bad.Result(); err == nil {
		t.Errorf("it is %s", id)
	}
}
