package index_test

import (
	"bytes"
	"strings"
	"testing"

	"holdfast/internal/vault/repo/format"
	"holdfast/internal/vault/repo/index"
	"holdfast/internal/vault/repo/kepttest"
)

// keptIndexes are the index blobs that kopia wrote, opened, by their names.
func keptIndexes(t *testing.T) map[string][]byte {
	t.Helper()
	blobs := kepttest.Blobs(t)
	f, err := format.Read(blobs["kopia.repository"], kepttest.Password)
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := f.Sealer()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for name, sealed := range blobs {
		if !strings.HasPrefix(name, "xn") {
			continue
		}
		if out[name], err = sealer.OpenBlob(name, sealed); err != nil {
			t.Fatalf("open %s: %v", name, err)
		}
	}
	if len(out) != 10 {
		t.Fatalf("the kept vault has %d indexes, want 10", len(out))
	}
	return out
}

// What kopia wrote is read, leads into packs that are there, and is written again byte for byte.
func TestTheKeptIndexesAreReadAndWrittenAgain(t *testing.T) {
	blobs := kepttest.Blobs(t)
	entries := 0
	for name, data := range keptIndexes(t) {
		x, err := index.Open(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		again := index.Builder{}
		err = x.Each("", "", func(i index.Info) error {
			entries++
			pack := blobs[i.Pack]
			if uint64(i.Offset)+uint64(i.Packed) > uint64(len(pack)) || i.Packed == 0 {
				t.Errorf("%s: %s lies at %d+%d of %s, which has %d bytes", name, i.ID, i.Offset, i.Packed, i.Pack, len(pack))
			}
			if i.Pack[0] != map[bool]byte{true: 'p', false: 'q'}[i.ID.Prefix() == ""] {
				t.Errorf("%s lies in %s", i.ID, i.Pack)
			}
			if i.Version == 0 || i.KeyID != 0 {
				t.Errorf("%s: version %d, key %d", i.ID, i.Version, i.KeyID)
			}
			if found, ok := x.Find(i.ID); !ok || found != i {
				t.Errorf("%s is %+v and found as %+v, %v", i.ID, i, found, ok)
			}
			again.Add(i)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		written, err := again.Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(written, data) {
			t.Errorf("%s has %d bytes and is written again as %d, which differ", name, len(data), len(written))
		}
	}
	if entries < 20 {
		t.Errorf("the kept indexes have %d entries in all", entries)
	}
	t.Logf("%d entries", entries)
}

// Compacting what kopia wrote says of each content what asking all indexes says.
func TestTheKeptIndexesAreCompacted(t *testing.T) {
	var all index.Merged
	for name, data := range keptIndexes(t) {
		x, err := index.Open(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, x)
	}
	contents := 0
	if err := all.Each("", "", func(index.Info) error { contents++; return nil }); err != nil {
		t.Fatal(err)
	}
	compacted := shards(t, all, 7, contents)
	if len(compacted) < 2 {
		t.Errorf("%d entries make %d indexes of about 7", all.Len(), len(compacted))
	}
	equalMerged(t, compacted, all)
}
