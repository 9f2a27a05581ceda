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
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/durable"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// scrubbing is one call of vault scrub.
type scrubbing struct {
	from            vaultFlags
	rate            string
	output          string
	state           string
	fresh, readOnly bool
}

// scrubResult is the outcome for a program.
type scrubResult struct {
	vault.Scrubbed
	Lost     []string         `json:"lost,omitempty"`     // of which no copy that was read has a whole one
	Affected []vault.Affected `json:"affected,omitempty"` // files of backups that need them
	Gaps     []vault.Gap      `json:"gaps,omitempty"`     // moments that cannot be restored without them
}

func vaultScrubCommand() *cobra.Command {
	var s scrubbing
	cmd := &cobra.Command{
		Use:   "scrub [NAME]",
		Short: "Read everything in every copy of a vault and prove that it is what was stored",
		Long: `Reads each object of each copy from its place, past all caches, and holds it against its seal and against the catalog of
what was stored. Nothing in the vault is changed while it reads, so it can run elsewhere with rights to read alone: give
--vault and --key, or the plan's read: credentials. An interrupted scrub goes on where it was (--fresh begins anew). With a
plan, the outcome is noted in the vault at the end, unless --read-only. When log is lost in all copies, it says which moments
of which database cannot be restored any more. Status 1 when something is damaged, lost or unread.`,
		Example: `  holdfast vault scrub main --rate 50MB/s
  holdfast vault scrub --vault s3://clinic-backup/records --key vault.key --output json`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(checkOutput(s.output), s.from.check()); err != nil {
				return err
			}
			return s.run(cmd, args)
		},
	}
	s.from.add(cmd)
	outputFlag(cmd, &s.output)
	cmd.Flags().StringVar(&s.rate, "rate", "", "read at most so much, such as 50MB/s")
	cmd.Flags().StringVar(&s.state, "state", "", "file that keeps how far it is (default: in the data root; without a plan nothing is kept)")
	cmd.Flags().BoolVar(&s.fresh, "fresh", false, "begin anew, even when an earlier scrub was interrupted")
	cmd.Flags().BoolVar(&s.readOnly, "read-only", false, "do not note the outcome in the vault")
	return cmd
}

func (s *scrubbing) run(cmd *cobra.Command, args []string) error {
	var rate int64
	if s.rate != "" {
		var err error
		if rate, err = plan.ParseRate(s.rate); err != nil {
			return fmt.Errorf("--rate: %w: %w", err, errUsage)
		}
	}
	ctx := cmd.Context()
	v, a, name, err := s.open(cmd, args)
	if err != nil {
		return err
	}
	defer closeVault(ctx, v)
	o := vault.ScrubOptions{Rate: rate}
	if s.state != "" {
		o.Save = func(x vault.Scrubbed) error { return saveScrub(s.state, x) }
		if old, err := loadScrub(s.state); err == nil && !s.fresh {
			o.Resume = old
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("read how far the last scrub was (--fresh begins anew): %w", err)
		}
	}
	line := newProgressLine(cmd.ErrOrStderr())
	o.Progress = func(x vault.Scrubbed) { line.show("reading", progressText(x.Bytes, x.OfBytes, time.Since(x.Began))) }
	done, err := v.Scrub(ctx, o)
	line.end()
	if err != nil {
		return err
	}
	if a != nil && !s.readOnly {
		if err := a.record(ctx, name, done); err != nil {
			return err
		}
	}
	r := scrubResult{Scrubbed: done, Lost: done.Lost()}
	if r.Affected, err = v.Affected(ctx, r.Lost); err != nil {
		r.Trouble = append(r.Trouble, "which backups need what is lost: "+err.Error())
	}
	if r.Gaps, err = v.Gaps(ctx, r.Lost); err != nil {
		r.Trouble = append(r.Trouble, "which moments need what is lost: "+err.Error())
	}
	if s.output == "json" {
		err = writeJSON(cmd.OutOrStdout(), r)
	} else {
		err = r.write(cmd.OutOrStdout(), name)
	}
	if n := len(r.Damage()); n > 0 || len(r.Away)+len(r.Trouble) > 0 {
		err = errors.Join(err, fmt.Errorf("vault %s is not whole: %d objects damaged, lost or unread", v.Name(), n))
	}
	return err
}

