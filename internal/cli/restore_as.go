package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/host"
	"holdfast/internal/local"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
)

// asWords say under which name a restored database runs, and where.
type asWords struct {
	name, host string
	port       int

	dir string // for copies, of the host that was found
}

// standing is a restored copy that was put in its agent's care.
type standing struct {
	Name    string `json:"name"`
	Host    string `json:"host"`
	Address string `json:"address"`
	Serves  bool   `json:"serves"` // it let a session in before the command ended
	Socket  string `json:"socket"`

	superuser string
	port      int
}

func (w *asWords) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.name, "as", "", "let a server of this name run on what was restored, instead of --to")
	cmd.Flags().StringVar(&w.host, "host", "", "with --as: the host on this machine that keeps it running (default: the first that is here)")
	cmd.Flags().IntVar(&w.port, "port", 0, "with --as: its port on loopback (default: a free one)")
}

func (w *asWords) check(all *databaseWords) error {
	say := func(text string) error { return fmt.Errorf("%s: %w", text, errUsage) }
	switch {
	case w.name == "" && (w.host != "" || w.port != 0):
		return say("--host and --port belong to --as")
	case w.name == "":
		return nil
	case all.to != "" || all.delta:
		return say("--as has a directory of its own; give --to or --as")
	case all.from.url != "":
		return say("--as needs a plan and an agent; with --vault alone restore --to a directory")
	case len(all.spaces) > 0:
		return say("--as has directories of its own for tablespaces too")
	case w.port < 0 || w.port > 65535:
		return say("--port is a port, 1 to 65535")
	}
	if err := restore.CheckCopyName(w.name); err != nil {
		return fmt.Errorf("%w: %w", err, errUsage)
	}
	return nil
}

// place finds the host's folder and makes sure that the name and the port are free.
func (w *asWords) place(ctx context.Context, a application, dryRun bool) error {
	if _, ok := a.plan.DatabaseNamed(w.name); ok {
		return copyTaken(w.name, "the plan has a database of that name")
	}
	all, err := a.copies()
	if err != nil {
		return err
	}
	for _, c := range all {
		if c.Name == w.name {
			return copyTaken(w.name, "there is a restored copy of that name on "+c.host)
		}
	}
	for _, h := range a.plan.AllHosts() {
		dir := local.HostDir(a.Root, h.Name)
		if _, err := os.Stat(dir); err == nil && (w.host == "" || w.host == h.Name) {
			w.host, w.dir = h.Name, host.CopiesDir(dir)
			break
		}
	}
	if w.dir == "" {
		return &problem.Problem{Code: "restore.no-host", Subject: w.name, Severity: problem.Note, Title: "no host that could run it has its data on this machine",
			Meaning: "Nothing was restored.", Remedy: "run the command on a host of the plan, with --host where there are several"}
	}
	if len(filepath.Join(restore.CopyFolder(w.dir, w.name), "run", ".s.PGSQL.65535")) > socketMax {
		return fmt.Errorf("the path of its socket below %s would be too long; choose a shorter name: %w", w.dir, errUsage)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(restore.Address, strconv.Itoa(w.port)))
	if err != nil {
		return &problem.Problem{Code: "restore.port-taken", Subject: w.name, Severity: problem.Note, Title: fmt.Sprintf("port %d cannot be listened on: %v", w.port, err),
			Meaning: "Nothing was restored.", Remedy: "choose another with --port, or none: then a free one is taken"}
	}
	w.port = l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return err
	}
	if dryRun {
		return nil
	}
	for _, d := range []string{w.dir, restore.CopyFolder(w.dir, w.name)} { // PostgreSQL's user goes through them
		if err := os.MkdirAll(d, 0o711); err != nil {
			return fmt.Errorf("make the folder of %s: %w", w.name, err)
		}
	}
	return nil
}

// socketMax is the longest path of a Unix socket, in bytes.
const socketMax = 107

func copyTaken(name, why string) error {
	return &problem.Problem{Code: "restore.name-taken", Subject: name, Severity: problem.Note, Title: "cannot be the name of a copy: " + why,
		Meaning: "Nothing was restored and nothing was changed.", Remedy: "choose another name with --as"}
}

func (w *asWords) data() string { return filepath.Join(restore.CopyFolder(w.dir, w.name), "data") }

// serveMax is how long a command waits for a copy to let sessions in: its recovery is over, so it starts at once.
const serveMax = 60 * time.Second

// run puts the copy into its agent's care and waits until it serves.
func (w *asWords) run(ctx context.Context, choice restore.Choice, binDir, owner string) (*standing, error) {
	who, err := ownerNamed(owner)
	if err != nil {
		return nil, err
	}
	c := restore.NewCopy(w.name, choice.Target, choice.Backup, binDir, restore.CopyFolder(w.dir, w.name), w.port, who)
	if err := c.Write(); err != nil {
		return nil, err
	}
	s := &standing{Name: c.Name, Host: w.host, Address: net.JoinHostPort(restore.Address, strconv.Itoa(c.Port)), Socket: c.Socket(), superuser: c.Superuser, port: c.Port}
	s.Serves = awaitCopy(ctx, c)
	return s, nil
}

