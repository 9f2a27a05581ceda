package plan

import (
	"net/netip"
	"slices"
	"strings"
)

// resolve makes a plan of what the file says, and notes what cannot be. What the file states wrongly was
// reported already and is left out here, so that one slip gives one mistake.
func resolve(ms *mistakes, f planFile) *Plan {
	p := &Plan{
		Application: f.application.value,
		Objectives: Objectives{
			RPO: f.objectives.value.rpo.value, RTO: f.objectives.value.rto.value, Prefer: f.objectives.value.prefer.or("rpo"),
		},
		Release: f.release.value,
		Ports:   resolvePorts(f.ports.value),
	}
	oneNameEach(ms, f)
	p.Sites = resolveSites(ms, f.sites)
	for i, d := range f.databases.value {
		p.Databases = append(p.Databases, resolveDatabase(ms, p, i, d))
	}
	for _, s := range f.services.value {
		p.Services = append(p.Services, resolveService(ms, p, f, s))
	}
	for _, v := range f.vaults.value {
		vault := Vault{Name: v.name, Key: v.value.key.value, Undelete: v.value.undelete.or(7 * day), Reserve: v.value.reserve.value, Upkeep: v.value.upkeep.value.resolved(), TwoPersons: v.value.deletions.value == "two-persons"}
		for _, c := range v.value.copies.value {
			vault.Copies = append(vault.Copies, c.value.resolved(c.name))
		}
		if v.value.copies.written() && len(vault.Copies) == 0 {
			ms.add(v.value.copies.at, keyPath{"vaults", v.name, "copies"}, "is empty (allowed: at least one place)")
		}
		p.Vaults = append(p.Vaults, vault)
	}
	overlappingCopies(ms, f)
	for _, s := range f.files.value {
		p.Files = append(p.Files, resolveFileSet(ms, p, s))
	}
	for _, b := range f.backup.value {
		if i := slices.IndexFunc(p.Files, func(s FileSet) bool { return s.Name == b.name }); i >= 0 {
			p.Files[i].Backup = resolveFileBackup(ms, p, b)
			continue
		}
		p.Backups = append(p.Backups, resolveBackup(ms, p, b))
	}
	filesApart(ms, p, f)
	copiesFromVaults(ms, p, f)
	commitsToVaults(ms, p, f)
	portClashes(ms, p, f)
	return p
}

func resolvePorts(f portsFile) Ports {
	return Ports{
		Agent: f.agent.or(7400), Gossip: f.gossip.or(7401), EtcdClient: f.etcdClient.or(7402), EtcdPeer: f.etcdPeer.or(7403),
		Gate: f.gate.or(7410), Server: f.server.or(7430), Scratch: f.scratch.or(7450),
	}
}

// oneNameEach keeps services, databases and vaults from sharing a name: what is said of one of them names it alone.
func oneNameEach(ms *mistakes, f planFile) {
	type owner struct {
		what string
		at   Place
	}
	seen := map[string]owner{}
	note := func(what, section, name string, at Place) {
		if first, taken := seen[name]; taken {
			ms.addKey(at, keyPath{section, name}, "the name is taken by the %s in line %d (allowed: a name of its own; commands take a name alone)", first.what, first.at.Line)
			return
		}
		seen[name] = owner{what, at}
	}
	for _, s := range f.services.value {
		note("service", "services", s.name, s.at)
	}
	for _, d := range f.databases.value {
		note("database", "databases", d.name, d.at)
	}
	for _, s := range f.files.value {
		note("file set", "files", s.name, s.at)
	}
	for _, v := range f.vaults.value {
		note("vault", "vaults", v.name, v.at)
	}
}

