package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/auth"
	"holdfast/internal/event"
	"holdfast/internal/local"
	"holdfast/internal/problem"
)

const rootUsage = "where the application's data lie (default: $HOLDFAST_ROOT, or the only one below /var/lib/holdfast)"

// findContext finds the application that a command is about.
func findContext(root string) (local.Context, error) {
	if root == "" {
		root = os.Getenv("HOLDFAST_ROOT")
	}
	if root != "" {
		return local.ReadContext(root)
	}
	found, err := filepath.Glob(filepath.Join(filepath.Dir(local.DefaultRoot("x")), "*", "context.json"))
	if err != nil || len(found) != 1 {
		return local.Context{}, &problem.Problem{
			Code: "cli.which-application", Severity: problem.Note,
			Title:   fmt.Sprintf("%d applications were found below %s", len(found), filepath.Dir(local.DefaultRoot("x"))),
			Meaning: "Nothing was asked and nothing was changed.",
			Remedy:  "name the data root of the one you mean: --root DIR, or HOLDFAST_ROOT=DIR",
		}
	}
	return local.ReadContext(filepath.Dir(found[0]))
}

// operatorOf is a client with the operator's certificate of the application that a command is about.
func operatorOf(cmd *cobra.Command, root string) (*api.Client, error) {
	c, err := findContext(root)
	if err != nil {
		return nil, err
	}
	return operatorIn(cmd, c)
}

// operatorIn is [operator], and warns when the operator's certificate ends soon.
func operatorIn(cmd *cobra.Command, c local.Context) (*api.Client, error) {
	if until, err := auth.Expires(local.AdminDir(c.Root)); err == nil { // one that cannot be read is told of below
		warnOperatorEnds(cmd, until, time.Now(), "where the authority is: holdfast cluster certify HOST --plan PLAN --yes, for any host, renews it too; elsewhere copy the files of "+
			"its admin to "+local.AdminDir(c.Root)+". Where holdfast up runs the plan, its next start renews it")
	}
	return operator(c)
}

// operatorEndsMax is how long before its end a person is warned of a certificate: since then the commands that renew it do so.
const operatorEndsMax = 30 * 24 * time.Hour

func warnOperatorEnds(cmd *cobra.Command, until, now time.Time, remedy string) {
	if p := operatorEnds(until, now, remedy); p != nil {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), p.Text()) // a word beside what was asked for
	}
}

// operatorEnds judges a person's certificate that is valid until then; nil = for long enough. Pure.
func operatorEnds(until, now time.Time, remedy string) *problem.Problem {
	left := until.Sub(now)
	if left > operatorEndsMax {
		return nil
	}
	p := &problem.Problem{Code: "cli.certificate-ends", Severity: problem.Degraded, Title: "the certificate that commands use here ends on " + until.UTC().Format("2006-01-02 15:04 MST"),
		Meaning: "From then on no host answers commands that use it. Nothing else needs it.", Remedy: remedy}
	if left <= 0 {
		p.Severity, p.Title = problem.Critical, "the certificate that commands use here has ended on "+until.UTC().Format("2006-01-02 15:04 MST")
		p.Meaning = "No host answers commands that use it. Nothing else needs it."
	}
	return p
}

// asOperator is the body of a command that asks the hosts as an operator. root is read when the command runs.
func asOperator(root *string, do func(cmd *cobra.Command, client *api.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		client, err := operatorOf(cmd, *root)
		if err != nil {
			return err
		}
		defer client.Close()
		return do(cmd, client, args)
	}
}

// outputFormat is a flag that takes one of the ways in which an answer is written.
type outputFormat string

// String is how --help shows the default.
func (f *outputFormat) String() string { return string(*f) }

// Set refuses what no command writes.
func (f *outputFormat) Set(s string) error {
	if s != "table" && s != "json" {
		return fmt.Errorf("--output is table or json, not %q", s)
	}
	*f = outputFormat(s)
	return nil
}

// Type is what --help calls it.
func (f *outputFormat) Type() string { return "string" }

func outputFlag(cmd *cobra.Command, output *string) {
	*output = "table"
	cmd.Flags().VarP((*outputFormat)(output), "output", "o", "table or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
}

func statusCommand() *cobra.Command {
	var root, output string
	var watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Am I safe now? Hosts, services, databases, what is wrong, and what a host's death would cost",
		Example: `  holdfast status
  holdfast status --watch
  holdfast status --output json | jq .verdict`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := operatorOf(cmd, root)
			if err != nil {
				return err
			}
			defer client.Close()
			for {
				st, err := client.Status(cmd.Context())
				if err != nil && !watch {
					return err
				}
				if err := printStatus(cmd.OutOrStdout(), st, output, watch, err); err != nil || !watch {
					return err
				}
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(time.Second):
				}
			}
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again each second")
	outputFlag(cmd, &output)
	return cmd
}

