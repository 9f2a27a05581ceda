package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/backup"
	"holdfast/internal/event"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
)

// rowsShown is how many rows of each kind a person sees unless --rows says otherwise.
const rowsShown = 5

// broughtBack is what `restore NAME --table` came to.
type broughtBack struct {
	Database    string                 `json:"database"`
	At          string                 `json:"at"`
	Backup      string                 `json:"backup"`
	Unseen      *problem.Problem       `json:"unseen,omitempty"`       // a copy that could not be read, and what is not known for that
	HoldsChange *problem.Problem       `json:"holds_change,omitempty"` // pages that changed behind the log may be in it
	Took        event.Duration         `json:"took"`                   // until the difference was known
	Diff        restore.DiffReport     `json:"diff"`
	Missing     []restore.RowPair      `json:"missing_rows"`
	Changed     []restore.RowPair      `json:"changed_rows"` // a few
	New         []restore.RowPair      `json:"new_rows"`     // a few
	PutBack     *restore.PutBackReport `json:"put_back,omitempty"`
	Kept        string                 `json:"kept,omitempty"` // where the copy's files stay
}

// bringBack restores beside the live database, shows the difference, and puts back what is missing if that is
// wanted and confirmed.
func (w *tableWords) bringBack(ctx context.Context, cmd *cobra.Command, name string, at restore.Target) (err error) {
	l, err := w.beside(ctx, cmd, name)
	if err != nil {
		return err
	}
	live, err := backup.ReadFrom(l.dsn)
	if err != nil {
		return err
	}
	owner, err := restore.DefaultOwner()
	if err != nil {
		return err
	}
	dir, err := l.app.scratchDir(w.scratch)
	if err != nil {
		return err
	}
	v, err := l.app.openVault(ctx, l.vault)
	if err != nil {
		return err
	}
	defer closeVault(ctx, v)
	began := time.Now()
	line := newProgressLine(cmd.ErrOrStderr())
	beside, err := restore.OpenBeside(ctx, restore.RecordsOptions{
		Vault: v, Database: name, At: at, Live: live, Table: w.table, Dir: dir, Owner: owner, BinDir: l.db.BinDir, Progress: line.restored,
	})
	if err != nil {
		line.end()
		return err
	}
	defer func() { err = errors.Join(err, beside.Close(context.WithoutCancel(ctx), w.keep)) }()
	line.show("comparing "+w.table, "")
	out := broughtBack{Database: name, At: at.String(), Backup: beside.Choice.Backup.ID, Unseen: beside.Choice.Unseen}
	warnUnseen(cmd, beside.Choice.Unseen)
	out.HoldsChange = warnChanged(ctx, cmd, v, beside.Choice.Backup)
	if w.keep {
		out.Kept = beside.Dir
	}
	out.Diff, err = beside.Diff(ctx, w.table, w.where)
	if err == nil {
		err = w.collectRows(ctx, beside, &out)
	}
	line.end()
	if err != nil {
		return err
	}
	out.Took = event.Duration(time.Since(began))
	return w.finish(ctx, cmd, beside, out, func(done broughtBack) { l.app.restored(ctx, cmd, v.Name(), putBackReceipt(done)) })
}

// collectRows reads the rows that are to be shown.
func (w *tableWords) collectRows(ctx context.Context, b *restore.Beside, out *broughtBack) (err error) {
	limit := w.rows
	if limit == 0 && w.output != "json" {
		limit = rowsShown
	}
	first := func(keys []string) []string {
		if limit > 0 && len(keys) > limit {
			return keys[:limit]
		}
		return keys
	}
	if out.Missing, err = b.Rows(ctx, out.Diff, first(out.Diff.MissingKeys)); err != nil {
		return err
	}
	if out.Changed, err = b.Rows(ctx, out.Diff, first(out.Diff.ChangedKeys)); err != nil {
		return err
	}
	out.New, err = b.Rows(ctx, out.Diff, first(out.Diff.NewKeys))
	return err
}

// finish shows the difference and, when it is wanted and confirmed, puts the rows back. note is told of rows that
// are in the live table now.
func (w *tableWords) finish(ctx context.Context, cmd *cobra.Command, b *restore.Beside, out broughtBack, note func(broughtBack)) error {
	asJSON := w.output == "json"
	if !asJSON {
		if err := writeDifference(cmd.OutOrStdout(), out); err != nil {
			return err
		}
	}
	if w.putBack {
		done, err := w.insertMissing(ctx, cmd, b, out.Diff)
		if err != nil {
			return err
		}
		out.PutBack = &done
		if done.Inserted > 0 && !done.DryRun {
			note(out)
		}
	}
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), out)
	}
	return w.writeOutcome(cmd.OutOrStdout(), out)
}

