package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/event"
	"holdfast/internal/problem"
	"holdfast/internal/receipt"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// dumpSchema is the schema of a table in a file unless --into says another.
const dumpSchema = "restored"

// dumped is what `restore NAME --dump` came to, or with DryRun would take.
type dumped struct {
	Database    string           `json:"database"`
	Vault       string           `json:"vault"`
	At          string           `json:"at"`
	Backup      vault.Backup     `json:"backup"`
	Unseen      *problem.Problem `json:"unseen,omitempty"`       // a copy that could not be read, and what is not known for that
	HoldsChange *problem.Problem `json:"holds_change,omitempty"` // pages that changed behind the log may be in it
	Table       string           `json:"table,omitempty"`
	Schema      string           `json:"schema,omitempty"` // in which the file makes the table
	DryRun      bool             `json:"dry_run"`
	Scratch     string           `json:"scratch"` // below which the copy is made, and removed again
	Need        int64            `json:"need"`    // bytes that the copy takes there
	Free        int64            `json:"free"`
	Took        event.Duration   `json:"took,omitempty"`
	Receipt     string           `json:"receipt,omitempty"` // without a plan: where it is, or why there is none
	restore.Dumped
}

// checkDump refuses words that do not go with --dump.
func (w *tableWords) checkDump() error {
	say := func(text string) error { return fmt.Errorf("%s: %w", text, errUsage) }
	switch {
	case w.findDeletes || w.diff || w.putBack || w.where != "" || w.keep || w.rows != 0 || w.yes:
		return say("--dump writes the whole table or SQL database to a file; of the others it takes --table, --database, --at, --into (the table's schema in the file), --scratch, --owner, --bin-dir and --dry-run")
	case w.into != "" && w.table == "":
		return say("--into names the schema of a table in the file; a whole SQL database keeps its own")
	}
	return nil
}

// writeDump brings a table or an SQL database of a moment into a file.
func (w *tableWords) writeDump(ctx context.Context, cmd *cobra.Command, name string, now time.Time) error {
	if w.at == "" {
		w.at = "latest"
	}
	at, err := moment(w.at, now)
	if err != nil {
		return err
	}
	tellMoment(cmd, at)
	v, a, err := w.from.openVaultOf(cmd, name)
	if err != nil {
		return err
	}
	defer closeVault(ctx, v)
	o := restore.DumpOptions{Vault: v, Inside: w.database, Table: w.table, BinDir: w.binDir}
	if err := w.dumpPlaces(&o, a, name); err != nil {
		return err
	}
	if err := chooseDump(ctx, &o, name, at); err != nil {
		return err
	}
	warnUnseen(cmd, o.Choice.Unseen)
	place, err := restore.Survey(filepath.Join(o.Dir, "copy"), o.Choice, false, nil)
	if err != nil {
		return err
	}
	out := dumped{Database: name, Vault: v.Name(), At: at.String(), Backup: o.Choice.Backup, Unseen: o.Choice.Unseen, Table: w.table, Schema: o.Schema,
		DryRun: w.dryRun, Scratch: o.Dir, Need: place.Need, Free: place.Free, Dumped: restore.Dumped{Inside: o.Inside, File: o.File}}
	out.HoldsChange = warnChanged(ctx, cmd, v, o.Choice.Backup)
	if w.dryRun {
		return w.tellDump(cmd, out)
	}
	if place.Free < place.Need {
		return cramped(name, out)
	}
	began := time.Now()
	line := newProgressLine(cmd.ErrOrStderr())
	o.Progress = line.restored
	out.Dumped, err = restore.Dump(ctx, o)
	line.end()
	if err != nil && ctx.Err() != nil {
		return &problem.Problem{Code: "restore.interrupted", Subject: name, Severity: problem.Note, Title: "was not restored: interrupted",
			Meaning: "No file was written. The vault is as it was.", Remedy: "give the same command again: it removes what may be left below " + o.Dir}
	}
	if err != nil {
		return err
	}
	out.Took = event.Duration(time.Since(began))
	if a != nil {
		a.restored(ctx, cmd, v.Name(), dumpReceipt(out, v.Address()))
	} else {
		out.Receipt = restoredAlone(ctx, cmd, v, out.File, dumpReceipt(out, v.Address()))
	}
	return w.tellDump(cmd, out)
}

// chooseDump finds the way to the moment and the programs that it takes: all that can refuse before an hour of copying.
func chooseDump(ctx context.Context, o *restore.DumpOptions, name string, at restore.Target) error {
	known, err := loadKnown(ctx, o.Vault, name)
	if err != nil {
		return err
	}
	if o.Choice, err = restore.Choose(known, at); err != nil {
		return err
	}
	if o.BinDir, err = restore.Programs(o.BinDir, o.Choice.Backup.ServerVersion/10000); err != nil {
		return err
	}
	return o.Refusal()
}