func printStatus(out io.Writer, st api.Status, output string, watch bool, cause error) error {
	if watch && isTerminal(out) {
		if _, err := fmt.Fprint(out, "\x1b[H\x1b[2J"); err != nil {
			return err
		}
	}
	if cause != nil {
		_, err := fmt.Fprintln(out, cause)
		return err
	}
	if output == "json" {
		enc := json.NewEncoder(out)
		if !watch {
			enc.SetIndent("", "  ")
		}
		return enc.Encode(st)
	}
	return writeStatus(out, st)
}

func andVault(v *api.ByVaultStatus) string {
	switch {
	case v == nil:
		return ""
	case v.Holds:
		return " and the vault"
	}
	return ", the vault to come"
}

// writeStatus is the status for a tired person: the verdict first, the tables, what is wrong with its remedy,
// and what would happen.
func writeStatus(out io.Writer, st api.Status) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	p("%s: %s\n\n", st.Application, st.Verdict)
	p("HOST\tADDRESS\tFAULT DOMAIN\tANSWERS\n")
	for _, h := range st.Hosts {
		p("%s\t%s\t%s\t%s\n", h.Name, h.Address, h.FaultDomain, answers(h))
	}
	for _, d := range st.Databases {
		p("\nDATABASE %s\t%s\tepoch %d\ttimeline %d\tacknowledged by %d%s\n", d.Name, phase(d), d.Epoch, d.Timeline, d.AcknowledgedBy, andVault(d.ByVault))
		p("  HOST\tROLE\tSTATE\tLOG\tBEHIND\tCOUNTS%s\n", readHead(d))
		for _, s := range d.Servers {
			p("  %s\t%s\t%s\t%s\t%s\t%s%s\n", s.Host, s.Role, s.State, s.LSN, behind(s), yes(s.Counts), read(s))
		}
		for _, m := range d.Planned {
			p("  planned: %s\n", planned(m))
		}
		for _, line := range waiting(d) {
			p("  waits for a restart: %s\n", line)
		}
		if a := d.Archive; a != nil {
			p("  log in vault %s up to %s, %s (from %s) %s\n", a.Vault, a.Archived, logBehind(a), a.Host, a.Trouble)
			if v := d.ByVault; v != nil && v.Holds {
				p("  every acknowledged commit is in the vault: the loss of all servers loses none\n")
			} else if v != nil {
				p("  commits are not known to be in the vault when they are acknowledged: %s\n", v.Why)
			}
			for _, r := range a.Running {
				p("  under way: %s\n", runText(r, time.Now()))
			}
			if b := a.Last; b != nil {
				p("  last base backup %s, %s, %s\n", b.At.Local().Format("2006-01-02 15:04:05"), size(b.Bytes), proven(b.Proven))
			}
		}
	}
	if len(st.Restored) > 0 {
		p("\nRESTORED COPY\tOF\tAT\tHOST\tADDRESS\tSTATE\n")
		for _, c := range st.Restored {
			p("%s\t%s\t%s\t%s\t%s\t%s\n", c.Name, c.Of, c.At, c.Host, c.Address, c.State)
		}
	}
	writeFilesStatus(p, st.Files)
	if len(st.Services) > 0 {
		p("\nSERVICE\tREADY\tROUTE\tINSTANCES\n")
		for _, s := range st.Services {
			p("%s\t%d of %d\t%s\t%s\n", s.Name, s.Ready, s.Wanted, s.Route, instances(s))
		}
	}
	if len(st.Problems) > 0 {
		p("\nPROBLEMS\n")
		for _, x := range st.Problems {
			p("%s\n", x.Text())
		}
	}
	p("\n")
	for _, x := range st.IfDied {
		p("If %s died now: %s.\n", x.Host, x.Text)
	}
	return w.Flush()
}

// phase is how far the agreed record is, and whether its primary is there.
func phase(d api.DatabaseStatus) string {
	if away := d.Away(); d.Open && away != "" {
		return d.Phase + ", but " + away
	}
	return d.Phase
}

// planned is a switchover that waits, in words.
func planned(m api.PlannedMove) string {
	to := ""
	if m.To != "" {
		to = " to " + m.To
	}
	return fmt.Sprintf("switchover%s at %s, asked for by %s; to end it: holdfast database cancel %s", to, m.At.Local().Format("2006-01-02 15:04:05 MST"), m.By, m.ID)
}