func (w *tableWords) insertMissing(ctx context.Context, cmd *cobra.Command, b *restore.Beside, diff restore.DiffReport) (restore.PutBackReport, error) {
	if diff.Missing > 0 && !w.dryRun && !w.yes {
		ok, err := confirm(cmd, fmt.Sprintf("Insert %s that %s missing into the live table %s, in one transaction?", planCount(diff.Missing, "row"), isAre(diff.Missing), diff.Table))
		if err != nil || !ok {
			return restore.PutBackReport{}, err
		}
	}
	done, err := b.PutBack(ctx, diff, w.dryRun)
	if p := (*problem.Problem)(nil); err != nil && !errors.As(err, &p) {
		return done, &problem.Problem{Code: "restore.not-put-back", Subject: diff.Table, Severity: problem.Critical,
			Title: "the rows were not put back: " + err.Error(), Meaning: "It is one transaction: nothing of it was kept, and the live table is as it was.",
			Remedy: "when rows of another table are missing that these refer to, put those back first; otherwise mend what the message names and try again with --dry-run"}
	}
	return done, err
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

func writeDifference(out io.Writer, b broughtBack) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	d := b.Diff
	p("%s at %s, beside now (from base backup %s, in %s)\n", d.Table, b.At, b.Backup, tookText(time.Duration(b.Took)))
	p("  missing now\t%d\n  changed since\t%d\n  new since\t%d\n  the same\t%d\n", d.Missing, d.Changed, d.New, d.Same)
	if len(d.OnlyLive) > 0 {
		p("  columns added since, not compared: %s\n", strings.Join(d.OnlyLive, ", "))
	}
	if len(d.OnlyThen) > 0 {
		p("  columns dropped since, not compared: %s\n", strings.Join(d.OnlyThen, ", "))
	}
	for _, kind := range []struct {
		title string
		rows  []restore.RowPair
		all   int
	}{{"MISSING NOW, as they were", b.Missing, d.Missing}, {"CHANGED SINCE, then > now", b.Changed, d.Changed}, {"NEW SINCE", b.New, d.New}} {
		if len(kind.rows) == 0 {
			continue
		}
		p("\n%s\n", kind.title)
		for _, r := range kind.rows {
			p("  %s\n", rowText(r))
		}
		if more := kind.all - len(kind.rows); more > 0 {
			p("  and %d more\n", more)
		}
	}
	return w.Flush()
}

func (w *tableWords) writeOutcome(out io.Writer, b broughtBack) error {
	var text string
	switch r := b.PutBack; {
	case r == nil && b.Diff.Missing > 0:
		text = "\nNothing was changed. Put the missing rows back with --put-back instead of --diff (--dry-run tries it first).\n"
	case r == nil || r.Wanted == 0:
		text = "\nNothing is missing, and nothing was changed.\n"
	case r.DryRun:
		text = fmt.Sprintf("\nTried and taken back: %s would be put back into %s%s. Nothing was changed.\n", planCount(r.Inserted, "row"), r.Table, keptOut(*r))
	default:
		text = fmt.Sprintf("\n%s put back into %s in one transaction%s.\n", planCount(r.Inserted, "row"), r.Table, keptOut(*r))
	}
	if b.Kept != "" {
		text += "The copy's files stay in " + b.Kept + "; remove them when you are done.\n"
	}
	_, err := io.WriteString(out, text)
	return err
}

func keptOut(r restore.PutBackReport) string {
	if r.Already == 0 {
		return ""
	}
	return fmt.Sprintf("; %d not, for they are there again or a unique rule keeps them out", r.Already)
}

// cellMax bounds how much of one value a person is shown, in runes.
const cellMax = 40

// rowText shows a row that is on one side as column=value, and one that is on both as its key with what
// differs.
func rowText(r restore.RowPair) string {
	then, now := columnsOf(r.Then), columnsOf(r.Now)
	if len(then) > 0 && len(now) > 0 {
		parts := []string{"key " + strings.Trim(r.Key, "{}")}
		for _, c := range then {
			for _, n := range now {
				if c.name == n.name && c.raw != n.raw {
					parts = append(parts, fmt.Sprintf("%s: %s > %s", c.name, c.value, n.value))
				}
			}
		}
		return strings.Join(parts, "  ")
	}
	var parts []string
	for _, c := range append(then, now...) {
		parts = append(parts, c.name+"="+c.value)
	}
	return strings.Join(parts, "  ")
}

// cell is one value of a row; raw is what it is, value what a person is shown.
type cell struct{ name, value, raw string }

// columnsOf reads a JSON object in its own order, values shortened.
func columnsOf(object json.RawMessage) []cell {
	dec := json.NewDecoder(bytes.NewReader(object))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil
	}
	var out []cell
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return out
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return out
		}
		out = append(out, cell{fmt.Sprint(name), cellText(value), string(value)})
	}
	return out
}

func cellText(value json.RawMessage) string {
	text := string(value)
	var s string
	if json.Unmarshal(value, &s) == nil && text != "null" {
		text = strings.Join(strings.Fields(s), " ")
	}
	if r := []rune(text); len(r) > cellMax {
		text = string(r[:cellMax-1]) + "…"
	}
	return text
}
