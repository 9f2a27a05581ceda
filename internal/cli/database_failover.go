package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/database"
	"holdfast/internal/problem"
)

// failoverMax is how long a forced failover may take until its primary is confirmed.
const failoverMax = 90 * time.Second

func failoverCommand() *cobra.Command {
	var w failoverWish
	cmd := &cobra.Command{
		Use:   "failover NAME",
		Short: "Force a standby to take over although commits may be lost; shows the loss first",
		Long: `A switchover moves the primary and loses nothing. An election after a crash loses nothing either, and needs no
command. A forced failover is for when neither is possible, because too few hosts are left to be certain: it gives up
what only the missing ones hold. It always shows what that is, as far as anybody knows, and which hosts would have to
come back instead; then it asks. When a missing server returns, what it alone holds is put aside and listed before
anything else: see holdfast database salvage --help.`,
		Example: `  holdfast database failover records --force --dry-run
  holdfast database failover records --force
  holdfast database failover records --force --to east-2 --yes`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			w.name = args[0]
			return w.run(cmd)
		},
	}
	cmd.Flags().StringVar(&w.root, "root", "", rootUsage)
	cmd.Flags().StringVar(&w.to, "to", "", "the host that takes over (default: the one whose log goes furthest)")
	cmd.Flags().BoolVar(&w.force, "force", false, "accept the loss that is shown")
	cmd.Flags().BoolVar(&w.yes, "yes", false, "with --force: do not ask; the loss is shown all the same")
	cmd.Flags().BoolVar(&w.dryRun, "dry-run", false, "show what would be lost and who would take over; change nothing")
	outputFlag(cmd, &w.output)
	return cmd
}

// failoverWish is one call of the command.
type failoverWish struct {
	name, root, to, output string
	force, yes, dryRun     bool
}

func (w failoverWish) run(cmd *cobra.Command) error {
	client, err := operatorOf(cmd, w.root)
	if err != nil {
		return err
	}
	defer client.Close()
	f, err := client.Failover(cmd.Context(), w.name, w.to)
	if err != nil {
		return err
	}
	words := cmd.OutOrStdout()
	if w.output == "json" {
		words = cmd.ErrOrStderr() // the loss is shown in any case
		if w.dryRun || !w.force {
			err := json.NewEncoder(cmd.OutOrStdout()).Encode(f)
			if err == nil && f.Risk.Refused != "" {
				err = exitError{1}
			}
			return err
		}
	}
	if err := writeRisk(words, w.name, f); err != nil {
		return err
	}
	if f.Risk.Refused != "" {
		return w.refused(f.Risk.Refused)
	}
	if w.dryRun || !w.force {
		_, err := fmt.Fprintf(words, "\nNothing was changed. To accept this loss: %s\n", w.forced())
		return err
	}
	if !w.yes {
		if err := typedName(cmd, "Type the database's name to give this up: ", w.name); err != nil {
			return err
		}
	}
	return w.carryOut(cmd, client, f)
}

// forced is the command that carries out what was shown, with all that was typed.
func (w failoverWish) forced() string {
	line := "holdfast database failover " + w.name + " --force"
	for _, flag := range []struct{ name, value string }{{"to", w.to}, {"root", w.root}} {
		if flag.value != "" {
			line += " --" + flag.name + " " + flag.value
		}
	}
	return line
}

func (w failoverWish) refused(why string) error {
	return &problem.Problem{
		Code: "database.failover-refused", Subject: w.name, Severity: problem.Note, Title: "a forced failover is not carried out: " + why,
		Meaning: "Nothing was changed. Force is for when no way is left that loses nothing.",
		Remedy:  "follow what it says; holdfast database explain " + w.name + " shows who could take over",
	}
}

func (w failoverWish) carryOut(cmd *cobra.Command, client *api.Client, f api.Failover) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), failoverMax)
	defer cancel()
	q, err := client.Ask(ctx, agent.Asked{Room: "database", Subject: w.name, Kind: "failover", Args: map[string]string{
		agent.ArgTo: w.to, agent.ArgVia: f.Via, agent.ArgFormer: f.Risk.Former, agent.ArgFloor: f.Risk.At.String(),
	}})
	if err != nil {
		return err
	}
	began := time.Now()
	done, err := awaitChange(ctx, client, q)
	if err != nil {
		return err
	}
	if w.output == "json" {
		return writeSettled(cmd.OutOrStdout(), done)
	}
	if !done.OK {
		return w.refused(done.Text)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s (%s)\nWhen a missing server is back: holdfast database salvage list %s\n", done.Text,
		time.Since(began).Round(10*time.Millisecond), w.name)
	return err
}

// typedName lets a person write a word; anything else, and no terminal, changes nothing.
func typedName(cmd *cobra.Command, question, want string) error {
	if _, err := fmt.Fprint(cmd.ErrOrStderr(), question); err != nil {
		return err
	}
	var word string
	if _, err := fmt.Fscanln(cmd.InOrStdin(), &word); err != nil || word != want {
		return fmt.Errorf("nothing was changed; --yes goes on without asking: %w", errUsage)
	}
	return nil
}

// writeRisk shows a loss: what is known, what is not, and who would have to come back to avoid it.
func writeRisk(out io.Writer, name string, f api.Failover) error {
	k := f.Risk
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	p("A forced failover of %s would give up what only %s and those who do not answer hold.\n\n", name, k.Primary)
	if k.Known.Heard {
		p("%s\tthe primary until now; last heard %s ago, its log at %s\n", k.Primary, k.Known.Age.Round(100*time.Millisecond), k.Known.Flushed)
	} else {
		p("%s\tthe primary until now; nobody who answers remembers how far its log was\n", k.Primary)
	}
	if k.Chosen != "" {
		what := "would take over"
		if !k.Counted {
			what += "; no commit waited for it"
		}
		p("%s\t%s; its log is at %s\n", k.Chosen, what, k.At)
	}
	for _, o := range k.Others {
		at := ""
		if o.Heard {
			at = ", its log at " + o.At.String()
		}
		p("%s\t%s%s\n", o.Host, o.Why, at)
	}
	if k.Chosen != "" {
		p("\n%s", loss(k))
	}
	p("\nNothing is lost if %s comes back.\n", strings.Join(k.Avoid, ", or "))
	for _, warning := range k.Warn {
		p("Note: %s.\n", warning)
	}
	return w.Flush()
}

// loss is what would be lost at least, in words.
func loss(k database.Risk) string {
	switch {
	case !k.Known.Heard:
		return "Lost: unknown.\n"
	case k.Bytes == 0:
		return "Lost: nothing that is known of; whatever " + k.Primary + " wrote after its last word.\n"
	}
	text := fmt.Sprintf("Lost at least: %d bytes of log", k.Bytes)
	if k.Span != database.Never {
		text += fmt.Sprintf(", about %s of its life", k.Span.Round(100*time.Millisecond))
	}
	if k.AckedBytes > 0 {
		return text + fmt.Sprintf("; clients had been told of the commits in %d of them.\n", k.AckedBytes)
	}
	return text + "; of none of it clients are known to have been told.\n"
}
