package host

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"sync"

	"holdfast/internal/database"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// applied is the plan that counts: the one that this host was started with, and over it what was applied to the
// running application since ([plan.Plan.Overlay]).
type applied struct {
	start *plan.Plan
	log   *slog.Logger

	mu    sync.Mutex // guards what follows
	now   *plan.Plan
	hash  string
	first bool // nothing was adopted yet
	stale bool // the file that this host was started with says otherwise than what was applied before
}

func newApplied(start *plan.Plan, log *slog.Logger) *applied {
	return &applied{start: start, log: log, now: start, hash: canonicalHash(start, nil), first: true}
}

// plan is the plan that counts now.
func (a *applied) plan() *plan.Plan {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now
}

// adopt reads a plan that was applied. A text that is no plan changes nothing: the API refuses such, so another
// version wrote it.
func (a *applied) adopt(text []byte) ([]database.Policy, string) {
	p, mistakes := plan.Parse(a.start.File, text)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case p == nil:
		a.log.Warn("applied plan not understood", "mistake", mistakes[0].Error())
	default:
		a.now, a.hash = a.start.Overlay(p), canonicalHash(a.start, p)
		a.stale = a.first && a.hash != canonicalHash(a.start, nil)
		a.first = false
		a.log.Info("plan taken over", "plan", a.hash)
	}
	var out []database.Policy
	for _, d := range a.now.Databases {
		out = append(out, policy(a.now, d))
	}
	return out, a.hash
}

// replaces reports whether the text that this host was started with may stand in place of the agreed one: it says
// the same of all that is changed by applying.
func (a *applied) replaces(agreed []byte) bool {
	p, _ := plan.Parse(a.start.File, agreed)
	return p != nil && canonicalHash(a.start, p) == canonicalHash(a.start, nil)
}

// problems says that this host was started with a file that was not applied.
func (a *applied) problems() []problem.Problem {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.stale {
		return nil
	}
	return []problem.Problem{{
		Code: "plan.not-applied", Subject: a.start.Application, Severity: problem.Degraded,
		Title:   "the plan file says otherwise about databases than the plan that was applied",
		Meaning: "The applied plan counts: standbys, acknowledged_by, hosts, members and policy are as it says.",
		Remedy:  "see the difference and apply the file: holdfast apply PLAN --dry-run",
	}}
}

// planHash names a plan, so that hosts with different ones are seen.
func planHash(p *plan.Plan) string { return canonicalHash(p, nil) }

// canonicalHash names what a plan says with what was applied over it. It is made from the text alone, so that hosts
// with other roots and addresses come to the same.
func canonicalHash(start, over *plan.Plan) string {
	said := start.Source
	if p, _ := plan.Parse("/plan/holdfast.yaml", start.Source); p != nil {
		if over != nil {
			p = p.Overlay(over)
		}
		if shown, err := p.Show(); err == nil { // what cannot be shown is told apart by its text
			said = shown
		}
	}
	sum := sha256.Sum256(said)
	return hex.EncodeToString(sum[:6])
}