// dumpPlaces fills in where everything is, from the words and from the plan where there is one (a).
func (w *tableWords) dumpPlaces(o *restore.DumpOptions, a *application, name string) (err error) {
	if o.File, err = filepath.Abs(w.dump); err != nil {
		return fmt.Errorf("find %s: %w", w.dump, err)
	}
	if o.Owner, err = ownerNamed(w.owner); err != nil {
		return err
	}
	if w.table != "" {
		if o.Schema = w.into; o.Schema == "" {
			o.Schema = dumpSchema
		}
	}
	if a != nil {
		d, _ := a.plan.DatabaseNamed(name) // openVaultOf found it
		if o.BinDir == "" {
			o.BinDir = d.BinDir
		}
		if o.Inside, err = databaseInside(d, o.Inside); err != nil {
			return err
		}
		o.Dir, err = a.scratchDir(w.scratch)
		return err
	}
	o.Dir = "/var/tmp"
	if w.scratch == "" {
		return nil
	}
	if o.Dir, err = filepath.Abs(w.scratch); err == nil {
		err = os.MkdirAll(o.Dir, 0o755)
	}
	if err != nil {
		return fmt.Errorf("make the scratch directory: %w", err)
	}
	return nil
}

func cramped(name string, d dumped) error {
	return &problem.Problem{Code: "restore.no-space", Subject: name, Severity: problem.Critical,
		Title:   fmt.Sprintf("the disk of %s has %s free, and the scratch copy takes %s", d.Scratch, sizeText(d.Free), sizeText(d.Need)),
		Meaning: "Nothing was written.", Remedy: "name a directory on a larger disk with --scratch"}
}

func (w *tableWords) tellDump(cmd *cobra.Command, d dumped) error {
	var err error
	switch {
	case w.output == "json":
		err = writeJSON(cmd.OutOrStdout(), d)
	case d.DryRun:
		err = d.writeWould(cmd.OutOrStdout())
	default:
		err = d.write(cmd.OutOrStdout())
	}
	if err == nil && d.DryRun && d.Free < d.Need {
		err = exitError{1}
	}
	return err
}

// what is what the file holds, in words.
func (d dumped) what() string {
	inside := "SQL database " + d.Inside
	if d.Inside == "" {
		inside = "its only SQL database"
	}
	if d.Table == "" {
		return inside
	}
	return fmt.Sprintf("table %s of %s", d.Table, inside)
}

func (d dumped) writeWould(out io.Writer) error {
	room := "there is room for it"
	if d.Free < d.Need {
		room = "it would be REFUSED: name a directory on a larger disk with --scratch"
	}
	_, err := fmt.Fprintf(out, "%s of %s at %s would be written to %s. Nothing was restored.\n  base backup  %s, %s, finished %s, proven: %s\n  scratch      %s needed below %s, %s free: %s\n",
		d.what(), d.Database, d.At, d.File, d.Backup.ID, sizeText(d.Backup.Bytes), momentText(d.Backup.Stopped), proofText(d.Backup), sizeText(d.Need), d.Scratch, sizeText(d.Free), room)
	return err
}

func (d dumped) write(out io.Writer) error {
	rows := ""
	if d.Table != "" {
		rows = ", " + planCount(int(d.Rows), "row")
	}
	_, err := fmt.Fprintf(out, "wrote %s of %s at %s to %s (%s%s) in %s, from base backup %s\n", d.what(), d.Database, d.At, d.File, sizeText(d.Bytes), rows, tookText(time.Duration(d.Took)), d.Backup.ID)
	p := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(out, format, args...)
		}
	}
	for _, o := range d.Objects {
		p("  %s %s\n", o.Type, o.Name)
	}
	for _, l := range d.LeftOut {
		p("  LEFT OUT: %s\n", l)
	}
	if d.Table == "" {
		p("Load it into an empty SQL database; it is one transaction:\n  createdb NEW && psql -X -d NEW -f %s\n", d.File)
	} else {
		p("Load it into any SQL database that has no schema %s; it is one transaction, and counts its rows:\n  psql -X -d DATABASE -f %s\n", d.Schema, d.File)
	}
	if d.Receipt != "" {
		p("  receipt: %s\n", d.Receipt)
	}
	return err
}

// dumpReceipt is evidence of a file of SQL.
func dumpReceipt(d dumped, address string) receipt.Event {
	return restoreEvent(d.Database, fmt.Sprintf("%s of %s at %s was restored from base backup %s to the file %s", d.what(), d.Database, d.At, d.Backup.ID, d.File),
		map[string]any{"backup": d.Backup.ID, "at": d.At, "how": "dump", "inside": d.Inside, "table": d.Table, "file": d.File, "left_out": d.LeftOut, "machine": thisMachine(), "address": address},
		map[string]float64{"bytes": float64(d.Bytes), "rows": float64(d.Rows), "objects": float64(len(d.Objects)), "took_seconds": time.Duration(d.Took).Seconds()})
}
