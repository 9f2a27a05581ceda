package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/host"
	"holdfast/internal/plan"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/paper"
)

func vaultKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print, prove and change the key of a vault",
		Example: `  holdfast vault key export main --out /media/stick/main.key.txt
  holdfast vault key prove main --sheet /media/stick/main.key.txt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(keyExportCommand(), keyProveCommand(), keyRotateCommand(), keyRetireCommand())
	return cmd
}

func keyExportCommand() *cobra.Command {
	var root, out string
	cmd := &cobra.Command{
		Use:   "export [NAME]",
		Short: "Print the key of a vault as a sheet that is kept away from the hosts",
		Long: `Opens the vault with the plan's key, so that what is printed is right, and writes the key in groups that can be typed in
again, with a check on each line and four check words. The sheet is a key: whoever has it reads every backup. Commands that
take --key accept it as it is.`,
		Example: `  holdfast vault key export main | lp
  holdfast vault key export main --out /media/stick/main.key.txt`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, name, err := oneVault(cmd, root, args)
			if err != nil {
				return err
			}
			text, words, err := a.sheet(cmd.Context(), name)
			if err != nil {
				return err
			}
			if out == "" {
				_, err := fmt.Fprint(cmd.OutOrStdout(), text)
				return err
			}
			if err := writeNew(out, text); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "wrote the key of vault %s to %s; check words: %s\nTake it away from here, then: holdfast vault key prove %s --sheet FILE\n", name, out, words, name)
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().StringVar(&out, "out", "", "write it to a new file instead of the terminal")
	return cmd
}

// sheet is a vault's key as it is printed, and its check words.
func (a application) sheet(ctx context.Context, name string) (text, words string, err error) {
	conf, err := host.VaultConfig(ctx, a.plan, name)
	if err != nil {
		return "", "", err
	}
	v, err := a.openVault(ctx, name)
	if err != nil {
		return "", "", err
	}
	defer closeVault(ctx, v)
	if v.OldKey() {
		return "", "", fmt.Errorf("export the key of vault %s: the plan's key was replaced by a newer one; put that into the plan first", name)
	}
	s := paper.Sheet{Vault: name, ID: v.Identity().ID, Application: v.Identity().Application, Made: time.Now(), Key: []byte(conf.Key.Reveal()), Places: []string{conf.URL}}
	for _, p := range conf.Others {
		s.Places = append(s.Places, p.URL)
	}
	text, err = paper.Print(s)
	return text, paper.Words(s.ID, s.Key), err
}

// writeNew writes a file that was not there, for its owner's eyes alone.
func writeNew(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

func keyProveCommand() *cobra.Command {
	var root, sheet, output string
	cmd := &cobra.Command{
		Use:   "prove [NAME]",
		Short: "Show that the exported copy of a vault's key opens the vault, and note it",
		Long: `Reads the sheet (a file, or typed in and ended with Ctrl-D), opens every copy that answers with nothing else, reads the list
of backups, and notes in the vault that it was done and by whom. Until then, and again after 180 days or a change of the key,
holdfast vault status says that the key is not proven. Status 1 when the sheet does not open the vault.`,
		Example: `  holdfast vault key prove main --sheet /media/stick/main.key.txt
  holdfast vault key prove main --sheet -`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if sheet == "" {
				return fmt.Errorf("--sheet names the printed key, or - for one that is typed in: %w", errUsage)
			}
			a, name, err := oneVault(cmd, root, args)
			if err != nil {
				return err
			}
			return a.prove(cmd, name, sheet, output)
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	outputFlag(cmd, &output)
	cmd.Flags().StringVar(&sheet, "sheet", "", "file with the exported key; - reads what is typed in")
	return cmd
}

func (a application) prove(cmd *cobra.Command, name, file, output string) error {
	ctx := cmd.Context()
	var text []byte
	var err error
	if file == "-" {
		text, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), 1<<20))
	} else {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return fmt.Errorf("read the sheet: %w", err)
	}
	s, err := paper.Read(string(text))
	if err != nil {
		return fmt.Errorf("read the sheet: %w", err)
	}
	conf, err := host.VaultConfig(ctx, a.plan, name)
	if err != nil {
		return err
	}
	conf.Key, conf.ID, conf.ReadOnly = redact.Secret(string(s.Key)), s.ID, true
	markAllFilled(&conf, nil)
	proven, err := vault.Open(ctx, conf)
	if err != nil {
		return fmt.Errorf("open vault %s with the sheet: %w", name, err)
	}
	defer closeVault(ctx, proven)
	backups, err := proven.Backups(ctx, "")
	if err != nil {
		return err
	}
	v, err := a.openToWrite(ctx, name)
	if err != nil {
		return err
	}
	err = v.ProveKey(ctx, proven, whoami())
	if err = errors.Join(err, v.Close(context.WithoutCancel(ctx))); err != nil {
		return err
	}
	words := paper.Words(s.ID, s.Key)
	if output == "json" {
		return writeJSON(cmd.OutOrStdout(), map[string]any{"vault": name, "opens": true, "backups": len(backups), "check_words": words})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "the sheet opens vault %s and lists %d backups; check words: %s\n", name, len(backups), words)
	return err
}

func whoami() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	machine, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + machine
}

func keyRotateCommand() *cobra.Command {
	var root, fresh string
	var dryRun, yes bool
	cmd := &cobra.Command{
		Use:   "rotate [NAME]",
		Short: "Give a vault a new key; no backup is rewritten, and the old key opens it until it is retired",
		Long: `The key wraps the vault's own key, which encrypts the data and stays. The new wrap is stored in every copy (each must answer)
