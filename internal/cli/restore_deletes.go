package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/backup"
	"holdfast/internal/restore"
)

// foundDeletes is what --find-deletes came to.
type foundDeletes struct {
	Database string        `json:"database"`
	From     time.Time     `json:"from"`
	LogUntil time.Time     `json:"log_until"` // what was committed later is not in the vault yet; zero = unknown
	Deletes  []foundDelete `json:"deletes"`
}

// foundDelete is a delete with the words that lead back to just before it.
type foundDelete struct {
	restore.Delete
	At string `json:"at"`
}

// listDeletes lists transactions that deleted rows, most rows first.
func (w *tableWords) listDeletes(ctx context.Context, cmd *cobra.Command, name string, now time.Time) error {
	l, err := w.beside(ctx, cmd, name)
	if err != nil {
		return err
	}
	conf, err := backup.ReadFrom(l.dsn)
	if err != nil {
		return err
	}
	v, err := l.app.openVault(ctx, l.vault)
	if err != nil {
		return err
	}
	defer closeVault(ctx, v)
	line := newProgressLine(cmd.ErrOrStderr())
	line.show("reading the log of "+name+" in vault "+v.Name(), "")
	found := foundDeletes{Database: name, From: now.Add(-time.Duration(w.since)), Deletes: []foundDelete{}}
	deletes, err := restore.FindDeletes(ctx, restore.DeleteOptions{
		Vault: v, Database: name, From: found.From, AtLeast: w.atLeast, BinDir: l.db.BinDir, Catalog: conf,
	})
	line.end()
	if err != nil {
		return err
	}
	for _, x := range deletes {
		if w.table == "" || sameTable(x.Table, w.table) {
			found.Deletes = append(found.Deletes, foundDelete{Delete: x, At: beforeText(x)})
		}
	}
	c, err := restore.LoadReadable(ctx, v, name)
	if err != nil {
		return err
	}
	warnUnseen(cmd, c.Unseen)
	for _, win := range restore.Windows(c) {
		if win.To.After(found.LogUntil) {
			found.LogUntil = win.To
		}
	}
	if w.output == "json" {
		return writeJSON(cmd.OutOrStdout(), found)
	}
	return writeDeletes(cmd.OutOrStdout(), found)
}

// sameTable compares a qualified name with what a person typed.
func sameTable(qualified, typed string) bool {
	return qualified == typed || !strings.Contains(typed, ".") && strings.HasSuffix(qualified, "."+typed)
}

func writeDeletes(out io.Writer, f foundDeletes) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	if len(f.Deletes) == 0 {
		p("No committed transaction deleted rows of %s between %s and %s.\n", f.Database, momentText(f.From), momentText(f.LogUntil))
		p("Look further back with --since; TRUNCATE and DROP are not found this way: use a time with --at.\n")
		return w.Flush()
	}
	p("COMMITTED\tTRANSACTION\tTABLE\tROWS\n")
	for _, d := range f.Deletes {
		p("%s\t%d\t%s\t%d\n", d.Committed.Local().Format("2006-01-02 15:04:05.000Z07:00"), d.XID, d.Table, d.Rows)
	}
	most := slices.MaxFunc(f.Deletes, func(a, b foundDelete) int { return a.Rows - b.Rows })
	p("\nThe log in the vault is known to be whole up to %s.\n", momentText(f.LogUntil))
	p("See what the largest took, without changing anything:\n  holdfast restore %s --table %s --at %s --diff\n", f.Database, most.Table, most.At)
	return w.Flush()
}
