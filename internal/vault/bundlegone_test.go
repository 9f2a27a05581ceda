package vault

import (
	"bytes"
	"context"
	"path"
	"testing"
	"time"

	"holdfast/internal/redact"
	"holdfast/internal/vault/store"
	"holdfast/internal/vault/wal"
)

// A segment that the catalog does not know, for its writer was killed, is taken for what a bundle has replaced only while a
// bundle must be there, and is removed only where that is whole and holds the same.
func TestASegmentIsNotForgottenForABundleThatIsGone(t *testing.T) {
	const size = 1 << 20
	for name, c := range map[string]struct {
		bundle      func(ctx context.Context, v *Vault, object string) error // what becomes of it
		other, gone bool                                                     // the segment has other content; the catalog takes it for gone
		want        error                                                    // of a repair that is told to remove it
	}{
		"the bundle was let go of":     {bundle: func(ctx context.Context, v *Vault, object string) error { return v.files.Delete(ctx, object) }, want: errNotForget},
		"the bundle is lost":           {bundle: func(ctx context.Context, v *Vault, object string) error { return v.recorder.Store.Delete(ctx, object) }, gone: true, want: errNoBundle},
		"the bundle has other content": {other: true, gone: true, want: errOtherBundle},
		"the bundle is there":          {gone: true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			v, err := Create(ctx, Config{URL: "file://" + t.TempDir() + "/v", Key: redact.Secret("pass"), Keys: &Keyring{}, Application: "clinic"})
			must(err)
			t.Cleanup(func() { must(v.Close(context.Background())) })
			l := v.Log(7, size)
			content := func(n int) []byte { return bytes.Repeat([]byte{byte(n)}, size) }
			for n := 1; n <= 2; n++ {
				must(l.PutSegment(ctx, 1, wal.LSN(n*size), content(n), time.Unix(1, 0)))
			}
			held, err := l.Held(ctx)
			must(err)
			segment := held[0].Object
			raw, err := store.Read(ctx, v.files, segment)
			must(err)
			v.recorder.take(false) // their writer was killed: no row
			_, err = l.Bundle(ctx, BundleOptions{Old: -time.Hour, Late: -time.Hour})
			must(err)
			held, err = l.Held(ctx)
			must(err)
			v.recorder.take(false)
			names, err := v.files.Names(ctx, catalogDir)
			must(err)
			for _, n := range names { // what a merge leaves: of the bundle alone
				must(v.recorder.Store.Delete(ctx, path.Join(catalogDir, n)))
			}
			bundled, err := store.Read(ctx, v.files, held[0].Object)
			must(err)
			must(v.recorder.Delete(ctx, held[0].Object))
			v.recorder.take(false)
			must(v.files.Put(ctx, held[0].Object, store.Bytes(bundled)))
			if c.other {
				hash, err := v.walHash(content(9))
				must(err)
				segment = path.Join(l.dir(1), wal.SegmentName(1, size, size)+"-"+hash+walSuffix)
				packed, err := v.packed(content(9))
				must(err)
				raw, err = v.sealWAL(walHeader{kind: walSegment, timeline: 1, systemID: 7, start: size, segmentSize: size}, packed)
				must(err)
			}
			must(v.recorder.Store.Put(ctx, segment, store.Bytes(raw)))
			if c.bundle != nil {
				must(c.bundle(ctx, v, held[0].Object))
			}
			must(v.writeDown(ctx, false))
			cat, err := v.readCatalog(ctx)
			must(err)
			if cat.gone(segment) != c.gone {
				t.Errorf("gone: %v", cat.gone(segment))
			}
			done, err := v.Repair(ctx, []Finding{{Name: segment, Kind: ShouldBeGo}}, false)
			must(err)
			if len(done) != 1 || done[0].Done != (c.want == nil) || c.want != nil && done[0].Why != c.want.Error() {
				t.Errorf("repaired %+v, want %v", done, c.want)
			}
		})
	}
}