// open opens the vault for reading: the plan's, or the one that is named by itself.
func (s *scrubbing) open(cmd *cobra.Command, args []string) (*vault.Vault, *application, string, error) {
	if s.from.url != "" {
		v, err := s.from.openAlone(cmd.Context())
		return v, nil, "", err
	}
	a, name, err := oneVault(cmd, s.from.root, args)
	if err != nil {
		return nil, nil, "", err
	}
	if s.state == "" {
		s.state = a.scrubFile(name)
	}
	v, err := a.openVault(cmd.Context(), name)
	return v, &a, name, err
}

// oneVault is the vault that is named, or the only one of the plan.
func oneVault(cmd *cobra.Command, root string, args []string) (application, string, error) {
	a, err := findApplication(cmd, root)
	switch {
	case err != nil:
		return a, "", err
	case len(args) > 0:
		v, err := a.vaultNamed(args[0])
		return a, v.Name, err
	case len(a.plan.Vaults) != 1:
		return a, "", fmt.Errorf("the plan has %d vaults; name one: %w", len(a.plan.Vaults), errUsage)
	}
	return a, a.plan.Vaults[0].Name, nil
}

// oneToWrite opens the vault that a command names, or the only one, to write to it; [closeWritten] ends that.
func oneToWrite(cmd *cobra.Command, root string, args []string) (application, string, *vault.Vault, error) {
	a, name, err := oneVault(cmd, root, args)
	if err != nil {
		return a, name, nil, err
	}
	v, err := a.openToWrite(cmd.Context(), name)
	return a, name, v, err
}

// scrubFile keeps how far a scrub of a vault is, and what it found.
func (a application) scrubFile(name string) string {
	return filepath.Join(a.Root, "scrub-"+name+".json")
}

func saveScrub(file string, x vault.Scrubbed) error {
	raw, err := json.Marshal(x)
	if err != nil {
		return err
	}
	return durable.WriteFile(file, raw, 0o600)
}

func loadScrub(file string) (*vault.Scrubbed, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var x vault.Scrubbed
	if err := json.Unmarshal(raw, &x); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return &x, nil
}

// openToWrite opens a vault of the plan with all its rights.
func (a application) openToWrite(ctx context.Context, name string) (*vault.Vault, error) {
	conf, err := a.vaultConfig(ctx, name)
	if err != nil {
		return nil, err
	}
	markAllFilled(&conf, nil)
	return vault.Open(ctx, conf)
}

func (a application) record(ctx context.Context, name string, done vault.Scrubbed) error {
	v, err := a.openToWrite(ctx, name)
	if err == nil {
		err = v.RecordScrub(ctx, done)
		err = errors.Join(err, v.Close(context.WithoutCancel(ctx)))
	}
	if err != nil {
		return fmt.Errorf("the scrub ended, and its outcome could not be noted in the vault (--read-only leaves that out): %w", err)
	}
	return nil
}

func (r scrubResult) write(out io.Writer, name string) error {
	var err error
	p := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(out, format, args...)
		}
	}
	p("read %d objects, %s, in %s\n", r.Blobs, sizeText(r.Bytes), r.Ended.Sub(r.Began).Round(time.Second))
	unlisted := 0
	for _, f := range r.Findings {
		if f.Kind == vault.Unlisted {
			unlisted++
			continue
		}
		p("%s\n", findingText(f))
	}
	for _, a := range r.Away {
		p("not read: copy %s\n", a)
	}
	for _, t := range r.Trouble {
		p("trouble: %s\n", t)
	}
	if unlisted > 0 {
		p("%d whole objects were not in the catalog: a writer ended before it wrote them down\n", unlisted)
	}
	for _, a := range r.Affected {
		p("needs what is lost: backup %s, %s\n", a.Backup, a.Path)
	}
	for _, g := range r.Gaps {
		p("%s\n", g)
	}
	switch n := len(r.Damage()); {
	case n == 0 && len(r.Away)+len(r.Trouble) == 0:
		p("everything is what was stored\n")
	case n > len(r.Lost) && name != "":
		p("what another copy has whole is mended by: holdfast vault repair %s\n", name)
	}
	return err
}

