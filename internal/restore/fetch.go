package restore

import (
	"context"
	"fmt"
	"path/filepath"

	"holdfast/internal/durable"
	"holdfast/internal/vault"
)

// Fetch carries out a restore_command: it puts a segment or history file, by PostgreSQL's name for it (%f),
// to path (%p, relative to the data directory in which the command runs). vault.ErrNotHeld means that there
// is none, upon which the command must exit with 1 so that PostgreSQL looks elsewhere; after any other error
// it should exit with more than 125, so that recovery stops instead of taking that for the end of the log.
func Fetch(ctx context.Context, log *vault.Log, name, path string) error {
	content, err := log.File(ctx, name)
	if err != nil {
		return err
	}
	abs, err := filepath.Abs(path)
	if err == nil {
		err = durable.WriteFile(abs, content, 0o600)
	}
	if err != nil {
		return fmt.Errorf("fetch %s: %w", name, err)
	}
	return nil
}
