package plan

import (
	"fmt"
	"slices"
)

// misfortune is a set of hosts that die at once; when which ones is open, the worst n of all.
type misfortune struct {
	what string
	dies func(h Host) bool // nil = the worst n
	n    int
}

// outcomes says what the usual misfortunes do to each part of the plan.
func outcomes(p *Plan) []Outcome {
	home := p.HomeSite()
	var all []Outcome
	add := func(what, subject string, v Verdict, format string, args ...any) {
		all = append(all, Outcome{If: what, Subject: subject, Verdict: v, Then: fmt.Sprintf(format, args...)})
	}
	for _, d := range p.Databases {
		how := "it is restarted in place, or a standby takes over"
		if d.AcknowledgedBy == 0 { // no standby is sure to hold every commit, so none takes over by itself
			how = "it is restarted in place; clients wait for its recovery"
		}
		add("a process crashes", "database "+d.Name, Survives, "%s; no acknowledged commit is lost", how)
	}
	for _, s := range p.Services {
		if s.Singleton() {
			add("a process crashes", "service "+s.Name, Survives, "it is restarted in place; seconds of outage")
		} else {
			add("a process crashes", "service "+s.Name, Survives, "%s meanwhile; it is restarted in place", count(s.Instances-1, "other instance answers", "other instances answer"))
		}
	}
	events := []misfortune{{what: "any one host dies", n: 1}}
	if len(home.Hosts) > 2 {
		events = append(events, misfortune{what: "any two hosts die at once", n: 2})
	}
	for _, d := range domainsOf(home.Hosts) {
		if n := countIn(home.Hosts, d); n > 1 && n < len(home.Hosts) {
			events = append(events, misfortune{what: "fault domain " + d + " dies", dies: func(h Host) bool { return h.FaultDomain == d }})
		}
	}
	for _, e := range events {
		decided := e.hits(home.EtcdHosts()) <= (len(home.EtcdHosts())-1)/2
		if !decided {
			add(e.what, "hosts", Waits, "too few members of etcd may be left (%d of %d): what runs keeps running, nothing fails over or moves until they are back",
				len(home.EtcdHosts())-e.hits(home.EtcdHosts()), len(home.EtcdHosts()))
		}
		for _, d := range p.Databases {
			v, then := databaseOutcome(p, d, e, decided)
			add(e.what, "database "+d.Name, v, "%s", then)
		}
		for _, s := range p.Services {
			v, then := serviceOutcome(p, s, e, decided)
			add(e.what, "service "+s.Name, v, "%s", then)
		}
	}
	for _, d := range p.Databases {
		v, then := siteOutcome(p, d)
		add("site "+home.Name+" dies", "database "+d.Name, v, "%s", then)
	}
	for _, d := range p.Databases {
		v, then := deletionOutcome(p, d)
		add("somebody deletes rows", "database "+d.Name, v, "%s", then)
	}
	return all
}

// hits is how many of some hosts die, at the worst.
func (m misfortune) hits(hosts []Host) int {
	if m.dies == nil {
		return min(m.n, len(hosts))
	}
	n := 0
	for _, h := range hosts {
		if m.dies(h) {
			n++
		}
	}
	return n
}

// DatabasePlacement is where a database's primary and standbys are placed, the first primary's host first.
func (p *Plan) DatabasePlacement(d Database) []Host {
	all := placement(d, p.DatabaseHosts(d))
	return all[:min(d.Standbys+1, len(all))]
}

// votingPlacement leaves out who can neither acknowledge nor take over.
func (p *Plan) votingPlacement(d Database) []Host {
	return slices.DeleteFunc(p.DatabasePlacement(d), func(h Host) bool {
		m, named := find(d.Members, func(m Member) bool { return m.Host == h.Name })
		return named && !m.Votes()
	})
}

// databaseOutcome judges the worst case, in which the primary is among the dead. An election needs answers
// from standbys - acknowledged_by + 1 of the standbys: then it meets every acknowledged commit.
func databaseOutcome(p *Plan, d Database, e misfortune, decided bool) (Verdict, string) {
	dead := e.hits(p.votingPlacement(d))
	left := d.Synchronous() + 1 - dead
	needed := d.Synchronous() - d.AcknowledgedBy + 1
	switch {
	case dead == 0:
		return Survives, "none of its servers is there"
	case left == 0:
		return Waits, "every server of it may be gone: it is away until a host is back with its disk, else a backup must be restored"
	case d.AcknowledgedBy == 0:
		return Loses, "a standby must be forced to take over by hand, and the newest acknowledged commits may be lost"
	case left < needed:
		return Waits, fmt.Sprintf("%s may be left and %d must answer before one takes over: it waits for a host, or a person forces it and sees what may be lost",
			count(left, "standby", "standbys"), needed)
	case !decided:
		return Waits, "standbys hold every acknowledged commit, but none takes over until the members of etcd are back"
	case left-1 < d.AcknowledgedBy:
		if d.Relaxed {
			return Survives, fmt.Sprintf("a standby takes over and nothing is lost; commits are acknowledged by %d meanwhile (policy relaxed), and the next death may lose some", left-1)
		}
		return Waits, fmt.Sprintf("a standby takes over and nothing is lost; writes wait until %s it again", count(d.AcknowledgedBy, "standby follows", "standbys follow"))
	}
	return Survives, "a standby takes over within seconds; no acknowledged commit is lost"
}

func serviceOutcome(p *Plan, s Service, e misfortune, decided bool) (Verdict, string) {
	hosts := p.ServiceHosts(s)
	spread := spreadOver(hosts, func(int) bool { return true }, s.Instances)
	var placed []Host
	for _, i := range spread {
		placed = append(placed, hosts[i])
	}
	free := len(hosts) - e.hits(hosts)
	left := len(placed) - e.hits(placed)
	switch {
	case left > 0 && e.hits(placed) == 0:
		return Survives, "none of its instances is there"
	case left > 0:
		return Survives, fmt.Sprintf("%s on; the others start elsewhere where a host is free", count(left, "instance goes", "instances go"))
	case free == 0:
		return Waits, "no host that it may run on is left; it is back with the first of them"
	case !decided:
		return Waits, "it starts on another host when the members of etcd are back"
	}
	return Survives, "an outage of seconds while it starts on another host"
}

func siteOutcome(p *Plan, d Database) (Verdict, string) {
	b, ok := p.BackupOf(d.Name)
	if !ok {
		return Loses, "everything: it is not backed up"
	}
	v, _ := p.VaultNamed(b.Vault)
	switch {
	case !p.copyElsewhere(v):
		return Loses, "everything: no copy of vault " + v.Name + " is outside the site"
	case b.PITR == 0:
		return Loses, fmt.Sprintf("up to %s: restored by hand on other hosts from the last backup", FormatDuration(b.Gap()))
	}
	if d.ByVault == VaultStrict && !slices.ContainsFunc(v.Copies, p.inHomeSite) {
		return Waits, "no acknowledged commit is lost: restored by hand on other hosts from vault " + v.Name
	}
	return Loses, "the last seconds: restored by hand on other hosts from vault " + v.Name
}

func deletionOutcome(p *Plan, d Database) (Verdict, string) {
	b, ok := p.BackupOf(d.Name)
	switch {
	case !ok:
		return Loses, "they are gone: it is not backed up"
	case b.PITR == 0:
		return Loses, fmt.Sprintf("restored to the last backup, which is up to %s old", FormatDuration(b.Gap()))
	}
	return Survives, "restored to any moment of the last " + FormatDuration(b.PITR) + " beside the live one, and put back"
}