func findingText(f vault.Finding) string {
	text := f.Kind + ": " + f.Name
	if f.Copy != "" {
		text += " in copy " + f.Copy
	}
	if f.Detail != "" {
		text += " (" + f.Detail + ")"
	}
	switch {
	case !f.Harmful():
	case len(f.GoodIn) > 0:
		text += fmt.Sprintf("; whole in %s", strings.Join(f.GoodIn, " and "))
	default:
		text += "; no other copy that was read has it whole"
	}
	return text
}

func vaultRepairCommand() *cobra.Command {
	var root string
	var again, dryRun, yes, giveUp bool
	cmd := &cobra.Command{
		Use:   "repair [NAME]",
		Short: "Mend what a scrub found, from copies that have it whole, in all directions",
		Long: `Takes the findings of the last whole scrub (or scrubs first), shows what would be mended from where, and asks. Right
before each change both sides are read once more: a whole object is never replaced, and only a whole one replaces. Indexes
that no copy has whole are made anew from the packs, which say at their ends what they hold. With
--give-up-lost, chunks that no copy has are forgotten, so that the next full backup stores them again from the live data;
backups that share them are whole again then. Lost log, receipts and indexes are settled where nothing that is listed needs
them, and named where something does.`,
		Example: `  holdfast vault repair main --dry-run
  holdfast vault repair main --yes`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (failed error) {
			a, name, v, err := oneToWrite(cmd, root, args)
			if err != nil {
				return err
			}
			defer closeWritten(cmd.Context(), v, &failed)
			done, err := a.findings(cmd, v, name, again)
			if err != nil {
				return err
			}
			return a.repair(cmd, v, name, done, repairing{dryRun: dryRun, yes: yes, giveUp: giveUp})
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().BoolVar(&again, "scrub", false, "scrub first, whatever the last one found")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would be mended, and change nothing")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&giveUp, "give-up-lost", false, "forget chunks that no copy has, so that they are stored again")
	return cmd
}

type repairing struct{ dryRun, yes, giveUp bool }

// findings are those of the last whole scrub, or of one that is made now.
func (a application) findings(cmd *cobra.Command, v *vault.Vault, name string, again bool) (vault.Scrubbed, error) {
	last, err := loadScrub(a.scrubFile(name))
	if err == nil && !again && last.Vault == v.Identity().ID && !last.Ended.IsZero() {
		_, err = fmt.Fprintf(cmd.ErrOrStderr(), "by the scrub of %s\n", momentText(last.Ended))
		return *last, err
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return vault.Scrubbed{}, err
	}
	line := newProgressLine(cmd.ErrOrStderr())
	done, err := v.Scrub(cmd.Context(), vault.ScrubOptions{Progress: func(x vault.Scrubbed) {
		line.show("reading", progressText(x.Bytes, x.OfBytes, time.Since(x.Began)))
	}})
	line.end()
	if err == nil {
		err = errors.Join(v.RecordScrub(cmd.Context(), done), saveScrub(a.scrubFile(name), done))
	}
	return done, err
}

func (a application) repair(cmd *cobra.Command, v *vault.Vault, name string, done vault.Scrubbed, o repairing) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	planned, err := v.Repair(ctx, done.Findings, true)
	if err != nil {
		return err
	}
	able := 0
	for _, m := range planned {
		if m.Why == "" {
			able++
		}
		if _, err := fmt.Fprintln(out, mendingText(m, "would be")); err != nil {
			return err
		}
	}
	lost := done.Lost()
	if able == 0 && (!o.giveUp || len(lost) == 0) {
		_, err := fmt.Fprintln(out, "there is nothing that can be mended; nothing was changed")
		return errors.Join(err, unmended(name, len(done.Damage())))
	}
	if o.giveUp && len(lost) > 0 {
		if _, err := fmt.Fprintf(out, "%d lost objects would be given up; their chunks are stored again by the next full backup\n", len(lost)); err != nil {
			return err
		}
	}
	if o.dryRun {
		_, err := fmt.Fprintln(out, "nothing was changed")
		return err
	}
	if !o.yes {
		if ok, err := confirm(cmd, "Mend this?"); err != nil || !ok {
			return err
		}
	}
	return a.carryOut(ctx, out, v, name, done, o.giveUp)
}

func (a application) carryOut(ctx context.Context, out io.Writer, v *vault.Vault, name string, done vault.Scrubbed, giveUp bool) error {
	mended, err := v.Repair(ctx, done.Findings, false)
	var left []vault.Finding
	var listed []string
	settled := map[string]bool{}
	for i, m := range mended {
		if settled[m.Name] = settled[m.Name] || m.Done; len(m.Listed) > 0 {
			listed = m.Listed
		}
		if !m.Done && m.Kind != vault.ShouldBeGo {
			left = append(left, matching(done.Findings, m))
		}
		_, e := fmt.Fprintln(out, mendingText(mended[i], "was"))
		err = errors.Join(err, e)
	}
	if err != nil {
		return err
	}
	if len(listed) > 0 {
		if _, err := fmt.Fprintf(out, "listed again: %s; one that had been let go of may be among them, and goes again by the rules of the plan\n", strings.Join(listed, ", ")); err != nil {
			return err
		}
	}
	lost := slices.DeleteFunc(done.Lost(), func(name string) bool { return settled[name] })
	if giveUp && len(lost) > 0 {
		n, err := v.GiveUp(ctx, lost)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%d chunks are forgotten; make a full backup now: holdfast backup run\n", n); err != nil {
			return err
		}
	}
	done.Findings = left
	if err := errors.Join(saveScrub(a.scrubFile(name), done), v.RecordRepair(ctx, len(done.Damage()))); err != nil {
		return err
	}
	return unmended(name, len(done.Damage()))
}

