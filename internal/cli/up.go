package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"holdfast/internal/api"
	"holdfast/internal/auth"
	"holdfast/internal/host"
	"holdfast/internal/local"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

func upCommand() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "up [PLAN]",
		Short: "Run a whole plan on this machine, in the foreground, with live status",
		Long: `Every host of the plan becomes an agent process on a loopback address of its own, with its own data, its own
etcd member and its own PostgreSQL server. Hosts with other addresses are given one in 127.77.0.0/16.

Certificates are made on the first start; so are secrets whose file: lies below the data root and is absent.
Ctrl-C ends everything in good order; the next start goes on with the same data.`,
		Example: `  holdfast up examples/clinic/holdfast.yaml
  holdfast up --root /tmp/try holdfast.yaml`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := planArgument(args)
			p, err := goodPlan(cmd, file)
			if err != nil {
				return err
			}
			// From the beginning on: Ctrl-C while certificates are made ends in good order, too.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT)
			defer stop()
			err = up(ctx, cmd.OutOrStdout(), p, file, root)
			if errors.Is(err, context.Canceled) && ctx.Err() != nil {
				speaker(cmd.OutOrStdout())("stopped before a host was started; the same command begins again")
				return nil
			}
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "where the data lie (default: below /var/lib/holdfast)")
	return cmd
}

