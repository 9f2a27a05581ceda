package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/database/gate"
	"holdfast/internal/database/postgres"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// settings brings into this host's servers what the plan changes while they run: PostgreSQL's parameters, limits, and
// where its programs lie. A reload, or a word that a restart is pending, is the judgement's; here it only becomes known.
type settings struct {
	adopted chan struct{} // fires when a plan was taken over; holds one

	mu    sync.Mutex // guards what follows
	bad   []problem.Problem
	found []problem.Problem // what cannot be had of programs and passwords

	roles map[string][]plan.Role // as each database's server has them
}

func newSettings() *settings {
	return &settings{adopted: make(chan struct{}, 1), roles: map[string][]plan.Role{}}
}

// settleAgain is how often is tried again what a disk or a folder refused.
const settleAgain = 30 * time.Second

// rulesAgain is how often is tried again to tell a server who its peers are.
const rulesAgain = 5 * time.Second

// adopt takes a plan over that was applied, and gives what rounds need to know of it. The round that calls it renews
// leases, so nothing here may wait for a disk or for a program: that is [Host.settle]'s.
func (h *Host) adopt(text []byte) agent.Adopted {
	p, hash := h.applied.adopt(text)
	h.settings.bring(p, h.servers)
	select {
	case h.settings.adopted <- struct{}{}:
	default:
	}
	out := agent.Adopted{Plan: hash, Services: h.services.policies(), Databases: []database.Policy{}}
	for _, d := range p.Databases {
		out.Databases = append(out.Databases, policy(p, d))
	}
	return out
}

// settle does, until ctx ends, what an adopted plan asks for and what may take long: its text is kept for a start without
// the others, programs are looked for where it says, and the passwords of its roles are read.
func (h *Host) settle(ctx context.Context) error {
	store := func() {
		if err := h.applied.store(); err != nil {
			h.cfg.Log.Error("applied plan not kept: a start without the others would be by the plan of before", "err", err)
		}
	}
	again := h.clock.NewTimer(settleAgain)
	defer again.Stop()
	follows := h.applied.begun
	for {
		select {
		case <-ctx.Done():
			store()
			return nil
		case <-h.settings.adopted:
		case <-again.C():
		}
		store()
		if now := h.applied.named(); now != follows {
			follows = now
			h.diary.Note("plan", h.cfg.Plan.Application, "this host follows the plan that was applied", []string{"it is plan " + now}, 0)
		}
		h.settings.find(ctx, h.plan(), h.servers)
		again.Stop()
		again.Reset(settleAgain)
	}
}

// keepRules has this host's servers let in the peers that this life of the agent has: the list of hosts may have changed
// since they were started. It is over once each has.
func (h *Host) keepRules(ctx context.Context) error {
	left := maps.Clone(h.servers)
	for {
		for name, s := range left {
			err := s.KeepRules()
			if err == nil {
				delete(left, name)
				continue
			}
			h.cfg.Log.Warn("a server does not know all hosts yet", "database", name, "err", err)
		}
		if len(left) == 0 || !h.sleep(ctx, rulesAgain) {
			return nil
		}
	}
}

// checkApply refuses a plan that this host could not follow: programs that are not there, ports that somebody else has.
// It changes nothing. What only another host cannot follow is told by its own problems.
func (h *Host) checkApply(ctx context.Context, now, next *plan.Plan) *problem.Problem {
	for _, d := range next.Databases {
		old, known := now.DatabaseNamed(d.Name)
		if !known {
			continue
		}
		if h.servers[d.Name] != nil && d.BinDir != old.BinDir {
			if p, ok := errors.AsType[*problem.Problem](postgres.CheckPrograms(d.Name, d.Postgres, d.BinDir)); ok {
				return p
			}
		}
		if h.servers[d.Name] != nil && !slices.EqualFunc(old.Roles, d.Roles, sameRole) {
			if _, err := roles(ctx, d); err != nil {
				p := passwordUnread(d.Name, h.self.Name, err)
				p.Severity, p.Meaning = problem.Note, "Nothing was changed."
				return &p
			}
		}
	}
	ours := h.listensOn(now)
	for _, port := range h.listensOn(next) {
		if slices.Contains(ours, port) || h.keepsFormer(port) {
			continue
		}
		if p, ok := errors.AsType[*problem.Problem](portFree(ctx, fmt.Sprintf("port %d on %s", port, h.self.Name), h.self.Address, port)); ok {
			return p
		}
	}
	return nil
}

