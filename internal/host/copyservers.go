package host

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/keeper"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
)

// copyServers keeps the restored copies of this host running that are wanted to. The command line makes them and stops
// them, by their files: they need no agreement, for nothing else depends on them.
type copyServers struct {
	host *Host

	mu    sync.Mutex // guards what follows
	told  []agent.Restored
	ended bool // the host goes down
}

const (
	// restoredPace is how often the files are looked at.
	restoredPace = time.Second
	// restoredRetry bounds the pause between two starts of a copy that keeps ending.
	restoredRetry = time.Minute
	// restoredAnswer is how long a copy's server may take to answer before it counts as starting.
	restoredAnswer = time.Second
)

// CopiesDir is where the restored copies of a host lie.
func CopiesDir(dir string) string { return filepath.Join(dir, "restored") }

// run looks after the copies until ctx ends; they go on after that.
func (c *copyServers) run(ctx context.Context) error {
	pause, next := map[string]time.Duration{}, map[string]time.Time{}
	for c.host.sleep(ctx, restoredPace) {
		told, err := c.pass(ctx, pause, next)
		if err != nil {
			c.host.cfg.Log.Error("restored copies are not looked after", "err", err)
			continue
		}
		c.mu.Lock()
		c.told = told
		c.mu.Unlock()
		c.host.agent.Restored(told)
	}
	return nil
}

// pass looks at each copy once. A command that stops or removes one does so while nobody passes.
func (c *copyServers) pass(ctx context.Context, pause map[string]time.Duration, next map[string]time.Time) ([]agent.Restored, error) {
	dir := CopiesDir(c.host.cfg.Dir)
	unlock, err := restore.LockCopies(ctx, dir)
	if err != nil || unlock == nil {
		return nil, err
	}
	defer unlock()
	copies, err := restore.ReadCopies(dir)
	if err != nil {
		return nil, err
	}
	var told []agent.Restored
	for _, x := range copies {
		state, alive := c.look(ctx, x)
		now := c.host.clock.Now()
		switch {
		case alive:
			delete(pause, x.Name)
		case x.Run && !c.goesDown() && !now.Before(next[x.Name]):
			pause[x.Name] = min(max(2*pause[x.Name], time.Second), restoredRetry)
			next[x.Name] = now.Add(pause[x.Name])
			if err := c.start(ctx, x); err != nil {
				state = "does not start: " + firstLine(err.Error())
				c.host.cfg.Log.Error("restored copy not started", "copy", x.Name, "err", err)
			}
		}
		told = append(told, agent.Restored{Name: x.Name, Of: x.Of, At: x.At, Address: hostPort(restore.Address, x.Port), State: state, Wanted: x.Run})
	}
	return told, nil
}

func (c *copyServers) goesDown() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended || c.host.agent.Last().Facts.Stopping
}

// look says how a copy stands.
func (c *copyServers) look(ctx context.Context, x restore.Copy) (state string, alive bool) {
	_, found, err := keeper.Find(x.Keep())
	switch {
	case err != nil:
		return "not known: " + firstLine(err.Error()), true
	case found.Condition == keeper.Alive:
		limit, cancel := context.WithTimeout(ctx, restoredAnswer)
		defer cancel()
		if x.Answers(limit) == nil {
			return "serves", true
		}
		return "starts", true
	case !x.Run:
		return "stopped", false
	case found.Exit != nil:
		return "ended: " + found.Exit.Reason, false
	}
	return "does not run", false
}

func (c *copyServers) start(ctx context.Context, x restore.Copy) error {
	argv, err := x.Command()
	if err != nil {
		return err
	}
	if err := portFree(ctx, "the restored copy "+x.Name, restore.Address, x.Port); err != nil {
		return err
	}
	if err := keeper.KillTree(ctx, x.Keep()); err != nil { // what a lost keeper left
		return err
	}
	spec := keeper.Spec{
		Name: "restored-" + x.Name, Dir: x.Keep(), Argv: argv, WorkDir: "/", StopSignal: syscall.SIGINT, LogFile: filepath.Join(x.Folder, "server.log"),
		Env: []string{"PATH=" + x.BinDir + ":/usr/bin:/bin", "LC_ALL=C", "TZ=UTC", "HOME=/nonexistent"},
	}
	if x.Owner.Set {
		spec.UID, spec.GID = int(x.Owner.UID), int(x.Owner.GID)
	}
	_, err = keeper.Launch(ctx, c.host.cfg.Executable, spec)
	return err
}

// stop ends the servers of all copies, with the host; they come back with it.
func (c *copyServers) stop(ctx context.Context) error {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	dir := CopiesDir(c.host.cfg.Dir)
	unlock, err := restore.LockCopies(ctx, dir)
	if err != nil || unlock == nil {
		return err
	}
	defer unlock()
	copies, err := restore.ReadCopies(dir)
	for _, x := range copies {
		err = errors.Join(err, StopCopy(ctx, x))
	}
	return err
}

// StopCopy ends a copy's server in good order, and returns when nothing of it is left.
func StopCopy(ctx context.Context, x restore.Copy) error {
	client, found, err := keeper.Find(x.Keep())
	switch {
	case err != nil:
	case found.Condition == keeper.Alive:
		if _, err = client.Stop(ctx, stopGrace); errors.Is(err, keeper.ErrGone) {
			err = nil
		}
	case found.Condition == keeper.Silent, found.Condition == keeper.Lost:
		err = keeper.KillTree(ctx, x.Keep())
	}
	if err != nil {
		return fmt.Errorf("stop restored copy %s: %w", x.Name, err)
	}
	return nil
}

// problems are the copies that are wanted and do not run.
func (c *copyServers) problems() []problem.Problem {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []problem.Problem
	for _, x := range slices.Clone(c.told) {
		if x.Wanted && x.State != "serves" && x.State != "starts" && !strings.HasPrefix(x.State, "not known") {
			out = append(out, problem.Problem{Code: "restore.copy-down", Subject: x.Name, Severity: problem.Note, Title: "the restored copy " + x.State,
				Meaning: "The live database does not depend on it. Holdfast goes on trying to start it.",
				Remedy:  "read its server.log below restored/" + x.Name + " in the data of " + c.host.cfg.Self + ", or let go of it: holdfast restore stop " + x.Name})
		}
	}
	return out
}