// up runs a plan until the terminal says stop.
func up(ctx context.Context, out io.Writer, p *plan.Plan, file, root string) error {
	if root == "" {
		root = local.DefaultRoot(p.Application)
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	file, err = filepath.Abs(file)
	if err != nil {
		return err
	}
	p, told := local.OnLoopback(p)
	p = p.WithRoot(root)
	say := speaker(out)
	for _, line := range told {
		say("%s", line)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fmt.Errorf("make the data root: %w", err)
	}
	held, err := local.Lock(root)
	if err != nil {
		return err
	}
	defer func() { _ = held.Close() }() // gives the lock back
	names := hostNames(p)
	if running := local.Running(root, names); len(running) > 0 {
		return &problem.Problem{
			Code: "host.in-use", Subject: p.Application, Severity: problem.Critical,
			Title:   "agents of this plan run already on " + strings.Join(slices.Sorted(maps.Keys(running)), ", "),
			Meaning: "Nothing was started and nothing was changed.",
			Remedy:  "use them: holdfast status --root " + root + "; or end them: holdfast down --root " + root,
		}
	}
	err = everyHost(p, root, func(cfg host.Config) error { return errors.Join(host.CheckSpace(cfg), host.CheckPorts(ctx, cfg)) })
	if err != nil {
		return err
	}
	c, made, err := local.Prepare(p, file, root)
	for _, line := range made {
		say("made the %s", line)
	}
	if err != nil {
		return err
	}
	if err := everyHost(p, root, func(cfg host.Config) error { return host.CheckServers(ctx, cfg) }); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return watchOver(ctx, out, say, c, names)
}

// asUp is a plan as `up` runs it on a data root.
func asUp(root string) func(*plan.Plan) *plan.Plan {
	return func(p *plan.Plan) *plan.Plan {
		p, _ = local.OnLoopback(p)
		return p.WithRoot(root)
	}
}

// everyHost asks something of each host of a plan, and joins the refusals, each kind of them once.
func everyHost(p *plan.Plan, root string, ask func(host.Config) error) error {
	exe, err := executable()
	if err != nil {
		return err
	}
	var bad []error
	said := map[string]bool{}
	for _, name := range hostNames(p) {
		err := ask(host.Config{Plan: p, Prepare: asUp(root), Self: name, Dir: local.HostDir(root, name), Executable: exe, Version: Version(), Log: slog.New(slog.DiscardHandler)})
		if err != nil && !said[err.Error()] {
			said[err.Error()] = true
			bad = append(bad, err)
		}
	}
	return errors.Join(bad...)
}

// watchOver runs the agents, shows what they say, and ends them when ctx ends: at the first Ctrl-C.
func watchOver(ctx context.Context, out io.Writer, say func(string, ...any), c local.Context, names []string) error {
	exe, err := executable()
	if err != nil {
		return err
	}
	client, err := operator(c)
	if err != nil {
		return err
	}
	defer client.Close()
	agents := &local.Agents{Root: c.Root, Plan: c.Plan, Executable: exe, Hosts: names, Say: say}
	say("starting %d hosts of %s; data in %s; Ctrl-C ends everything in good order", len(names), c.Application, c.Root)

	var all sync.WaitGroup
	all.Go(func() { agents.Run(context.WithoutCancel(ctx)) })
	all.Go(func() { clearStopping(ctx, client, say) })
	all.Go(func() { show(ctx, out, say, client) })
	<-ctx.Done()
	say("stopping: services, then databases, then etcd")
	quiet, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	if err := client.Stop(quiet); err != nil {
		say("the hosts were not told together that they stop (%v); each stops by itself", err)
	}
	cancel()
	agents.End()
	all.Wait()
	if left := local.Running(c.Root, names); len(left) > 0 {
		return fmt.Errorf("stop %s: agents still run: %v", c.Application, left)
	}
	say("stopped; the data in %s start again with the same command", c.Root)
	return nil
}

// clearStopping takes back what the last stop said, as soon as a majority of hosts is up. A stop that somebody asks for meanwhile
// is not the last one: it stands.
func clearStopping(ctx context.Context, client *api.Client, say func(string, ...any)) {
	for {
		_, err := client.Start(ctx)
		if err == nil {
			return
		}
		if p := (*problem.Problem)(nil); errors.As(err, &p) && p.Code == "cluster.stopping-again" {
			say("the stop is not taken back: %s; %s", p.Title, p.Remedy)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// show prints the status: live on a terminal, else a line whenever the verdict changes.
func show(ctx context.Context, out io.Writer, say func(string, ...any), client *api.Client) {
	live := isTerminal(out)
	last := ""
	for {
		st, err := client.Status(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
		case live:
			_, _ = fmt.Fprint(out, "\x1b[H\x1b[2J") // a terminal that is gone is no reason to end
			writeStatus(out, st)
		default:
			if line := oneLine(st); line != last {
				say("%s", line)
				last = line
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// speaker prints lines with the time, one at a time.
func speaker(out io.Writer) func(string, ...any) {
	var mu sync.Mutex
	return func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintf(out, time.Now().Format("15:04:05 ")+format+"\n", args...) // as above
	}
}

func hostNames(p *plan.Plan) []string {
	var names []string
	for _, h := range p.AllHosts() {
		names = append(names, h.Name)
	}
	return names
}

// operator is a client with the certificate of a root's operator.
func operator(c local.Context) (*api.Client, error) {
	conf, err := auth.ClientTLS(local.AdminDir(c.Root), "")
	if err != nil {
		return nil, fmt.Errorf("read the operator's certificate: %w", err)
	}
	var agents []string
	for _, name := range slices.Sorted(maps.Keys(c.Agents)) {
		agents = append(agents, c.Agents[name])
	}
	return api.NewClient(agents, conf), nil
}

func downCommand() *cobra.Command {
	var root string
	var yes bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "End in good order what `up` runs on this machine, or left running",
		Long: `The whole application stops: services, then databases, then etcd, each standby after its primary. The agents of this
machine end then. Agents of hosts on other machines are told that everything stops, too, and end their services and
databases; they themselves go on, and wait.

On a terminal it asks first; --yes does not. What runs without its host's agent is not ended: it is named, and the status is 1.

To run it again: holdfast up PLAN where ` + "`up`" + ` ran it; on machines of their own start the agents that have ended, then
take the stop back from any of them: holdfast cluster start.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := findContext(root)
			if err != nil {
				return err
			}
			if !yes && isTerminalIn(cmd.InOrStdin()) {
				if ok, err := confirm(cmd, stopQuestion(c)); err != nil || !ok {
					return err
				}
			}
			return down(cmd.Context(), speaker(cmd.OutOrStdout()), c)
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// isTerminalIn reports whether a person can be asked there.
func isTerminalIn(in io.Reader) bool {
	f, ok := in.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func stopQuestion(c local.Context) string {
	return fmt.Sprintf("All of %s stops, on every machine: services, databases and etcd of %s. Go on?", c.Application, strings.Join(slices.Sorted(maps.Keys(c.Agents)), ", "))
}

// downMax is how long hosts may take to end.
const downMax = 2 * time.Minute

// endUp asks an `up` that works on the root to end everything, and waits until it has: agents that are ended
// behind its back are started again by it. It reports whether there was one.
func endUp(ctx context.Context, say func(string, ...any), root string) (asked bool, err error) {
	pid, err := local.Up(root)
	if err != nil || pid == 0 {
		return false, err
	}
	say("`holdfast up` runs as process %d; it is asked to end everything", pid)
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return true, fmt.Errorf("ask process %d to end: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, downMax)
	defer cancel()
	for {
		switch now, err := local.Up(root); {
		case err != nil:
			return true, err
		case now == 0:
			say("stopped")
			return true, nil
		}
		select {
		case <-ctx.Done():
			return true, fmt.Errorf("wait until process %d has ended everything: %w", pid, context.Cause(ctx))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func down(ctx context.Context, say func(string, ...any), c local.Context) error {
	names := slices.Sorted(maps.Keys(c.Agents))
	if asked, err := endUp(ctx, say, c.Root); asked || err != nil {
		return err
	}
	running := local.Running(c.Root, names)
	left := leftRunning(c, slices.DeleteFunc(slices.Clone(names), func(name string) bool { return running[name] != 0 }))
	if len(running) == 0 {
		if left == nil {
			say("nothing of %s runs here", c.Application)
		}
		return left
	}
	client, err := operator(c)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Stop(ctx); err != nil {
		say("the hosts were not told together that they stop (%v); each stops by itself", err)
	}
	var errs []error
	for _, name := range names {
		if pid, ok := running[name]; ok {
			errs = append(errs, syscall.Kill(pid, syscall.SIGINT))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("ask the agents to end: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, downMax)
	defer cancel()
	for len(local.Running(c.Root, names)) > 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("agents still run after %s: %v", downMax, local.Running(c.Root, names))
		case <-time.After(200 * time.Millisecond):
		}
	}
	say("stopped")
	return left
}

// leftRunning is a problem when something runs of hosts that have no agent: an agent that was ended by SIGTERM, or killed,
// leaves what it looks after running. Only an agent can end it in good order.
func leftRunning(c local.Context, agentless []string) error {
	var on, runs []string
	for _, name := range agentless {
		if all := host.Runs(local.HostDir(c.Root, name)); len(all) > 0 {
			on, runs = append(on, name), append(runs, name+": "+strings.Join(all, ", "))
		}
	}
	if len(on) == 0 {
		return nil
	}
	return &problem.Problem{
		Code: "host.left-running", Subject: c.Application, Severity: problem.Degraded,
		Title:   "no agent runs on " + strings.Join(on, ", ") + ", but what it looks after does: " + strings.Join(runs, "; "),
		Meaning: "It was not ended: only the agent of its host ends it in good order.",
		Remedy:  "start the agents again (holdfast up " + c.Plan + ", or holdfast agent for each host), then holdfast down --root " + c.Root,
	}
}
