package plan

import (
	"slices"
)

// Overlay is the plan p with all that can be changed while the application runs taken from the plan applied: services
// and their routes; of each database that both have its standbys, settings, listeners and programs; of each backup its
// schedule and how long it is kept; objectives and fault domains. Hosts and their addresses, Holdfast's own ports, the
// release, vaults, roles, and which databases and backups there are stay as p has them. What names a host that p does
// not have stays too. The source bytes stay those of p.
func (p *Plan) Overlay(applied *Plan) *Plan {
	q := *p
	q.Objectives = applied.Objectives
	q.Sites = p.overlaySites(applied)
	q.Databases = slices.Clone(p.Databases)
	for i, d := range q.Databases {
		if from, ok := applied.DatabaseNamed(d.Name); ok {
			q.Databases[i] = p.overlayDatabase(d, from)
		}
	}
	if p.servesWith(applied) {
		q.Services = slices.Clone(applied.Services)
	}
	q.Backups = slices.Clone(p.Backups)
	for i, b := range q.Backups {
		if from, ok := applied.BackupOf(b.Of); ok && from.Vault == b.Vault {
			q.Backups[i] = from
		}
	}
	return &q
}

// has reports whether the plan has every one of some hosts.
func (p *Plan) has(names []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { _, ok := p.Host(name); return !ok })
}

func (p *Plan) overlaySites(applied *Plan) []Site {
	sites := slices.Clone(p.Sites)
	for i, s := range sites {
		sites[i].Hosts = slices.Clone(s.Hosts)
		for k, h := range s.Hosts {
			if from, ok := applied.Host(h.Name); ok {
				sites[i].Hosts[k].FaultDomain = from.FaultDomain
			}
		}
	}
	return sites
}

// overlayDatabase is d with what can be changed while it runs taken from from.
func (p *Plan) overlayDatabase(d, from Database) Database {
	var members []string
	for _, m := range from.Members {
		members = append(members, m.Host)
	}
	if p.has(from.Hosts) && p.has(members) && from.Standbys+1 <= len(p.candidates(from.Hosts)) {
		d.Standbys, d.AcknowledgedBy, d.Hosts, d.Members, d.Relaxed = from.Standbys, from.AcknowledgedBy, from.Hosts, from.Members, from.Relaxed
	}
	// Everything else but what a server is made with.
	from.Name, from.Index, from.Postgres, from.Roles = d.Name, d.Index, d.Postgres, d.Roles
	from.Standbys, from.AcknowledgedBy, from.Hosts, from.Members, from.Relaxed = d.Standbys, d.AcknowledgedBy, d.Hosts, d.Members, d.Relaxed
	return from
}

// servesWith reports whether p has the hosts and databases that the services of applied are placed on and use.
func (p *Plan) servesWith(applied *Plan) bool {
	for _, s := range applied.Services {
		if !p.has(s.Hosts) {
			return false
		}
		for _, v := range s.Env {
			for name := range databasesOf(v.Value) {
				if _, ok := p.DatabaseNamed(name); !ok {
					return false
				}
			}
		}
	}
	return true
}

// databasesOf are the databases that an environment variable's value leads to.
func databasesOf(value string) map[string]bool {
	out := map[string]bool{}
	if IsSecret(value) {
		return out
	}
	_, _ = ExpandEnv(value, func(key string) (string, bool) { // what it cannot read was refused with the file
		if name, _, ok := DatabaseURL(key); ok {
			out[name] = true
		}
		return "", true
	})
	return out
}

// Fixed lists what of the way from old to new this version cannot do while the application runs, in words: all but
// what [Plan.Overlay] takes over. Changes of words alone are left out.
func Fixed(old, new *Plan) []Change {
	return slices.DeleteFunc(Diff(old.Overlay(new), new), func(c Change) bool { return c.Effect == Nothing })
}
