package keeper

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// tree is everything below one process, whether in its cgroup or not. Processes that detach themselves
// (double fork, setsid) stay below a keeper because it is a child subreaper.
type tree struct {
	root int     // the keeper
	cg   *cgroup // nil = by /proc alone
}

// freezeWait bounds how long a freeze waits for the kernel: a member in an uninterruptible system call delays
// it, and the kill that follows does not need it.
const freezeWait = 50 * time.Millisecond

func (t tree) below() ([]procStat, error) {
	all, err := allProcesses()
	if err != nil {
		return nil, err
	}
	return descendants(all, t.root), nil
}

// freeze stops everything: the cgroup at one stroke, the rest by repeated SIGSTOP until a pass finds nobody
// running, since a process may fork between the look and the signal.
func (t tree) freeze() error {
	var errs []error
	if t.cg != nil {
		errs = append(errs, t.cg.freeze(freezeWait))
	}
	inside := t.insideCgroup()
	for until := bootClock() + freezeWait; bootClock() < until; {
		ps, err := t.below()
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		running := 0
		for _, p := range ps {
			if p.stopped() || inside[p.PID] {
				continue
			}
			running++
			errs = append(errs, signalProcess(p.process, unix.SIGSTOP))
		}
		if running == 0 {
			break
		}
	}
	return errors.Join(errs...)
}

// insideCgroup lists what the cgroup holds: frozen there, it needs no signal.
func (t tree) insideCgroup() map[int]bool {
	in := make(map[int]bool)
	if t.cg == nil {
		return in
	}
	pids, err := t.cg.members()
	if err != nil {
		return in // then they get a signal as well, which does no harm
	}
	for _, pid := range pids {
		in[pid] = true
	}
	return in
}

func (t tree) thaw() error {
	var errs []error
	if t.cg != nil {
		errs = append(errs, t.cg.thaw())
	}
	ps, err := t.below()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	inside := t.insideCgroup()
	for _, p := range ps {
		// Whatever its state: one that waits for its child's exec (vfork) shows as uninterruptible, with a SIGSTOP
		// pending that only SIGCONT takes back.
		if !inside[p.PID] {
			errs = append(errs, signalProcess(p.process, unix.SIGCONT))
		}
	}
	return errors.Join(errs...)
}

// kill is one round of killing; callers repeat it until nothing is left, since a process may fork between
// the look and the signal. Without a cgroup the tree is stopped first, so that it cannot run away.
func (t tree) kill() error {
	var errs []error
	if t.cg != nil {
		errs = append(errs, t.cg.kill())
	} else {
		errs = append(errs, t.freeze())
	}
	ps, err := t.below()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, p := range ps {
		errs = append(errs, signalProcess(p.process, unix.SIGKILL))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("kill the tree: %w", err)
	}
	return nil
}