func resolveSites(ms *mistakes, sites located[[]named[siteFile]]) []Site {
	type owner struct {
		host string
		at   Place
	}
	names, addresses := map[string]Place{}, map[netip.Addr]owner{}
	var all []Site
	var loopback, reachable []owner
	if sites.written() && len(sites.value) == 0 {
		ms.add(sites.at, keyPath{"sites"}, "is empty (allowed: at least one site)")
	}
	for _, s := range sites.value {
		site := Site{Name: s.name, Region: s.value.region.value}
		if s.value.hosts.written() && len(s.value.hosts.value) == 0 {
			ms.add(s.value.hosts.at, keyPath{"sites", s.name, "hosts"}, "is empty (allowed: at least one host)")
		}
		for _, h := range s.value.hosts.value {
			path := keyPath{"sites", s.name, "hosts", h.name}
			if first, taken := names[h.name]; taken {
				ms.addKey(h.at, path, "the name is taken by the host in line %d (allowed: one host for each name, over all sites)", first.Line)
			} else {
				names[h.name] = h.at
			}
			host := Host{Name: h.name, Site: s.name, FaultDomain: h.value.faultDomain.or(h.name), Etcd: h.value.etcd.value}
			if a := h.value.address; a.written() {
				host.Address = a.value.String()
				if first, taken := addresses[a.value]; taken {
					ms.add(a.at, path.to("address"), "%s is the address of %s too, in line %d (allowed: one host for each address)", host.Address, first.host, first.at.Line)
				} else {
					addresses[a.value] = owner{h.name, a.at}
				}
				if a.value.IsLoopback() {
					loopback = append(loopback, owner{h.name, a.at})
				} else {
					reachable = append(reachable, owner{h.name, a.at})
				}
			}
			site.Hosts = append(site.Hosts, host)
		}
		chooseEtcd(ms, &site, s)
		all = append(all, site)
	}
	if len(loopback) > 0 && len(reachable) > 0 {
		for _, h := range loopback {
			thing := "host " + h.host
			ms.addAbout(h.at, thing, "address is on the loopback network, where "+reachable[0].host+" cannot reach it (allowed: all hosts on loopback, or none)")
		}
	}
	return all
}

// chooseEtcd decides which hosts of a site hold a member of the embedded etcd, and refuses counts that
// survive no more than one member less would.
func chooseEtcd(ms *mistakes, site *Site, written named[siteFile]) {
	hosts := written.value.hosts.value
	path := keyPath{"sites", site.Name, "hosts"}
	at := written.value.hosts.at
	if len(hosts) == 0 {
		return
	}
	asked, refused := 0, 0
	for _, h := range hosts {
		if h.value.etcd.written() && h.value.etcd.value {
			asked++
		} else if h.value.etcd.written() {
			refused++
		}
	}
	if asked == 0 && refused == len(hosts) {
		ms.add(at, path, "hold no member of etcd (allowed: 1, 3 or 5 hosts with etcd: true)")
		return
	}
	if asked == 0 {
		free := func(i int) bool { return !hosts[i].value.etcd.written() }
		for _, i := range spreadOver(site.Hosts, free, oddUpTo5(len(hosts)-refused)) {
			site.Hosts[i].Etcd = true
		}
		return
	}
	if asked%2 == 0 {
		ms.add(at, path, "hold %d members of etcd, which survive no more failures than %d (allowed: 1, 3 or 5 hosts with etcd: true)", asked, asked-1)
		return
	}
	if asked > 5 {
		ms.add(at, path, "hold %d members of etcd, and each decision waits for more of them (allowed: 1, 3 or 5 hosts with etcd: true)", asked)
		return
	}
	if asked > 1 && len(domainsOf(site.EtcdHosts())) == 1 && len(domainsOf(site.Hosts)) > 1 {
		ms.add(at, path, "hold all %d members of etcd in fault domain %s, though the site has %s (allowed: members in more than one)",
			asked, site.EtcdHosts()[0].FaultDomain, strings.Join(domainsOf(site.Hosts), ", "))
	}
}

// oddUpTo5 is the most members, 1, 3 or 5, that n hosts can hold.
func oddUpTo5(n int) int {
	switch {
	case n >= 5:
		return 5
	case n >= 3:
		return 3
	}
	return 1
}

// spreadOver picks n of the hosts that may be picked, in the plan's order but a fault domain again only
// when every other one has been taken as often. It returns their indexes.
func spreadOver(hosts []Host, may func(i int) bool, n int) []int {
	taken := map[string]int{}
	var picked []int
	for len(picked) < n {
		best := -1
		for i, h := range hosts {
			if may(i) && !slices.Contains(picked, i) && (best < 0 || taken[h.FaultDomain] < taken[hosts[best].FaultDomain]) {
				best = i
			}
		}
		if best < 0 {
			return picked
		}
		taken[hosts[best].FaultDomain]++
		picked = append(picked, best)
	}
	return picked
}

