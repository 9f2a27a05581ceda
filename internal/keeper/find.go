package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Condition is what a keeper's directory shows.
type Condition string

const (
	Absent Condition = "absent" // no life was ever begun, or its start failed
	Alive  Condition = "alive"  // a keeper answers
	Silent Condition = "silent" // a keeper lives but does not answer; [KillTree] ends it
	Exited Condition = "exited" // State.Exit tells how
	Lost   Condition = "lost"   // the keeper died without a report; [KillTree] must come before a new life
)

// State is what Find found.
type State struct {
	Condition Condition
	Status    Status // Alive
	Exit      *Exit  // Exited, and Lost as far as known
}

// answerWait is how long a live keeper may take to answer before it counts as silent (DATABASE.md: 2 s).
const answerWait = 2 * time.Second

const (
	// heldFor is how late beyond that time tells that the caller stood still meanwhile, as one on a host that was held does:
	// then nobody waited for the answer.
	heldFor = 250 * time.Millisecond
	// answerAgain is what the keeper has to answer once more in that case.
	answerAgain = time.Second
)

// Find looks at dir after a restart of the caller. The client is nil unless a keeper answers.
func Find(dir string) (*Client, State, error) { return find(dir, bootClock) }

func find(dir string, now func() time.Duration) (*Client, State, error) {
	again := false
	for until := now() + answerWait; ; time.Sleep(5 * time.Millisecond) {
		held, err := lockHeld(dir)
		if err != nil {
			return nil, State{}, fmt.Errorf("find the keeper: %w", err)
		}
		if !held {
			st, err := afterwards(dir)
			return nil, st, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), max(until-now(), time.Millisecond))
		r, err := (&Client{dir: dir}).ask(ctx, request{Op: "status"})
		cancel()
		if err == nil && r.Status != nil {
			return &Client{dir: dir, life: r.Status.Life}, State{Condition: Alive, Status: *r.Status}, nil
		}
		switch late := now() - until; { // starting or leaving takes less
		case late >= heldFor && !again:
			again, until = true, now()+answerAgain
		case late >= 0:
			return nil, State{Condition: Silent}, nil
		}
	}
}

// afterwards judges a directory that no keeper holds.
func afterwards(dir string) (State, error) {
	r, err := readRecord(dir)
	if err != nil {
		return State{}, fmt.Errorf("find the keeper: %w", err)
	}
	e, err := readExit(dir)
	if err != nil {
		return State{}, fmt.Errorf("find the keeper: %w", err)
	}
	switch {
	case e != nil && (r == nil || r.Life == e.Life):
		return State{Condition: Exited, Exit: e}, nil
	case r == nil:
		return State{Condition: Absent}, nil
	}
	lost := (&Client{dir: dir, life: r.Life}).aftermath()
	boot, err := bootID()
	if err != nil {
		return State{}, fmt.Errorf("find the keeper: %w", err)
	}
	if boot != r.BootID {
		lost.TreeGone = true
		lost.Reason = "the host went down"
		return State{Condition: Exited, Exit: &lost}, nil
	}
	return State{Condition: Lost, Exit: &lost}, nil
}

// Outlived counts the processes that go on though their keeper died without a report ([Lost]): what its child had started. It ends
// none of them.
func Outlived(dir string) (int, error) {
	r, err := readRecord(dir)
	if err != nil || r == nil {
		return 0, err
	}
	if boot, err := bootID(); err != nil || boot != r.BootID {
		return 0, err
	}
	left, err := leftovers(*r, r.cgroup())
	if err != nil {
		return 0, fmt.Errorf("look what outlived the keeper of %s: %w", dir, err)
	}
	return len(left), nil
}

// KillTree ends what a dead or silent keeper left behind: the keeper itself, then everything of its child's
// tree. It returns when nothing is left, with exit.json written, so that a new life may begin. It is harmless
// where nothing is left.
func KillTree(ctx context.Context, dir string) error {
	r, err := readRecord(dir)
	if err != nil {
		return fmt.Errorf("kill the tree of %s: %w", dir, err)
	}
	if r == nil {
		return nil
	}
	boot, err := bootID()
	if err != nil {
		return fmt.Errorf("kill the tree of %s: %w", dir, err)
	}
	if boot == r.BootID {
		if err := endKeeper(ctx, *r); err != nil {
			return fmt.Errorf("kill the tree of %s: %w", dir, err)
		}
	}
	lock, err := lockWhenFree(ctx, dir)
	if err != nil {
		return fmt.Errorf("kill the tree of %s: %w", dir, err)
	}
	defer func() { _ = lock.Close() }() // nothing was written
	// A new life may have begun and ended, or another caller may have done all this, before the lock was ours.
	now, err := readRecord(dir)
	if err != nil || now == nil || now.Life != r.Life {
		return err
	}
	if boot == r.BootID {
		if err := endLeftovers(ctx, *now); err != nil {
			return fmt.Errorf("kill the tree of %s: %w", dir, err)
		}
	}
	c := &Client{dir: dir, life: r.Life}
	exit := c.aftermath()
	if !exit.KeeperLost {
		return nil // it left its report
	}
	exit.TreeGone = true
	return writeExit(dir, exit)
}

