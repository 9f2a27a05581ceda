package upkeep

import (
	"context"
	"fmt"
	"time"

	"holdfast/internal/vault/repo"
)

// manifestType is the kind of the manifest that says who cleans a repository up.
const manifestType = "maintenance"

// params is that manifest's payload (kopia, repo/maintenance/maintenance_params.go). Durations are nanoseconds.
type params struct {
	Owner        string       `json:"owner"`
	Quick        cycle        `json:"quick"`
	Full         cycle        `json:"full"`
	LogRetention logRetention `json:"logRetention"`

	ExtendObjectLocks bool `json:"extendObjectLocks"`
	ListParallelism   int  `json:"listParallelism"`
}

type cycle struct {
	Enabled  bool          `json:"enabled"`
	Interval time.Duration `json:"interval"`
}

type logRetention struct {
	MaxTotalSize int64         `json:"maxTotalSize"` // bytes
	MaxCount     int           `json:"maxCount"`
	MaxAge       time.Duration `json:"maxAge"`
}

// Own writes into the repository that nobody but owner (user@host) cleans it up, and that nothing is due, so that a stock kopia
// program leaves it alone. It counts when w is flushed.
func Own(ctx context.Context, w *repo.Writer, owner string) error {
	p := params{
		Owner:        owner,
		Quick:        cycle{Interval: time.Hour},
		Full:         cycle{Interval: fullCycle},
		LogRetention: logRetention{MaxTotalSize: 1 << 30, MaxCount: 10_000, MaxAge: logsKept},
	}
	if _, err := w.ReplaceManifests(ctx, map[string]string{repo.TypeLabel: manifestType}, p); err != nil {
		return fmt.Errorf("say who cleans the repository up: %w", err)
	}
	return nil
}
