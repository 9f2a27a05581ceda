// Package process runs service instances as processes of this host, each under a keeper of its own, so that they
// outlive the agent. An instance's directory is BASE/SERVICE/ID: instance.json, the keeper's files, and the log.
package process

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/keeper"
	"holdfast/internal/service"
)

const (
	instanceName = "instance.json"
	logName      = "output.log"

	// orderWait bounds what is handed to a keeper that answers at once or not at all.
	orderWait = 2 * time.Second
	// endSlack is what a stop may take beyond its grace, for a tree that dies slowly.
	endSlack = 30 * time.Second
)

// Runtime is service.Runtime on keepers. Close it, or the stops under way are not waited for.
type Runtime struct {
	base       string
	executable string
	host       string

	ctx    context.Context // ends with Close: only the waiting for stops, never the stops themselves
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex             // guards what follows
	locks map[string]*sync.Mutex // by ID: one start or forget at a time
	ends  map[string]bool        // by ID: a stop is waited for
}

// New gives the runtime of one host. executable is run as `executable keeper SPEC`. Log limits are the keeper's
// defaults.
func New(base, executable, host string) (*Runtime, error) {
	if !filepath.IsAbs(base) || executable == "" || host == "" {
		return nil, fmt.Errorf("open the process runtime: base %q must be absolute, executable %q and host %q given", base, executable, host)
	}
	if err := os.MkdirAll(base, 0o700); err != nil {
		return nil, fmt.Errorf("open the process runtime: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Runtime{
		base: base, executable: executable, host: host, ctx: ctx, cancel: cancel,
		locks: make(map[string]*sync.Mutex), ends: make(map[string]bool),
	}, nil
}

// Close waits for this runtime's goroutines. Instances run on, and stops already asked for take their course.
func (r *Runtime) Close() error {
	r.cancel()
	r.wg.Wait()
	return nil
}

// kept is instance.json: what a later agent must know. Secrets and the environment are not in it.
type kept struct {
	ID      string `json:"id"`
	Service string `json:"service"`
	Host    string `json:"host"`
	Version string `json:"version"`
}

func (r *Runtime) dir(svc, id string) string { return filepath.Join(r.base, svc, id) }

// LogFile is where an instance's output is; older parts are beside it with .1, .2 and so on.
func (r *Runtime) LogFile(svc, id string) string { return filepath.Join(r.dir(svc, id), logName) }

// lock gives one instance's mutex, held.
func (r *Runtime) lock(id string) *sync.Mutex {
	r.mu.Lock()
	m := r.locks[id]
	if m == nil {
		m = new(sync.Mutex)
		r.locks[id] = m
	}
	r.mu.Unlock()
	m.Lock()
	return m
}

// find gives the directory of an instance; "" when it is not here.
func (r *Runtime) find(id string) (string, error) {
	if err := service.CheckID(id); err != nil {
		return "", err
	}
	services, err := os.ReadDir(r.base)
	if err != nil {
		return "", fmt.Errorf("find instance %s: %w", id, err)
	}
	for _, s := range services {
		dir := r.dir(s.Name(), id)
		_, err := os.Stat(filepath.Join(dir, instanceName))
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("find instance %s: %w", id, err)
		}
	}
	return "", nil
}

// Observe implements service.Runtime.
func (r *Runtime) Observe(ctx context.Context) ([]service.Observed, error) {
	files, err := filepath.Glob(filepath.Join(r.base, "*", "*", instanceName))
	if err != nil {
		return nil, fmt.Errorf("observe instances: %w", err)
	}
	all := make([]service.Observed, 0, len(files))
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("observe instances: %w", err)
		}
		data, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue // forgotten meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("observe instances: %w", err)
		}
		var k kept
		if err := json.Unmarshal(data, &k); err != nil {
			return nil, fmt.Errorf("observe instances: read %s: %w", f, err)
		}
		o, err := observe(filepath.Dir(f), k)
		if err != nil {
			return nil, fmt.Errorf("observe instance %s: %w", k.ID, err)
		}
		all = append(all, o)
	}
	slices.SortFunc(all, func(a, b service.Observed) int { return cmp.Compare(a.ID, b.ID) })
	return all, nil
}

func observe(dir string, k kept) (service.Observed, error) {
	o := service.Observed{ID: k.ID, Service: k.Service, Host: k.Host, Version: k.Version}
	_, st, err := keeper.Find(dir)
	if err != nil {
		return o, err
	}
	switch st.Condition {
	case keeper.Alive:
		o.State, o.Life, o.Age, o.PID, o.Deadline = service.Running, st.Status.Life, st.Status.Age, st.Status.PID, st.Status.Armed
		if st.Status.Phase != keeper.Running {
			o.State = service.Stopping
		}
	case keeper.Exited:
		o.State, o.Life, o.Why, o.Fenced = service.Exited, st.Exit.Life, st.Exit.Reason, st.Exit.Fenced
		o.Age = max(time.Since(st.Exit.Ended), 0) // wall clock; a jump only shifts when a restart is due
	case keeper.Absent: // accepted, but its start failed or was cut short
		o.State, o.Why = service.Exited, "its start failed"
		o.Life = "unstarted"
		if info, err := os.Stat(filepath.Join(dir, instanceName)); err == nil {
			o.Age = max(time.Since(info.ModTime()), 0)
			o.Life += info.ModTime().Format(".150405.000000000") // each try counts
		}
	default:
		o.State, o.Why = service.Unknown, "its keeper is "+string(st.Condition)
	}
	return o, nil
}

