package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/durable"
	"holdfast/internal/keeper"
)

// child is one long-lived process of Holdfast's own (etcd member, listener, edge) under a keeper. It outlives
// the agent; when it or its keeper ends without being asked to, it is started again.
type child struct {
	name  string
	verb  string // holdfast's hidden command that is its body
	dir   string // the host's directory
	exe   string
	log   *slog.Logger
	clock clock.Clock
}

// restartMax bounds the pause between two starts of a child that keeps ending.
const restartMax = 5 * time.Second

// writeSpec puts what the child is told where its command reads it.
func (c child) writeSpec(spec any) error {
	data, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return fmt.Errorf("write the orders of %s: %w", c.name, err)
	}
	if err := os.MkdirAll(filepath.Dir(specFile(c.dir, c.name)), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(specFile(c.dir, c.name), data, 0o600)
}

// run keeps the child alive until ctx ends; the child goes on after that.
func (c child) run(ctx context.Context) error {
	pause := 100 * time.Millisecond
	for {
		began := c.clock.Now()
		client, err := c.ensure(ctx)
		if err != nil {
			c.log.Warn("child not started", "child", c.name, "err", err)
		} else {
			for exit := range client.Watch(ctx) {
				c.log.Warn("child ended", "child", c.name, "reason", exit.Reason, "keeper_lost", exit.KeeperLost)
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if c.clock.Now().Sub(began) > 10*restartMax {
			pause = 100 * time.Millisecond
		}
		t := c.clock.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C():
		}
		pause = min(2*pause, restartMax)
	}
}

// ensure finds the running child or starts it.
func (c child) ensure(ctx context.Context) (*keeper.Client, error) {
	dir := keepDir(c.dir, c.name)
	client, state, err := keeper.Find(dir)
	if err != nil {
		return nil, err
	}
	switch state.Condition {
	case keeper.Alive:
		return client, nil
	case keeper.Silent, keeper.Lost:
		if err := keeper.KillTree(ctx, dir); err != nil {
			return nil, err
		}
	}
	return keeper.Launch(ctx, c.exe, keeper.Spec{
		Name: c.name, Dir: dir, Argv: []string{c.exe, c.verb, specFile(c.dir, c.name)}, Env: childEnvironment(), WorkDir: c.dir,
	})
}

// childEnvironment is what our own processes need; secrets that the agent was given by variables stay with it.
func childEnvironment() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	if level, ok := os.LookupEnv("HOLDFAST_LOG"); ok {
		env = append(env, "HOLDFAST_LOG="+level)
	}
	return env
}

// stop ends the child in good order.
func (c child) stop(ctx context.Context, grace time.Duration) error {
	client, state, err := keeper.Find(keepDir(c.dir, c.name))
	if err != nil {
		return err
	}
	switch state.Condition {
	case keeper.Alive:
		_, err = client.Stop(ctx, grace)
	case keeper.Silent, keeper.Lost:
		err = keeper.KillTree(ctx, keepDir(c.dir, c.name))
	}
	if errors.Is(err, keeper.ErrGone) {
		return nil
	}
	return err
}

func newChild(cfg Config, name, verb string) child {
	return child{name: name, verb: verb, dir: cfg.Dir, exe: cfg.Executable, log: cfg.Log, clock: clock.Real()}
}
