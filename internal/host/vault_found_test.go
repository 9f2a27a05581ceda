package host

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/clock"
	"holdfast/internal/cluster/memory"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
)

// Hosts that find no vault at the same moment make one, and all have it.
func TestHostsThatFindNoVaultMakeOne(t *testing.T) {
	store, conf := memory.New(), vault.Config{Name: "main", URL: "file://" + filepath.Join(t.TempDir(), "vault"), Key: redact.Secret("a key of some length"), Application: "clinic"}
	ids := make([]string, 2)
	var g errgroup.Group
	for i := range ids {
		g.Go(func() error {
			self := string(rune('a' + i))
			f := founder{store.Open(self), self, clock.Real(), slog.New(slog.DiscardHandler), func(ctx context.Context, _ time.Duration) bool {
				select {
				case <-ctx.Done():
					return false
				case <-time.After(10 * time.Millisecond):
					return true
				}
			}}
			v, err := f.found(t.Context(), "main", conf)
			if err != nil {
				return err
			}
			ids[i] = v.Identity().ID
			return v.Close(context.WithoutCancel(t.Context()))
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Errorf("they have %v", ids)
		}
	}
}
