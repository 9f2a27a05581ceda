package cli

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/host"
	"holdfast/internal/local"
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
	for _, name := range names { // before any key is changed
		if _, ok := a.plan.Host(name); !ok {
			unknown := api.UnknownHost(name, hostNames(a.plan))
			return &unknown
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
