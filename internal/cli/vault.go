package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/event"
	"holdfast/internal/host"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

func vaultCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "vault", Short: "Show and make the places where backups lie"}
	cmd.AddCommand(vaultStatusCommand(), vaultInitCommand(), vaultSyncCommand(), vaultScrubCommand(), vaultRepairCommand(), vaultKeyCommand(), vaultRenewCommand(), vaultTrashCommand(), vaultUndeleteCommand(), vaultDeletionsCommand())
	return cmd
}

// vaultStatus is one copy of a vault, for a person or a program.
type vaultStatus struct {
	Vault       string             `json:"vault"`
	Copy        string             `json:"copy,omitempty"` // "" without a plan
	Address     string             `json:"address"`
	Readable    bool               `json:"readable"`
	Writable    *bool              `json:"writable,omitempty"` // missing = not tried
	Trouble     string             `json:"trouble,omitempty"`  // why not
	ID          string             `json:"id,omitempty"`
	Application string             `json:"application,omitempty"`
	Created     time.Time          `json:"created,omitzero"`
	Backups     int                `json:"backups"`
	Newest      time.Time          `json:"newest_backup,omitzero"`
	Proven      time.Time          `json:"newest_proven,omitzero"`
	Contents    *vault.Contents    `json:"contents,omitempty"`
	LogAge      *event.Duration    `json:"last_log_age,omitempty"`
	Scrubbed    *vault.ScrubRecord `json:"scrubbed,omitempty"` // the last whole scrub; missing = never
	Keys        *vault.Keys        `json:"keys,omitempty"`
	KeyTrouble  string             `json:"key_trouble,omitempty"` // it is not proven that anybody away from the hosts can open it
	Behind      *copyLack          `json:"behind,omitempty"`      // what it lacks that other copies have; missing = not known
}

func vaultStatusCommand() *cobra.Command {
	var from vaultFlags
	var output string
	var readOnly bool
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Say of each copy of a vault what is in it, and whether it can be read and written now",
		Long: `Asks the vaults themselves, from this host. Whether a copy can be written is found by storing a small object in it and
reading it back; --read-only leaves that out, and so does --vault. Status 1 when a copy is not as it should be, and while the
vault is DEGRADED because no copy of its key away from the hosts was shown to open it, or not for 180 days. With --vault
the key was brought along, so that does not count.`,
		Example: `  holdfast vault status
  holdfast vault status main --output json | jq '.[].contents.bytes'
  holdfast vault status --vault s3://clinic-backup/records --key vault.key`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(checkOutput(output), from.check()); err != nil {
				return err
			}
			all, err := vaultStatuses(cmd, from, args, readOnly)
			if err != nil {
				return err
			}
			if output == "json" {
				err = writeJSON(cmd.OutOrStdout(), all)
			} else {
				err = writeVaults(cmd.OutOrStdout(), all)
			}
			for _, s := range all {
				if s.Trouble != "" {
					err = errors.Join(err, fmt.Errorf("vault %s at %s is not as it should be", s.Vault, s.Address))
				}
			}
			if err == nil && from.url == "" && slices.ContainsFunc(all, func(s vaultStatus) bool { return s.KeyTrouble != "" }) {
				err = exitError{1} // its line has said why
			}
			return err
		},
	}
	from.add(cmd)
	outputFlag(cmd, &output)
	cmd.Flags().BoolVar(&readOnly, "read-only", false, "store nothing, not even the small object that tries it")
	return cmd
}

