package cli

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/internal/durable"
	"holdfast/internal/host"
	"holdfast/internal/local"
	"holdfast/internal/plan"
)

func agentCommand() *cobra.Command {
	var planFile, name, root string
	var loopback bool
	cmd := &cobra.Command{
		Use:   "agent --plan PLAN --host NAME [--root DIR]",
		Short: "Run one host of a plan",
		Long: `The agent observes its host, takes part in decisions and carries them out. It may be ended and started again
at any time: PostgreSQL, services, listeners and the balancer go on without it under their keepers.

SIGTERM ends the agent alone. SIGINT (Ctrl-C) ends everything that it looks after on this host, in good order.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if planFile == "" || name == "" {
				return fmt.Errorf("agent needs --plan and --host: %w", errUsage)
			}
			p, err := goodPlan(cmd, planFile)
			if err != nil {
				return err
			}
			if root == "" {
				root = local.DefaultRoot(p.Application)
			}
			root, err = filepath.Abs(root)
			if err != nil {
				return err
			}
			prepare := func(p *plan.Plan) *plan.Plan {
				if loopback {
					p, _ = local.OnLoopback(p)
				}
				return p.WithRoot(root)
			}
			return runAgent(cmd, prepare(p), prepare, name, root)
		},
	}
	cmd.Flags().StringVar(&planFile, "plan", "", "the plan file")
	cmd.Flags().StringVar(&name, "host", "", "which host of the plan this is")
	cmd.Flags().StringVar(&root, "root", "", "where Holdfast's data lie (default: below /var/lib/holdfast)")
	cmd.Flags().BoolVar(&loopback, "loopback", false, "hosts of other machines are on loopback addresses (as `up` runs them)")
	_ = cmd.Flags().MarkHidden("loopback") // the flag exists
	return cmd
}

func runAgent(cmd *cobra.Command, p *plan.Plan, prepare func(*plan.Plan) *plan.Plan, name, root string) error {
	exe, err := executable()
	if err != nil {
		return err
	}
	dir := local.HostDir(root, name)
	down := make(chan struct{})
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, syscall.SIGINT)
	defer signal.Stop(interrupts)
	go func() { // ends with the process; it only turns a signal into a closed channel
		<-interrupts
		close(down)
	}()
	pid := local.PIDFile(root, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: logLevel()}))
	return host.Run(cmd.Context(), host.Config{
		Plan: p, Prepare: prepare, Self: name, Dir: dir, Authority: local.AuthorityDir(root), Executable: exe, Version: Version(), Log: log.With("host", name),
		Running: func() error { return durable.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600) },
	}, down)
}

// logLevel is info, or what HOLDFAST_LOG says.
func logLevel() slog.Level {
	var l slog.Level
	if err := l.UnmarshalText([]byte(os.Getenv("HOLDFAST_LOG"))); err != nil {
		return slog.LevelInfo
	}
	return l
}
