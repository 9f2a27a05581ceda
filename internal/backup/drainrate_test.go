package backup

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/s3store/s3test"
	"holdfast/internal/vault/wal"
)

// How fast the log that waited drains is bounded by requests that wait for each other: four for each whole segment, one of them with
// its content, however much waits and however much the vault holds, and nothing of a segment is sent twice. So a vault that answers
// a request in 50 ms takes five segments a second, 80 MB of log, beside the time for the bytes themselves.
func TestAnS3VaultGetsEachWaitingSegmentInFourRequests(t *testing.T) {
	server := s3test.Start(t)
	server.Bucket(t, "vaults", false)
	proxy := server.Worse(t, 1)
	conf := vault.Config{URL: "s3://vaults/clinic", S3: server.Config("", ""), Key: redact.Secret("k"), Keys: &vaultKeys, Application: "clinic", Host: "h1"}
	conf.S3.Endpoint = "http://" + proxy.Address
	v, err := vault.Create(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	l := v.Log(7, sealedSize)
	first := 0
	drain := func(segments int) (requests int) {
		t.Helper()
		q, err := openSpool(filepath.Join(t.TempDir(), "spool"), sealedSize, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = q.close() }()
		content := make([]byte, segments*sealedSize)
		for n := range segments {
			content[n*sealedSize] = byte(first + n + 1)
		}
		if err := errors.Join(q.append(1, wal.LSN(first)*sealedSize, content, time.Now()), q.flush()); err != nil {
			t.Fatal(err)
		}
		s := &stream{r: &Receiver{o: ReceiverOptions{Clock: clock.Real()}}, spool: q, spill: newSpill(t.TempDir(), "", v), log: l, segmentSize: sealedSize}
		before := proxy.Asked()
		if err := s.archive(t.Context(), false, func() bool { return true }, func(f func() error) error { return f() }); err != nil {
			t.Fatal(err)
		}
		first += segments
		if n := q.waiting(); n != 0 {
			t.Errorf("%d bytes wait still", n)
		}
		return proxy.Asked() - before
	}
	drain(1)        // whatever is asked once
	const other = 6 // a page of the catalog on a slow machine, or a request that has to be asked again
	for _, segments := range []int{10, 20} {
		if n := drain(segments); n > 4*segments+other {
			t.Errorf("%d waiting segments took %d requests", segments, n)
		}
	}
	held, err := l.Held(t.Context())
	if err != nil || len(held) != first {
		t.Errorf("%d segments are held, want %d: %v", len(held), first, err)
	}
}
