package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/auth"
	"holdfast/internal/local"
	"holdfast/internal/receipt"
)

func receiptVerifyCommand() *cobra.Command {
	var w receiptWords
	cmd := &cobra.Command{
		Use:   "verify [FILE|DIR...]",
		Short: "Prove receipts: every signature, who vouches for it, and that none up to the heads that are noted is missing, changed or exchanged",
		Long: `Judges the receipts of the plan's vaults, of --vault, of a directory as receipt export writes it, or of single files, of which
only the signatures can be judged. It needs no agent, and no vault where files are given.

--public says whom to trust; without it that is the authority of --root's application, or of the only one on this machine.
With neither, and with --vault without --public, signatures are checked only against the keys and authorities that the
receipts bring along, which anybody can make: that is said, "trusted" is false in JSON, and their fingerprints are printed, to be
compared. The exit status is 0 then when they are whole.

Each receipt notes the head (the last receipt) of every other chain that its writer saw. Up to the heads that are noted it is
proven that none is missing; what was written behind them, or a chain that none notes, could be cut off unseen, and which heads
are noted is said. The hosts that wrote them keep them too.

Exit status 1 when anything does not hold, and when whoever signed is not among those whom you said to trust.`,
		Example: `  holdfast receipt verify
  holdfast receipt verify --vault file:///mnt/vault --key vault.key --public ca.crt
  holdfast receipt verify /srv/evidence --public ca.crt --output json
  holdfast receipt verify 00000007-b6a0c1d2e3f40516.json --public ca.crt`,
		RunE: func(cmd *cobra.Command, args []string) error {
			all, a, err := w.read(cmd, args)
			if err != nil {
				return err
			}
			t, err := w.trust(a)
			if err != nil {
				return err
			}
			return w.verify(cmd.OutOrStdout(), all, t)
		},
	}
	w.from.add(cmd)
	outputFlag(cmd, &w.output)
	cmd.Flags().StringVar(&w.public, "public", "", publicUsage)
	return cmd
}

// verified is what one place's receipts prove.
type verified struct {
	From  string `json:"from"`
	Alone bool   `json:"alone,omitempty"` // single receipts: whether others are missing is not judged
	receipt.Report
}

func (w *receiptWords) verify(out io.Writer, all []gathered, t receipt.Trust) error {
	var reports []verified
	var faults []string
	for _, g := range all {
		rep := receipt.Verify(g.all, t, g.alone)
		rep.Faults = append(rep.Faults, g.faults...)
		if len(rep.Faults) > 0 {
			for _, away := range g.unseen {
				rep.Faults = append(rep.Faults, "what seems to be missing may lie in a copy that could not be read: "+away)
			}
		}
		rep.OK = rep.OK && len(g.faults) == 0
		if len(g.all)+len(g.faults) == 0 {
			rep.Faults = []string{"there are no receipts"}
		}
		reports, faults = append(reports, verified{g.from, g.alone, rep}), append(faults, rep.Faults...)
	}
	var err error
	if w.output == "json" {
		err = writeJSON(out, reports)
	} else {
		err = writeVerified(out, reports)
	}
	switch {
	case err != nil:
		return err
	case len(faults) == 0:
		return nil
	case w.output == "json":
		return exitError{1}
	}
	return receiptFault(reports[0].From, faults)
}

func writeVerified(out io.Writer, reports []verified) error {
	var b strings.Builder
	for _, r := range reports {
		for _, c := range r.Chains {
			fmt.Fprintf(&b, "%s: %d receipts, %d to %d, %s to %s\n  %s\n  %s\n", c.Chain, c.Count, c.First, c.Last, momentText(c.Oldest), momentText(c.Newest), strings.Join(c.Kinds, ", "), signedText(c))
			if !r.Alone {
				fmt.Fprintf(&b, "  %s\n", notedText(c))
			}
		}
		if r.OK && r.Trusted {
			fmt.Fprintf(&b, "%s: proven. Each was signed by who it says and is as it was signed; %s.\n", r.From, noneMissingText(r))
		} else if r.OK {
			fmt.Fprintf(&b, "%s: whole and in order, and NOT PROVEN: nobody was given to be trusted. The signatures fit the keys and authorities that the receipts bring along, which anybody can make: compare the fingerprints, or give --public ca.crt.\n", r.From)
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// notedText says how far it is proven that nothing was cut off a chain's end.
func notedText(c receipt.Chain) string {
	switch {
	case c.Noted == 0:
		return "its head is noted by no other chain: whether more was behind it, and was cut off, cannot be told"
	case c.Noted < c.Last:
		return fmt.Sprintf("its head is noted up to %d, by %s: whether more was behind %d, and was cut off, cannot be told", c.Noted, c.NotedBy, c.Last)
	}
	return fmt.Sprintf("its head %d is noted by %s", c.Noted, c.NotedBy)
}

// noneMissingText says what is proven of receipts that are not there.
func noneMissingText(r verified) string {
	if r.Alone {
		return "whether others are missing is not judged of single ones"
	}
	var heads []string
	for _, c := range r.Chains {
		if c.Noted > 0 {
			heads = append(heads, fmt.Sprintf("%s/%d", c.Chain, c.Noted))
		}
	}
	if len(heads) == 0 {
		return "none is missing between the first and the last of a chain. No head is noted, so what was behind the last ones, or a chain of which none is here, could be cut off unseen"
	}
	return "none is missing up to the heads that are noted (" + strings.Join(heads, ", ") + "). What was written behind these, or a chain that no receipt notes, could be cut off unseen"
}

func receiptExportCommand() *cobra.Command {
	var w receiptWords
	cmd := &cobra.Command{
		Use:   "export DIR",
		Short: "Write all receipts to a directory, one file each, for whoever is to verify them elsewhere",
		Example: `  holdfast receipt export /srv/evidence
  holdfast receipt export /srv/evidence --vault file:///mnt/vault --key vault.key`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, a, err := w.read(cmd, nil)
			if err != nil {
				return err
			}
			n := 0
			for _, g := range all {
				if len(g.faults) > 0 {
					return receiptFault(g.from, g.faults)
				}
				for _, r := range g.all {
					if err := exportReceipt(args[0], r); err != nil {
						return err
					}
					n++
				}
			}
			if a != nil { // beside them: the certificate with which they are verified
				raw, err := os.ReadFile(filepath.Join(local.AdminDir(a.Root), auth.CACertFile))
				if err == nil {
					err = os.WriteFile(filepath.Join(args[0], auth.CACertFile), raw, 0o644)
				}
				if err != nil {
					return fmt.Errorf("write the authority's certificate: %w", err)
				}
			}
			if w.output == "json" {
				return writeJSON(cmd.OutOrStdout(), map[string]any{"dir": args[0], "receipts": n})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d receipts in %s; verify them anywhere: holdfast receipt verify %s --public %s\n", n, args[0], args[0], filepath.Join(args[0], "ca.crt"))
			return err
		},
	}
	w.from.add(cmd)
	outputFlag(cmd, &w.output)
	return cmd
}

// exportReceipt writes one file. One that is there with other content stays, and is told.
func exportReceipt(dir string, r receipt.Receipt) error {
	file := filepath.Join(dir, filepath.FromSlash(r.Name)+".json")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("export receipts: %w", err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		old, err := os.ReadFile(file)
		if err == nil && string(old) != string(r.Raw) {
			err = fmt.Errorf("%s is there already with other content", file)
		}
		return err
	}
	if err != nil {
		return fmt.Errorf("export receipts: %w", err)
	}
	_, err = f.Write(r.Raw)
	return errors.Join(err, f.Close())
}