func answers(h api.HostStatus) string {
	if h.Heard {
		return "yes"
	}
	return "silent for " + round(h.Age)
}

func behind(s api.ServerStatus) string {
	switch {
	case s.Role != "standby":
		return ""
	case s.LagBytes == nil:
		return "unknown"
	}
	return fmt.Sprintf("%d bytes", *s.LagBytes)
}

func readHead(d api.DatabaseStatus) string {
	if len(d.ReadListener) == 0 {
		return ""
	}
	return "\tREAD"
}

// read is what the read-only listener makes of a copy.
func read(s api.ServerStatus) string {
	switch r := s.Read; {
	case r == nil:
		return ""
	case !r.In:
		return "\tno: " + r.Why
	case r.Why != "":
		return "\tyes, " + r.Why
	default:
		return "\tyes, at most " + time.Duration(r.Lag).Round(100*time.Millisecond).String() + " old"
	}
}

func proven(b bool) string {
	if b {
		return "proven by restoring it"
	}
	return "not proven"
}

// size is a number of bytes for people.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// logBehind is how much of its log a database would lose at most with all of its servers.
func logBehind(a *api.ArchiveStatus) string {
	if a.Lag == nil {
		return "how far behind is not known yet"
	}
	return "at most " + round(*a.Lag) + " behind"
}

func round(d event.Duration) string {
	if v := time.Duration(d); v >= time.Second {
		return v.Round(time.Second).String()
	}
	return time.Duration(d).Round(time.Millisecond).String()
}

func instances(s api.ServiceStatus) string {
	var parts []string
	for _, i := range s.Instances {
		text := i.Host + " " + i.State
		if i.Why != "" {
			text += " (" + i.Why + ")"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

// oneLine is the status for a log.
func oneLine(st api.Status) string {
	var parts []string
	for _, d := range st.Databases {
		streams := 0
		for _, s := range d.Servers {
			if s.Role == "standby" && s.State == "streams" {
				streams++
			}
		}
		where := "no primary is open"
		if d.Open {
			where = "primary on " + d.Primary
		}
		parts = append(parts, fmt.Sprintf("%s: %s, %d standbys stream", d.Name, where, streams))
	}
	for _, s := range st.Services {
		parts = append(parts, fmt.Sprintf("%s: %d of %d ready", s.Name, s.Ready, s.Wanted))
	}
	var codes []string
	for _, x := range st.Problems {
		codes = append(codes, x.Code)
	}
	slices.Sort(codes)
	line := st.Verdict + " " + strings.Join(parts, "; ")
	if len(codes) > 0 {
		line += " [" + strings.Join(slices.Compact(codes), ", ") + "]"
	}
	return line
}

func historyCommand() *cobra.Command {
	var root, output string
	cmd := &cobra.Command{
		Use:   "history",
		Short: "What happened on the hosts that answer, and why",
		Long: `What each host that answers did, what it was asked for and how that ended, with the reasons, oldest first. A host keeps
the newest of it, one to two MiB, over restarts of its agent, in diary.jsonl and diary.former.jsonl below its data. What
happens again and again is told five times; after that one line stands for all the others, and says how many.`,
		Example: `  holdfast history | tail
  holdfast history --output json | jq '.[] | select(.room == "database")'`,
		Args: cobra.NoArgs,
		RunE: asOperator(&root, func(cmd *cobra.Command, client *api.Client, _ []string) error {
			events, silent, err := client.Events(cmd.Context())
			if err != nil {
				return err
			}
			if len(silent) > 0 {
				if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "%d hosts do not answer; what only they know of is missing.\n", len(silent)); err != nil {
					return err
				}
			}
			slices.SortStableFunc(events, func(a, b event.Event) int { return a.At.Compare(b.At) })
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(events)
			}
			for _, e := range events {
				if err := writeEvent(cmd.OutOrStdout(), e); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	outputFlag(cmd, &output)
	return cmd
}

// writeEvent tells one event, its reasons below it.
func writeEvent(out io.Writer, e event.Event) error {
	again := ""
	if e.Times > 1 {
		again = fmt.Sprintf("; %d times since %s", e.Times, e.Since.Local().Format("2006-01-02 15:04:05"))
	}
	_, err := fmt.Fprintf(out, "%s  %s  %s %s: %s (%s%s)\n", e.At.Local().Format("2006-01-02 15:04:05.000"), e.Host, e.Room, e.Subject, e.What, round(e.Took), again)
	for _, why := range e.Because {
		if err == nil {
			_, err = fmt.Fprintf(out, "                           %s\n", why)
		}
	}
	return err
}
