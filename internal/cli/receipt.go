package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"holdfast/internal/auth"
	"holdfast/internal/local"
	"holdfast/internal/problem"
	"holdfast/internal/receipt"
	"holdfast/internal/vault"
)

func receiptCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "receipt",
		Short: "Signed evidence of what was done: backups, restores, validations, changes of primary",
		Long: `Each base backup, each restore on trial, each restore of a database (or of a part: in place, its undoing, beside the live one,
rows that are put back), each backup and restore of files, each restored recovery point and each change of primary leaves a receipt: what was done, when, by which
host, how it went, in figures. It is signed with a key that the application's authority vouches for, and names the one before,
so that one that was changed, taken out, exchanged or cut off shows. Receipts are kept in the vault and on the host that
wrote them, and are verified with nothing but the authority's certificate.`,
		Example: `  holdfast receipt list
  holdfast receipt verify
  holdfast receipt verify --vault file:///mnt/vault --key vault.key --public ca.crt
  holdfast receipt export /srv/evidence`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(receiptListCommand(), receiptShowCommand(), receiptVerifyCommand(), receiptExportCommand(), receiptRotateCommand())
	return cmd
}

// receiptWords say which receipts are meant.
type receiptWords struct {
	from           vaultFlags
	output, public string
	kind, subject  string
}

// gathered are receipts from one place, and what could not be read there.
type gathered struct {
	from   string // a vault's name, or "files"
	all    []receipt.Receipt
	faults []string
	alone  bool     // single receipts of chains whose others are elsewhere
	unseen []string // copies that could not be read
}

// read gives the receipts of the files or directories that are named, else of the vaults.
func (w *receiptWords) read(cmd *cobra.Command, files []string) ([]gathered, *application, error) {
	if err := errors.Join(checkOutput(w.output), w.from.check()); err != nil {
		return nil, nil, err
	}
	if len(files) > 0 {
		g, err := fromFiles(files)
		if err != nil {
			return nil, nil, err
		}
		a, err := w.whoseFiles()
		return []gathered{g}, a, err
	}
	ctx := cmd.Context()
	if w.from.url != "" {
		v, err := w.from.openAlone(ctx)
		if err != nil {
			return nil, nil, err
		}
		defer closeVault(ctx, v)
		g, err := fromVault(ctx, v)
		return []gathered{g}, nil, err
	}
	a, err := findApplication(cmd, w.from.root)
	if err != nil {
		return nil, nil, err
	}
	var out []gathered
	for _, x := range a.plan.Vaults {
		v, err := a.openVault(ctx, x.Name)
		if err != nil {
			return nil, nil, err
		}
		g, err := fromVault(ctx, v)
		closeVault(ctx, v)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, g)
	}
	return out, &a, nil
}

// whoseFiles is the application whose authority files are judged by: that of the data root that was named, or the only one of
// this machine; nil = --public says whom to trust, or there is none here.
func (w *receiptWords) whoseFiles() (*application, error) {
	if w.public != "" || w.from.url != "" {
		return nil, nil
	}
	c, err := findContext(w.from.root)
	if p, ok := errors.AsType[*problem.Problem](err); ok && p.Code == "cli.which-application" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &application{Context: c}, nil
}

// fromVault reads every receipt of a vault. One that cannot be read is a fault, and does not hide the others.
func fromVault(ctx context.Context, v *vault.Vault) (gathered, error) {
	g := gathered{from: v.Name()}
	names, err := v.ReceiptNames(ctx)
	if err != nil {
		return g, err
	}
	for _, name := range names {
		raw, err := v.Receipt(ctx, name)
		if err == nil {
			err = g.add(raw, name)
		}
		if err != nil {
			g.faults = append(g.faults, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		if r := g.all[len(g.all)-1]; r.Vault != "" && r.Vault != v.Identity().ID {
			g.faults = append(g.faults, fmt.Sprintf("%s: it was written for vault %s, and lies in %s (field vault)", name, r.Vault, v.Identity().ID))
		}
	}
	for _, away := range v.Away() { // what seems to be missing may lie there
		g.unseen = append(g.unseen, away.Error())
	}
	return g, nil
}

// add takes a receipt in; name is under which it is kept, "" = any.
func (g *gathered) add(raw []byte, name string) error {
	r, err := receipt.Read(raw)
	if err == nil && name != "" && r.Name != name {
		err = fmt.Errorf("receipt %s is kept under its name", r.Name)
	}
	if err == nil {
		g.all = append(g.all, r)
	}
	return err
}

// fromFiles reads receipts from files, and from all of a directory as export writes it.
func fromFiles(files []string) (gathered, error) {
	g := gathered{from: "files", alone: true}
	for _, f := range files {
		at, err := os.Stat(f)
		if err != nil {
			return g, fmt.Errorf("read receipts: %w", err)
		}
		if !at.IsDir() {
			raw, err := os.ReadFile(f)
			if err == nil {
				err = g.add(raw, "")
			}
			if err != nil {
				g.faults = append(g.faults, fmt.Sprintf("%s: %v", f, err))
			}
			continue
		}
		g.alone = false
		err = filepath.WalkDir(f, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(p) != ".json" {
				return err
			}
			raw, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(f, p)
			if err == nil {
				err = g.add(raw, strings.TrimSuffix(filepath.ToSlash(rel), ".json"))
			}
			if err != nil {
				g.faults = append(g.faults, fmt.Sprintf("%s: %v", p, err))
			}
			return nil
		})
		if err != nil {
			return g, fmt.Errorf("read receipts: %w", err)
		}
	}
	return g, nil
}

// trust is whose word counts: --public, else the authority of the application whose data root this is.
func (w *receiptWords) trust(a *application) (receipt.Trust, error) {
	file := w.public
	if file == "" && a != nil {
		file = filepath.Join(local.AdminDir(a.Root), auth.CACertFile)
	}
	if file == "" {
		return receipt.Trust{}, nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return receipt.Trust{}, fmt.Errorf("read whom to trust: %w", err)
	}
	return receipt.ParseTrust(raw)
}

func (w *receiptWords) filter(g gathered) []receipt.Receipt {
	out := slices.DeleteFunc(slices.Clone(g.all), func(r receipt.Receipt) bool {
		return w.kind != "" && r.Kind != w.kind || w.subject != "" && r.Subject != w.subject
	})
	slices.SortFunc(out, func(a, b receipt.Receipt) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

func receiptListCommand() *cobra.Command {
	var w receiptWords
	cmd := &cobra.Command{
		Use:   "list [NAME]",
		Short: "List receipts, oldest first; of one database when it is named",
		Example: `  holdfast receipt list records --kind validation
  holdfast receipt list --output json | jq '.[] | select(.outcome == "failed")'`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				w.subject = args[0]
			}
			all, _, err := w.read(cmd, nil)
			if err != nil {
				return err
			}
			list, faults := []receipt.Statement{}, []string(nil)
			for _, g := range all {
				for _, r := range w.filter(g) {
					list = append(list, r.Statement)
				}
				faults = append(faults, g.faults...)
			}
			if w.output == "json" {
				err = writeJSON(cmd.OutOrStdout(), list)
			} else {
				err = writeReceipts(cmd.OutOrStdout(), list)
			}
			for _, f := range faults {
				_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "not read: "+f) // the status says so too
			}
			if err == nil && len(faults) > 0 {
				err = exitError{1}
			}
			return err
		},
	}
	w.from.add(cmd)
	outputFlag(cmd, &w.output)
	cmd.Flags().StringVar(&w.kind, "kind", "", "backup, validation, restore, switchover, failover, drill or key alone")
	return cmd
}

