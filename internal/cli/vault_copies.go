package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/host"
	"holdfast/internal/plan"
	"holdfast/internal/vault"
	"holdfast/internal/vault/copies"
)

// copyLack is what one copy of a vault lacks that others have.
type copyLack struct {
	Objects int       `json:"objects"`
	Bytes   int64     `json:"bytes"`
	Since   time.Time `json:"since,omitzero"` // when the oldest of them was stored elsewhere
	Suspect []string  `json:"suspect,omitempty"`
}

func (l copyLack) text() string {
	text := "holds all that the others hold"
	if l.Objects > 0 {
		text = fmt.Sprintf("lacks %d objects (%s) that others hold, the oldest stored %s", l.Objects, sizeText(l.Bytes), whenText(l.Since))
	}
	if len(l.Suspect) > 0 {
		text += fmt.Sprintf("; %d of its objects differ in size from another copy's: holdfast vault scrub says which are good", len(l.Suspect))
	}
	return text
}

// compareCopies fills in what each copy of a vault lacks. Copies that do not answer have said so already.
func (a application) compareCopies(ctx context.Context, name string, all []vaultStatus) error {
	v, err := a.openVault(ctx, name)
	if err != nil {
		return nil //nolint:nilerr // no copy opens: each says why by itself
	}
	defer closeVault(ctx, v)
	lacks, err := v.Compare(ctx)
	if err != nil {
		return err
	}
	for _, l := range lacks {
		i := slices.IndexFunc(all, func(s vaultStatus) bool { return s.Vault == name && s.Copy == l.Copy })
		switch {
		case i < 0:
		case l.Away == nil:
			all[i].Behind = &copyLack{Objects: len(l.Missing), Bytes: l.Bytes(), Since: l.Oldest(), Suspect: l.Suspect}
		case all[i].Trouble == "":
			all[i].Trouble = l.Away.Error()
		}
	}
	return nil
}

func placesText(c vault.Config) string {
	all := []string{c.URL}
	for _, p := range c.Others {
		all = append(all, p.URL)
	}
	return strings.Join(all, " and ")
}

// syncResult is what was brought to one copy.
type syncResult struct {
	Vault   string   `json:"vault"`
	Copy    string   `json:"copy"`
	Objects int      `json:"objects"` // with --dry-run: would be brought
	Bytes   int64    `json:"bytes"`
	Left    int      `json:"left,omitempty"`
	Suspect []string `json:"suspect,omitempty"`
	Away    string   `json:"away,omitempty"`
	Trouble []string `json:"trouble,omitempty"`
}

func vaultSyncCommand() *cobra.Command {
	var root, output string
	var dryRun bool
	var fill []string
	cmd := &cobra.Command{
		Use:   "sync [NAME]",
		Short: "Bring every copy of a vault up to date with the others, in all directions",
		Long: `The host that archives does this all the time; this does it now, from this host, and says what does not arrive. Objects
are compared by name and size, and carried only when their content is what it should be; nothing that is there is replaced
or deleted. A copy that held the vault and is empty now is taken for a disk that is not mounted: --fill COPY says that it is
to be filled anew. Status 1 when a copy did not answer or something did not arrive.`,
		Example: `  holdfast vault sync
  holdfast vault sync main --dry-run
  holdfast vault sync main --fill offsite`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			a, err := findApplication(cmd, root)
			if err != nil {
				return err
			}
			vaults := a.plan.Vaults
			if len(args) > 0 {
				v, err := a.vaultNamed(args[0])
				if err != nil {
					return err
				}
				vaults = []plan.Vault{v}
			}
			if len(fill) > 0 && len(args) == 0 {
				return fmt.Errorf("--fill needs the vault's name: %w", errUsage)
			}
			all := []syncResult{}
			for _, v := range vaults {
				some, err := a.syncVault(cmd.Context(), v, fill, dryRun)
				if err != nil {
					return err
				}
				all = append(all, some...)
			}
			return writeSync(cmd.OutOrStdout(), output, all, dryRun)
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what each copy lacks, and carry nothing")
	cmd.Flags().StringSliceVar(&fill, "fill", nil, "a copy whose place is empty and is to be filled")
	outputFlag(cmd, &output)
	return cmd
}

func (a application) syncVault(ctx context.Context, v plan.Vault, fill []string, dryRun bool) (out []syncResult, failed error) {
	for _, f := range fill {
		if !slices.ContainsFunc(v.Copies, func(c plan.Copy) bool { return c.Name == f }) {
			return nil, fmt.Errorf("vault %s has no copy %q: %w", v.Name, f, errUsage)
		}
	}
	conf, err := host.VaultConfig(ctx, a.plan, v.Name)
	if err != nil {
		return nil, err
	}
	conf.ReadOnly = dryRun
	markAllFilled(&conf, fill)
	opened, err := vault.Open(ctx, conf)
	if err != nil {
		return nil, err
	}
	defer closeWritten(ctx, opened, &failed)
	if dryRun {
		lacks, err := opened.Compare(ctx)
		for _, l := range lacks {
			out = append(out, syncResult{Vault: v.Name, Copy: l.Copy, Objects: len(l.Missing), Bytes: l.Bytes(), Suspect: l.Suspect, Away: errorText(l.Away)})
		}
		return out, err
	}
	done, err := opened.Sync(ctx)
	for _, c := range done {
		out = append(out, carriedResult(v.Name, c))
	}
	return out, err
}

func carriedResult(name string, c copies.Carried) syncResult {
	r := syncResult{Vault: name, Copy: c.Copy, Objects: c.Blobs, Bytes: c.Bytes, Left: c.Left, Suspect: c.Suspect, Away: errorText(c.Away)}
	for _, e := range c.Trouble {
		r.Trouble = append(r.Trouble, e.Error())
	}
	return r
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func writeSync(out io.Writer, output string, all []syncResult, dryRun bool) error {
	var err error
	bad := false
	if output == "json" {
		err = writeJSON(out, all)
	}
	did := "brought"
	if dryRun {
		did = "would bring"
	}
	for _, r := range all {
		bad = bad || r.Away != "" || r.Left > 0
		if output == "json" {
			continue
		}
		line := fmt.Sprintf("vault %s, copy %s: %s %d objects, %s", r.Vault, r.Copy, did, r.Objects, sizeText(r.Bytes))
		if r.Away != "" {
			line = fmt.Sprintf("vault %s, copy %s is away: %s", r.Vault, r.Copy, r.Away)
		}
		if r.Left > 0 {
			line += fmt.Sprintf("; %d did not arrive: %s", r.Left, strings.Join(r.Trouble, "; "))
		}
		if len(r.Suspect) > 0 {
			line += fmt.Sprintf("; %d differ in size from another copy's: see holdfast vault scrub", len(r.Suspect))
		}
		_, e := fmt.Fprintln(out, line)
		err = errors.Join(err, e)
	}
	if len(all) == 0 && output != "json" {
		_, e := fmt.Fprintln(out, "one copy each: there is nothing to bring")
		err = errors.Join(err, e)
	}
	if bad {
		err = errors.Join(err, errors.New("not every copy is up to date"))
	}
	return err
}
