package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"holdfast/internal/plan"
)

// planFileDefault is read when a command names no plan.
const planFileDefault = "holdfast.yaml"

// planCommand is `holdfast plan`: what can be said about a plan file without touching a host.
func planCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Check, show and compare plan files; touches no host",
		Long: `A plan is one file, holdfast.yaml, that says what should run where. These commands read
plan files and nothing else: they need no running hosts and change nothing.

A small plan:

  application: hello
  sites:
    east:
      hosts:
        east-1: { address: 10.1.0.11 }
        east-2: { address: 10.1.0.12 }
        east-3: { address: 10.1.0.13 }
  services:
    web:
      run: /usr/bin/python3 -m http.server 8080
      instances: 2
      port: 8080
      route: http://hello.example
      ready: /`,
		Example: `  holdfast plan check                     what does my plan survive, and what not?
  holdfast plan show                      the plan with every default filled in
  holdfast plan diff old.yaml new.yaml    what would start, stop, restart or pause?
  holdfast plan schema > ` + plan.SchemaFile + `   completion and hints in your editor`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(planCheckCommand(), planShowCommand(), planSchemaCommand(), planDiffCommand())
	return cmd
}

func planCheckCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "check [PLAN]",
		Short: "Name every mistake of a plan, and say what it survives",
		Long: `Reads a plan (default ` + planFileDefault + `) and names every mistake at once, one a line as
file:line:column: what is wrong (what is allowed). Mistakes go to standard error and give exit status 1.

A plan without mistakes is then judged: what happens when a process crashes, a host, a fault domain or the
site dies, or somebody deletes rows; and which of its wishes defeat each other. Those warnings have a stable
code and a remedy; they do not change the exit status.`,
		Example: `  holdfast plan check
  holdfast plan check examples/clinic/holdfast.yaml
  holdfast plan check --output json | jq '.warnings[].code'`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := judgePlanOutput(output); err != nil {
				return err
			}
			p, mistakes, err := readPlanFile(planArgument(args))
			if err != nil {
				return err
			}
			if len(mistakes) > 0 {
				if output == "json" {
					if err := writePlanJSON(cmd.OutOrStdout(), map[string]any{"mistakes": mistakes}); err != nil {
						return err
					}
				}
				return refusePlan(cmd, planArgument(args), mistakes)
			}
			report := p.Check()
			if output == "json" {
				return writePlanJSON(cmd.OutOrStdout(), map[string]any{"mistakes": []plan.Mistake{}, "outcomes": report.Outcomes, "warnings": report.Warnings})
			}
			return writePlanReport(cmd.OutOrStdout(), planArgument(args), p, report)
		},
	}
	planOutputFlag(cmd, &output)
	return cmd
}

func planShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show [PLAN]",
		Short: "Print a plan with every default filled in",
		Long: `Prints a plan (default ` + planFileDefault + `) as Holdfast understands it: defaults filled in, paths absolute.
The output is a plan file again. Secrets appear as the references that they are, never as values.`,
		Example: `  holdfast plan show
  holdfast plan show old.yaml > full.yaml`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := goodPlan(cmd, planArgument(args))
			if err != nil {
				return err
			}
			text, err := p.Show()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
}

func planSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the plan file, for editors",
		Long: `Prints the JSON Schema (draft 2020-12) of the plan file. Editors that speak yaml-language-server use it
when the plan's first line is
  # yaml-language-server: $schema=` + plan.SchemaFile,
		Example: `  holdfast plan schema > ` + plan.SchemaFile,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(plan.Schema())
			return err
		},
	}
}

func planDiffCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Say in words what changing from one plan to another would do",
		Long: `Compares two plan files and says what would start, stop, reload, restart or pause. Nothing is ever deleted:
what a plan no longer names is stopped, and its data stay where they are until somebody deletes them.`,
		Example: `  holdfast plan diff holdfast.yaml holdfast-new.yaml
  git show HEAD~1:holdfast.yaml > old.yaml && holdfast plan diff old.yaml holdfast.yaml`,
		Args: usageArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := judgePlanOutput(output); err != nil {
				return err
			}
			older, olderErr := goodPlan(cmd, args[0])
			newer, newerErr := goodPlan(cmd, args[1])
			if olderErr != nil {
				return olderErr
			}
			if newerErr != nil {
				return newerErr
			}
			changes := plan.Diff(older, newer)
			if output == "json" {
				return writePlanJSON(cmd.OutOrStdout(), map[string]any{"changes": append([]plan.Change{}, changes...)})
			}
			if len(changes) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "Nothing changes.")
				return err
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "EFFECT\tON\tWHAT")
			for _, c := range changes {
				fmt.Fprintf(t, "%s\t%s\t%s\n", c.Effect, c.Subject, c.What)
			}
			return t.Flush()
		},
	}
	planOutputFlag(cmd, &output)
	return cmd
}

func planArgument(args []string) string {
	if len(args) == 0 {
		return planFileDefault
	}
	return args[0]
}

// readPlanFile reads and parses a plan file. Its paths come out absolute, while mistakes name the file as the
// operator did.
func readPlanFile(file string) (*plan.Plan, []plan.Mistake, error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf("read plan: %w", err)
	}
	whole, err := filepath.Abs(file)
	if err != nil {
		return nil, nil, fmt.Errorf("find the directory of plan %s: %w", file, err)
	}
	p, mistakes := plan.Parse(whole, src)
	for i := range mistakes {
		mistakes[i].File = file
	}
	return p, mistakes, nil
}

// goodPlan reads a plan; its mistakes are printed and are the error.
func goodPlan(cmd *cobra.Command, file string) (*plan.Plan, error) {
	p, mistakes, err := readPlanFile(file)
	if err != nil {
		return nil, err
	}
	if len(mistakes) > 0 {
		return nil, refusePlan(cmd, file, mistakes)
	}
	return p, nil
}

// refusePlan prints the mistakes of a plan, one a line, and gives the error that ends the command.
func refusePlan(cmd *cobra.Command, file string, mistakes []plan.Mistake) error {
	cmd.SilenceUsage = true // the arguments were right, the file is not
	for _, m := range mistakes {
		fmt.Fprintln(cmd.ErrOrStderr(), m)
	}
	if len(mistakes) == 1 {
		return fmt.Errorf("%s has 1 mistake; nothing was changed", file)
	}
	return fmt.Errorf("%s has %d mistakes; nothing was changed", file, len(mistakes))
}

func writePlanReport(w io.Writer, file string, p *plan.Plan, report plan.Report) error {
	fmt.Fprintf(w, "%s: application %s, %s, %s, %s. No mistakes.\n\n", file, p.Application,
		planCount(len(p.AllHosts()), "host"), planCount(len(p.Services), "service"), planCount(len(p.Databases), "database"))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "IF\tTHEN\tFOR\tMEANING")
	last := ""
	for _, o := range report.Outcomes {
		what := o.If
		if what == last {
			what = ""
		}
		last = o.If
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", what, o.Verdict, o.Subject, o.Then)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, warning := range report.Warnings {
		place := file
		if warning.Line > 0 {
			place = fmt.Sprintf("%s:%d:%d", file, warning.Line, warning.Column)
		}
		if _, err := fmt.Fprintf(w, "\n%s (%s)\n%s\n", place, warning.Severity, warning.Text()); err != nil {
			return err
		}
	}
	return nil
}

func planCount(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func planOutputFlag(cmd *cobra.Command, into *string) {
	cmd.Flags().StringVar(into, "output", "table", "table or json")
}

func judgePlanOutput(output string) error {
	if output != "table" && output != "json" {
		return fmt.Errorf("output %q is unknown (allowed: %s)", output, strings.Join([]string{"table", "json"}, ", "))
	}
	return nil
}

func writePlanJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
