package plan

import (
	"slices"
	"strings"
)

func (d *differ) databases() {
	for _, db := range d.old.Databases {
		if _, kept := d.new.DatabaseNamed(db.Name); !kept {
			d.add("database "+db.Name, Stops, "its primary and %s are stopped; their data stay on the hosts until somebody deletes them",
				count(db.Standbys, "standby", "standbys"))
		}
	}
	for _, db := range d.new.Databases {
		old, known := d.old.DatabaseNamed(db.Name)
		if !known {
			d.add("database "+db.Name, Starts, "PostgreSQL %d starts with a primary and %s, on port %d of each host",
				db.Postgres, count(db.Standbys, "standby", "standbys"), db.WritePort)
			continue
		}
		d.database(old, db)
	}
}

func (d *differ) database(old, db Database) {
	subject := "database " + db.Name
	if old.Postgres != db.Postgres {
		d.add(subject, Refused, "PostgreSQL %d becomes %d; an upgrade between major versions is not available in this version", old.Postgres, db.Postgres)
	}
	if old.BinDir != db.BinDir {
		d.add(subject, Pends, "its programs lie in %s (was %s); what runs goes on until: holdfast database restart %s --pending", folder(db.BinDir), folder(old.BinDir), db.Name)
	}
	if old.Index != db.Index && d.old.Ports == d.new.Ports {
		d.add(subject, Pauses, "its place among the databases changes from %d to %d, and with it the ports of its servers: they restart, and clients wait meanwhile (add new databases at the end)",
			old.Index+1, db.Index+1)
	}
	d.copies(subject, old, db)
	if old.AcknowledgedBy != db.AcknowledgedBy {
		d.add(subject, Reloads, "a commit is acknowledged by %d (was %d)", db.AcknowledgedBy, old.AcknowledgedBy)
	}
	d.byVault(subject, old, db)
	d.members(subject, old, db)
	if old.Relaxed != db.Relaxed {
		policy := map[bool]string{true: "relaxed: with too few standbys commits are acknowledged by fewer", false: "strict: with too few standbys writes wait"}
		d.add(subject, Reloads, "its policy becomes %s", policy[db.Relaxed])
	}
	if !slices.Equal(old.Hosts, db.Hosts) {
		d.add(subject, Nothing, "it may lie on %s (was %s)",
			hostList(db.Hosts), hostList(old.Hosts))
	}
	if old.WritePort != db.WritePort {
		d.add(subject, Reloads, "its port becomes %d (was %d); no session is cut, and the former port is served for ten minutes more", db.WritePort, old.WritePort)
	}
	d.reads(subject, old, db)
	d.path(subject, old, db)
	if old.CopyLimit != db.CopyLimit {
		d.add(subject, Nothing, "making a standby may move %s (was %s)", rateOrAny(db.CopyLimit), rateOrAny(old.CopyLimit))
	}
	if !slices.Equal(old.CopyFrom, db.CopyFrom) {
		d.add(subject, Nothing, "a standby is made of %s (was %s)", copySources(db.CopyFrom), copySources(old.CopyFrom))
	}
	if old.SlotMax != db.SlotMax || old.SlotAfter != db.SlotAfter {
		d.add(subject, Reloads, "up to %s of log, or %s, are kept for a standby that is away", formatSize(db.SlotMax), FormatDuration(db.SlotAfter))
	}
	if old.DiskFull != db.DiskFull {
		d.add(subject, Nothing, "a primary whose disk is nearly full answers by %s (was %s)", db.DiskFull, old.DiskFull)
	}
	if was, is := old.Salvage.words(), db.Salvage.words(); was != is || !slices.Equal(old.Salvage.Run, db.Salvage.Run) || old.Salvage.Timeout != db.Salvage.Timeout || old.Salvage.Tries != db.Salvage.Tries {
		d.add(subject, Reloads, "what a forced failover gives up %s (was: %s)", is, was)
	}
	if !slices.Equal(old.OnTrouble.Run, db.OnTrouble.Run) || old.OnTrouble.Limit != db.OnTrouble.Limit {
		d.add(subject, Nothing, "for a primary in trouble %s (was %s)", db.OnTrouble, old.OnTrouble)
	}
	d.roles(subject, old.Roles, db.Roles)
	d.parameters(db.Name, old.Parameters, db.Parameters)
}

// byVault is what commits wait for besides standbys.
func (d *differ) byVault(subject string, old, db Database) {
	switch {
	case old.ByVault == db.ByVault:
	case db.ByVault == "":
		d.add(subject, Reloads, "commits do not wait for the vault any more")
	case old.ByVault == "":
		d.add(subject, Reloads, "commits wait for the vault too (%s), once it has everything", db.ByVault)
	default:
		d.add(subject, Reloads, "without the vault commits are held by %s (was %s)", db.ByVault, old.ByVault)
	}
}

// path is what changes for clients of the write listener.
func (d *differ) path(subject string, old, db Database) {
	switch {
	case old.Path == db.Path:
	case db.Path == PathKernel:
		d.add(subject, Reloads, "new sessions of each host's own programs reach the primary by path kernel (was %s); those that there are go on", old.Path)
	default:
		d.add(subject, Pauses, "each host's own programs reach the primary by path %s (was %s); sessions that the kernel led are cut once", db.Path, old.Path)
	}
}