func matching(all []vault.Finding, m vault.Mending) vault.Finding {
	for _, f := range all {
		if f.Copy == m.Copy && f.Name == m.Name {
			return f
		}
	}
	return vault.Finding{Copy: m.Copy, Name: m.Name, Kind: m.Kind}
}

func mendingText(m vault.Mending, word string) string {
	text := m.Name
	if m.Copy != "" {
		text += " in copy " + m.Copy
	}
	switch {
	case m.Why != "":
		return text + " stays as it is: " + m.Why
	case m.Kind == vault.ShouldBeGo:
		return text + " " + word + " removed: it had been let go of"
	case m.From == vault.NoEntries:
		return text + " " + word + " settled: it held no entries"
	case m.From == vault.ThePacks:
		return fmt.Sprintf("%s %s made anew from what the packs say they hold: %d entries were missing", text, word, m.Entries)
	}
	return text + " " + word + " mended from copy " + m.From
}

func unmended(name string, n int) error {
	if n == 0 {
		return nil
	}
	return &problem.Problem{Code: "vault.damaged", Subject: name, Severity: problem.Critical,
		Title:   fmt.Sprintf("%d objects are damaged or lost and not mended", n),
		Meaning: "Backups or moments that need them cannot be restored. Everything else can.",
		Remedy:  "holdfast vault scrub " + name + " names the backups; bring back a copy that is away, or --give-up-lost and a new full backup"}
}