func vaultStatuses(cmd *cobra.Command, from vaultFlags, names []string, readOnly bool) ([]vaultStatus, error) {
	if from.url != "" {
		v, err := from.openAlone(cmd.Context())
		if err != nil {
			return nil, err
		}
		defer closeVault(cmd.Context(), v)
		s := vaultStatus{Vault: v.Name()}
		s.look(cmd.Context(), v, false)
		return []vaultStatus{s}, nil
	}
	a, err := findApplication(cmd, from.root)
	if err != nil {
		return nil, err
	}
	vaults := a.plan.Vaults
	if len(names) > 0 {
		v, err := a.vaultNamed(names[0])
		if err != nil {
			return nil, err
		}
		vaults = []plan.Vault{v}
	}
	all := []vaultStatus{}
	for _, v := range vaults {
		for _, c := range v.Copies {
			s := vaultStatus{Vault: v.Name, Copy: c.Name, Address: c.URL}
			place, err := host.PlaceOf(cmd.Context(), a.plan, v, c)
			if err == nil {
				var opened *vault.Vault
				if opened, err = vault.Open(cmd.Context(), place); err == nil {
					s.look(cmd.Context(), opened, !readOnly)
					closeVault(cmd.Context(), opened)
				}
			}
			if err != nil {
				s.Trouble = err.Error()
			}
			all = append(all, s)
		}
		if len(v.Copies) > 1 {
			if err := a.compareCopies(cmd.Context(), v.Name, all); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// look fills in what the vault says.
func (s *vaultStatus) look(ctx context.Context, v *vault.Vault, write bool) {
	id := v.Identity()
	s.Address, s.ID, s.Application, s.Created = v.Address(), id.ID, id.Application, id.Created
	backups, err := v.Backups(ctx, "")
	for _, b := range backups {
		s.Backups++
		if b.Stopped.After(s.Newest) {
			s.Newest = b.Stopped
		}
		if b.Validated() && b.Stopped.After(s.Proven) {
			s.Proven = b.Stopped
		}
	}
	if err == nil {
		var c vault.Contents
		if c, err = v.Contents(ctx); err == nil {
			s.Readable, s.Contents = true, &c
			if !c.LastLog.IsZero() {
				age := event.Duration(time.Since(c.LastLog))
				s.LogAge = &age
			}
		}
	}
	if err == nil {
		var last vault.ScrubRecord
		if last, err = v.LastScrub(ctx); !last.At.IsZero() {
			s.Scrubbed = &last
		}
		if last.Damage > 0 {
			err = fmt.Errorf("the scrub of %s found %d damaged or lost objects that are not mended; see holdfast vault repair", momentText(last.At), last.Damage)
		}
	}
	if err == nil {
		var lost *problem.Problem
		if lost, err = v.LooksForPacks(ctx); err == nil && lost != nil {
			err = fmt.Errorf("%s; do: %s", lost.Title, lost.Remedy)
		}
	}
	if err == nil {
		var k vault.Keys
		if k, err = v.Keys(ctx); err == nil {
			s.Keys = &k
			if p := k.Trouble(v.Name(), time.Now()); p != nil {
				s.KeyTrouble = p.Title + "; do: " + p.Remedy
			}
		}
	}
	if write {
		failed := v.TryWrite(ctx)
		able := failed == nil
		s.Writable = &able
		err = errors.Join(err, failed)
	}
	if err != nil {
		s.Trouble = err.Error()
	}
}

func (a application) vaultNamed(name string) (plan.Vault, error) {
	v, ok := a.plan.VaultNamed(name)
	if !ok {
		return v, &problem.Problem{Code: "cli.unknown-vault", Subject: name, Severity: problem.Note,
			Title: "the plan has no such vault", Meaning: "Nothing was asked and nothing was changed.",
			Remedy: "name one that stands below vaults: in " + a.Plan}
	}
	return v, nil
}

func writeVaults(out io.Writer, all []vaultStatus) error {
	var err error
	p := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(out, format, args...)
		}
	}
	for i, s := range all {
		if i > 0 {
			p("\n")
		}
		p("VAULT %s", s.Vault)
		if s.Copy != "" {
			p(", copy %s", s.Copy)
		}
		p("\n  lies at    %s\n", s.Address)
		if s.ID != "" {
			p("  is         %s of %s, made %s\n", s.ID, s.Application, momentText(s.Created))
		}
		if s.Contents != nil {
			p("  holds      %s in %d objects\n", sizeText(s.Contents.Bytes), s.Contents.Objects)
			p("  backups    %d, the newest %s, the newest proven %s\n", s.Backups, whenText(s.Newest), whenText(s.Proven))
			p("  log        %d objects, the last stored %s\n", s.Contents.Segments, whenText(s.Contents.LastLog))
		}
		if s.Scrubbed != nil {
			p("  scrubbed   %s, %d objects, %d of them damaged and not mended\n", whenText(s.Scrubbed.At), s.Scrubbed.Blobs, s.Scrubbed.Damage)
		} else if s.Readable {
			p("  scrubbed   never: holdfast vault scrub\n")
		}
		switch {
		case s.Keys == nil:
		case s.KeyTrouble != "":
			p("  key        DEGRADED: %s\n", s.KeyTrouble)
		default:
			p("  key        proven %s by %s\n", whenText(s.Keys.Proven.At), s.Keys.Proven.By)
		}
		if s.Keys != nil && s.Keys.Opening > 1 {
			p("  keys       %d open it; retire the old ones: holdfast vault key retire %s\n", s.Keys.Opening, s.Vault)
		}
		if s.Behind != nil {
			p("  copies     %s\n", s.Behind.text())
		}
		p("  now        %s\n", s.now())
		if s.Trouble != "" {
			p("  trouble    %s\n", s.Trouble)
		}
	}
	return err
}

// now says what can be done with it, in words.
func (s vaultStatus) now() string {
	switch {
	case !s.Readable:
		return "cannot be read"
	case s.Writable == nil:
		return "can be read; writing was not tried"
	case *s.Writable:
		return "can be read and written"
	}
	return "can be read, and not written"
}

func whenText(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return momentText(t) + " (" + ageText(time.Since(t)) + " ago)"
}

func vaultInitCommand() *cobra.Command {
	var root string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "init NAME",
		Short: "Make a vault of the plan where nothing is yet",
		Long: `Makes the vault in all its places, as the host that archives would when it first needs it, so that a wrong bucket, key
or right is found now. A place with anything in it is refused and left as it is. Buckets are not made.`,
		Example: `  holdfast vault init main
  holdfast vault init main --dry-run`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (failed error) {
			a, err := findApplication(cmd, root)
			if err != nil {
				return err
			}
			v, err := a.vaultNamed(args[0])
			if err != nil {
				return err
			}
			place, err := host.VaultConfig(cmd.Context(), a.plan, v.Name)
			if err != nil {
				return err
			}
			if dryRun {
				if err := vault.Vacant(cmd.Context(), place); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "would make vault %s at %s for application %s; nothing is there yet, and nothing was made\n", v.Name, placesText(place), place.Application)
				return err
			}
			made, err := vault.Create(cmd.Context(), place)
			if err != nil {
				return err
			}
			defer closeWritten(cmd.Context(), made, &failed)
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "made vault %s (%s) at %s\nKeep a copy of its key away from the hosts: nothing in it can be read without.\n", v.Name, made.Identity().ID, made.Address())
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be made, or why it would be refused, and make nothing")
	return cmd
}
