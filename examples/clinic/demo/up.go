package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/api"
	"holdfast/internal/auth"
	"holdfast/internal/local"
)

// endMax is how long `holdfast up` may take to end everything in good order.
const endMax = 90 * time.Second

// upProcess is `holdfast up`, a child in a session of its own: a Ctrl-C of this terminal reaches only the demo,
// which ends it in order, and with -keep it goes on when the terminal is gone.
type upProcess struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has
	err   error         // how it ended; read after that
}

func (d *demo) startUp() error {
	log, err := os.OpenFile(d.place.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer func() { _ = log.Close() }() // the child has its own copy
	cmd := exec.Command(d.opt.holdfast, "up", "--root", d.place.root(), d.place.planFile())
	cmd.Env = append(os.Environ(), mark(d.place.work))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start holdfast up: %w", err)
	}
	up := &upProcess{cmd: cmd, ended: make(chan struct{})}
	go func() { // ends with the process, which endUp waits for; with -keep both outlive the story
		up.err = cmd.Wait()
		close(up.ended)
	}()
	d.up = up
	return nil
}

// connect makes the operator's client, as soon as `up` has made the certificates.
func (d *demo) connect(ctx context.Context) error {
	return until(ctx, wholeMax, "holdfast up has made the certificates", func() (bool, error) {
		select {
		case <-d.up.ended:
			return true, d.upGone()
		default:
		}
		where, err := local.ReadContext(d.place.root())
		if err != nil {
			return false, err
		}
		conf, err := auth.ClientTLS(local.AdminDir(d.place.root()), "")
		if err != nil {
			return false, err
		}
		var agents []string
		for _, h := range d.plan.AllHosts() {
			agents = append(agents, where.Agents[h.Name])
		}
		d.agents = api.NewClient(agents, conf)
		return true, nil
	})
}

// upGone is why nothing can be waited for any more.
func (d *demo) upGone() error {
	return fmt.Errorf("holdfast up ended, and nobody asked it to (%s); its last words:\n  %s", d.up.cmd.ProcessState, d.place.lastWords())
}

// endUp ends everything in good order; when patience ends before that, or the time is up, by force.
func (d *demo) endUp(patience context.Context) error {
	if d.agents != nil {
		d.agents.Close()
	}
	if d.up == nil {
		return nil
	}
	var errs []error
	if err := d.up.cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		errs = append(errs, err)
	}
	patience, cancel := context.WithTimeout(patience, endMax)
	defer cancel()
	select {
	case <-d.up.ended:
		if d.up.err != nil {
			errs = append(errs, fmt.Errorf("holdfast up: %w; its last words:\n  %s", d.up.err, d.place.lastWords()))
		}
	case <-patience.Done():
		errs = append(errs, fmt.Errorf("end in good order: %w", patience.Err()))
	}
	left, err := d.ours()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	if len(left) > 0 {
		errs = append(errs, fmt.Errorf("%d processes were left and had to be killed: %s", len(left), names(left)))
		force, stop := context.WithTimeout(context.WithoutCancel(patience), 10*time.Second)
		defer stop()
		_, err := killAll(force, func(all []process) []process { return ofDemo(all, d.place.work, os.Getpid()) })
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ours lists the processes of this demo, `up` included and the demo itself apart.
func (d *demo) ours() ([]process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	return ofDemo(all, d.place.work, os.Getpid()), nil
}

// names tells processes in a line.
func names(list []process) string {
	var out []string
	for _, p := range list {
		line := strings.Join(p.argv, " ")
		out = append(out, fmt.Sprintf("%d %.60s", p.pid, line))
	}
	return strings.Join(out, "; ")
}

// lastWords are the last lines of the log.
func (p place) lastWords() string {
	text, err := os.ReadFile(p.log())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n  ")
}

// command shows a command as a person would type it, runs it, and returns what it printed.
func (d *demo) command(ctx context.Context, args ...string) (string, error) {
	d.say.command(shown(args))
	return d.quietly(ctx, args...)
}

// shown is a command of holdfast as a shell takes it.
func shown(args []string) string {
	line := "holdfast"
	for _, a := range args {
		if strings.ContainsAny(a, " '$") {
			a = strconv.Quote(a)
		}
		line += " " + a
	}
	return line
}

// quietly runs a command of holdfast on this demo's root.
func (d *demo) quietly(ctx context.Context, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, d.opt.holdfast, args...)
	cmd.Env = append(os.Environ(), "HOLDFAST_ROOT="+d.place.root(), mark(d.place.work))
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is told by ctx
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("holdfast %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}
