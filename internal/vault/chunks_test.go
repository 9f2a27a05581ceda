package vault

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redact"
	"holdfast/internal/vault/repo"
)

func TestABackupIsMadeOfChunksOfAnotherOne(t *testing.T) {
	v, err := Create(t.Context(), Config{URL: "file://" + t.TempDir(), Key: redact.Secret("k"), Keys: &Keyring{}, Application: "clinic"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	dice := rand.NewChaCha8([32]byte{7})
	content := make([]byte, 3*ChunkSize+5000)
	_, _ = dice.Read(content) // never fails
	store := func(put func(w *Writer)) *Reader {
		t.Helper()
		w, err := v.Begin(t.Context(), "test")
		if err != nil {
			t.Fatal(err)
		}
		put(w)
		b, err := w.Commit(Backup{Database: "orders", Kind: "full", Started: time.Now(), Stopped: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		r, err := v.OpenBackup(t.Context(), b.ID)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	find := func(r *Reader, path string) Entry {
		t.Helper()
		for _, e := range r.Entries() {
			if e.Path == path {
				return e
			}
		}
		t.Fatalf("%s is not in the backup", path)
		return Entry{}
	}
	keep := func(c *ChunkWriter) {
		t.Helper()
		if err := c.Keep(); err != nil {
			t.Fatal(err)
		}
	}
	add := func(w *Writer, c *ChunkWriter, p []byte) {
		t.Helper()
		k, err := w.StoreChunk(p)
		if err == nil {
			err = c.Add(k)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	first := store(func(w *Writer) {
		f := w.File(Entry{Path: "pgdata/streamed", Mode: 0o600}) // the way of files that are not relations
		if _, err := f.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := f.Keep(); err != nil {
			t.Fatal(err)
		}
		c := w.Chunked(Entry{Path: "pgdata/chunked", Mode: 0o600})
		for p := range slices.Chunk(content, ChunkSize) {
			add(w, c, p)
		}
		keep(c)
		keep(w.Chunked(Entry{Path: "pgdata/empty", Mode: 0o600}))
	})
	streamed, chunked := find(first, "pgdata/streamed"), find(first, "pgdata/chunked")
	if streamed.object != chunked.object {
		t.Errorf("a file stored by chunks is another one than the same file streamed: %s, %s", chunked.object, streamed.object)
	}
	if err := first.Copy(t.Context(), find(first, "pgdata/empty"), &bytes.Buffer{}); err != nil {
		t.Error(err)
	}
	chunks, ok, err := first.Chunks(t.Context(), streamed)
	if err != nil || !ok || len(chunks) != 4 || chunks[3].Length != 5000 {
		t.Fatalf("chunks %+v, %t, %v", chunks, ok, err)
	}
	if !first.Same(chunks[1], content[ChunkSize:2*ChunkSize]) || first.Same(chunks[1], content[:ChunkSize]) || !first.Same(chunks[3], content[3*ChunkSize:]) {
		t.Error("a chunk is not recognised by its bytes")
	}

	changed := bytes.Clone(content)
	changed[ChunkSize+77] ^= 1
	second := store(func(w *Writer) {
		c := w.Chunked(Entry{Path: "pgdata/chunked", Mode: 0o600})
		for i, k := range chunks {
			if i == 1 {
				add(w, c, changed[ChunkSize:2*ChunkSize])
				continue
			}
			if ok, err := w.HasChunk(k); err != nil || !ok {
				t.Fatal(ok, err)
			}
			if err := c.Add(k); err != nil {
				t.Fatal(err)
			}
		}
		keep(c)
	})
	var got bytes.Buffer
	if err := second.Copy(t.Context(), find(second, "pgdata/chunked"), &got); err != nil || !bytes.Equal(got.Bytes(), changed) {
		t.Errorf("read back %d bytes, %v", got.Len(), err)
	}

	w, err := v.Begin(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	lost := chunks[0]
	if lost.object, err = repo.ParseObjectID(strings.Repeat("0f", 32)); err != nil {
		t.Fatal(err)
	}
	if ok, err := w.HasChunk(lost); ok || err != nil {
		t.Errorf("a chunk that is not there is to be had: %t, %v", ok, err)
	}
	if _, err := w.StoreChunk(make([]byte, ChunkSize+1)); err == nil {
		t.Error("more than a chunk was stored as one")
	}
	short := w.Chunked(Entry{Path: "x"})
	if err := errors.Join(short.Add(chunks[3]), short.Add(chunks[1])); err == nil {
		t.Error("a file goes on behind its last chunk")
	}
	if err := w.Abort(); err != nil {
		t.Error(err)
	}
}
