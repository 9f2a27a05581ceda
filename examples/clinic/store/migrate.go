package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrationLock is the advisory lock that lets one instance at a time change the schema.
const migrationLock = 0x636c696e6963 // "clinic"

// migration is one step of the schema; its version is the number that its file name begins with.
type migration struct {
	version int
	sql     string
}

// migrations lists the embedded steps in order.
func migrations() ([]migration, error) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	slices.Sort(names)
	var list []migration
	for _, name := range names {
		number, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		version, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("read the version of %s: %w", name, err)
		}
		sql, err := migrationFiles.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		list = append(list, migration{version: version, sql: string(sql)})
	}
	return list, nil
}

// MigrateWhenPossible brings the schema up to date, waiting for the database for as long as ctx allows: a
// database that comes later than the application is normal, and exiting would only add restarts to it.
// It returns ctx's error, or nil once the schema is there.
func (s *Store) MigrateWhenPossible(ctx context.Context) error {
	pause := 100 * time.Millisecond
	for {
		err := s.Migrate(ctx)
		if err == nil {
			return nil
		}
		s.log.WarnContext(ctx, "schema not ready, trying again", "err", err, "pause", pause)
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		pause = min(2*pause, 2*time.Second)
	}
}

// Migrate applies the steps that the database lacks, all in one transaction, while holding the advisory
// lock. A schema newer than this program is left as it is: an older instance goes on during a rollout.
func (s *Store) Migrate(ctx context.Context) error {
	steps, err := migrations()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return s.write(ctx, "migrate the schema", func(ctx context.Context, c *pgx.Conn) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(migrationLock)); err != nil {
				return fmt.Errorf("take the migration lock: %w", err)
			}
			var exists bool
			if err := tx.QueryRow(ctx, `SELECT to_regclass('schema_migrations') IS NOT NULL`).Scan(&exists); err != nil {
				return fmt.Errorf("look for the schema: %w", err)
			}
			have := 0
			if exists {
				if err := tx.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM schema_migrations`).Scan(&have); err != nil {
					return fmt.Errorf("read the schema's version: %w", err)
				}
			} else if _, err := tx.Exec(ctx, `CREATE TABLE schema_migrations (
				version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())`); err != nil {
				return fmt.Errorf("create schema_migrations: %w", err)
			}
			for _, m := range steps {
				if m.version <= have {
					continue
				}
				if _, err := tx.Exec(ctx, m.sql); err != nil {
					return fmt.Errorf("apply migration %d: %w", m.version, err)
				}
				if _, err := tx.Exec(ctx, `INSERT INTO schema_migrations (version) VALUES ($1)`, m.version); err != nil {
					return fmt.Errorf("record migration %d: %w", m.version, err)
				}
				s.log.InfoContext(ctx, "migration applied", "version", m.version)
			}
			return nil
		})
	})
}
