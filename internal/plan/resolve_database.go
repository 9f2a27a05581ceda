package plan

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// acknowledgedByDefault is half of the standbys, rounded up: a commit is then on more than half of the
// servers, so any election that hears enough standbys finds it.
func acknowledgedByDefault(standbys int) int { return (standbys + 1) / 2 }

func resolveDatabase(ms *mistakes, p *Plan, index int, d named[databaseFile]) Database {
	path, f := keyPath{"databases", d.name}, d.value
	db := Database{Name: d.name, Index: index, Postgres: f.postgres.value, BinDir: f.binDir.value}
	db.Hosts = resolveHosts(ms, p, path.to("hosts"), f.hosts)
	candidates := p.DatabaseHosts(db)
	listWrong := f.hosts.written() && len(db.Hosts) < len(f.hosts.value)

	db.Standbys = f.standbys.or(max(0, min(2, len(candidates)-1), len(f.members.value)-1))
	db.Members, db.Relaxed = resolveMembers(ms, path, db, candidates, f), f.policy.value == "relaxed"
	// A count that could not be read says nothing about the other one.
	readable := f.standbys.written() || ms.where[path.to("standbys").String()] == Place{}
	if f.standbys.written() && !listWrong && len(candidates) > 0 && db.Standbys+1 > len(candidates) {
		ms.add(f.standbys.at, path.to("standbys"), "%d and a primary need %d hosts, and there are %d (at most %d)",
			db.Standbys, db.Standbys+1, len(candidates), len(candidates)-1)
	}
	db.AcknowledgedBy = f.acknowledgedBy.or(acknowledgedByDefault(max(db.Synchronous(), 0)))
	if readable && db.AcknowledgedBy > db.Standbys {
		ms.add(f.acknowledgedBy.at, path.to("acknowledged_by"), "%d of %s: no commit would ever be acknowledged (0 to %d)",
			db.AcknowledgedBy, count(db.Standbys, "standby", "standbys"), db.Standbys)
	}
	if sync := db.Synchronous(); readable && sync >= 0 && sync < db.Standbys && db.AcknowledgedBy > sync && db.AcknowledgedBy <= db.Standbys {
		ms.add(f.acknowledgedBy.at, path.to("acknowledged_by"), "%d of %s: the others are asynchronous (0 to %d)",
			db.AcknowledgedBy, count(sync, "standby", "standbys"), sync)
	}
	if home := p.HomeSite().Hosts; f.hosts.written() && !listWrong && db.Standbys > 0 && len(domainsOf(candidates)) == 1 && len(domainsOf(home)) > 1 {
		ms.add(f.hosts.at, path.to("hosts"), "lie all in fault domain %s, though the site has %s: one failure takes every copy (allowed: hosts in more than one)",
			candidates[0].FaultDomain, strings.Join(domainsOf(home), ", "))
	}
	db.ByVault = f.byVault.value
	db.WritePort = f.listen.value.write.or(min(5432+index, 65535))
	resolveReads(ms, path.to("listen"), &db, f.listen.value)
	db.Path = f.listen.value.path.or(PathProxy)
	if at := slices.IndexFunc(p.AllHosts(), onLoopback); db.Path == PathKernel && at >= 0 {
		ms.add(f.listen.value.path.at, path.to("listen").to("path"), "kernel needs addresses that are each host's own, and %s is on the loopback network (allowed there: proxy)", p.AllHosts()[at].Name)
	}
	db.Roles = resolveRoles(ms, path, f.roles.value)
	db.CopyLimit, db.DiskFull = f.copyLimit.value, f.diskFull.or("read-only")
	db.CopyFrom = resolveCopyFrom(ms, path.to("copy_from"), f.copyFrom.value)
	db.Salvage = f.salvage.value.resolved()
	db.SlotMax, db.SlotAfter = f.slots.value.max.or(8<<30), f.slots.value.after.or(time.Hour)
	db.OnTrouble = resolveTrouble(ms, path.to("on_trouble"), f.onTrouble)
	for _, param := range f.parameters.value {
		below := path.to("parameters").to(param.name)
		if err := judgeParameter(param.name, param.value); err != nil {
			ms.add(param.at, below, "%s", err)
		}
		db.Parameters = append(db.Parameters, Parameter{Name: param.name, Value: param.value})
	}
	return db
}

// commitsToVaults refuses databases whose commits are to wait for a vault that does not take their log.
func commitsToVaults(ms *mistakes, p *Plan, f planFile) {
	for _, d := range f.databases.value {
		path := keyPath{"databases", d.name, "acknowledged_by_vault"}
		switch b, ok := p.BackupOf(d.name); {
		case !d.value.byVault.written():
		case !ok:
			ms.add(d.value.byVault.at, path, "needs a vault that takes its log, and it is not backed up (add %s to backup)", d.name)
		case b.PITR == 0:
			ms.add(d.value.byVault.at, path, "needs a vault that takes its log, and backup.%s has pitr: none (allowed with a pitr of 1h or more)", d.name)
		default:
			db, _ := p.DatabaseNamed(d.name)
			votesFit(ms, db, d.value.parameters.value)
		}
	}
}

