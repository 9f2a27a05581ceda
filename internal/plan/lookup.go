package plan

import (
	"slices"
	"strings"
)

// ScratchPorts is how many ports from Ports.Scratch on belong to restored scratch servers.
const ScratchPorts = 10

// HomeSite is the site that the application runs in: the first of the plan.
func (p *Plan) HomeSite() Site {
	if len(p.Sites) == 0 {
		return Site{}
	}
	return p.Sites[0]
}

// AllHosts lists the hosts of every site in the plan's order.
func (p *Plan) AllHosts() []Host {
	var all []Host
	for _, s := range p.Sites {
		all = append(all, s.Hosts...)
	}
	return all
}

// HostNames are the names of all hosts in the plan's order.
func (p *Plan) HostNames() []string {
	var names []string
	for _, h := range p.AllHosts() {
		names = append(names, h.Name)
	}
	return names
}

// Host finds a host of any site by its name.
func (p *Plan) Host(name string) (Host, bool) {
	return find(p.AllHosts(), func(h Host) bool { return h.Name == name })
}

// SiteNamed finds a site.
func (p *Plan) SiteNamed(name string) (Site, bool) {
	return find(p.Sites, func(s Site) bool { return s.Name == name })
}

// ServiceNamed finds a service.
func (p *Plan) ServiceNamed(name string) (Service, bool) {
	return find(p.Services, func(s Service) bool { return s.Name == name })
}

// DatabaseNamed finds a database.
func (p *Plan) DatabaseNamed(name string) (Database, bool) {
	return find(p.Databases, func(d Database) bool { return d.Name == name })
}

// VaultNamed finds a vault.
func (p *Plan) VaultNamed(name string) (Vault, bool) {
	return find(p.Vaults, func(v Vault) bool { return v.Name == name })
}

// BackupOf finds what a database's backup should be.
func (p *Plan) BackupOf(database string) (Backup, bool) {
	return find(p.Backups, func(b Backup) bool { return b.Of == database })
}

// FileSetNamed finds a file set.
func (p *Plan) FileSetNamed(name string) (FileSet, bool) {
	return find(p.Files, func(s FileSet) bool { return s.Name == name })
}

// EtcdHosts lists the hosts of a site that hold a member of the embedded etcd.
func (s Site) EtcdHosts() []Host {
	return slices.DeleteFunc(slices.Clone(s.Hosts), func(h Host) bool { return !h.Etcd })
}

// DatabaseHosts lists the hosts that may hold a database, best first.
func (p *Plan) DatabaseHosts(d Database) []Host { return p.candidates(d.Hosts) }

// ServiceHosts lists the hosts that may run a service.
func (p *Plan) ServiceHosts(s Service) []Host { return p.candidates(s.Hosts) }

func (p *Plan) candidates(names []string) []Host {
	home := p.HomeSite().Hosts
	if len(names) == 0 {
		return slices.Clone(home)
	}
	var some []Host
	for _, name := range names {
		if h, ok := find(home, func(h Host) bool { return h.Name == name }); ok {
			some = append(some, h)
		}
	}
	return some
}

func find[T any](all []T, is func(T) bool) (T, bool) {
	if i := slices.IndexFunc(all, is); i >= 0 {
		return all[i], true
	}
	var none T
	return none, false
}

// domainsOf lists the fault domains of some hosts, each once, in order.
func domainsOf(hosts []Host) []string {
	var all []string
	for _, h := range hosts {
		if !slices.Contains(all, h.FaultDomain) {
			all = append(all, h.FaultDomain)
		}
	}
	return all
}

// WithRoot is a copy of the plan in which ${root} is Holdfast's data root on this machine. The source
// bytes stay as written.
func (p *Plan) WithRoot(root string) *Plan {
	put := func(s string) string { return strings.ReplaceAll(s, rootTemplate, root) }
	q := *p
	q.Release = put(p.Release)
	q.Services = slices.Clone(p.Services)
	for i, s := range q.Services {
		q.Services[i].Env = slices.Clone(s.Env)
		for j, v := range s.Env {
			if IsSecret(v.Value) {
				q.Services[i].Env[j].Value = put(v.Value)
			} else {
				q.Services[i].Env[j].Value = putOutsideEscapes(v.Value, root)
			}
		}
		if s.TLS != nil {
			q.Services[i].TLS = &TLSFiles{Cert: Secret(put(string(s.TLS.Cert))), Key: Secret(put(string(s.TLS.Key)))}
		}
	}
	q.Databases = slices.Clone(p.Databases)
	for i, d := range q.Databases {
		q.Databases[i].BinDir, q.Databases[i].Salvage.To = put(d.BinDir), put(d.Salvage.To)
		q.Databases[i].Roles = slices.Clone(d.Roles)
		for j, r := range d.Roles {
			q.Databases[i].Roles[j].Password = Secret(put(string(r.Password)))
		}
	}
	q.Backups = slices.Clone(p.Backups)
	for i, b := range p.Backups {
		q.Backups[i].Spill = put(b.Spill)
	}
	q.Files = slices.Clone(p.Files)
	for i, s := range p.Files {
		q.Files[i].Path = put(s.Path)
	}
	q.Vaults = slices.Clone(p.Vaults)
	for i, v := range q.Vaults {
		q.Vaults[i].Key = Secret(put(string(v.Key)))
		q.Vaults[i].Copies = slices.Clone(v.Copies)
		for j, c := range v.Copies {
			q.Vaults[i].Copies[j].URL = put(c.URL)
			q.Vaults[i].Copies[j].S3.CAFile = put(c.S3.CAFile)
			az := &q.Vaults[i].Copies[j].Azure
			az.CAFile = put(az.CAFile)
			for _, s := range []*Secret{&az.AccountKey, &az.SAS, &az.ReadSAS, &az.DeleteSAS} {
				*s = Secret(put(string(*s)))
			}
			for _, a := range []*Access{&q.Vaults[i].Copies[j].S3.Write, &q.Vaults[i].Copies[j].S3.Read, &q.Vaults[i].Copies[j].S3.Delete} {
				a.KeyID, a.Key = Secret(put(string(a.KeyID))), Secret(put(string(a.Key)))
			}
		}
	}
	return &q
}

// putOutsideEscapes replaces ${root} but leaves $${root}, which stands for those letters.
func putOutsideEscapes(value, root string) string {
	var b strings.Builder
	for {
		i := strings.Index(value, "${")
		if i < 0 {
			b.WriteString(value)
			return b.String()
		}
		end := i + 2
		if (i == 0 || value[i-1] != '$') && strings.HasPrefix(value[i:], rootTemplate) {
			// A $ of the root itself must not be read as the start of a template later.
			b.WriteString(value[:i] + strings.ReplaceAll(root, "${", "$${"))
			end = i + len(rootTemplate)
		} else {
			b.WriteString(value[:end])
		}
		value = value[end:]
	}
}
