package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Overlay is the plan p with all that can be changed while the application runs taken from the plan applied: services
// and their routes; of each database that both have its standbys, settings, listeners and programs; of each backup its
// schedule and how long it is kept; of each file set its schedule and what is left out; of each vault when it is looked
// after; objectives and fault domains. Hosts and their addresses, Holdfast's own ports, the
// release, vaults, roles, and which databases and backups there are stay as p has them. What names a host that p does
// not have stays too: whoever follows another list of hosts begins with [Plan.WithHosts]. The source bytes stay those of p.
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
	q.Files = slices.Clone(p.Files)
	for i, s := range q.Files {
		if from, ok := applied.FileSetNamed(s.Name); ok && from.Path == s.Path && slices.Equal(from.Hosts, s.Hosts) && from.Backup.Vault == s.Backup.Vault {
			q.Files[i] = from
		}
	}
	q.Vaults = slices.Clone(p.Vaults)
	for i, v := range q.Vaults {
		if from, ok := applied.VaultNamed(v.Name); ok {
			q.Vaults[i].Upkeep, q.Vaults[i].TwoPersons = from.Upkeep, from.TwoPersons
		}
	}
	return &q
}

// WithHosts is the plan p with the hosts of the home site, and who of them holds a member of etcd, as the plan applied
// has them. It is p itself where that cannot be: a host would be at another address, or in another site, under the name
// that it has; or the plans have other sites.
func (p *Plan) WithHosts(applied *Plan) *Plan {
	if !slices.EqualFunc(p.Sites, applied.Sites, func(a, b Site) bool { return a.Name == b.Name }) || len(p.Sites) == 0 {
		return p
	}
	for _, h := range p.AllHosts() {
		if same, ok := applied.Host(h.Name); ok && (same.Address != h.Address || same.Site != h.Site) {
			return p
		}
	}
	q := *p
	q.Sites = slices.Clone(p.Sites)
	q.Sites[0].Hosts = slices.Clone(applied.Sites[0].Hosts)
	for _, h := range q.AllHosts() { // another site of p may have what the home site of applied has
		if slices.IndexFunc(q.AllHosts(), func(x Host) bool { return x.Name != h.Name && x.Address == h.Address }) >= 0 {
			return p
		}
	}
	return &q
}

// HostsGone are the hosts of the plan old that new does not have any more.
func HostsGone(old, new *Plan) []Host {
	return slices.DeleteFunc(old.AllHosts(), func(h Host) bool { _, kept := new.Host(h.Name); return kept })
}

// HostsCome are the hosts that the plan new has, and old has not.
func HostsCome(old, new *Plan) []Host { return HostsGone(new, old) }

// SameHosts reports whether two plans have the same hosts in the same order, at the same addresses and with the same
// members of etcd. What is taken over while an agent runs on, such as a fault domain, is not looked at.
func SameHosts(a, b *Plan) bool {
	return HostsDigest(a) == HostsDigest(b)
}

// HostsDigest names a list of hosts: the same for two plans whose hosts are the same.
func HostsDigest(p *Plan) string {
	var lines []string
	for _, h := range p.AllHosts() {
		lines = append(lines, fmt.Sprintf("%q %q %q %t", h.Site, h.Name, h.Address, h.Etcd))
	}
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:6])
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
	from.Name, from.Index, from.Postgres = d.Name, d.Index, d.Postgres
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
			for _, a := range addressesIn(v.Value) {
				if _, ok := p.DatabaseNamed(a.database); !ok {
					return false
				}
			}
		}
	}
	return true
}

// addressOf is an address of a database that an environment variable holds.
type addressOf struct{ database, which string }

// addressesIn are those that an environment variable's value holds.
func addressesIn(value string) (out []addressOf) {
	if IsSecret(value) {
		return nil
	}
	_, _ = ExpandEnv(value, func(key string) (string, bool) { // what it cannot read was refused with the file
		if name, which, ok := DatabaseURL(key); ok {
			out = append(out, addressOf{name, which})
		}
		return "", true
	})
	return out
}

// port is where an address of a database leads.
func (a addressOf) port(p *Plan) int {
	d, _ := p.DatabaseNamed(a.database)
	if a.which == "read_url" {
		return d.ReadPort
	}
	return d.WritePort
}

// Fixed lists what of the way from old to new this version cannot do while the application runs, in words: all but
// what [Plan.WithHosts] and [Plan.Overlay] take over. Changes of words alone are left out.
func Fixed(old, new *Plan) []Change {
	return slices.DeleteFunc(Diff(old.WithHosts(new).Overlay(new), new), func(c Change) bool { return c.Effect == Nothing })
}