func writeReceipts(out io.Writer, list []receipt.Statement) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(out, "no receipts")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	p("RECEIPT\tAT\tKIND\tSUBJECT\tOUTCOME\tSAYS\n")
	for _, s := range list {
		p("%s/%d\t%s\t%s\t%s\t%s\t%s\n", s.Chain, s.Sequence, momentText(s.At), s.Kind, s.Subject, s.Outcome, s.Says)
	}
	return w.Flush()
}

func receiptShowCommand() *cobra.Command {
	var w receiptWords
	cmd := &cobra.Command{
		Use:   "show RECEIPT",
		Short: "Show one receipt, as receipt list names it, and whether its signature holds",
		Example: `  holdfast receipt show b1-3f9c21aa/7
  holdfast receipt show b1-3f9c21aa/7 --output json | jq .details`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, a, err := w.read(cmd, nil)
			if err != nil {
				return err
			}
			t, err := w.trust(a)
			if err != nil {
				return err
			}
			for _, g := range all {
				i := slices.IndexFunc(g.all, func(r receipt.Receipt) bool { return r.ID() == args[0] })
				if i < 0 {
					continue
				}
				return showReceipt(cmd.OutOrStdout(), w.output, g.all[i], t)
			}
			return &problem.Problem{Code: "receipt.unknown", Subject: args[0], Severity: problem.Note, Title: "there is no such receipt",
				Meaning: "Nothing was changed.", Remedy: "see their names: holdfast receipt list"}
		},
	}
	w.from.add(cmd)
	outputFlag(cmd, &w.output)
	cmd.Flags().StringVar(&w.public, "public", "", publicUsage)
	return cmd
}

const publicUsage = "whom to trust: the authority's certificate (ca.crt) or a public key, PEM (default: the authority of --root's application)"

func showReceipt(out io.Writer, output string, r receipt.Receipt, t receipt.Trust) error {
	rep := receipt.Verify([]receipt.Receipt{r}, t, true)
	if output == "json" {
		if err := writeJSON(out, r.Statement); err != nil {
			return err
		}
	} else {
		raw, err := json.MarshalIndent(r.Statement, "", "  ")
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%s\n%s\n", raw, signedText(rep.Chains[0])); err != nil {
			return err
		}
	}
	if !rep.OK {
		return receiptFault(r.ID(), rep.Faults)
	}
	return nil
}

func signedText(c receipt.Chain) string {
	by := "signed with key " + c.Signed.Key
	if c.Signed.Name != "" {
		by += fmt.Sprintf(" of %s %s, for which authority %s vouches", c.Signed.Role, c.Signed.Name, c.Signed.Authority)
	}
	if c.Signed.Unvouched {
		by += ", for which NO HOST vouches: it was made where a vault alone was restored from"
	}
	if !c.Trusted {
		by += " (not proven to be the application's own)"
	}
	return by
}

func receiptFault(subject string, faults []string) error {
	return &problem.Problem{Code: "receipt.not-proven", Subject: subject, Severity: problem.Critical,
		Title:   "receipts do not hold: " + strings.Join(faults[:min(len(faults), 5)], "; "),
		Meaning: "What these receipts say is not proven. Backups and databases are as they were.",
		Remedy:  "compare with the copies on the hosts that wrote them (receipts below each host's directory), and find out who changed what"}
}