// listensOn are the ports that Holdfast itself takes on this host for the listeners and routes of a plan.
func (h *Host) listensOn(p *plan.Plan) (out []int) {
	for _, d := range p.Databases {
		out = append(out, d.WritePort)
		if d.ReadPort != 0 {
			out = append(out, d.ReadPort)
		}
	}
	for _, s := range p.Services {
		if s.Route != nil {
			out = append(out, s.Route.Port)
		}
	}
	return out
}

// keepsFormer reports whether a listener of this host serves a port on that an earlier plan gave it.
func (h *Host) keepsFormer(port int) bool {
	address := hostPort(h.self.Address, port)
	return slices.ContainsFunc(h.listeners, func(l *listening) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return slices.ContainsFunc(l.spec.Former, func(f gate.Former) bool { return f.Address == address })
	})
}

// bring gives each server what the plan says of it.
func (s *settings) bring(p *plan.Plan, servers map[string]*postgres.Server) {
	var bad []problem.Problem
	for _, d := range p.Databases {
		server := servers[d.Name]
		if server == nil {
			continue
		}
		server.SetLimits(d.SlotMax, d.CopyLimit)
		if !s.hasRoles(d) {
			server.RolesLater() // until their passwords are read
		}
		server.SetStoredWish(storedWish(d))
		if err := server.SetParameters(parameters(d)); err != nil {
			bad = append(bad, notTaken(d.Name, err))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad = bad
}

// find has each server use the programs that the plan names, and the roles. Programs are run, to be asked which release
// they are, and so are those that give passwords.
func (s *settings) find(ctx context.Context, p *plan.Plan, servers map[string]*postgres.Server) {
	var bad []problem.Problem
	for _, d := range p.Databases {
		server := servers[d.Name]
		if server == nil {
			continue
		}
		if err := server.SetBinDir(d.BinDir); err != nil {
			bad = append(bad, notTaken(d.Name, err))
		}
		server.TookSettings(settingsName(d)) // as far as it can have them: what it cannot is told beside
		if err := s.findRoles(ctx, d, server); err != nil {
			bad = append(bad, passwordUnread(d.Name, "this host", err))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found = bad
}

// findRoles reads the passwords of a plan's roles once, and again until all could be read.
func (s *settings) findRoles(ctx context.Context, d plan.Database, server *postgres.Server) error {
	if s.hasRoles(d) {
		return nil
	}
	wanted, err := roles(ctx, d)
	if err == nil {
		err = server.SetRoles(wanted)
	}
	if err == nil {
		s.tookRoles(d)
	}
	return err
}

// tookRoles notes that a database's server has the plan's roles.
func (s *settings) tookRoles(d plan.Database) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roles[d.Name] = slices.Clone(d.Roles)
}

func (s *settings) hasRoles(d plan.Database) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	had, ok := s.roles[d.Name]
	return ok && slices.EqualFunc(had, d.Roles, sameRole)
}

func sameRole(a, b plan.Role) bool {
	return a.Name == b.Name && a.Password == b.Password && slices.Equal(a.Owns, b.Owns)
}

// passwordUnread is a password that a host cannot read.
func passwordUnread(name, host string, err error) problem.Problem {
	return problem.Problem{
		Code: "database.password-unread", Subject: name, Severity: problem.Degraded,
		Title:   fmt.Sprintf("on %s the passwords of the plan's roles cannot all be read: %v", host, err),
		Meaning: "The server's roles stay as they are while this host holds the primary. What runs goes on.",
		Remedy:  "put the secret where the plan's reference leads, on each host of the database; it is looked for every " + settleAgain.String(),
	}
}

func parameters(d plan.Database) []postgres.Parameter {
	var out []postgres.Parameter
	for _, x := range d.Parameters {
		out = append(out, postgres.Parameter{Name: x.Name, Value: x.Value})
	}
	return out
}

// settingsName names what a plan wants of a database's servers that a restart may take: the same on every host, and
// another one for each other wish.
func settingsName(d plan.Database) string {
	h := sha256.New()
	for _, p := range parameters(d) {
		fmt.Fprintf(h, "%q=%q\n", p.Name, p.Value)
	}
	fmt.Fprintf(h, "programs %q\n", d.BinDir)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// notTaken is what of the plan a server cannot have; it goes on with what it had.
func notTaken(name string, err error) problem.Problem {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return *p
	}
	return problem.Problem{
		Code: "database.setting-refused", Subject: name, Severity: problem.Degraded, Title: fmt.Sprintf("the plan's settings are not taken: %v", err),
		Meaning: "The server goes on with the settings that it had.", Remedy: "correct databases." + name + " in the plan and apply it",
	}
}

// problems are what of the plan this host's servers cannot have.
func (s *settings) problems() []problem.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Concat(s.bad, s.found)
}
