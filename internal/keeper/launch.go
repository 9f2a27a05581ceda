package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"holdfast/internal/durable"
)

// leaveWait is how long Launch waits for a keeper that has told of its end and is about to leave.
const leaveWait = 5 * time.Second

// Launch starts `executable keeper SPEC` as a session of its own and returns when the child runs. The keeper
// survives the caller. A keeper whose start failed has left nothing behind but spec.json and keeper.log.
// ErrRunning: a live keeper holds s.Dir; ErrLost: its last keeper died, [KillTree] comes first.
func Launch(ctx context.Context, executable string, s Spec) (*Client, error) {
	asked := bootClock()
	s = s.withDefaults()
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("launch keeper %s: %w", s.Name, err)
	}
	c, err := launch(ctx, executable, s, asked)
	if err != nil {
		return nil, fmt.Errorf("launch keeper %s: %w", s.Name, err)
	}
	return c, nil
}

func launch(ctx context.Context, executable string, s Spec, asked time.Duration) (*Client, error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockForLaunch(ctx, s.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Close() }() // the keeper has its own descriptor of the same lock
	lost, err := leftBehind(s.Dir)
	if err != nil {
		return nil, err
	}
	if lost {
		return nil, fmt.Errorf("use %s: %w", s.Dir, ErrLost)
	}
	spec := specFile{Spec: s, Life: newLife()}
	if s.Fence != nil && s.Fence.First > 0 {
		spec.FenceUntil = asked + s.Fence.First
	}
	data, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.Dir, specName)
	if err := durable.WriteFile(path, append(data, '\n'), 0o600); err != nil {
		return nil, err
	}
	if err := spawn(ctx, executable, path, spec, lock); err != nil {
		return nil, err
	}
	return &Client{dir: s.Dir, life: spec.Life}, nil
}

// lockForLaunch takes the lock, waiting a little for a keeper that is just leaving.
func lockForLaunch(ctx context.Context, dir string) (*os.File, error) {
	for until := bootClock() + leaveWait; ; {
		lock, err := takeLock(dir)
		if !errors.Is(err, ErrRunning) {
			return lock, err
		}
		if bootClock() >= until || !leaving(ctx, dir) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// leaving reports whether the keeper that holds dir takes no orders any more.
func leaving(ctx context.Context, dir string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	r, err := (&Client{dir: dir}).ask(ctx, request{Op: "status"})
	if err == nil {
		return r.Status != nil && r.Status.Phase == Ended
	}
	return errors.Is(err, ErrGone) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// leftBehind reports whether the last life in dir was never accounted for. The caller holds the lock, so its
// keeper is dead.
func leftBehind(dir string) (bool, error) {
	r, err := readRecord(dir)
	if err != nil || r == nil {
		return false, err
	}
	if e, err := readExit(dir); err != nil || (e != nil && e.Life == r.Life) {
		return false, err
	}
	boot, err := bootID()
	return err == nil && boot == r.BootID, err
}

// spawn starts the keeper and waits for its word that the child runs.
func spawn(ctx context.Context, executable, specPath string, spec specFile, lock *os.File) error {
	env, err := json.Marshal(spec.Env)
	if err != nil {
		return err
	}
	own, err := os.OpenFile(filepath.Join(spec.Dir, ownLogName), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = own.Close() }() // the keeper writes it, not this process
	ready, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = ready.Close() }() // read to its end, or given up
	cmd := exec.Command(executable, "keeper", specPath)
	cmd.Dir = "/" // a keeper pins no directory
	cmd.Env = append(os.Environ(), handoverEnv+"=1")
	cmd.Stdin = bytes.NewReader(env)
	cmd.Stdout, cmd.Stderr = own, own
	cmd.ExtraFiles = []*os.File{lock, tell}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = tell.Close() // the keeper has its own; with this one open the pipe would never end
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	// A child must be waited for or it stays a zombie, and a keeper lives on when its launcher's work is done:
	// this goroutine ends with the keeper, and nothing needs its result.
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	giveUp := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer giveUp()
	var word reply
	err = json.NewDecoder(ready).Decode(&word)
	if err == nil && word.Error == "" {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("await the start: %w", context.Cause(ctx))
		_ = cmd.Process.Kill() // fails only when it is gone
		<-ended
		_ = lock.Close() // so that KillTree can take it
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWait)
		defer cancel()
		return errors.Join(err, KillTree(clean, spec.Dir))
	}
	<-ended
	if err != nil {
		return fmt.Errorf("the keeper died while starting; %s ends with: %s", own.Name(), tail(own.Name(), 500))
	}
	return word.err()
}

// tail is the end of a file, at most n bytes, for an error text.
func tail(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	data = bytes.TrimSpace(data)
	if len(data) > n {
		data = data[len(data)-n:]
	}
	if len(data) == 0 {
		return "(nothing)"
	}
	return string(data)
}