// votesFit refuses settings that leave no room for the connections with which the vault votes: as many as there are standbys,
// when one of them may hold a commit.
func votesFit(ms *mistakes, db Database, parameters []named[string]) {
	need := fewestWalsenders + max(1, db.Standbys)
	for _, param := range parameters {
		if param.name != "max_wal_senders" && param.name != "max_replication_slots" {
			continue
		}
		if n, err := strconv.Atoi(param.value); err == nil && n >= fewestWalsenders && n < need {
			ms.add(param.at, keyPath{"databases", db.Name, "parameters", param.name}, "%q is too few while commits wait for the vault (%d or more)", param.value, need)
		}
	}
}

// resolveCopyFrom are the sources of copies, each once.
func resolveCopyFrom(ms *mistakes, path keyPath, written []located[string]) []string {
	var out []string
	for _, s := range written {
		switch {
		case !s.written():
		case slices.Contains(out, s.value):
			ms.add(s.at, path, "names %q twice (allowed: each once, best first)", s.value)
		default:
			out = append(out, s.value)
		}
	}
	return out
}

// copiesFromVaults refuses a vault as the source of a database that has none.
func copiesFromVaults(ms *mistakes, p *Plan, f planFile) {
	for _, d := range f.databases.value {
		if _, ok := p.BackupOf(d.name); ok {
			continue
		}
		for _, s := range d.value.copyFrom.value {
			if s.value == CopyFromVault {
				ms.add(s.at, keyPath{"databases", d.name, "copy_from"}, "names the vault, and the database is not backed up to one (add it to backup, or leave vault out)")
			}
		}
	}
}

// resolveTrouble is the command for a primary in trouble. Hosts look for it where the plan says, in no release.
func resolveTrouble(ms *mistakes, path keyPath, f located[troubleFile]) Trouble {
	run := f.value.run
	if !f.written() || len(run.value) == 0 {
		return Trouble{}
	}
	if !rooted(run.value[0]) {
		ms.add(run.at, path.to("run"), "%q is relative (allowed: a whole path, the same on every host)", run.value[0])
	}
	return Trouble{Run: run.value, Limit: f.value.limit.or(30 * time.Second)}
}

const (
	// minLag is what can be told from a standby that is level: positions are compared twice a second, and the
	// word of another host may be a second old.
	minLag        = 3 * time.Second
	maxLagDefault = 10 * time.Second
)

// resolveReads is the read-only listener.
func resolveReads(ms *mistakes, path keyPath, db *Database, f listenFile) {
	if !f.read.written() {
		if f.maxLag.written() {
			ms.add(f.maxLag.at, path.to("max_lag"), "belongs to the read-only listener, and there is none (add read: PORT)")
		}
		if f.readFallback.written() {
			ms.add(f.readFallback.at, path.to("read_fallback"), "belongs to the read-only listener, and there is none (add read: PORT)")
		}
		return
	}
	db.ReadPort, db.MaxLag, db.ReadFallback = f.read.value, f.maxLag.or(maxLagDefault), f.readFallback.or(FallbackRefuse)
	if db.Standbys == 0 && db.ReadFallback == FallbackRefuse {
		ms.add(f.read.at, path.to("read"), "leads to standbys, and there are none (allowed: standbys of 1 or more, or read_fallback: primary)")
	}
}

func resolveRoles(ms *mistakes, path keyPath, written []named[roleFile]) []Role {
	owners := map[string]string{}
	var all []Role
	for _, r := range written {
		below := path.to("roles").to(r.name)
		if r.name == "postgres" || r.name == "public" || r.name == "none" || strings.HasPrefix(r.name, "pg_") || strings.HasPrefix(r.name, "holdfast") {
			ms.addKey(r.at, below, "the name is reserved (allowed: any but postgres, public, none, pg_..., holdfast...)")
		}
		role := Role{Name: r.name, Password: r.value.password.value}
		for _, o := range r.value.owns.value {
			owner, taken := owners[o.value]
			switch {
			case !o.written():
			case slices.Contains([]string{"postgres", "template0", "template1"}, o.value) || strings.HasPrefix(o.value, "holdfast"):
				ms.add(o.at, below.to("owns"), "names %q, which is reserved (allowed: any but postgres, template0, template1, holdfast...)", o.value)
			case taken && owner == r.name:
				ms.add(o.at, below.to("owns"), "names %q twice (allowed: once)", o.value)
			case taken:
				ms.add(o.at, below.to("owns"), "names %q, which role %s owns (allowed: one owner for each)", o.value, owner)
			default:
				owners[o.value] = r.name
				role.Owns = append(role.Owns, o.value)
			}
		}
		all = append(all, role)
	}
	return all
}
