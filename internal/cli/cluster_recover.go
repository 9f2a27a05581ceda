package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/auth"
	"holdfast/internal/host"
	"holdfast/internal/local"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/rebuild"
	"holdfast/internal/vault"
)

// recovering is what `cluster recover` was told.
type recovering struct {
	vaultFlags
	host, output string
	authority    string
	writeOff     []string
	yes, dryRun  bool
}

func clusterRecoverCommand() *cobra.Command {
	var f recovering
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Rebuild the agreed state on the one host that is left, when most are gone for good",
		Long: `It is run on a host that is left. It shows first what it found (the host's own etcd data, the newest saving in a
vault, what the host's servers have promised), what nobody can know any more, and which hosts are written off. Then it
founds a cluster of one with that; the host's data of before are put aside. No epoch is lowered.

Databases are not opened by it: one whose primary is left comes back by itself once standbys follow, any other waits for
a forced failover. Hosts that come back later run nothing until they are taken in again with holdfast cluster replace.

On a machine that has nothing left, --vault and --key bring back the plan and the certificates as well. Where two
persons must agree to deletions the vault does not hold the key of the authority: --authority names where that is kept.`,
		Example: `  holdfast cluster recover --dry-run
  holdfast cluster recover --host east-1 --yes
  holdfast cluster recover --host east-1 --root /srv/clinic --vault /mnt/vault --key vault.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	cmd.Flags().StringVar(&f.root, "root", "", rootUsage)
	cmd.Flags().StringVar(&f.url, "vault", "", "a vault's URL or directory, where this machine has nothing left; needs --key")
	cmd.Flags().StringVar(&f.key, "key", "", "file with the vault's key, or a reference (env:NAME, exec:COMMAND); needs --vault")
	cmd.Flags().StringVar(&f.authority, "authority", "", "the directory ca as it is kept elsewhere, where the vault does not hold its key; new = make another authority, which a vault with deletions: two-persons does not believe")
	cmd.Flags().StringVar(&f.host, "host", "", "which host of the plan is left (default: the only one whose data lie here)")
	cmd.Flags().StringSliceVar(&f.writeOff, "write-off", nil, "write a host off although its agent still answers")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what was found and what would happen; change nothing")
	outputFlag(cmd, &f.output)
	return cmd
}

func (f *recovering) run(cmd *cobra.Command) error {
	if (f.url == "") != (f.key == "") {
		return fmt.Errorf("--vault and --key go together: %w", errUsage)
	}
	extra, err := f.extra(cmd.Context())
	if err != nil {
		return err
	}
	if err := f.prepare(cmd, extra); err != nil {
		return err
	}
	cfg, c, err := f.survivor(cmd)
	if err != nil {
		return err
	}
	if err := host.MayRecover(cmd.Context(), cfg, f.writeOff); err != nil {
		return err
	}
	p, err := host.Outlook(cmd.Context(), cfg, extra)
	if err != nil {
		return nothingLeft(cfg.Self, p, err)
	}
	if err := f.show(cmd, p); err != nil || f.dryRun {
		return err
	}
	if !f.yes {
		if err := typed(cmd, cfg.Plan.Application); err != nil {
			return err
		}
	}
	return f.carryOut(cmd, cfg, c, extra)
}

// extra is the vault that was named, beside those of the plan.
func (f *recovering) extra(ctx context.Context) ([]vault.Config, error) {
	if f.url == "" {
		return nil, nil
	}
	place, err := placeAlone(ctx, f.url, f.key)
	if err != nil {
		return nil, err
	}
	return []vault.Config{place}, nil
}

// survivor finds which host is left, and how it runs.
func (f *recovering) survivor(cmd *cobra.Command) (host.Config, local.Context, error) {
	a, err := findApplication(cmd, f.root)
	if err != nil {
		return host.Config{}, local.Context{}, err
	}
	name := f.host
	if name == "" {
		var here []string
		for _, h := range a.plan.HostNames() {
			if _, err := os.Stat(host.CertDir(local.HostDir(a.Root, h))); err == nil {
				here = append(here, h)
			}
		}
		if len(here) != 1 {
			return host.Config{}, local.Context{}, fmt.Errorf("%d hosts have data below %s (%s); say which one is left with --host: %w", len(here), a.Root, strings.Join(here, ", "), errUsage)
		}
		name = here[0]
	}
	if _, ok := a.plan.Host(name); !ok {
		p := api.UnknownHost(name, a.plan.HostNames())
		return host.Config{}, local.Context{}, &p
	}
	exe, err := executable()
	if err != nil {
		return host.Config{}, local.Context{}, err
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: max(logLevel(), slog.LevelWarn)}))
	cfg := host.Config{
		Plan: a.plan, Prepare: func(p *plan.Plan) *plan.Plan { return local.AsRun(a.Context, p).WithRoot(a.Root) },
		Self: name, Dir: local.HostDir(a.Root, name), Executable: exe, Version: Version(), Log: log, Authority: local.AuthorityDir(a.Root),
	}
	return cfg.Following(), a.Context, nil
}

// nothingLeft is the refusal when there is nothing to begin with.
func nothingLeft(self string, p rebuild.Proposal, err error) error {
	if !errors.Is(err, rebuild.ErrNothingLeft) {
		return err
	}
	return &problem.Problem{
		Code: "cluster.nothing-left", Subject: self, Severity: problem.Critical, Title: "neither this host's disk nor a vault holds an agreed state",
		Meaning: "Nothing was changed. " + strings.Join(p.Found, "; "),
		Remedy:  "try another host that is left; or name a vault with --vault and --key; a database alone: holdfast restore database NAME",
	}
}

func (f *recovering) show(cmd *cobra.Command, p rebuild.Proposal) error {
	if f.output == "json" {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(p)
	}
	return writeProposal(cmd.OutOrStdout(), p, f.dryRun)
}

func writeProposal(out io.Writer, p rebuild.Proposal, dryRun bool) error {
	var b strings.Builder
	list := func(title string, lines []string) {
		fmt.Fprintf(&b, "%s\n", title)
		for _, l := range lines {
			fmt.Fprintf(&b, "  %s\n", l)
		}
	}
	list("Found:", p.Found)
	list("What nobody who is left can know:", p.Unknown)
	list("Written off (they run nothing when they come back, until they are taken in again):", p.Lost)
	fmt.Fprintf(&b, "A cluster of one would be founded on %s with %s (rebuilding number %d).\n", p.Survivor, p.From, p.Number)
	for _, d := range p.Databases {
		fmt.Fprintf(&b, "  database %s: epoch %d after %d; %s\n", d.Name, d.Epoch, d.Was, d.Next)
		if o := d.Older; o != nil {
			fmt.Fprintf(&b, "    This record is old: epoch %d is known of (%s). So %s.\n", o.Epoch, o.Told, o.Means)
			for _, do := range o.Do {
				fmt.Fprintf(&b, "    - %s\n", do)
			}
		}
	}
	if dryRun {
		b.WriteString("Nothing was changed.\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// typed asks a person to type a word out: what follows cannot be taken back by a command.
func typed(cmd *cobra.Command, word string) error {
	_, err := fmt.Fprintf(cmd.ErrOrStderr(), "Are the hosts that are written off gone for good, and can they not come back together? Type %q to go on: ", word)
	if err != nil {
		return err
	}
	var got string
	if _, err := fmt.Fscanln(cmd.InOrStdin(), &got); err != nil || got != word {
		return fmt.Errorf("nothing was changed; --yes goes on without asking: %w", errUsage)
	}
	return nil
}

// carryOut takes the host from its agent, rebuilds, and waits until the agent serves again.
func (f *recovering) carryOut(cmd *cobra.Command, cfg host.Config, c local.Context, extra []vault.Config) error {
	out := cmd.ErrOrStderr()
	release, err := takeHost(cmd.Context(), cfg, c.Root)
	if err != nil {
		return err
	}
	p, err := host.Rebuild(cmd.Context(), cfg, extra)
	release()
	if err != nil {
		return fmt.Errorf("%w (it may be repeated: what was there is put aside, not deleted)", err)
	}
	if _, err := fmt.Fprintf(out, "rebuilt, number %d; waiting for the agent of %s\n", p.Number, p.Survivor); err != nil {
		return err
	}
	if f.output != "json" {
		out = cmd.OutOrStdout()
	}
	if err := awaitRecovered(cmd.Context(), c, p); err != nil {
		_, err := fmt.Fprintf(out, "No agent of %s has come up yet (%v). Start it (holdfast up PLAN, or holdfast agent); everything it needs is in place.\n", p.Survivor, err)
		return err
	}
	_, err = fmt.Fprintf(out, "%s goes on alone. See holdfast status, then open each database; take hosts in again with holdfast cluster replace HOST.\n", p.Survivor)
	return err
}

// takeMax is how long the agent of this host may take to end; agentMax how long one may take to come up again.
const (
	takeMax  = 30 * time.Second
	agentMax = time.Minute
)

// takeHost ends this host's agent and takes its directory. Who looks after the agent starts it again meanwhile; that one finds the
// directory taken and waits its turn.
func takeHost(ctx context.Context, cfg host.Config, root string) (func(), error) {
	ctx, cancel := context.WithTimeout(ctx, takeMax)
	defer cancel()
	for {
		release, err := host.Hold(cfg)
		if err == nil {
			return release, nil
		}
		if pid := local.Running(root, []string{cfg.Self})[cfg.Self]; pid != 0 {
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
				return nil, fmt.Errorf("end the agent of %s: %w", cfg.Self, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// awaitRecovered waits until the survivor's agent reads the rebuilt state.
func awaitRecovered(ctx context.Context, c local.Context, p rebuild.Proposal) error {
	c.Agents = map[string]string{p.Survivor: c.Agents[p.Survivor]}
	client, err := operator(c)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, agentMax)
	defer cancel()
	for {
		all, err := client.Clusters(ctx)
		if err == nil && all[0].Reachable && all[0].Recovery != nil && all[0].Recovery.Number == p.Number {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// prepare lays out a machine that has nothing left, from a vault: the plan, the authority, certificates, the vault's
// key. Where a data root exists it does nothing.
func (f *recovering) prepare(cmd *cobra.Command, extra []vault.Config) error {
	if len(extra) == 0 || f.root == "" {
		return nil
	}
	if _, err := local.ReadContext(f.root); err == nil {
		return nil
	}
	s, err := host.SavedIn(cmd.Context(), extra[0])
	if err != nil {
		return err
	}
	root, err := filepath.Abs(f.root)
	if err != nil {
		return err
	}
	if f.dryRun {
		return fmt.Errorf("show what would be found: %s has no data root yet; the vault holds the state of application %s as of %s, and a rebuilding would lay the root out first: %w", root, s.Application, s.At.Format(time.RFC3339), errUsage)
	}
	text := savedPlan(s)
	if text == nil {
		return fmt.Errorf("lay out %s: the saving holds no plan", root)
	}
	if s.Files, err = withAuthority(s, f.authority); err != nil {
		return err
	}
	return layOut(cmd, root, s, text, extra[0])
}

// newAuthority is what an operator says in place of a directory when the authority is lost.
const newAuthority = "new"

// withAuthority is what a saving holds, with the authority from where it is kept: dir "" = the saving has its key.
func withAuthority(s rebuild.State, dir string) (map[string][]byte, error) {
	files := maps.Clone(s.Files)
	saved := func(name string) string { return "ca/" + name }
	refuse := func(title string) error {
		return &problem.Problem{Code: "cluster.authority-elsewhere", Subject: s.Application, Severity: problem.Critical, Title: title,
			Meaning: "Nothing was changed. Without that key no host gets a certificate. It is not saved where two persons must agree to deletions: whoever had the vault's key would be two persons.",
			Remedy:  "name the directory ca as it was put away: --authority DIR; is it lost: --authority new, after which the vault lets nothing go"}
	}
	switch dir {
	case "":
		if files[saved(auth.CACertFile)] != nil && files[saved(auth.CAKeyFile)] == nil {
			return nil, refuse("the vault does not hold the key of the application's authority")
		}
		return files, nil
	case newAuthority:
		for name := range s.Files {
			if strings.HasPrefix(name, "ca/") {
				delete(files, name)
			}
		}
		return files, nil
	}
	if _, err := auth.LoadAuthority(dir); err != nil {
		return nil, err
	}
	for _, name := range []string{auth.CACertFile, auth.CAKeyFile, auth.GossipKeyFile} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("read the authority: %w", err)
		}
		if old := files[saved(name)]; name == auth.CACertFile && old != nil && !bytes.Equal(old, raw) {
			return nil, refuse("the authority in " + dir + " is not this application's")
		}
		files[saved(name)] = raw
	}
	return files, nil
}

func savedPlan(s rebuild.State) []byte {
	i := slices.IndexFunc(s.Entries, func(e rebuild.Entry) bool { return e.Key == "holdfast/plan" })
	if i < 0 {
		return nil
	}
	return s.Entries[i].Value
}

// layOut writes what the saving holds. The directory must be empty or absent.
func layOut(cmd *cobra.Command, root string, s rebuild.State, text []byte, from vault.Config) error {
	file := filepath.Join(root, "holdfast.yaml")
	p, mistakes := plan.Parse(file, text)
	if len(mistakes) > 0 {
		return fmt.Errorf("read the plan that was saved: %s", mistakes[0])
	}
	p = p.WithRoot(root)
	if _, err := local.Claim(p, file, root); err != nil {
		return err
	}
	if err := writeSaved(file, text); err != nil {
		return err
	}
	for name, content := range s.Files {
		if dir, base := filepath.Split(filepath.FromSlash(name)); dir == "ca"+string(filepath.Separator) {
			if err := writeSaved(filepath.Join(root, "ca", base), content); err != nil {
				return err
			}
		}
	}
	for _, v := range p.Vaults {
		if path := v.Key.Target(); v.Key.Kind() == "file" && strings.HasPrefix(path, root+string(filepath.Separator)) {
			if err := writeSaved(path, []byte(from.Key.Reveal()+"\n")); err != nil {
				return err
			}
		}
	}
	_, made, err := local.Prepare(p, file, root)
	for _, line := range made {
		if _, err := fmt.Fprintln(cmd.ErrOrStderr(), "made the "+line); err != nil {
			return err
		}
	}
	return err
}

func writeSaved(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("lay out what was saved: %w", err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("lay out what was saved: %w", err)
	}
	return nil
}
