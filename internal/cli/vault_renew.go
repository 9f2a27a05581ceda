package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func vaultRenewCommand() *cobra.Command {
	var root, output string
	cmd := &cobra.Command{
		Use:   "renew [NAME]",
		Short: "Make the locks of what a vault still keeps as long as they were at first",
		Long: `Asks each copy with lock: for what it holds, and sets the lock of what is locked for less than half of its time to the whole
time from now on. Parts that newer backups share with older ones so stay locked while they are kept. What was let go of is not
renewed. Nobody can make a lock shorter, and you pay for what is locked until its date. Run it once a day.`,
		Example: `  holdfast vault renew main`,
		Args:    usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (failed error) {
			if err := checkOutput(output); err != nil {
				return err
			}
			_, name, v, err := oneToWrite(cmd, root, args)
			if err != nil {
				return err
			}
			defer closeWritten(cmd.Context(), v, &failed)
			n, err := v.RenewLocks(cmd.Context())
			if output == "json" {
				return errors.Join(err, writeJSON(cmd.OutOrStdout(), map[string]any{"vault": name, "renewed": n}))
			}
			_, said := fmt.Fprintf(cmd.OutOrStdout(), "renewed the locks of %d objects\n", n)
			return errors.Join(err, said)
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	outputFlag(cmd, &output)
	return cmd
}
