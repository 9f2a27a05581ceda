package host

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"holdfast/internal/database/gate"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// pathsEvery is how often a host asks its listeners which path their clients take.
const pathsEvery = 5 * time.Second

// paths watches the listeners of this host that the plan gives the kernel's path.
type paths struct {
	host *Host
	now  atomic.Pointer[[]problem.Problem]
}

func (p *paths) run(ctx context.Context) error {
	for {
		var all []problem.Problem
		for _, d := range p.host.plan().Databases {
			if d.Path != plan.PathKernel {
				continue
			}
			c := gate.Dial(gateSocket(p.host.cfg.Dir, d.Name))
			status, err := c.Status(ctx)
			_ = c.Close() // each look has a connection of its own, for it is seldom
			if err != nil {
				continue // a listener that is silent is told of elsewhere
			}
			if found := pathProblem(p.host.cfg.Self, d.Name, status); found != nil {
				all = append(all, *found)
			}
		}
		p.now.Store(&all)
		if !p.host.sleep(ctx, pathsEvery) {
			return nil
		}
	}
}

// pathProblem says that clients go through the listener though the plan asks for the kernel's path; nil = they do not.
func pathProblem(host, database string, s gate.Status) *problem.Problem {
	if s.PathReason == "" {
		return nil
	}
	return &problem.Problem{
		Code: "database.path-by-proxy", Subject: database, Severity: problem.Note,
		Title:   fmt.Sprintf("clients on %s go through the listener, not by the kernel's path", host),
		Meaning: "Every promise holds; a statement costs more processor time. The reason: " + s.PathReason,
		Remedy:  "mend what is named and restart the host, or write path: proxy in the plan",
	}
}

func (p *paths) problems() []problem.Problem {
	if all := p.now.Load(); all != nil {
		return *all
	}
	return nil
}