// reads is what changes for clients of the read-only listener.
func (d *differ) reads(subject string, old, db Database) {
	switch {
	case old.ReadPort == 0 && db.ReadPort != 0:
		d.add(subject, Starts, "port %d of each host spreads read-only sessions over its standbys", db.ReadPort)
		return
	case old.ReadPort != 0 && db.ReadPort == 0:
		d.add(subject, Stops, "nothing listens on its read-only port %d any more; what is connected there is cut", old.ReadPort)
		return
	case old.ReadPort != db.ReadPort:
		d.add(subject, Reloads, "its read-only port becomes %d (was %d); no session is cut, and the former port is served for ten minutes more", db.ReadPort, old.ReadPort)
	}
	if old.MaxLag != db.MaxLag {
		d.add(subject, Reloads, "a standby may be read up to %s behind (was %s)", FormatDuration(db.MaxLag), FormatDuration(old.MaxLag))
	}
	if old.ReadFallback != db.ReadFallback {
		d.add(subject, Reloads, "with no standby to read, read-only sessions go to: %s (was %s)", db.ReadFallback, old.ReadFallback)
	}
}

// copies says which hosts get a copy and which keep theirs, stopped.
func (d *differ) copies(subject string, old, db Database) {
	names := func(p *Plan, db Database) (out []string) {
		for _, h := range p.DatabasePlacement(db) {
			out = append(out, h.Name)
		}
		return out
	}
	before, after := names(d.old, old), names(d.new, db)
	for _, h := range after {
		if !slices.Contains(before, h) {
			d.add(subject, Starts, "a standby is made on %s beside what runs", h)
		}
	}
	for _, h := range before {
		if !slices.Contains(after, h) {
			d.add(subject, Stops, "its copy on %s is stopped, data kept; if it is the primary it stays until a switchover", h)
		}
	}
}

// members says how hosts take part from now on.
func (d *differ) members(subject string, old, db Database) {
	words := func(all []Member, host string) string {
		m, ok := find(all, func(m Member) bool { return m.Host == host })
		if !ok {
			m = Member{Host: host, Promote: "normal"}
		}
		how := "synchronous"
		if m.Follows != "" {
			how = "asynchronous, following " + m.Follows
		} else if m.Async {
			how = "asynchronous"
		}
		if m.Promote != "normal" {
			how += ", promote " + m.Promote
		}
		return how
	}
	for _, h := range d.new.DatabasePlacement(db) {
		if was, is := words(old.Members, h.Name), words(db.Members, h.Name); was != is {
			d.add(subject, Reloads, "as a standby %s is %s (was %s)", h.Name, is, was)
		}
	}
}

func (d *differ) roles(subject string, old, new []Role) {
	named := func(all []Role, name string) (Role, bool) {
		return find(all, func(r Role) bool { return r.Name == name })
	}
	for _, r := range old {
		if _, kept := named(new, r.Name); !kept {
			d.add(subject, Stops, "role %s may not log in any more; its sessions go on, and it and what it owns are kept", r.Name)
		}
	}
	for _, r := range new {
		was, known := named(old, r.Name)
		if !known {
			d.add(subject, Starts, "role %s is made%s", r.Name, owning(r.Owns))
			continue
		}
		if was.Password != r.Password {
			d.add(subject, Reloads, "the password of role %s is read from another place; where it is another one, new sessions with the former are refused", r.Name)
		}
		for _, o := range r.Owns {
			if !slices.Contains(was.Owns, o) {
				d.add(subject, Starts, "role %s owns %s too; it is made if it is missing", r.Name, o)
			}
		}
		for _, o := range was.Owns {
			if !slices.Contains(r.Owns, o) {
				d.add(subject, Nothing, "role %s need not own %s any more; what is there is kept", r.Name, o)
			}
		}
	}
}

func owning(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return ", and owns " + strings.Join(names, ", ")
}

func (d *differ) parameters(name string, old, new []Parameter) {
	subject := "database " + name
	var reload, restart []string
	note := func(name string) {
		if slices.Contains(restartParameters(), name) {
			restart = append(restart, name)
		} else {
			reload = append(reload, name)
		}
	}
	named := func(all []Parameter, name string) (Parameter, bool) {
		return find(all, func(p Parameter) bool { return p.Name == name })
	}
	for _, p := range new {
		if was, known := named(old, p.Name); !known || was.Value != p.Value {
			note(p.Name)
		}
	}
	for _, p := range old {
		if _, kept := named(new, p.Name); !kept {
			note(p.Name)
		}
	}
	if len(reload) > 0 {
		d.add(subject, Reloads, "%s: taken over while it runs", strings.Join(reload, ", "))
	}
	if len(restart) > 0 {
		d.add(subject, Pends, "%s: PostgreSQL reads it at start; shown as pending until: holdfast database restart %s --pending (standbys one at a time, then a switchover)", strings.Join(restart, ", "), name)
	}
}

func folder(dir string) string {
	if dir == "" {
		return "the usual place"
	}
	return dir
}

// copySources are what a standby is made of, in words.
func copySources(from []string) string {
	if len(from) == 0 {
		from = []string{CopyFromStandby, CopyFromPrimary}
	}
	return strings.Join(from, ", else ")
}

func rateOrAny(n int64) string {
	if n == 0 {
		return "as much as the line takes"
	}
	return formatSize(n) + "/s"
}