func awaitCopy(ctx context.Context, c restore.Copy) bool {
	ctx, cancel := context.WithTimeout(ctx, serveMax)
	defer cancel()
	for c.Answers(ctx) != nil {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(200 * time.Millisecond):
		}
	}
	return true
}

func (s *standing) write(out io.Writer, o restoredDatabase) error {
	state := "It serves now"
	if !s.Serves {
		state = "It does not serve yet: the agent of " + s.Host + " starts it; see holdfast status"
	}
	_, err := fmt.Fprintf(out, `restored %s at %s as %s in %s
  from base backup %s (%s) and %s of log
  %s, on %s of host %s, for the roles and passwords of that moment. As its superuser:
    psql "host=%s port=%d user=%s dbname=postgres"
  It archives nothing and nobody follows it. Stop it, and with --remove delete it:
    holdfast restore stop %s
`, o.Database, o.At, s.Name, tookText(time.Duration(o.Took)), o.Backup.ID, sizeText(o.Backup.Bytes), sizeText(o.Log),
		state, s.Address, s.Host, s.Socket, s.port, s.superuser, s.Name)
	return err
}

func ownerNamed(name string) (restore.Owner, error) {
	if name != "" {
		return restore.LookupOwner(name)
	}
	return restore.DefaultOwner()
}

// hostCopy is a restored copy with its host.
type hostCopy struct {
	restore.Copy
	host, dir string
}

// copies are the restored copies of all hosts that have their data on this machine.
func (a application) copies() ([]hostCopy, error) {
	var out []hostCopy
	for _, h := range a.plan.AllHosts() {
		dir := host.CopiesDir(local.HostDir(a.Root, h.Name))
		list, err := restore.ReadCopies(dir)
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			out = append(out, hostCopy{c, h.Name, dir})
		}
	}
	return out, nil
}

func (a application) copyNamed(name string) (hostCopy, error) {
	all, err := a.copies()
	if err != nil {
		return hostCopy{}, err
	}
	var names []string
	for _, c := range all {
		if c.Name == name {
			return c, nil
		}
		names = append(names, c.Name)
	}
	there := "there is none"
	if len(names) > 0 {
		there = "there are " + strings.Join(names, ", ")
	}
	return hostCopy{}, &problem.Problem{Code: "restore.no-copy", Subject: name, Severity: problem.Note, Title: "no restored copy of that name is on this machine; " + there,
		Meaning: "Nothing was changed.", Remedy: "see where it runs: holdfast status; give the command there"}
}

func restoreStopCommand() *cobra.Command {
	var root string
	var remove, yes bool
	cmd := &cobra.Command{
		Use:   "stop COPY",
		Short: "Stop a restored copy that runs under a name of its own, and with --remove delete it",
		Long: `Ends the server of a copy that holdfast restore database NAME --as COPY made; it stays stopped until holdfast restore
start COPY. The live database is another and is not touched. Give it on the machine where the copy runs.`,
		Example: `  holdfast restore stop records-before
  holdfast restore stop records-before --remove`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := findApplication(cmd, root)
			if err != nil {
				return err
			}
			c, err := a.copyNamed(args[0])
			if err != nil {
				return err
			}
			if remove && !yes {
				if ok, err := confirm(cmd, fmt.Sprintf("Stop %s, a copy of %s at %s, and DELETE its data?", c.Name, c.Of, c.At)); err != nil || !ok {
					return err
				}
			}
			if err := c.stop(cmd.Context(), remove); err != nil {
				return err
			}
			text := c.Name + " is stopped; its data stay in " + c.Folder
			if remove {
				text = c.Name + " is stopped and deleted"
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().BoolVar(&remove, "remove", false, "delete its data too")
	cmd.Flags().BoolVar(&yes, "yes", false, "with --remove: do not ask")
	return cmd
}

// stop ends a copy while its agent does not look.
func (c hostCopy) stop(ctx context.Context, remove bool) error {
	unlock, err := restore.LockCopies(ctx, c.dir)
	if err != nil {
		return err
	}
	defer unlock()
	c.Run = false
	if err := c.Write(); err != nil {
		return err
	}
	if err := host.StopCopy(ctx, c.Copy); err != nil {
		return err
	}
	if remove {
		return c.Remove()
	}
	return nil
}

func restoreStartCommand() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:     "start COPY",
		Short:   "Let a restored copy that was stopped run again",
		Example: `  holdfast restore start records-before`,
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := findApplication(cmd, root)
			if err != nil {
				return err
			}
			c, err := a.copyNamed(args[0])
			if err != nil {
				return err
			}
			c.Run = true
			if err := c.Write(); err != nil {
				return err
			}
			text := "serves on " + net.JoinHostPort(restore.Address, strconv.Itoa(c.Port))
			if !awaitCopy(cmd.Context(), c.Copy) {
				text = "does not serve yet: the agent of " + c.host + " starts it; see holdfast status"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", c.Name, text)
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	return cmd
}
