package host

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"holdfast/internal/durable"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// applied is the plan that counts: the one that this host was started with, and over it what was applied to the
// running application since ([plan.Plan.Overlay]). What was applied last is kept beside the host's data, so that a host
// that starts without the others goes on as it was, and not by an older file.
//
// The list of hosts is that of the beginning of a life of the agent: ports are listened on, peers dialled and servers
// opened by it. Another list is taken over by the next life (see hosts.go).
type applied struct {
	self    string
	start   *plan.Plan                  // with the list of hosts that this life of the agent has
	listed  []byte                      // the text that the list is from; nil = the file's own
	prepare func(*plan.Plan) *plan.Plan // nil = as parsed
	keep    string                      // file of the text that was applied last; "" = it is not kept
	log     *slog.Logger
	begun   string // hash of the plan that counted when this host began

	mu    sync.Mutex // guards what follows
	now   *plan.Plan
	hash  string
	text  string // that was applied last; "" = none
	kept  string // what of that lies beside the data
	first bool   // nothing was adopted yet
	stale bool   // the file that this host was started with says otherwise than what was applied before

	wanted *plan.Plan // what was adopted last, with its own list of hosts; nil = nothing yet
}

func appliedFile(dir string) string { return filepath.Join(dir, "applied.yaml") }

// newApplied begins with what was applied in an earlier life of the host.
func newApplied(cfg Config) *applied {
	a := &applied{self: cfg.Self, start: cfg.Plan, prepare: cfg.Prepare, keep: appliedFile(cfg.Dir), log: cfg.Log, now: cfg.Plan, hash: canonicalHash(cfg.Plan, nil, nil), first: true}
	if cfg.former != nil { // another life of the same process: what file it was started with was judged in the first
		a.first, a.stale = cfg.former.first, cfg.former.stale
	}
	text, err := os.ReadFile(a.keep)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		a.log.Warn("plan of before not read: this host begins with its file", "err", err)
	default:
		if p := a.parse(text); p != nil {
			a.start, a.listed = a.start.WithHosts(p), text
			a.now, a.hash, a.text, a.kept = a.start.Overlay(p), canonicalHash(a.start, text, text), string(text), string(text)
		}
	}
	a.begun = a.hash
	return a
}

// parse reads an applied text as this host runs it; nil = it is no plan.
func (a *applied) parse(text []byte) *plan.Plan {
	p, mistakes := plan.Parse(a.start.File, text)
	if p == nil {
		a.log.Warn("applied plan not understood", "mistake", mistakes[0].Error())
		return nil
	}
	if a.prepare != nil {
		p = a.prepare(p)
	}
	return p
}

// plan is the plan that counts now.
func (a *applied) plan() *plan.Plan {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now
}

// named is the hash of the plan that counts now.
func (a *applied) named() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hash
}

// adopt reads a plan that was applied. A text that is no plan changes nothing: the API refuses such, so another
// version wrote it. It does not touch the disk: see [applied.store].
func (a *applied) adopt(text []byte) (*plan.Plan, string) {
	p := a.parse(text)
	a.mu.Lock()
	defer a.mu.Unlock()
	if p == nil {
		return a.now, a.hash
	}
	a.now, a.hash = a.start.Overlay(p), canonicalHash(a.start, a.listed, text)
	a.wanted = a.start.WithHosts(p)
	if a.first {
		a.stale = canonicalHash(a.start, text, text) != canonicalHash(a.start, nil, nil)
	}
	a.first = false
	a.text = string(text)
	a.log.Info("plan taken over", "plan", a.hash)
	return a.now, a.hash
}

// store lays the text that was applied last beside the data, where it does not lie yet. One caller alone: else an older
// text could replace a newer one.
func (a *applied) store() error {
	a.mu.Lock()
	text, kept := a.text, a.kept
	leaves := a.wanted != nil && !hasHost(a.wanted, a.self)
	a.mu.Unlock()
	if text == kept || a.keep == "" || leaves { // whoever leaves does so by the plan that had it, until it has left
		return nil
	}
	return a.storeText(text)
}

func (a *applied) storeText(text string) error {
	if err := durable.WriteFile(a.keep, []byte(text), 0o600); err != nil {
		return fmt.Errorf("keep the applied plan: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kept = text
	return nil
}

// replaces reports whether the text that this host was started with may stand in place of the agreed one: it says
// the same of all that is changed by applying.
func (a *applied) replaces(agreed []byte) bool {
	p, _ := plan.Parse(a.start.File, agreed)
	return p != nil && canonicalHash(a.start, agreed, agreed) == canonicalHash(a.start, nil, nil)
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
		Title:   "the plan file says otherwise about what can be applied than the plan that was applied last",
		Meaning: "The applied plan counts for hosts, services, databases and backups. Holdfast's own ports and vaults are as the file says.",
		Remedy:  "see the difference and apply the file: holdfast apply PLAN --dry-run",
	}}
}

// planHash names a plan, so that hosts with different ones are seen.
func planHash(p *plan.Plan) string { return canonicalHash(p, nil, nil) }

// canonicalHash names what a plan says with the hosts of one text, and another text applied over it; nil = none. It is made
// from texts alone, so that hosts with other roots and addresses come to the same.
func canonicalHash(start *plan.Plan, listed, over []byte) string {
	const anywhere = "/plan/holdfast.yaml"
	said := start.Source
	if p, _ := plan.Parse(anywhere, start.Source); p != nil {
		if l, _ := plan.Parse(anywhere, listed); listed != nil && l != nil {
			p = p.WithHosts(l)
		}
		if o, _ := plan.Parse(anywhere, over); over != nil && o != nil {
			p = p.Overlay(o)
		}
		if shown, err := p.Show(); err == nil { // what cannot be shown is told apart by its text
			said = shown
		}
	}
	sum := sha256.Sum256(said)
	return hex.EncodeToString(sum[:6])
}
