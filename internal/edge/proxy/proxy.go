// Package proxy is the balancer that runs on a host: it listens where the routes say and leads each request
// to a backend that [holdfast/internal/edge] picks. It is the body of `holdfast edge SPECFILE`, a process of
// its own under a keeper: while the agent is away it goes on with the last snapshot it was given, and a
// restarted one begins with it.
//
// Start at [Main]. edge.go swaps snapshots; table.go is what one becomes; ports.go opens and closes
// listeners; forward.go takes a client's request in and tries.go gets it answered; tcp.go is the same for
// bare connections; backend.go and checks.go know how a backend is; control.go and client.go are the
// private Unix socket.
package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/event"
)

// Spec is the file that `holdfast edge` is started with.
type Spec struct {
	Host          string         `json:"host"`
	Control       string         `json:"control"`                  // path of the Unix socket; its folder should be private
	StateFile     string         `json:"state_file"`               // where the last snapshot is kept
	Grace         event.Duration `json:"grace,omitempty"`          // for requests under way when the edge ends (default 10 s)
	AnswerTimeout event.Duration `json:"answer_timeout,omitempty"` // until an answer begins (default 60 s)
}

const (
	defaultGrace         = 10 * time.Second
	defaultAnswerTimeout = time.Minute
)

// ReadSpec reads a spec file.
func ReadSpec(path string) (Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Spec{}, fmt.Errorf("read edge spec: %w", err)
	}
	var s Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return Spec{}, fmt.Errorf("read edge spec %s: %w", path, err)
	}
	return s, nil
}

// Config is a spec and what only code can give.
type Config struct {
	Spec
	Log   *slog.Logger
	Clock clock.Clock // nil = the machine's
	Seed  uint64      // of the dice that choose among equals
}

func (c *Config) fill() error {
	var errs []error
	if c.Control == "" || c.StateFile == "" {
		errs = append(errs, errors.New("edge spec: control and state_file are needed"))
	}
	if c.Grace < 0 || c.AnswerTimeout < 0 {
		errs = append(errs, errors.New("edge spec: a time is negative"))
	}
	if c.Log == nil {
		errs = append(errs, errors.New("edge: a logger is missing"))
	}
	orDefault(&c.Grace, defaultGrace)
	orDefault(&c.AnswerTimeout, defaultAnswerTimeout)
	if c.Clock == nil {
		c.Clock = clock.Real()
	}
	return errors.Join(errs...)
}

// Main runs the edge of specFile until ctx ends, and returns when its last request has.
func Main(ctx context.Context, specFile string, log *slog.Logger) error {
	spec, err := ReadSpec(specFile)
	if err != nil {
		return err
	}
	return Run(ctx, Config{Spec: spec, Log: log, Seed: uint64(time.Now().UnixNano())})
}
