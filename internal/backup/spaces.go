package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/vault"
)

// Tablespaces lie where links in the data directory lead. Their files stand in a backup below the link's own path, and
// beside the data directory a restore decides anew where they lie.

// nameSpaces gives the tablespaces that were found their names. One that was made since then, or is being made, is in the
// log; one without a name was dropped.
func (r *baseRun) nameSpaces(ctx context.Context, conn *pgx.Conn, found []vault.Tablespace) ([]vault.Tablespace, error) {
	if len(found) == 0 {
		return nil, nil
	}
	rows, err := conn.Query(ctx, "select oid, spcname::text from pg_tablespace")
	if err != nil {
		return nil, fmt.Errorf("ask for the names of tablespaces: %w", err)
	}
	names := map[uint32]string{}
	var oid uint32
	var name string
	if _, err := pgx.ForEachRow(rows, []any{&oid, &name}, func() error { names[oid] = name; return nil }); err != nil {
		return nil, fmt.Errorf("ask for the names of tablespaces: %w", err)
	}
	out := slices.Clone(found)
	for i := range out {
		out[i].Name = names[out[i].OID]
	}
	return out, nil
}

// openSpaces opens each tablespace, by its number.
func openSpaces(list []vault.Tablespace) (roots map[string]*os.Root, closeAll func(), err error) {
	roots = map[string]*os.Root{}
	closeAll = func() {
		for _, r := range roots {
			_ = r.Close() // opened for reading alone
		}
	}
	for _, s := range list {
		root, err := os.OpenRoot(s.Location)
		if errors.Is(err, fs.ErrNotExist) {
			continue // dropped meanwhile, and its files with it; the log repeats that
		}
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("open tablespace %s: %w", s.Name, err)
		}
		roots[spaceName(s)] = root
	}
	return roots, closeAll, nil
}
