package s3store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/vault/s3store"
	"holdfast/internal/vault/s3store/s3test"
	"holdfast/internal/vault/store"
)

// bad opens a bucket through a proxy that does nothing yet.
func bad(t *testing.T, server *s3test.Server, bucket string, seed uint64, attempts int) (*s3store.Store, *s3test.Proxy, *s3test.Bucket) {
	t.Helper()
	b := server.Bucket(t, bucket, false)
	p := server.Worse(t, seed)
	cfg := server.Config(bucket, "v")
	cfg.Endpoint = "http://" + p.Address
	cfg.Patience.Attempts, cfg.Patience.Wait, cfg.Patience.WaitMax = attempts, 5*time.Millisecond, 50*time.Millisecond
	return open(t, cfg), p, b.Below("v")
}

func content(i, size int) []byte { return bytes.Repeat([]byte(fmt.Sprintf("%07d,", i)), size/8) }

// What is told to be stored is stored, and what is read is what was stored, however bad the store is.
func TestAnS3StoreInTroubleNeverGivesAWrongSuccess(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	s, p, there := bad(t, server, "trouble", 7, 100) // every other request goes wrong: a dozen in a row is no rarity
	p.Set(s3test.Faults{Busy: .15, Broken: .05, Reset: .08, LoseAnswer: .08, CutBody: .08, Damage: .08, Deny: .04})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < 48; i += 4 {
				name, want := fmt.Sprintf("p/%d", i), content(i, 1<<10<<(i%11))
				if err := s.Put(t.Context(), name, store.Bytes(want)); err != nil {
					t.Errorf("put %s: %v", name, err)
					continue
				}
				raw, err := there.Read(t.Context(), name)
				if err != nil || !bytes.Equal(raw, want) {
					t.Errorf("%s was said to be stored; there are %d bytes of %d, %v", name, len(raw), len(want), err)
				}
				if err := s.Put(t.Context(), name, store.Bytes(content(i+1, len(want)))); !errors.Is(err, store.ErrDiffers) {
					t.Errorf("other bytes under %s: %v", name, err)
				}
				got, err := store.Read(t.Context(), s, name)
				if err == nil && !bytes.Equal(got, want) || err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Errorf("read %s: %d bytes, %v", name, len(got), err)
				}
				if err := s.Replace(t.Context(), name, store.Bytes(want)); err != nil {
					t.Errorf("replace %s: %v", name, err)
				}
			}
		})
	}
	wg.Wait()
	if got := p.Count(); strings.Count(got, ":") != 7 {
		t.Errorf("not every fault struck: %s", got)
	}
	seen := map[string]bool{}
	if err := s.List(t.Context(), "p/", func(i store.Info) error { seen[i.Name] = true; return nil }); err != nil || len(seen) != 48 {
		t.Errorf("listed %d of 48, %v", len(seen), err)
	}
}

func TestAnS3StoreThatStaysDownIsAnErrorInBoundedTime(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	s, p, there := bad(t, server, "down", 1, 12)
	for name, f := range map[string]s3test.Faults{"a storm of 503": {Busy: 1}, "resets": {Reset: 1}, "answers that are lost": {LoseAnswer: 1}, "damage": {Damage: 1}} {
		t.Run(name, func(t *testing.T) {
			p.Set(f)
			err := s.Replace(t.Context(), "x", store.Bytes("content"))
			if err == nil {
				t.Error("said to be stored")
			} else if !strings.Contains(err.Error(), "down at 127.") {
				t.Errorf("the bucket is not named in %v", err)
			}
			p.Set(s3test.Faults{})
			if raw, err := there.Read(t.Context(), "x"); err == nil && string(raw) != "content" {
				t.Errorf("%q is stored", raw)
			}
		})
	}
}

func TestAnS3StoreThatIsTooSlowIsGivenUp(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	server.Bucket(t, "slow", false)
	p := server.Worse(t, 1)
	cfg := server.Config("slow", "v")
	fast := open(t, cfg)
	cfg.Endpoint = "http://" + p.Address
	cfg.Patience = s3store.Patience{Attempts: 2, Wait: time.Millisecond, Silence: time.Second}
	s := open(t, cfg)
	if err := fast.Put(t.Context(), "big", store.Bytes(content(1, 50_000))); err != nil {
		t.Fatal(err)
	}
	p.Set(s3test.Faults{Trickle: 1000})
	err := s.Get(t.Context(), "big", 0, -1, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "too slowly") {
		t.Errorf("a kilobyte a second: %v", err)
	}
	p.Set(s3test.Faults{Stall: time.Hour})
	if _, err := s.Stat(t.Context(), "big"); err == nil {
		t.Error("an answer that never comes was an answer")
	}
}

