package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"holdfast/internal/auth"
	"holdfast/internal/backup"
	"holdfast/internal/local"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
	"holdfast/internal/vault/consent"
)

func vaultDeletionsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deletions",
		Short: "Ask for, and agree to, what two persons must agree to before it goes for good",
		Long: `In a vault with deletions: two-persons nobody alone lifts a pin or a legal hold, retires an old key, or makes retention shorter.
One person asks, which names to the last thing what goes; another one agrees within a day; then it is carried out within a day,
exactly that or nothing. Both sign with certificates of their own (holdfast operator issue), so that a host cannot.`,
		Example: `  holdfast vault deletions list
  holdfast vault deletions request unpin records-20261121T010000Z-a1b2c3 --as /media/anna --reason "moved"
  holdfast vault deletions approve 4f2a91c0 --as /media/ben`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(deletionsListCommand(), deletionsRequestCommand(), deletionsAnswerCommand(true), deletionsAnswerCommand(false))
	return cmd
}

// requestedIn is what was asked for in one vault.
type requestedIn struct {
	Vault string `json:"vault"`
	vault.Requested
	AuthorityHere bool `json:"authority_here"` // its key can be read here: whoever works here is as many persons as he likes
}

func deletionsListCommand() *cobra.Command {
	var root, output string
	cmd := &cobra.Command{
		Use:   "list [VAULT]",
		Short: "List what was asked for, who agreed, and what two persons last agreed to",
		Example: `  holdfast vault deletions list
  holdfast vault deletions list main --output json | jq '.[].requests[] | select(.state == "open")'`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			a, err := findApplication(cmd, root)
			if err != nil {
				return err
			}
			all := []requestedIn{}
			for _, x := range a.plan.Vaults {
				if len(args) > 0 && x.Name != args[0] {
					continue
				}
				r, err := a.requested(cmd.Context(), x.Name)
				if err != nil {
					return err
				}
				all = append(all, r)
			}
			if len(all) == 0 && len(args) > 0 {
				_, err := a.vaultNamed(args[0])
				return err
			}
			if output == "json" {
				return writeJSON(cmd.OutOrStdout(), all)
			}
			return writeRequested(cmd.OutOrStdout(), all)
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	outputFlag(cmd, &output)
	return cmd
}

func (a application) requested(ctx context.Context, name string) (requestedIn, error) {
	v, err := a.openVault(ctx, name)
	if err != nil {
		return requestedIn{}, err
	}
	defer closeVault(ctx, v)
	r, err := v.Requested(ctx, time.Now())
	return requestedIn{Vault: name, Requested: r, AuthorityHere: a.authorityHere()}, err
}

// authorityHere reports whether the key that makes persons lies on this machine.
func (a application) authorityHere() bool {
	_, err := os.Stat(filepath.Join(local.AuthorityDir(a.Root), auth.CAKeyFile))
	return err == nil
}

func writeRequested(out io.Writer, all []requestedIn) error {
	var b strings.Builder
	for _, r := range all {
		switch {
		case !r.TwoPersons:
			fmt.Fprintf(&b, "VAULT %s: one person is enough\n", r.Vault)
		case len(r.Lost) > 0:
			fmt.Fprintf(&b, "VAULT %s: two persons must agree, and no copy has these requests or answers whole; each may be a refusal, and nothing is let go of\n", r.Vault)
			for _, name := range r.Lost {
				fmt.Fprintf(&b, "  lost      %s\n", plain(name))
			}
			fmt.Fprintf(&b, "  holdfast vault repair %s brings them back where it can; else two persons set them aside: holdfast vault deletions request set-aside %s\n", r.Vault, r.Vault)
		case r.Waits != "":
			fmt.Fprintf(&b, "VAULT %s: two persons must agree, and nobody here can tell to what they did: %s. Nothing is let go of\n", r.Vault, r.Waits)
		case r.Terms == nil:
			fmt.Fprintf(&b, "VAULT %s: two persons must agree, and have not agreed yet how long things stay: nothing is let go of\n", r.Vault)
		default:
			fmt.Fprintf(&b, "VAULT %s: two persons must agree; how long things stay was agreed\n", r.Vault)
		}
		if r.TwoPersons && r.AuthorityHere {
			fmt.Fprintf(&b, "  The authority's key lies on this machine: whoever can read it can be any number of persons. Move the directory ca away.\n")
		}
		for _, c := range r.Cases {
			b.WriteString(caseText(c))
		}
		for _, bad := range r.Bad {
			fmt.Fprintf(&b, "  counts for nothing: %s\n", plain(bad))
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// shortID is as much of a request's id as tells it from others.
const shortID = 12

func caseText(c consent.Case) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s  %s %s, asked for by %s at %s\n", c.ID[:shortID], plain(c.Deed.Kind), plain(c.Deed.Subject), c.By, momentText(c.At))
	if c.Reason != "" {
		fmt.Fprintf(&b, "  because   %s\n", plain(c.Reason))
	}
	for _, i := range c.Deed.Items {
		fmt.Fprintf(&b, "  what      %s\n", plain(i))
	}
	b.WriteString(termsText(c.Deed.Terms))
	switch c.State {
	case consent.Open:
		fmt.Fprintf(&b, "  waits     for another person, until %s\n", momentText(c.Until))
	case consent.Agreed:
		fmt.Fprintf(&b, "  agreed    by %s at %s", c.Second, momentText(c.Agreed))
		if !c.Until.IsZero() {
			fmt.Fprintf(&b, "; to be carried out until %s", momentText(c.Until))
		}
		b.WriteString("\n")
	case consent.Refused:
		fmt.Fprintf(&b, "  refused   by %s %s\n", c.Second, plain(c.Why))
	case consent.Void:
		b.WriteString("  void      ask anew\n")
	default:
		fmt.Fprintf(&b, "  over      since %s\n", momentText(c.Until))
	}
	for _, i := range c.Ignored {
		fmt.Fprintf(&b, "  ignored   %s\n", plain(i))
	}
	return b.String()
}

// termsText says what counts from the agreement on, whatever the words of whoever asked are.
func termsText(t *consent.Terms) string {
	if t == nil {
		return ""
	}
	span := func(d time.Duration) string {
		if d <= 0 {
			return "none"
		}
		return plan.FormatDuration(d)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  counts    what is deleted can be brought back: %s\n", span(t.Undelete))
	for _, name := range slices.Sorted(maps.Keys(t.Keeps)) {
		var tiers []string
		for _, tier := range slices.Sorted(maps.Keys(t.Keeps[name])) {
			tiers = append(tiers, plain(tier)+" "+span(t.Keeps[name][tier]))
		}
		fmt.Fprintf(&b, "  counts    backups of %s stay: %s\n", plain(name), strings.Join(tiers, ", "))
	}
	return b.String()
}

// plain quotes a text of somebody else that would do more to a terminal than be read.
func plain(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// sameTerms refuses to agree to terms that are not those of the plan here, or by which more goes than was asked for.
func sameTerms(c consent.Case, now consent.Deed) error {
	bare := func(t *consent.Terms) string { return consent.NewDeed(consent.Retention, "", nil, t).Digest() }
	if bare(c.Deed.Terms) != bare(now.Terms) {
		return fmt.Errorf("agree to request %s: by the plan here these terms would count, and others are asked for:\n%s", c.ID[:shortID], termsText(now.Terms))
	}
	named := map[string]bool{}
	what := func(item string) string { item, _, _ = strings.Cut(item, " goes: "); return item }
	for _, i := range c.Deed.Items {
		named[what(i)] = true
	}
	for _, i := range now.Items {
		if !named[what(i)] {
			return fmt.Errorf("agree to request %s: it does not say what is so now: %s; ask anew: holdfast vault deletions request retention", c.ID[:shortID], plain(i))
		}
	}
	return nil
}

func deletionsRequestCommand() *cobra.Command {
	var root, as, reason, output string
	var dryRun, yes bool
	cmd := &cobra.Command{
		Use:   "request unpin|release|retire-key|retention|one-person|set-aside [BACKUP|VAULT]",
		Short: "Ask another person to agree that something goes for good",
		Long: `  unpin BACKUP        take a backup's pin off; then holdfast backup unpin BACKUP does it
  release BACKUP      lift a legal hold; then holdfast backup release BACKUP does it
  retire-key VAULT    let old keys open the vault no more; then holdfast vault key retire VAULT does it
  retention VAULT     keep things for as long as the plan says now, and not longer: counts as soon as it is agreed to. It names each
                      backup that the plan does not keep
  one-person VAULT    need no second person any more: counts as soon as it is agreed to, and the plan says so too
  set-aside VAULT     wait no more for requests and answers that no copy has whole: counts as soon as it is agreed to, and whatever
                      was asked for until then is void, for one of them may have been its refusal

A plan that keeps things for longer needs nobody's agreement. Another person must agree within 24 hours.`,
		Example: `  holdfast vault deletions request retention main --as /media/anna --dry-run
  holdfast vault deletions request release records-20261121T010000Z-a1b2c3 --as /media/anna --reason "case 14/2026 is closed"`,
		Args: usageArgs(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) (failed error) {
			if err := checkOutput(output); err != nil {
				return err
			}
			p, err := person(cmd, as)
			if err != nil {
				return err
			}
			a, err := findApplication(cmd, root)
			if err != nil {
				return err
			}
			v, d, err := a.deed(cmd, root, args)
			if err != nil {
				return err
			}
			defer closeWritten(cmd.Context(), v, &failed)
			if len(d.Items) == 0 {
				return fmt.Errorf("request %s of %s: there is nothing of that, so nobody needs to agree: %w", d.Kind, strings.Join(args[1:], " "), errUsage)
			}
			r := consent.Request{Format: 1, Application: v.Identity().Application, Vault: v.Identity().ID, At: time.Now().UTC(), By: p.Name, Reason: reason, Deed: d}
			raw, id, err := p.Ask(r)
			if err != nil {
				return err
			}
			c := consent.Case{ID: id, Request: r, Digest: d.Digest(), State: consent.Open, Until: r.At.Add(consent.AskFor)}
			if output != "json" {
				if _, err := io.WriteString(cmd.OutOrStdout(), caseText(c)); err != nil {
					return err
				}
			}
			if !dryRun {
				if !yes {
					if ok, err := confirm(cmd, "Ask for exactly this?"); err != nil || !ok {
						return err
					}
				}
				if err := a.putPaper(cmd.Context(), v, raw, id, consent.Open); err != nil {
					return err
				}
			}
			switch {
			case output == "json":
				return writeJSON(cmd.OutOrStdout(), c)
			case dryRun:
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "nothing was asked for")
			default:
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "asked for; another person agrees with holdfast vault deletions approve %s\n", id[:shortID])
			}
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().StringVar(&as, "as", "", "directory with your own certificate")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for whoever is to agree")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be asked for, and ask for nothing")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	outputFlag(cmd, &output)
	return cmd
}

// putPaper stores a request or an answer, and makes sure that it counts as it is meant.
func (a application) putPaper(ctx context.Context, v *vault.Vault, raw []byte, id, want string) error {
	if want != consent.Refused { // that counts whenever it comes, and from whatever clock
		would, err := v.Foresee(ctx, raw, time.Now())
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(would.Cases, func(c consent.Case) bool { return c.ID == id }); i < 0 || would.Cases[i].State != want {
			why := append(would.Bad, would.Waits)
			if i >= 0 {
				why = would.Cases[i].Ignored
			}
			return fmt.Errorf("nothing was stored: it would not count: %s", plain(strings.Join(why, "; ")))
		}
	}
	if err := v.PutPaper(ctx, raw); err != nil {
		return err
	}
	now, err := v.Requested(ctx, time.Now())
	if err != nil {
		return err
	}
	for _, c := range now.Cases {
		if c.ID == id && c.State == want {
			return nil
		} else if c.ID == id {
			return fmt.Errorf("it is stored and does not count: the request is %s %s", c.State, strings.Join(c.Ignored, "; "))
		}
	}
	return fmt.Errorf("it is stored and does not count: %s", strings.Join(now.Bad, "; "))
}

// deed is what an operator's words ask for, with the vault that it is about, open to write.
func (a application) deed(cmd *cobra.Command, root string, args []string) (v *vault.Vault, d consent.Deed, err error) {
	ctx, kind := cmd.Context(), args[0]
	var name string
	switch kind {
	case consent.Unpin, consent.Release:
		if len(args) < 2 {
			return nil, d, fmt.Errorf("request %s names a backup: %w", kind, errUsage)
		}
		name, err = a.vaultWith(ctx, args[1])
	case consent.RetireKey, consent.Retention, consent.OnePerson, consent.SetAside:
		_, name, err = oneVault(cmd, root, args[1:])
	default:
		err = fmt.Errorf("%q is none of unpin, release, retire-key, retention, one-person and set-aside: %w", kind, errUsage)
	}
	if err != nil {
		return nil, d, err
	}
	if v, err = a.openToWrite(ctx, name); err != nil {
		return nil, d, err
	}
	switch kind {
	case consent.Unpin:
		d, err = v.UnpinDeed(ctx, args[1])
	case consent.Release:
		d, err = v.ReleaseDeed(ctx, args[1])
	case consent.RetireKey:
		d, err = v.RetireDeed(ctx)
	case consent.SetAside:
		d, err = v.SetAsideDeed(ctx)
	case consent.Retention:
		d, err = backup.RetentionDeed(ctx, v, a.plan, time.Now())
	default:
		d = consent.NewDeed(consent.OnePerson, "", []string{"whoever has the right to delete from vault " + name + " may use it alone"}, nil)
	}
	if err != nil {
		return nil, d, errors.Join(err, v.Close(context.WithoutCancel(ctx)))
	}
	return v, d, nil
}

// answering is one of the two commands that answer a request.
type answering struct {
	agree                    bool
	root, as, reason, output string
	yes                      bool
}

func deletionsAnswerCommand(agree bool) *cobra.Command {
	w := &answering{agree: agree}
	cmd := &cobra.Command{
		Use: "refuse ID", Short: "Say no to what was asked for; whoever asked takes it back so",
		Long:    "One refusal is enough, also after another person agreed, as long as it is not carried out.",
		Example: `  holdfast vault deletions refuse 4f2a91c0 --as /media/ben --reason "the case is open"`,
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE:    w.run,
	}
	if agree {
		cmd.Use, cmd.Short = "approve ID", "Agree to what another person asked for"
		cmd.Long = "Shows what goes, to the last thing, and signs that with your own certificate. Whoever asked cannot agree."
		cmd.Example = "  holdfast vault deletions approve 4f2a91c0 --as /media/ben"
	}
	cmd.Flags().StringVar(&w.root, "root", "", rootUsage)
	cmd.Flags().StringVar(&w.as, "as", "", "directory with your own certificate")
	cmd.Flags().StringVar(&w.reason, "reason", "", "why, for whoever reads it later")
	cmd.Flags().BoolVar(&w.yes, "yes", false, "do not ask")
	outputFlag(cmd, &w.output)
	return cmd
}

func (w *answering) run(cmd *cobra.Command, args []string) (failed error) {
	if err := checkOutput(w.output); err != nil {
		return err
	}
	p, err := person(cmd, w.as)
	if err != nil {
		return err
	}
	a, err := findApplication(cmd, w.root)
	if err != nil {
		return err
	}
	name, c, err := a.caseOf(cmd.Context(), args[0])
	if err != nil {
		return err
	}
	switch {
	case w.agree && c.By == p.Name:
		return samePerson(c, p.Name)
	case w.agree && c.State != consent.Open:
		return fmt.Errorf("agree to request %s: it is %s", c.ID[:shortID], c.State)
	}
	if w.output != "json" {
		if _, err := io.WriteString(cmd.OutOrStdout(), caseText(c)); err != nil {
			return err
		}
	}
	v, err := a.openToWrite(cmd.Context(), name)
	if err != nil {
		return err
	}
	defer closeWritten(cmd.Context(), v, &failed)
	if w.agree && c.Deed.Kind == consent.Retention {
		now, err := backup.RetentionDeed(cmd.Context(), v, a.plan, time.Now())
		if err == nil {
			err = sameTerms(c, now)
		}
		if err != nil {
			return err
		}
	}
	if !w.yes {
		question := "Refuse this?"
		if w.agree {
			question = "Agree, as " + p.Name + ", that exactly this goes for good?"
		}
		if ok, err := confirm(cmd, question); err != nil || !ok {
			return err
		}
	}
	raw, err := p.Answer(consent.Vote{Vault: c.Vault, Request: c.ID, Digest: c.Digest, Agree: w.agree, At: time.Now(), Reason: w.reason})
	if err != nil {
		return err
	}
	want, said := consent.Refused, "refused"
	if w.agree {
		want, said = consent.Agreed, "agreed"
	}
	if err := a.putPaper(cmd.Context(), v, raw, c.ID, want); err != nil {
		return err
	}
	if w.output == "json" {
		return writeJSON(cmd.OutOrStdout(), map[string]string{"id": c.ID, "state": want, "by": p.Name})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s; %s\n", said, nextStep(c, w.agree))
	return err
}

// nextStep is what an answer leads to.
func nextStep(c consent.Case, agree bool) string {
	switch {
	case !agree:
		return "nothing goes by this request"
	case c.Deed.Kind == consent.Unpin:
		return "within a day: holdfast backup unpin " + c.Deed.Subject
	case c.Deed.Kind == consent.Release:
		return "within a day: holdfast backup release " + c.Deed.Subject + " --reason TEXT"
	case c.Deed.Kind == consent.RetireKey:
		return "within a day: holdfast vault key retire"
	case c.Deed.Kind == consent.SetAside:
		return "it counts from now on, and what was asked for before is void; holdfast vault repair --give-up-lost settles what the last scrub says of it"
	}
	return "it counts from now on"
}

// caseOf finds a request by the beginning of its id.
func (a application) caseOf(ctx context.Context, id string) (name string, found consent.Case, err error) {
	n := 0
	for _, x := range a.plan.Vaults {
		r, err := a.requested(ctx, x.Name)
		if err != nil {
			return "", found, err
		}
		for _, c := range r.Cases {
			if strings.HasPrefix(c.ID, id) {
				name, found, n = x.Name, c, n+1
			}
		}
	}
	if n == 1 && len(id) >= 8 {
		return name, found, nil
	}
	return "", found, &problem.Problem{Code: "vault.unknown-request", Subject: id, Severity: problem.Note,
		Title: fmt.Sprintf("%d requests begin so", n), Meaning: "Nothing was answered.",
		Remedy: "see them: holdfast vault deletions list; name one by 8 or more of its letters"}
}

func samePerson(c consent.Case, name string) *problem.Problem {
	return &problem.Problem{Code: "vault.same-person", Subject: c.ID[:shortID], Severity: problem.Note,
		Title: name + " asked for it, and cannot agree to it as well", Meaning: "Nothing was agreed to.",
		Remedy: "another person agrees, with a certificate of its own"}
}

func notAPerson(dir string, why error) *problem.Problem {
	return &problem.Problem{Code: "vault.not-a-person", Subject: dir, Severity: problem.Note,
		Title: "the certificate there stands for no person: " + why.Error(), Meaning: "Nothing was asked for or agreed to.",
		Remedy: "use a certificate of your own: holdfast operator issue NAME --to DIR"}
}
