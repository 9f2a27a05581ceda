package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/auth"
	"holdfast/internal/local"
	"holdfast/internal/vault/consent"
)

func operatorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "operator",
		Short:   "Give persons certificates of their own",
		Example: "  holdfast operator issue anna --to /media/anna",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(operatorIssueCommand())
	return cmd
}

func operatorIssueCommand() *cobra.Command {
	var root, to string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "issue NAME",
		Short: "Make a person's certificate and key, in a directory that the person takes away",
		Long: `Commands that ask for a person (holdfast vault deletions request, approve and refuse) are told with --as which directory
holds the certificate. It is valid for a year. The certificate in the admin directory of a machine stands for the machine and for
no person.

It is made on the machine with the application's authority. Whoever can read the authority's key can make any number of persons:
where two persons must agree, move the directory ca away from every host, and bring it back only to issue.`,
		Example: `  holdfast operator issue anna --to /media/anna
  holdfast operator issue anna --to /media/anna --dry-run`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if err := consent.PersonName(name); err != nil {
				return fmt.Errorf("%w: %w", err, errUsage)
			}
			if to == "" {
				return fmt.Errorf("--to names the directory that the person takes away: %w", errUsage)
			}
			c, err := findContext(root)
			if err != nil {
				return err
			}
			ca, err := auth.LoadAuthority(local.AuthorityDir(c.Root))
			if err != nil {
				return err
			}
			if _, err := os.Lstat(filepath.Join(to, auth.HostKeyFile)); err == nil {
				return fmt.Errorf("%s holds a key already, and is left as it is", to)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if dryRun {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "would make a certificate of %s for %s in %s; nothing was changed\n", name, ca.Application, to)
				return err
			}
			if err := ca.WriteHost(to, auth.HostCert{Name: name, Role: auth.Admin}); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "made a certificate of %s for %s in %s, valid for a year\nWhoever has that directory is %s: it is to be nowhere else.\n", name, ca.Application, to, name)
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().StringVar(&to, "to", "", "directory for the certificate and its key")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be made, and make nothing")
	return cmd
}

// person reads who a directory with a certificate stands for.
func person(cmd *cobra.Command, dir string) (consent.Person, error) {
	if dir == "" {
		return consent.Person{}, fmt.Errorf("--as names the directory with your own certificate (holdfast operator issue makes one): %w", errUsage)
	}
	certificate, err := os.ReadFile(filepath.Join(dir, auth.HostCertFile))
	if err != nil {
		return consent.Person{}, fmt.Errorf("read who you are: %w", err)
	}
	key, err := os.ReadFile(filepath.Join(dir, auth.HostKeyFile))
	if err != nil {
		return consent.Person{}, fmt.Errorf("read who you are: %w", err)
	}
	p, err := consent.LoadPerson(certificate, key)
	if err != nil {
		return p, notAPerson(dir, err)
	}
	if until, err := auth.Expires(dir); err == nil {
		warnOperatorEnds(cmd, until, time.Now(), "where the authority is: holdfast operator issue NAME --to DIR, with a directory that holds none yet")
	}
	return p, nil
}
