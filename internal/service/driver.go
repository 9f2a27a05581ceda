package service

import (
	"context"
	"errors"
	"strings"
	"time"
)

// Environment is a list of NAME=value with secrets inside. Every way of printing it gives a placeholder.
type Environment []string

func (e Environment) String() string { return "(environment)" }

// GoString hides the values as String does.
func (e Environment) GoString() string { return e.String() }

// MarshalText hides the values, so that JSON never holds them.
func (e Environment) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// Instance is everything that is needed to run one instance on one host.
type Instance struct {
	ID      string
	Service string
	Host    string
	Version string
	Argv    []string
	Env     Environment
	WorkDir string
	Address string // ${host.address}
	Port    int    // 0 = does not listen
	UID     int    // 0 = as the agent
	GID     int
	// Deadline makes it a fenced singleton: its keeper ends it unless it is extended. 0 = none.
	Deadline time.Duration
	// Confirmed is when the request was sent whose answer said that it may run here: the first deadline counts
	// from then, however long the start takes. Only with Deadline.
	Confirmed time.Time
}

// RunState is what a runtime sees of an instance.
type RunState string

const (
	Running  RunState = "running"
	Stopping RunState = "stopping" // asked to end
	Exited   RunState = "exited"   // nothing of its process tree is left
	Unknown  RunState = "unknown"  // its keeper died or does not answer: Stop makes it Exited
)

// Observed is one instance as its runtime sees it now.
type Observed struct {
	ID      string
	Service string
	Host    string
	Version string
	State   RunState
	Life    string        // differs from start to start
	Age     time.Duration // since the start, or since the end when Exited
	PID     int
	Why     string // how it ended
	Fenced  bool   // ended because its deadline passed

	Deadline bool // it runs with a deadline
}

// ErrDeadlinePassed: the confirmation is too old to start or extend a fenced instance.
var ErrDeadlinePassed = errors.New("the deadline has passed")

// ErrNotRunning: the runtime runs no such instance.
var ErrNotRunning = errors.New("no such instance runs")

// Runtime starts and stops service instances on one host. Every method is idempotent and returns once the work
// is accepted: the outcome is learnt from Observe. Callers retry; implementations do not. An instance that was
// accepted and not yet forgotten is always in Observe's answer, also after a restart of the caller.
type Runtime interface {
	// Observe lists every instance known here, sorted by ID. An error means that nothing is known, not that
	// nothing runs.
	Observe(ctx context.Context) ([]Observed, error)
	// Start is a no-op for an instance that runs, and begins a new life for one that exited. It refuses while the
	// state is Unknown, and with ErrDeadlinePassed when Confirmed is older than Deadline.
	Start(ctx context.Context, in Instance) error
	// Stop asks the instance to end, and kills its whole tree after grace. What is not there is stopped already.
	Stop(ctx context.Context, id string, grace time.Duration) error
	// Extend moves the deadline of a fenced instance to d after sentAt; it never shortens it.
	Extend(ctx context.Context, id string, sentAt time.Time, d time.Duration) error
	// Forget removes what is kept of an exited instance, its log too. It refuses one that is not Exited.
	Forget(ctx context.Context, id string) error
}

// CheckID refuses an ID that could leave a runtime's directory.
func CheckID(id string) error {
	if id == "" || strings.HasPrefix(id, ".") || strings.ContainsAny(id, "/\x00") {
		return errors.New("check the instance's id: empty, begins with a dot or has a slash")
	}
	return nil
}
