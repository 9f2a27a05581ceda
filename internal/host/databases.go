package host

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/database/gate"
	"holdfast/internal/database/postgres"
	"holdfast/internal/event"
	"holdfast/internal/plan"
)

// policy is what the plan asks of a database, for its judgement.
func policy(p *plan.Plan, d plan.Database) database.Policy {
	out := database.Policy{
		Name: d.Name, Standbys: d.Standbys, AcknowledgedBy: d.AcknowledgedBy, Relaxed: d.Relaxed, Times: database.DefaultTimes(),
		Slots: database.SlotLimits{Max: d.SlotMax, After: d.SlotAfter}, DiskFull: database.DiskPolicy(d.DiskFull),
		Settings: settingsName(d),
	}
	for _, from := range d.CopyFrom {
		out.CopyFrom = append(out.CopyFrom, database.CopySource(from))
	}
	if d.Salvage.Then != plan.SalvageKeep {
		out.Salvage = database.SalvagePolicy(d.Salvage.Then)
	}
	if len(d.OnTrouble.Run) > 0 {
		out.OnTrouble = d.OnTrouble.Limit
	}
	for _, m := range d.Members {
		promote := database.Promote(m.Promote)
		if m.Promote == "normal" {
			promote = database.PromoteNormal
		}
		out.Standings = append(out.Standings, database.Standing{Host: m.Host, Async: m.Async, Promote: promote, Follows: m.Follows})
	}
	for _, h := range p.DatabasePlacement(d) {
		out.Hosts = append(out.Hosts, h.Name)
	}
	if d.ReadPort != 0 {
		out.Reads = database.Reads{MaxLag: d.MaxLag, Primary: d.ReadFallback == plan.FallbackPrimary, Site: map[string]string{}}
		for _, s := range p.Sites {
			for _, h := range s.Hosts {
				out.Reads.Site[h.Name] = s.Name
			}
		}
	}
	return out
}

// ListenerName is the name that every server certificate of a database carries.
func ListenerName(p *plan.Plan, d plan.Database) string {
	return d.Name + "." + p.Application + ".holdfast"
}

// endpoint is where a host's own server of a database answers.
func endpoint(h plan.Host, p *plan.Plan, d plan.Database) database.Endpoint {
	return database.Endpoint{Host: h.Name, Address: h.Address, Port: p.Ports.Server + d.Index}
}

// openServer opens the driver of this host's own server. Every host of the home site has one, for a plan that is
// applied later may place a copy on it; where the plan does not want one yet, it may be that PostgreSQL is missing,
// and then there is none.
// With later, a password that cannot be read refuses nothing: the server goes on with the roles that it has until it can.
func openServer(ctx context.Context, cfg Config, self plan.Host, d plan.Database, copies postgres.Vault, later bool) (*postgres.Server, error) {
	wanted, home := false, false
	c := postgres.Config{
		Database: d.Name, Host: self.Name, Address: self.Address, Port: cfg.Plan.Ports.Server + d.Index,
		Dir: databaseDir(cfg.Dir, d.Name), Major: d.Postgres, BinDir: d.BinDir,
		CertDir: certDir(cfg.Dir), ServerName: ListenerName(cfg.Plan, d),
		SlotMax: d.SlotMax, CopyLimit: d.CopyLimit, Vault: copies, Stored: storedWish(d),
		Executable: cfg.Executable, GateControl: gateSocket(cfg.Dir, d.Name), Log: cfg.Log.With("database", d.Name),
	}
	for _, h := range cfg.Plan.HomeSite().Hosts {
		if h.Name == self.Name {
			home = true
			continue
		}
		c.Peers = append(c.Peers, endpoint(h, cfg.Plan, d))
	}
	for _, h := range cfg.Plan.DatabaseHosts(d) {
		wanted = wanted || h.Name == self.Name
	}
	if !home {
		return nil, nil
	}
	s, err := openWith(ctx, c, d, later)
	if err != nil && !wanted {
		c.Log.Info("this host can hold no copy of the database, and the plan wants none on it", "err", err)
		return nil, nil
	}
	return s, err
}

