package azstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"holdfast/internal/vault/azstore"
	"holdfast/internal/vault/azstore/azuritetest"
	"holdfast/internal/vault/s3store/s3test"
	"holdfast/internal/vault/store"
)

func content(i, size int) []byte { return bytes.Repeat([]byte(fmt.Sprintf("%07d,", i)), size/8) }

// What is told to be stored is stored, and what is read is what was stored, however bad the way there is.
func trouble(t *testing.T, server *azuritetest.Server) {
	p := s3test.Between(t, server.Address, 7)
	s := open(t, worse(server.Config("vaults", "trouble"), p.Address, 100))
	straight := open(t, server.Config("vaults", "trouble"))
	p.Set(s3test.Faults{Busy: .15, Broken: .05, Reset: .08, LoseAnswer: .1, CutBody: .1, Damage: .1})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < 32; i += 4 {
				name, want := fmt.Sprintf("p/%d", i), content(i, 1<<10<<(i%11))
				if err := s.Put(t.Context(), name, store.Bytes(want)); err != nil {
					t.Errorf("put %s: %v", name, err)
					continue
				}
				if raw, err := store.Read(t.Context(), straight, name); err != nil || !bytes.Equal(raw, want) {
					t.Errorf("%s was said to be stored; there are %d bytes of %d, %v", name, len(raw), len(want), err)
				}
				if err := s.Put(t.Context(), name, store.Bytes(content(i+1, len(want)))); !errors.Is(err, store.ErrDiffers) {
					t.Errorf("other bytes under %s: %v", name, err)
				}
				if got, err := store.Read(t.Context(), s, name); err != nil || !bytes.Equal(got, want) {
					t.Errorf("read %s: %d bytes, %v", name, len(got), err)
				}
				if err := s.Replace(t.Context(), name, store.Bytes(want)); err != nil {
					t.Errorf("replace %s: %v", name, err)
				}
			}
		})
	}
	wg.Wait()
	if got := p.Count(); strings.Count(got, ":") != 6 {
		t.Errorf("not every fault struck: %s", got)
	}
	seen := map[string]bool{}
	if err := s.List(t.Context(), "p/", func(i store.Info) error { seen[i.Name] = true; return nil }); err != nil || len(seen) != 32 {
		t.Errorf("listed %d of 32, %v", len(seen), err)
	}
}

func down(t *testing.T, server *azuritetest.Server) {
	p := s3test.Between(t, server.Address, 1)
	cfg := worse(server.Config("vaults", "down"), p.Address, 5)
	cfg.Write = azstore.Access{SAS: server.SAS(t, "vaults", "rlcw")}
	s, straight := open(t, cfg), open(t, server.Config("vaults", "down"))
	for name, f := range map[string]s3test.Faults{"a storm of 503": {Busy: 1}, "resets": {Reset: 1}, "answers that are lost": {LoseAnswer: 1}, "damage": {Damage: 1}} {
		t.Run(name, func(t *testing.T) {
			p.Set(f)
			err := s.Replace(t.Context(), "x", store.Bytes("content"))
			if err == nil {
				t.Error("said to be stored")
			} else if !strings.Contains(err.Error(), "vaults of account "+azuritetest.Account+" at 127.") {
				t.Errorf("the container is not named in %v", err)
			} else if strings.Contains(err.Error(), "sig=") {
				t.Errorf("the signature is in %v", err)
			}
			p.Set(s3test.Faults{})
			if raw, err := store.Read(t.Context(), straight, "x"); err == nil && string(raw) != "content" {
				t.Errorf("%q is stored", raw)
			}
		})
	}
}
