// Package cli is the command line: what an operator types, and the bodies of the processes that keepers start.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/internal/problem"
)

// version is set by the build.
var version = "dev"

// Version is the build's version, with the commit where the build knows it.
func Version() string {
	if version != "dev" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return "dev-" + s.Value[:12]
			}
		}
	}
	return version
}

// exitError ends the program with a status of its own, without another word.
type exitError struct{ status int }

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", e.status) }

// endSignals end a command in order, so that it removes what it has made. A session that is lost is one of them, unless
// nohup has said that it shall not be.
func endSignals() []os.Signal {
	all := []os.Signal{syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		all = append(all, syscall.SIGHUP)
	}
	return all
}

// Main runs one command line and returns the exit status: 0 done, 1 it did not work, 2 the words are off.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), endSignals()...)
	defer stop()
	root := New()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var exit exitError
	var p *problem.Problem
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.status
	case errors.As(err, &p):
		_, _ = fmt.Fprintln(stderr, problemText(err, p))
		return 1
	}
	_, _ = fmt.Fprintln(stderr, "holdfast: "+err.Error())
	if errors.Is(err, errUsage) {
		return 2
	}
	return 1
}

// problemText prefers the problem's own words; several joined problems are all shown.
func problemText(err error, p *problem.Problem) string {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return p.Text()
	}
	var texts []string
	for _, e := range joined.Unwrap() {
		var each *problem.Problem
		if errors.As(e, &each) {
			texts = append(texts, problemText(e, each))
		} else {
			texts = append(texts, "holdfast: "+e.Error())
		}
	}
	return strings.Join(texts, "\n")
}

// errUsage marks words that do not fit a command.
var errUsage = errors.New("see --help")

// New is the whole command tree.
func New() *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "Keep a self-hosted application running, recoverable and proven",
		Long: `Holdfast reads one plan file and keeps what it describes alive: services behind a balancer, PostgreSQL
with standbys that take over by themselves, and backups that can be restored.

  holdfast plan check holdfast.yaml        what does my plan survive, and what not?
  holdfast up holdfast.yaml                run the whole plan on this machine
  holdfast apply --dry-run holdfast.yaml   what would change, restart, pause?
  holdfast status                          am I safe now?
  holdfast database switchover NAME        move the primary, with nothing lost
  holdfast backup run NAME                 a base backup now
  holdfast restore database NAME --at ...  back to a moment, beside the live one`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       Version(),
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", err, errUsage) })
	root.AddCommand(
		planCommand(), applyCommand(), upCommand(), downCommand(), agentCommand(), statusCommand(), historyCommand(), databaseCommand(), clusterCommand(),
		backupCommand(), filesCommand(), recoveryPointCommand(), restoreCommand(), vaultCommand(), receiptCommand(), operatorCommand(),
		keeperCommand(), gateCommand(), edgeCommand(), etcdMemberCommand(), reclaimCommand(), versionCommand(),
	)
	groupsRefuse(root)
	return root
}

// groupsRefuse has every group of commands refuse a word that is none of its commands, with the nearest ones: cobra shows the help, and
// calls that a success.
func groupsRefuse(c *cobra.Command) {
	for _, sub := range c.Commands() {
		groupsRefuse(sub)
	}
	_, takes, _ := strings.Cut(c.Use, " ")
	if !c.HasSubCommands() || takes != "" {
		return
	}
	c.SuggestionsMinimumDistance = 2
	if c.Runnable() {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		}
		return
	}
	c.DisableFlagsInUseLine = true
	c.Args = cobra.ArbitraryArgs // else cobra refuses it by itself, in its own way
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return unknownCommand(cmd, args[0])
	}
}

func unknownCommand(group *cobra.Command, word string) error {
	there := "its commands"
	names := group.SuggestionsFor(word)
	if len(names) > 0 {
		there = "the nearest"
	} else {
		for _, sub := range group.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
	}
	return fmt.Errorf("%s has no command %q; %s: %s: %w", group.CommandPath(), word, there, strings.Join(names, ", "), errUsage)
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Say which build this is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "holdfast "+Version())
			return err
		},
	}
}

// executable is this very program, for the processes that it starts.
func executable() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	return exe, nil
}