func openWith(ctx context.Context, c postgres.Config, d plan.Database, later bool) (*postgres.Server, error) {
	var err error
	if c.Roles, err = roles(ctx, d); err != nil && !later {
		return nil, err
	}
	c.RolesLater = err != nil
	c.Parameters, c.Settings = parameters(d), settingsName(d)
	return postgres.Open(c)
}

// roles are those of the plan, with their passwords.
func roles(ctx context.Context, d plan.Database) ([]postgres.Role, error) {
	var out []postgres.Role
	for _, r := range d.Roles {
		password, err := Secret(ctx, r.Password)
		if err != nil {
			return nil, fmt.Errorf("role %s of database %s: %w", r.Name, d.Name, err)
		}
		out = append(out, postgres.Role{Name: r.Name, Password: password, Owns: r.Owns})
	}
	return out, nil
}

func gateSocket(dir, name string) string { return filepath.Join(runDir(dir), "gate-"+name+".sock") }

// gateSpec is what the plan p wants of the listener of a database on this host.
func gateSpec(cfg Config, p *plan.Plan, self plan.Host, d plan.Database) gate.Spec {
	spec := gate.Spec{
		Database: d.Name, Host: self.Name,
		Listen:     []string{hostPort(self.Address, d.WritePort)},
		Control:    gateSocket(cfg.Dir, d.Name),
		BeatListen: hostPort(self.Address, p.Ports.Gate+d.Index),
		CertDir:    certDir(cfg.Dir),
		StateFile:  filepath.Join(cfg.Dir, "keep", "gate-"+d.Name+".state.json"),
		Path:       d.Path, Application: p.Application,
	}
	for _, other := range p.AllHosts() {
		spec.Peers = append(spec.Peers, other.Address)
		if other.Name != self.Name {
			spec.Others = append(spec.Others, gate.Other{Host: other.Name, Address: hostPort(other.Address, p.Ports.Gate+d.Index)})
		}
	}
	if d.ReadPort != 0 {
		spec.ReadListen = []string{hostPort(self.Address, d.ReadPort)}
	}
	return spec
}

// listener makes a gate process obey the room's orders.
type listener struct{ client *gate.Client }

// Order implements database.Gate.
func (l listener) Order(ctx context.Context, o database.GateOrder) error {
	order := gate.Order{
		Epoch: uint64(o.Epoch), Generation: uint64(o.Generation), State: gate.State(o.State), Reason: o.Why,
		DrainFor: event.Duration(o.Drain),
	}
	if o.State == database.GateOpen {
		order.Target = hostPort(o.Target.Address, o.Target.Port)
	}
	_, err := l.client.Order(ctx, order)
	return err
}

// Read implements database.Gate.
func (l listener) Read(ctx context.Context, o database.ReadOrder) error {
	order := gate.ReadOrder{Epoch: uint64(o.Epoch), Primary: o.Primary, Reason: o.Why()}
	for _, m := range o.Members {
		order.Members = append(order.Members, gate.ReadMember{
			Host: m.Host, Target: hostPort(m.To.Address, m.To.Port), Near: m.Near, Keep: m.Keep, For: event.Duration(m.For),
		})
	}
	_, err := l.client.Read(ctx, order)
	return err
}

// policy is a database's policy by name; the zero value for one that the plan does not have.
func (h *Host) policy(name string) database.Policy {
	p := h.applied.plan()
	d, ok := p.DatabaseNamed(name)
	if !ok {
		return database.Policy{}
	}
	return policy(p, d)
}

// Extend implements database.Gate.
func (l listener) Extend(ctx context.Context, epoch int64, d time.Duration) error {
	_, err := l.client.Extend(ctx, uint64(epoch), d)
	return err
}
