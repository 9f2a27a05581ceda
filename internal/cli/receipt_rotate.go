package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/host"
	"holdfast/internal/local"
	"holdfast/internal/receipt"
)

func receiptRotateCommand() *cobra.Command {
	var root, output string
	cmd := &cobra.Command{
		Use:   "rotate [HOST...]",
		Short: "Give hosts of this machine new keys for their receipts",
		Long: `Makes a new signing key for each host whose directory lies below the data root, or for those that are named. Each chain
of receipts says so first, signed with the old key; the old one is removed. Agents need not stop. Keys are also changed by
themselves once a year. When a key may be in other hands: rotate it, and do not trust what its old key signed since then.`,
		Example: `  holdfast receipt rotate
  holdfast receipt rotate b1 --root /var/lib/holdfast/clinic`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			a, err := findApplication(cmd, root)
			if err != nil {
				return err
			}
			return a.rotateReceipts(cmd, args, output)
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	outputFlag(cmd, &output)
	return cmd
}

// rotated is a host's change of key.
type rotated struct {
	Host string `json:"host"`
	Old  string `json:"old"`
	New  string `json:"new"`
}

func (a application) rotateReceipts(cmd *cobra.Command, names []string, output string) error {
	if len(names) == 0 {
		for _, h := range hostNames(a.plan) {
			if _, err := os.Stat(host.ReceiptDir(local.HostDir(a.Root, h))); err == nil {
				names = append(names, h)
			}
		}
	}
	done := []rotated{}
	for _, name := range names {
		dir := local.HostDir(a.Root, name)
		b, err := host.ReceiptBook(host.ReceiptDir(dir), host.CertDir(dir), a.plan.Application, name, Version())
		if err != nil {
			return err
		}
		old, fresh, err := b.Rotate(cmd.Context(), time.Now())
		if err != nil {
			return err
		}
		done = append(done, rotated{name, old, fresh})
	}
	if output == "json" {
		return writeJSON(cmd.OutOrStdout(), done)
	}
	for _, d := range done {
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s signs with key %s now, in place of %s\n", d.Host, d.New, d.Old); err != nil {
			return err
		}
	}
	if len(done) == 0 {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "no host of this machine has written receipts")
		return err
	}
	return nil
}

// receipt writes an operator's receipt: into the vault of a database, and below the data root.
func (a application) receipt(ctx context.Context, vaultName string, what receipt.Event) error {
	admin := local.AdminDir(a.Root)
	b, err := host.ReceiptBook(host.ReceiptDir(admin), admin, a.plan.Application, "operator", Version())
	if err != nil {
		return err
	}
	v, err := a.openToWrite(ctx, vaultName)
	if err != nil {
		return err
	}
	_, err = b.Append(ctx, v.Identity().ID, v, what, time.Now())
	return errors.Join(err, v.Close(context.WithoutCancel(ctx)))
}

// restoreReceipt is evidence of a restored database.
func restoreReceipt(o restoredDatabase) receipt.Event {
	took := time.Duration(o.Took)
	details, err := json.Marshal(map[string]any{"backup": o.Backup.ID, "at": o.At, "timeline": o.Timeline, "end_lsn": o.End, "dir": o.Place.Dir})
	if err != nil {
		details = nil // what is given here can be written
	}
	return receipt.Event{
		Kind: receipt.Restore, Subject: o.Database, Outcome: receipt.Done, Details: details,
		Says:    fmt.Sprintf("%s at %s was restored from base backup %s and the log up to %s to %s", o.Database, o.At, o.Backup.ID, o.End, o.Place.Dir),
		Figures: map[string]float64{"bytes": float64(o.Backup.Bytes), "log_bytes": float64(o.Log), "kept_bytes": float64(o.Kept), "took_seconds": took.Seconds(), "rto_seconds": took.Seconds()},
	}
}