// resolveHosts checks a list of candidate hosts: known, of the home site, each once.
func resolveHosts(ms *mistakes, p *Plan, path keyPath, list located[[]located[string]]) []string {
	var names []string
	home := p.HomeSite()
	for _, n := range list.value {
		if !n.written() {
			continue
		}
		_, inPlan := p.Host(n.value)
		_, atHome := find(home.Hosts, func(h Host) bool { return h.Name == n.value })
		switch {
		case !inPlan:
			ms.add(n.at, path, "names %q, and no host is called so (hosts of site %s: %s)", n.value, home.Name, hostNames(home.Hosts))
		case !atHome:
			ms.add(n.at, path, "names %q, a host of another site, which is not available in this version (hosts of site %s: %s)", n.value, home.Name, hostNames(home.Hosts))
		case slices.Contains(names, n.value):
			ms.add(n.at, path, "names %q twice (allowed: once)", n.value)
		default:
			names = append(names, n.value)
		}
	}
	return names
}

func hostNames(hosts []Host) string {
	var names []string
	for _, h := range hosts {
		names = append(names, h.Name)
	}
	return strings.Join(names, ", ")
}

func resolveBackup(ms *mistakes, p *Plan, b named[backupFile]) Backup {
	path := keyPath{"backup", b.name}
	if _, ok := p.DatabaseNamed(b.name); !ok {
		ms.addKey(b.at, path, "no database or file set is called so (%s)", namesOr(append(databaseNames(p), fileSetNames(p)...), func(n string) string { return n }, "the plan has no databases and no files"))
	} else {
		onlyFor(ms, path.to("every"), b.value.every.at, "file sets (a database has full and incremental)")
		onlyFor(ms, path.to("keep"), b.value.keep.at, "file sets (a database has pitr and weekly)")
	}
	f := b.value
	return Backup{
		Of: b.name, Vault: backupVault(ms, p, b),
		Full:        f.full.or(Schedule{Text: "daily 01:00", Cron: "0 1 * * *"}),
		Incremental: f.incremental.value,
		Prove:       f.prove.or(Schedule{Text: "Sunday 05:00", Cron: "0 5 * * 0"}),
		Zone:        f.zone.value, Jitter: f.jitter.value, Limit: f.limit.value,
		PITR: f.pitr.or(14 * day), All: f.all.or(day), HalfDaily: f.halfDaily.or(7 * day), Daily: f.daily.or(15 * day), Weekly: f.weekly.or(2 * year),
		Validate: f.validate.value.resolved(), Spill: f.spill.value,
	}
}

// backupVault is the vault that a backup goes to: the one that is named, else the only one.
func backupVault(ms *mistakes, p *Plan, b named[backupFile]) string {
	path := keyPath{"backup", b.name}
	written := b.value.vault
	known := namesOr(p.Vaults, func(v Vault) string { return v.Name }, "the plan has no vaults")
	if _, ok := p.VaultNamed(written.value); written.written() && !ok {
		ms.add(written.at, path.to("vault"), "%q is not known (%s)", written.value, known)
	}
	if _, stated := ms.where[path.to("vault").String()]; stated {
		return written.value
	}
	if len(p.Vaults) == 1 {
		return p.Vaults[0].Name
	}
	ms.addKey(b.at, path, "vault is missing (%s)", known)
	return ""
}

// namesOr lists the names of things in words for a message.
func namesOr[T any](all []T, name func(T) string, none string) string {
	if len(all) == 0 {
		return none
	}
	var names []string
	for _, t := range all {
		names = append(names, name(t))
	}
	return "allowed: " + strings.Join(names, ", ")
}

// overlappingCopies refuses copies that lie in one another: two copies in one place are one copy.
func overlappingCopies(ms *mistakes, f planFile) {
	type place struct {
		vault, name, url string
	}
	var seen []place
	for _, v := range f.vaults.value {
		for _, c := range v.value.copies.value {
			if !c.value.url.written() {
				continue
			}
			url := c.value.endpoint.value + " " + c.value.url.value
			for _, other := range seen {
				if within(url, other.url) || within(other.url, url) {
					ms.add(c.valueAt, keyPath{"vaults", v.name, "copies", c.name}, "lies in the same place as copy %s of vault %s (allowed: a folder of its own)", other.name, other.vault)
				}
			}
			seen = append(seen, place{v.name, c.name, url})
		}
	}
}

// within reports whether path is dir or lies below it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