and then takes the old one's place. Cut off anywhere, both keys open the vault, and the same command ends what was begun. Give
the hosts the new key after it, export and prove it, then retire the old one. Whoever has both the old key and a copy of the
vault from before can read what is stored later too: against that, make a new vault.`,
		Example: `  holdfast vault key rotate main --new file:/etc/holdfast/vault.key.new`,
		Args:    usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (failed error) {
			if !plan.IsSecret(fresh) {
				return fmt.Errorf("--new refers to the new key: env:NAME, file:/path or exec:command: %w", errUsage)
			}
			a, name, err := oneVault(cmd, root, args)
			if err != nil {
				return err
			}
			conf, err := host.VaultConfig(cmd.Context(), a.plan, name)
			if err != nil {
				return err
			}
			key, err := host.Secret(cmd.Context(), plan.Secret(fresh))
			if err != nil {
				return err
			}
			v, err := a.openToWrite(cmd.Context(), name)
			if err != nil {
				return err
			}
			defer closeWritten(cmd.Context(), v, &failed)
			if dryRun {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "vault %s would open with %s, and with the old key until it is retired; nothing was changed\n", name, fresh)
				return err
			}
			if !yes {
				if ok, err := confirm(cmd, "Is the new key kept where it will not be lost?"); err != nil || !ok {
					return err
				}
			}
			if err := v.Rotate(cmd.Context(), conf.Key, key); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "vault %s opens with the new key, and with the old one for now\nNext: point the plan's key at it on every host, and apply the plan: until then what follows is about the old key. Then\n  holdfast vault key export %s --out FILE, holdfast vault key prove %s --sheet FILE, holdfast vault key retire %s\n", name, name, name, name)
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().StringVar(&fresh, "new", "", "reference to the new key: env:NAME, file:/path or exec:command")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done, and change nothing")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func keyRetireCommand() *cobra.Command {
	var root, output string
	var dryRun, yes bool
	cmd := &cobra.Command{
		Use:   "retire [NAME]",
		Short: "Make a vault open with its newest key alone",
		Long: `Removes the wraps of earlier keys from every copy. It is refused while the plan still has an old key, and when a copy does
not answer. A bucket with versions or a lock keeps the removed wraps as long as it keeps versions.`,
		Example: `  holdfast vault key retire main --dry-run`,
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
			k, err := v.Keys(cmd.Context())
			if err != nil {
				return err
			}
			told := map[string]any{"vault": name, "opening": k.Opening, "retired": 0}
			if output == "json" {
				if dryRun {
					return writeJSON(cmd.OutOrStdout(), told)
				}
			} else if _, err := fmt.Fprintf(cmd.OutOrStdout(), "vault %s opens with %d keys\n", name, k.Opening); err != nil || dryRun {
				return err
			}
			if !yes {
				if ok, err := confirm(cmd, "Does every host, and the sheet that is kept away, have the newest?"); err != nil || !ok {
					return err
				}
			}
			n, err := v.Retire(cmd.Context())
			if err != nil {
				return err
			}
			if output == "json" {
				told["retired"] = n
				return writeJSON(cmd.OutOrStdout(), told)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d old keys open it no more\n", n)
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	outputFlag(cmd, &output)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say how many keys open it, and change nothing")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// sheetKey gives the key of a file that is a printed sheet.
func sheetKey(file string) (redact.String, bool, error) {
	raw, err := os.ReadFile(filepath.Clean(file))
	if err != nil || !paper.Is(string(raw)) {
		return redact.String{}, false, nil //nolint:nilerr // whoever reads it as a plain key says why it cannot
	}
	s, err := paper.Read(string(raw))
	if err != nil {
		return redact.String{}, true, fmt.Errorf("read the sheet %s: %w", file, err)
	}
	return redact.Secret(string(s.Key)), true, nil
}
