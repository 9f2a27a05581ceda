package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/host"
	"holdfast/internal/local"
	"holdfast/internal/receipt"
	"holdfast/internal/restore"
)

// receipt writes an operator's receipt: into the vault of a database, and below the data root. It says by which name it is kept.
func (a application) receipt(ctx context.Context, vaultName string, what receipt.Event) (id string, err error) {
	admin := local.AdminDir(a.Root)
	b, err := host.ReceiptBook(host.ReceiptDir(admin), admin, a.plan.Application, "operator", Version())
	if err != nil {
		return "", err
	}
	v, err := a.openToWrite(ctx, vaultName)
	if err != nil {
		return "", err
	}
	r, err := b.Append(ctx, v.Identity().ID, v, what, time.Now())
	return r.ID(), errors.Join(err, v.Close(context.WithoutCancel(ctx)))
}

// receiptMax is how long the receipt of what is done already may take.
const receiptMax = 2 * time.Minute

// restored writes the receipt of a restore that is done. It stands without one too, and the operator is told.
func (a application) restored(ctx context.Context, cmd *cobra.Command, vaultName string, what receipt.Event) {
	_ = a.restoredOrSay(ctx, cmd, vaultName, what) // it was said
}

// restoredOrSay likewise, for whoever tells it once more.
func (a application) restoredOrSay(ctx context.Context, cmd *cobra.Command, vaultName string, what receipt.Event) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), receiptMax) // an interrupt comes too late to undo it
	defer cancel()
	_, err := a.receipt(ctx, vaultName, what)
	if err != nil {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "done; its receipt is not in the vault: %v\n", err)
	}
	return err
}

func restoreEvent(database, says string, details any, figures map[string]float64) receipt.Event {
	raw, err := json.Marshal(details)
	if err != nil {
		raw = nil // what is given here can be written
	}
	return receipt.Event{Kind: receipt.Restore, Subject: database, Outcome: receipt.Done, Says: says, Details: raw, Figures: figures}
}

// restoreReceipt is evidence of a restored database.
func restoreReceipt(o restoredDatabase) receipt.Event {
	took := time.Duration(o.Took)
	figures := map[string]float64{"bytes": float64(o.Backup.Bytes), "log_bytes": float64(o.Log), "kept_bytes": float64(o.Kept), "took_seconds": took.Seconds(), "rto_seconds": took.Seconds()}
	o.Times.figures(figures)
	return restoreEvent(o.Database,
		fmt.Sprintf("%s at %s was restored from base backup %s and the log up to %s to %s", o.Database, o.At, o.Backup.ID, o.End, o.Place.Dir),
		map[string]any{"backup": o.Backup.ID, "at": o.At, "timeline": o.Timeline, "end_lsn": o.End, "dir": o.Place.Dir, "machine": thisMachine(), "address": o.Address, "times": o.Times}, figures)
}

// backReceipt is evidence of a restore in place.
func backReceipt(b wentBack) receipt.Event {
	var names []string
	bytes := int64(0)
	for _, x := range b.Databases {
		names, bytes = append(names, exchangedText(x)), bytes+x.Bytes
	}
	return restoreEvent(b.Database, fmt.Sprintf("%s was restored in place at %s from base backup %s: %s", b.Database, b.At, b.Backup, strings.Join(names, ", ")),
		map[string]any{"backup": b.Backup, "at": b.At, "how": "in-place", "databases": b.Databases, "left_alone": b.Alone},
		map[string]float64{"bytes": float64(bytes), "databases": float64(len(b.Databases)), "transactions_since": float64(b.Since), "took_seconds": time.Duration(b.Took).Seconds()})
}

// undoReceipt is evidence that a restore in place was taken back.
func undoReceipt(b wentBack) receipt.Event {
	var names []string
	bytes := int64(0)
	for _, x := range b.Databases {
		names, bytes = append(names, exchangedText(x)), bytes+x.Bytes
	}
	return restoreEvent(b.Database, fmt.Sprintf("the restore of %s in place at %s was taken back: %s", b.Database, b.At, strings.Join(names, ", ")),
		map[string]any{"at": b.At, "how": "undo", "databases": b.Databases},
		map[string]float64{"bytes": float64(bytes), "databases": float64(len(b.Databases)), "took_seconds": time.Duration(b.Took).Seconds()})
}

func exchangedText(x restore.Exchange) string {
	if x.Kept == "" {
		return x.Name
	}
	return x.Name + " (what was live is kept as " + x.Kept + ")"
}

// intoReceipt is evidence of a table or an SQL database that was put beside the live ones.
func intoReceipt(b broughtInto) receipt.Event {
	what := "SQL database " + b.Inside
	if b.Table != "" {
		what = "table " + b.Table
	}
	return restoreEvent(b.Database, fmt.Sprintf("%s of %s at %s was restored from base backup %s as the new %s", what, b.Database, b.At, b.Backup, b.place()),
		map[string]any{"backup": b.Backup, "at": b.At, "how": "into", "inside": b.Inside, "table": b.Table, "into": b.Into, "left_out": b.LeftOut},
		map[string]float64{"bytes": float64(b.Bytes), "objects": float64(len(b.Objects)), "took_seconds": time.Duration(b.Took).Seconds()})
}

// putBackReceipt is evidence of rows that were put back into a live table.
func putBackReceipt(b broughtBack) receipt.Event {
	r := *b.PutBack
	return restoreEvent(b.Database, fmt.Sprintf("%s of %s at %s put back into the live table %s, from base backup %s", planCount(r.Inserted, "row"), b.Database, b.At, r.Table, b.Backup),
		map[string]any{"backup": b.Backup, "at": b.At, "how": "put-back", "table": r.Table},
		map[string]float64{"rows": float64(r.Inserted), "wanted_rows": float64(r.Wanted), "kept_out_rows": float64(r.Already), "took_seconds": time.Duration(b.Took).Seconds()})
}

// filesReceipt is evidence of restored files; what could not be restored as it was is named.
func filesReceipt(o restoredFiles) receipt.Event {
	r := o.Restored
	what := "all of it"
	if len(o.Paths) > 0 {
		what = strings.Join(o.Paths, ", ")
	}
	lacks := r.Lacks
	lacks.First = lacks.First[:min(len(lacks.First), receiptNamesMax)]
	e := restoreEvent(o.Backup.Set, fmt.Sprintf("files %s of %s (backup %s of %s; %s) were restored to %s: %d files, %d bytes written, %d were right already",
		o.Backup.Set, o.Backup.Host, o.Backup.ID, o.Backup.Started.UTC().Format(time.RFC3339), what, o.Place.Dir, r.Files, r.Bytes, r.Kept),
		map[string]any{"backup": o.Backup.ID, "list": o.Backup.List, "host": o.Backup.Host, "paths": o.Paths, "dir": o.Place.Dir, "lacks": lacks},
		map[string]float64{"files": float64(r.Files), "bytes": float64(r.Bytes), "kept_bytes": float64(r.Kept), "lacks": float64(r.Lacks.Count), "took_seconds": time.Duration(o.Took).Seconds()})
	if n := r.Lacks.Count; n > 0 {
		e.Outcome = receipt.Failed
		e.Says += fmt.Sprintf("; %d are not as they were", n)
	}
	return e
}

// receiptNamesMax is how many names of files a receipt carries.
const receiptNamesMax = 10
