package backup

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/pgdata"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
)

// control is a pg_control of some version: settings, the sum of what stands before it, zeros.
func control(fill byte) []byte {
	raw := make([]byte, pgdata.PageSize)
	for i := range 288 {
		raw[i] = fill
	}
	binary.LittleEndian.PutUint32(raw[288:], crc32.Checksum(raw[:288], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

func TestAControlFileThatIsBeingWrittenIsReadAgain(t *testing.T) {
	torn := append(control(7)[:100:100], control(9)[100:]...)
	gone := errors.New("the disk is gone")
	for name, c := range map[string]struct {
		reads [][]byte // the last one again and again; nil = gone
		want  []byte   // nil = an error
		tries int
	}{
		"whole at once":                     {[][]byte{control(7)}, control(7), 1},
		"torn twice":                        {[][]byte{torn, torn, control(9)}, control(9), 3},
		"short while it is written":         {[][]byte{none(), control(9)[:150], control(9)}, control(9), 3},
		"never whole":                       {[][]byte{torn}, nil, 21},
		"one that cannot be read":           {[][]byte{torn, nil}, nil, 2},
		"an empty one is no control file":   {[][]byte{none()}, nil, 21},
		"a file of zeros has no sum either": {[][]byte{make([]byte, pgdata.PageSize)}, nil, 21},
	} {
		t.Run(name, func(t *testing.T) {
			tries := 0
			got, err := wholeControl(t.Context(), func() ([]byte, error) {
				raw := c.reads[min(tries, len(c.reads)-1)]
				if tries++; raw == nil {
					return nil, gone
				}
				return raw, nil
			})
			if !bytes.Equal(got, c.want) || (err == nil) != (c.want != nil) || tries != c.tries {
				t.Errorf("%d bytes after %d tries, %v", len(got), tries, err)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := wholeControl(ctx, func() ([]byte, error) { cancel(); return torn, nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cut off: %v", err)
	}
}

func none() []byte { return []byte{} }

// page is a whole page of a relation: filled, of a position in the log, with its checksum.
func page(fill byte, lsn uint64, block uint32) []byte {
	p := bytes.Repeat([]byte{fill}, pgdata.PageSize)
	binary.LittleEndian.PutUint32(p, uint32(lsn>>32))
	binary.LittleEndian.PutUint32(p[4:], uint32(lsn))
	binary.LittleEndian.PutUint16(p[14:], 4096)
	binary.LittleEndian.PutUint16(p[8:], pgdata.Checksum(p, block))
	return p
}

// copying is a copier over a directory, whose backup begins at position 1000.
func copying(t *testing.T) (c *copier, dir string, done func() map[string][]byte) {
	t.Helper()
	v, err := vault.Create(t.Context(), vault.Config{URL: "file://" + filepath.Join(t.TempDir(), "vault"), Key: redact.Secret("k"), Keys: &vaultKeys, Application: "clinic"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	w, err := v.Begin(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() }) // nothing was written through it
	c = &copier{root: root, to: w, checksums: true, start: 1000, bytes: func(int) {}, pace: func(context.Context, int) error { return nil }, keep: func() error { return nil }}
	return c, dir, func() map[string][]byte {
		t.Helper()
		b, err := w.Commit(vault.Backup{Database: "orders", Kind: "full"})
		if err != nil {
			t.Fatal(err)
		}
		r, err := v.OpenBackup(t.Context(), b.ID)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string][]byte{}
		for _, e := range r.Entries() {
			if e.Dir {
				continue
			}
			var content bytes.Buffer
			if err := r.Copy(t.Context(), e, &content); err != nil {
				t.Fatal(err)
			}
			out[e.Path] = content.Bytes()
		}
		return out
	}
}

// Scenarios 8 and 9: what the server does to a file while it is copied. What the log does not repeat is never lost, and
// no page is called rotten that is only being written.
func TestAFileChangesWhileItIsCopied(t *testing.T) {
	c, dir, finish := copying(t)
	three := func(lsn uint64) []byte {
		return bytes.Join([][]byte{page(1, lsn, 0), page(2, lsn, 1), page(3, lsn, 2)}, nil)
	}
	half := func(lsn uint64, block uint32) []byte { // the first half of a newer page over an older one
		return append(page(9, lsn, block)[:4096:4096], page(2, 500, block)[4096:]...)
	}
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put := func(name string, block int64, content []byte) {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(content, block*pgdata.PageSize); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	cases := map[string]struct {
		listed int64            // pages that it had when it was listed
		change func(now string) // between then and its copy
		pages  int              // of the copy; 0 = it is not in the backup
		bad    int
	}{
		"quiet":     {3, func(string) {}, 3, 0},
		"vanished":  {3, func(now string) { _ = os.Remove(filepath.Join(dir, now)) }, 0, 0},
		"emptied":   {3, func(now string) { write(now, nil) }, -1, 0},
		"shortened": {3, func(now string) { write(now, three(500)[:pgdata.PageSize]) }, 1, 0},
		"grown":     {2, func(string) {}, 2, 0},
		// Under the name of a table that was dropped lies another one.
		"reused": {3, func(now string) { write(now, three(2000)) }, 3, 0},
		// The server is writing a page of after the beginning: the log has all of it.
		"torn":   {3, func(now string) { put(now, 1, half(2000, 1)) }, 3, 0},
		"rotten": {3, func(now string) { put(now, 1, half(900, 1)) }, 3, 1},
		// A page at another's place, as a disk that lost its way leaves it.
		"misplaced": {3, func(now string) { put(now, 1, page(3, 500, 2)) }, 3, 1},
		"filled":    {3, func(now string) { put(now, 1, make([]byte, pgdata.PageSize)) }, 3, 0},
	}
	for name, x := range cases {
		write(name, three(500))
		x.change(name)
		s, ctx := c.store(t.Context(), 2)
		err := s.copyFile(ctx, file{path: name, size: x.listed * pgdata.PageSize, mode: 0o600, relation: true})
		got, stored := s.wait(ctx)
		if err = errors.Join(err, stored); err != nil || len(got.bad) != x.bad {
			t.Errorf("%s: bad are %q, %v", name, got.bad, err)
		}
	}
	stored := finish()
	for name, x := range cases {
		content, there := stored["pgdata/"+name]
		if want := max(x.pages, 0) * pgdata.PageSize; len(content) != want || there != (x.pages != 0) {
			t.Errorf("%s: %d bytes are stored (there: %t), want %d", name, len(content), there, want)
			continue
		}
		if now, err := os.ReadFile(filepath.Join(dir, name)); there && (err != nil || !bytes.Equal(content, now[:len(content)])) {
			t.Errorf("%s: something else is stored than lies there: %v", name, err)
		}
	}
}

// A page that is torn for a moment, and was not changed since the backup began, is read again.
func TestATornPageThatSettlesIsWhole(t *testing.T) {
	c, dir, _ := copying(t)
	whole := page(5, 500, 0)
	at := filepath.Join(dir, "table")
	if err := os.WriteFile(at, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()                             // opened for reading alone
	piece := append(whole[:4096:4096], page(6, 400, 0)[4096:]...) // as it was read first
	if bad, err := c.verify(t.Context(), file{path: "table"}, in, piece, 0); err != nil || len(bad) > 0 || !bytes.Equal(piece, whole) {
		t.Errorf("bad are %q, %v; what is stored is whole: %t", bad, err, bytes.Equal(piece, whole))
	}
	if err := c.to.Abort(); err != nil {
		t.Error(err)
	}
}
