package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/host"
	"holdfast/internal/local"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
)

// vaultFlags say where backups are read from: the plan of a data root, or a vault and its key alone, when
// plan, cluster and agents are gone.
type vaultFlags struct{ root, url, key string }

func (f *vaultFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.root, "root", "", rootUsage)
	cmd.Flags().StringVar(&f.url, "vault", "", "a vault's URL or directory, to work without plan and agents; needs --key (for s3:// also AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where needed, AWS_ENDPOINT_URL; for azblob:// AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING)")
	cmd.Flags().StringVar(&f.key, "key", "", "file with the vault's key, or a reference (env:NAME, exec:COMMAND); needs --vault")
}

// check refuses words that do not go together.
func (f *vaultFlags) check() error {
	switch {
	case (f.url == "") != (f.key == ""):
		return fmt.Errorf("--vault and --key go together: %w", errUsage)
	case f.url != "" && f.root != "":
		return fmt.Errorf("--root reads the plan, --vault does without one; give one of them: %w", errUsage)
	}
	return nil
}

// application is a data root with its plan, as `up` runs it on this machine.
type application struct {
	local.Context
	plan *plan.Plan
}

// findApplication reads the plan of a data root as `up` runs it.
func findApplication(cmd *cobra.Command, root string) (application, error) {
	c, err := findContext(root)
	if err != nil {
		return application{}, err
	}
	p, err := goodPlan(cmd, c.Plan)
	if err != nil {
		return application{}, err
	}
	return application{Context: c, plan: local.AsRun(c, p).WithRoot(c.Root)}, nil
}

// backupOf is the plan's database and how it is backed up.
func (a application) backupOf(name string) (plan.Database, plan.Backup, error) {
	d, ok := a.plan.DatabaseNamed(name)
	if !ok {
		return d, plan.Backup{}, &problem.Problem{Code: "cli.unknown-database", Subject: name, Severity: problem.Note,
			Title: "the plan has no such database", Meaning: "Nothing was asked and nothing was changed.",
			Remedy: api.UnknownDatabase(name, a.plan).Remedy}
	}
	b, ok := a.plan.BackupOf(name)
	if !ok {
		return d, b, &problem.Problem{Code: "backup.not-planned", Subject: name, Severity: problem.Critical,
			Title: "the plan does not back it up", Meaning: "There is no vault for it, so nothing can be stored or restored.",
			Remedy: "add it below backup: in " + a.Plan + "; see holdfast plan --help"}
	}
	return d, b, nil
}

// openVault opens a vault of the plan for reading: every copy that answers, as one.
func (a application) openVault(ctx context.Context, name string) (*vault.Vault, error) {
	conf, err := a.vaultConfig(ctx, name)
	if err != nil {
		return nil, err
	}
	conf.ReadOnly = true
	markAllFilled(&conf, nil)
	return vault.Open(ctx, conf)
}

// vaultConfig is how a vault of the plan is reached from here, and who may agree to deletions there.
func (a application) vaultConfig(ctx context.Context, name string) (vault.Config, error) {
	conf, err := host.VaultConfig(ctx, a.plan, name)
	conf.Deletions.Authority = host.Authority(local.AdminDir(a.Root))
	return conf, err
}

// markAllFilled says that the vault has lain in all its places, except in those that are to be filled: the command line
// does not ask the agents, and never takes an empty place for a new one unasked.
func markAllFilled(conf *vault.Config, fill []string) {
	conf.Filled = !slices.Contains(fill, conf.Copy)
	for i := range conf.Others {
		conf.Others[i].Filled = !slices.Contains(fill, conf.Others[i].Copy)
	}
}

// openVaultOf opens the vault that holds one database, and gives the application where there is a plan.
func (f *vaultFlags) openVaultOf(cmd *cobra.Command, database string) (*vault.Vault, *application, error) {
	if f.url != "" {
		v, err := f.openAlone(cmd.Context())
		return v, nil, err
	}
	a, err := findApplication(cmd, f.root)
	if err != nil {
		return nil, nil, err
	}
	_, b, err := a.backupOf(database)
	if err != nil {
		return nil, nil, err
	}
	v, err := a.openVault(cmd.Context(), b.Vault)
	return v, &a, err
}

// inRemedy has what a problem says to do reach the vault that was named by itself: without --vault the command would ask the plan.
func (f *vaultFlags) inRemedy(database string, err error) error {
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok || f.url == "" {
		return err
	}
	told, window := *p, "holdfast backup window "+database
	told.Remedy = strings.Replace(p.Remedy, window, window+" --vault "+f.url+" --key "+f.key, 1)
	return &told
}

// openAlone opens the vault that --vault names, whosever it is.
func (f *vaultFlags) openAlone(ctx context.Context) (*vault.Vault, error) {
	place, err := placeAlone(ctx, f.url, f.key)
	if err != nil {
		return nil, err
	}
	place.ReadOnly = true
	return vault.Open(ctx, place)
}

// placeAlone is a vault that is named with its key, whosever it is.
func placeAlone(ctx context.Context, where, keyRef string) (vault.Config, error) {
	url, err := vaultURL(where)
	if err != nil {
		return vault.Config{}, err
	}
	key, err := keyOf(ctx, keyRef)
	if err != nil {
		return vault.Config{}, fmt.Errorf("read the vault's key: %w", err)
	}
	return host.Alone(url, key)
}

// vaultURL accepts a directory's path for a URL.
func vaultURL(s string) (string, error) {
	if strings.Contains(s, "://") {
		return s, nil
	}
	dir, err := filepath.Abs(s)
	if err != nil {
		return "", fmt.Errorf("find vault %s: %w", s, err)
	}
	return "file://" + dir, nil
}

func keyOf(ctx context.Context, s string) (redact.String, error) {
	if plan.IsSecret(s) {
		return host.Secret(ctx, plan.Secret(s))
	}
	file, err := filepath.Abs(s)
	if err != nil {
		return redact.String{}, err
	}
	if key, ok, err := sheetKey(file); ok {
		return key, err
	}
	return host.Secret(ctx, plan.Secret("file:"+file))
}

// closeVault lets go of a vault that was only read.
func closeVault(ctx context.Context, v *vault.Vault) { _ = v.Close(context.WithoutCancel(ctx)) }

// closeWritten lets go of a vault that was written to: what was let go of, and what was stored, is written down then, and
// whoever asked for it hears when that fails.
func closeWritten(ctx context.Context, v *vault.Vault, failed *error) {
	if err := v.Close(context.WithoutCancel(ctx)); err != nil {
		*failed = errors.Join(*failed, err)
	}
}