// A read that breaks goes on where it broke, and hands each byte on once.
func TestAnS3ReadGoesOnWhereItWasCut(t *testing.T) {
	server := s3test.Start(t)
	s, p, _ := bad(t, server, "cut", 1, 12)
	want := content(3, 6<<20)
	if err := s.Put(t.Context(), "big", store.Bytes(want)); err != nil {
		t.Fatal(err)
	}
	p.Set(s3test.Faults{CutBody: 1})
	for _, c := range []struct{ offset, length int64 }{{0, -1}, {5, 5 << 20}, {1 << 20, -1}} {
		end := c.offset + c.length
		if c.length < 0 {
			end = int64(len(want))
		}
		var got bytes.Buffer
		// The last piece, shorter than what is let through, never arrives whole: heal the store when it is due.
		w := writer(func(b []byte) (int, error) {
			if got.Len() > int(end-c.offset)-(1<<20) {
				p.Set(s3test.Faults{})
			}
			return got.Write(b)
		})
		if err := s.Get(t.Context(), "big", c.offset, c.length, w); err != nil || !bytes.Equal(got.Bytes(), want[c.offset:end]) {
			t.Errorf("%d bytes from %d: %d came, %v", c.length, c.offset, got.Len(), err)
		}
		p.Set(s3test.Faults{CutBody: 1})
	}
	if n := p.Count(); n == "map[]" {
		t.Error("nothing was cut")
	}
	p.Set(s3test.Faults{NoRange: true})
	if err := s.Get(t.Context(), "big", 5, 10, io.Discard); err == nil || !strings.Contains(err.Error(), "gave others") {
		t.Error("other bytes than those that were asked for were taken for them", err)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// A store that takes the condition and replaces all the same is found out, and compared by hand.
func TestAnS3StoreWithoutConditionalWritesIsAskedBefore(t *testing.T) {
	server := s3test.Start(t)
	s, p, _ := bad(t, server, "unasked", 1, 12)
	p.Set(s3test.Faults{Unasked: true})
	ctx := t.Context()
	for _, again := range []string{"first", "first"} {
		if err := s.Put(ctx, "wal/x", store.Bytes(again)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put(ctx, "wal/x", store.Bytes("other")); !errors.Is(err, store.ErrDiffers) {
		t.Errorf("other bytes: %v", err)
	}
	if got, err := store.Read(ctx, s, "wal/x"); err != nil || string(got) != "first" {
		t.Errorf("holds %q, %v", got, err)
	}
}

func TestAnS3ServerThatComesBackGetsTheRestOfTheUpload(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	server.Bucket(t, "back", false)
	cfg := server.Config("back", "v")
	cfg.Patience = s3store.Patience{Attempts: 3000, Wait: 10 * time.Millisecond, WaitMax: 100 * time.Millisecond}
	s := open(t, cfg)
	if err := s.Put(t.Context(), "before", store.Bytes("1")); err != nil {
		t.Fatal(err)
	}
	want := content(9, 8<<20)
	started, done := make(chan struct{}), make(chan error, 1)
	data := &noticed{Bytes: want, tell: sync.OnceFunc(func() { close(started) })}
	go func() { done <- s.Put(t.Context(), "big", data) }()
	<-started
	server.Kill()
	server.Run(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got, err := store.Read(t.Context(), s, "big"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// noticed tells when half of the content has been read for the second time: the first is for its hash.
type noticed struct {
	store.Bytes
	readers int
	tell    func()
}

func (n *noticed) Reader() io.ReadSeekCloser {
	n.readers++
	return &noticing{ReadSeekCloser: n.Bytes.Reader(), of: n, upload: n.readers > 1}
}

type noticing struct {
	io.ReadSeekCloser
	of     *noticed
	upload bool
	read   int
}

func (n *noticing) Read(b []byte) (int, error) {
	k, err := n.ReadSeekCloser.Read(b)
	if n.read += k; n.upload && n.read > n.of.Length()/2 {
		n.of.tell()
	}
	return k, err
}
