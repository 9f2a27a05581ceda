package backup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// While a base backup waits for its log another server is promoted: where that parted before the backup's end the wait ends at
// once and the backup begins again, where it parted behind, the new timeline's log counts. A timeline that was there before
// says nothing.
func TestAPromotionWhileTheLogIsWaitedFor(t *testing.T) {
	const size = 1 << 20
	from, to := wal.LSN(size+100), wal.LSN(2*size+500)
	for name, c := range map[string]struct {
		before []uint32 // what the wait found when it began
		parted wal.LSN
		good   func(error) bool
	}{
		"it parted before the end":             {[]uint32{1}, to - 1, Interrupted},
		"it parted at the end":                 {[]uint32{1}, to, func(err error) bool { return err == nil }},
		"it parted behind the end":             {[]uint32{1}, to + 1, func(err error) bool { return err == nil }},
		"it parted long before the wait began": {[]uint32{1, 2}, to - 1, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := vault.Create(t.Context(), vault.Config{URL: "file://" + filepath.Join(t.TempDir(), "vault"), Key: redact.Secret("k"), Keys: &vaultKeys, Application: "clinic", Host: "h1"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := v.Close(context.Background()); err != nil {
					t.Error(err)
				}
			}()
			log := v.Log(7, size)
			put := func(timeline uint32, at wal.LSN) error {
				return log.PutSegment(t.Context(), timeline, at, make([]byte, size), time.Time{})
			}
			if err := errors.Join(put(1, size), log.PutHistory(t.Context(), 2, fmt.Appendf(nil, "1\t%s\tno reason\n", c.parted)), put(2, 2*size)); err != nil {
				t.Fatal(err)
			}
			limit := 2 * time.Minute
			if len(c.before) > 1 {
				limit = time.Second // it waits on
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			if err := waitLog(ctx, log, c.before, 1, from, to); !c.good(err) {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}