// Start implements service.Runtime. An error after the acceptance (a program that is not there) leaves an
// exited instance, which Observe shows.
func (r *Runtime) Start(ctx context.Context, in service.Instance) error {
	if err := errors.Join(service.CheckID(in.ID), service.CheckID(in.Service)); err != nil {
		return fmt.Errorf("start instance %q: %w", in.ID, err)
	}
	defer r.lock(in.ID).Unlock()
	dir := r.dir(in.Service, in.ID)
	_, st, err := keeper.Find(dir)
	if err != nil {
		return fmt.Errorf("start instance %s: %w", in.ID, err)
	}
	switch st.Condition {
	case keeper.Alive:
		return nil
	case keeper.Silent, keeper.Lost:
		return fmt.Errorf("start instance %s: its keeper is %s, stop it first", in.ID, st.Condition)
	}
	spec := keeper.Spec{
		Name: in.ID, Dir: dir, Argv: in.Argv, Env: in.Env, WorkDir: in.WorkDir, UID: in.UID, GID: in.GID,
		LogFile: filepath.Join(dir, logName),
		Fence:   &keeper.Fence{}, // not armed: the plan may make a singleton of what is one of several now
	}
	if in.Deadline > 0 {
		left := in.Deadline - time.Since(in.Confirmed)
		if left <= 0 {
			return fmt.Errorf("start instance %s, confirmed %v ago for %v: %w", in.ID, in.Deadline-left, in.Deadline, service.ErrDeadlinePassed)
		}
		spec.Fence = &keeper.Fence{First: left}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("start instance %s: %w", in.ID, err)
	}
	data, err := json.Marshal(kept{ID: in.ID, Service: in.Service, Host: r.host, Version: in.Version})
	if err != nil {
		return fmt.Errorf("start instance %s: %w", in.ID, err)
	}
	if err := durable.WriteFile(filepath.Join(dir, instanceName), data, 0o600); err != nil {
		return fmt.Errorf("start instance %s: %w", in.ID, err)
	}
	if _, err := keeper.Launch(ctx, r.executable, spec); err != nil {
		return fmt.Errorf("start instance %s: %w", in.ID, err)
	}
	return nil
}

// Stop implements service.Runtime. What a dead or silent keeper left is killed without grace.
func (r *Runtime) Stop(_ context.Context, id string, grace time.Duration) error {
	dir, err := r.find(id)
	if err != nil || dir == "" {
		return err
	}
	c, st, err := keeper.Find(dir)
	if err != nil {
		return fmt.Errorf("stop instance %s: %w", id, err)
	}
	switch st.Condition {
	case keeper.Alive:
		r.waitFor(id, grace+endSlack, func(ctx context.Context) { _, _ = c.Stop(ctx, grace) }) // Observe tells how it went
	case keeper.Silent, keeper.Lost:
		r.waitFor(id, endSlack, func(ctx context.Context) { _ = keeper.KillTree(ctx, dir) }) // as above
	}
	return nil
}

// waitFor runs one ending of an instance at a time, in a goroutine that Close waits for.
func (r *Runtime) waitFor(id string, limit time.Duration, end func(ctx context.Context)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ends[id] || r.ctx.Err() != nil {
		return
	}
	r.ends[id] = true
	r.wg.Go(func() {
		ctx, cancel := context.WithTimeout(r.ctx, limit)
		defer cancel()
		end(ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.ends, id)
	})
}

// Extend implements service.Runtime. Deadlines of instances carry no epoch: an instance's ID is never given
// again, which does the same.
func (r *Runtime) Extend(ctx context.Context, id string, sentAt time.Time, d time.Duration) error {
	dir, err := r.find(id)
	if err != nil {
		return err
	}
	if dir == "" {
		return fmt.Errorf("extend instance %s: %w", id, service.ErrNotRunning)
	}
	c, st, err := keeper.Find(dir)
	if err != nil {
		return fmt.Errorf("extend instance %s: %w", id, err)
	}
	if st.Condition != keeper.Alive {
		return fmt.Errorf("extend instance %s: its keeper is %s: %w", id, st.Condition, service.ErrNotRunning)
	}
	ctx, cancel := context.WithTimeout(ctx, orderWait)
	defer cancel()
	err = c.Extend(ctx, 0, sentAt, d)
	if errors.Is(err, keeper.ErrFenced) {
		return fmt.Errorf("extend instance %s: %w", id, errors.Join(service.ErrDeadlinePassed, err))
	}
	if err != nil {
		return fmt.Errorf("extend instance %s: %w", id, err)
	}
	return nil
}

// Forget implements service.Runtime.
func (r *Runtime) Forget(_ context.Context, id string) error {
	defer r.lock(id).Unlock()
	dir, err := r.find(id)
	if err != nil || dir == "" {
		return err
	}
	_, st, err := keeper.Find(dir)
	if err != nil {
		return fmt.Errorf("forget instance %s: %w", id, err)
	}
	if st.Condition != keeper.Exited && st.Condition != keeper.Absent {
		return fmt.Errorf("forget instance %s: its keeper is %s, not ended", id, st.Condition)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("forget instance %s: %w", id, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.locks, id)
	return nil
}

// Watch tells when an instance that runs now ends, by closing the channel; nil when it does not run. It ends
// with ctx.
func (r *Runtime) Watch(ctx context.Context, id string) (<-chan keeper.Exit, error) {
	dir, err := r.find(id)
	if err != nil || dir == "" {
		return nil, err
	}
	c, st, err := keeper.Find(dir)
	if err != nil || st.Condition != keeper.Alive {
		return nil, err
	}
	return c.Watch(ctx), nil
}