func lockWhenFree(ctx context.Context, dir string) (*os.File, error) {
	for {
		lock, err := takeLock(dir)
		if !errors.Is(err, ErrRunning) {
			return lock, err
		}
		if err := waitFree(ctx, dir); err != nil {
			return nil, err
		}
	}
}

// endKeeper stops a keeper that still lives, ends its tree while nobody can leave it (all descendants stay
// below a living subreaper), and only then kills the keeper.
func endKeeper(ctx context.Context, r record) error {
	if !r.Keeper.alive() {
		return nil
	}
	if err := signalProcess(r.Keeper, unix.SIGSTOP); err != nil {
		return err
	}
	t := tree{root: r.Keeper.PID, cg: r.cgroup()}
	err := untilGone(ctx, func() ([]procStat, error) {
		if err := t.kill(); err != nil {
			return nil, err
		}
		return t.below()
	})
	return errors.Join(err, signalProcess(r.Keeper, unix.SIGKILL))
}

func (r record) cgroup() *cgroup {
	if r.Cgroup == "" {
		return nil
	}
	return &cgroup{path: r.Cgroup}
}

// endLeftovers kills what outlived the keeper: the members of the cgroup, the recorded processes with whatever
// is below them, and everything that holds the output pipe.
func endLeftovers(ctx context.Context, r record) error {
	cg := r.cgroup()
	err := untilGone(ctx, func() ([]procStat, error) {
		left, err := leftovers(r, cg)
		if err != nil {
			return nil, err
		}
		if cg != nil && len(left) > 0 {
			if err := cg.kill(); err != nil {
				return nil, err
			}
		}
		for _, sig := range []unix.Signal{unix.SIGSTOP, unix.SIGKILL} { // stop all before the first dies
			for _, p := range left {
				if err := signalProcess(p.process, sig); err != nil {
					return nil, err
				}
			}
		}
		return left, nil
	})
	if err != nil || cg == nil {
		return err
	}
	return cg.remove(cgroupRemoveWait)
}

func leftovers(r record, cg *cgroup) ([]procStat, error) {
	all, err := allProcesses()
	if err != nil {
		return nil, err
	}
	byPID := make(map[int]procStat, len(all))
	for _, p := range all {
		byPID[p.PID] = p
	}
	known := pipeHolders(all, r.PipeNode, r.Keeper.Start)
	for _, was := range append(slices.Clone(r.Pids), r.Child) {
		if p, ok := byPID[was.PID]; ok && was.PID != 0 && p.Start == was.Start {
			known = append(known, p)
		}
	}
	if cg != nil {
		members, err := cg.members()
		if err != nil {
			return nil, err
		}
		for _, pid := range members {
			if p, ok := byPID[pid]; ok {
				known = append(known, p)
			}
		}
	}
	roots := make([]int, 0, len(known))
	for _, p := range known {
		roots = append(roots, p.PID)
	}
	left := append(known, descendants(all, roots...)...)
	self := os.Getpid()
	left = slices.DeleteFunc(left, func(p procStat) bool { return p.dead() || p.PID == self })
	slices.SortFunc(left, func(a, b procStat) int { return a.PID - b.PID })
	return slices.CompactFunc(left, func(a, b procStat) bool { return a.PID == b.PID }), nil
}

// untilGone repeats a round of killing, which returns what it still saw, until it saw nothing.
func untilGone(ctx context.Context, round func() ([]procStat, error)) error {
	gap := killRoundMin
	for {
		left, err := round()
		if err == nil && len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%d processes still live: %w", len(left), context.Cause(ctx)), err)
		case <-time.After(gap):
		}
		gap = min(2*gap, killRoundMax)
	}
}
