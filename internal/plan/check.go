package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"holdfast/internal/problem"
)

// Report is what a plan promises and what it does not.
type Report struct {
	Outcomes []Outcome `json:"outcomes"`
	Warnings []Warning `json:"warnings"`
}

// Outcome is what one misfortune does to one part of the plan.
type Outcome struct {
	If      string  `json:"if"`      // "any one host dies"
	Subject string  `json:"subject"` // "database records"
	Verdict Verdict `json:"verdict"`
	Then    string  `json:"then"`
}

// Verdict is an outcome in one word.
type Verdict string

// Verdicts, best first.
const (
	Survives Verdict = "survives" // goes on by itself, within seconds, and nothing is lost
	Waits    Verdict = "waits"    // an outage until somebody or something comes back; nothing is lost
	Loses    Verdict = "loses"    // acknowledged data may be gone
)

// Warning is a wish of the plan that defeats another one, or leaves a promise unkept. The place is where
// the plan says so; zero when it is what the plan leaves out.
type Warning struct {
	problem.Problem
	Place
}

// Check says what the plan survives, and names what in it is weak. It looks at nothing but the plan.
func (p *Plan) Check() Report {
	c := &checker{plan: p}
	c.hosts()
	c.services()
	c.databases()
	c.vaults()
	c.files()
	c.objectives()
	slices.SortStableFunc(c.warnings, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(rank(b.Severity), rank(a.Severity)), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return Report{Outcomes: outcomes(p), Warnings: c.warnings}
}

func rank(s problem.Severity) int {
	return slices.Index([]problem.Severity{problem.Note, problem.Degraded, problem.Critical}, s)
}

type checker struct {
	plan     *Plan
	warnings []Warning
}

// warn notes a problem; the place is that of the first path that the file states.
func (c *checker) warn(p problem.Problem, paths ...string) {
	w := Warning{Problem: p}
	for _, path := range paths {
		if at, ok := c.plan.Where[path]; ok {
			w.Place = at
			break
		}
	}
	c.warnings = append(c.warnings, w)
}

func (c *checker) hosts() {
	home := c.plan.HomeSite()
	path := "sites." + home.Name + ".hosts"
	if onOneMachine(c.plan.AllHosts()) {
		c.warn(problem.Problem{Code: "plan.one-machine", Subject: c.plan.Application, Severity: problem.Note,
			Title:   "every host is on the loopback network, so all are one machine",
			Meaning: "Deaths of single hosts can be tried out; the machine's own death ends everything.",
			Remedy:  "for real use, give each host the address of a machine of its own"}, path)
	}
	switch domains := domainsOf(home.Hosts); {
	case len(home.Hosts) == 1:
		c.warn(problem.Problem{Code: "plan.one-host", Subject: home.Name, Severity: problem.Degraded,
			Title:   "the site has one host",
			Meaning: "When it dies everything stops, and nothing can take over.",
			Remedy:  "add two hosts"}, path)
	case len(domains) == 1:
		c.warn(problem.Problem{Code: "plan.one-fault-domain", Subject: home.Name, Severity: problem.Degraded,
			Title:   "all hosts are in fault domain " + domains[0],
			Meaning: "What takes that domain (its power, its switch) takes every copy at once.",
			Remedy:  "put hosts in at least three fault domains, or say which ones they are in: fault_domain"}, path)
	}
	c.etcd(home, path)
	for _, s := range c.plan.Sites[min(1, len(c.plan.Sites)):] {
		c.warn(problem.Problem{Code: "plan.site-unused", Subject: s.Name, Severity: problem.Degraded,
			Title:   "nothing runs in this site yet: this version knows the home site alone",
			Meaning: "When " + home.Name + " dies, " + s.Name + " does not take over.",
			Remedy:  "keep a copy of each vault there, and restore from it by hand"}, "sites."+s.Name)
	}
	if len(c.plan.Services)+len(c.plan.Databases)+len(c.plan.Files) == 0 {
		c.warn(problem.Problem{Code: "plan.nothing-to-run", Subject: c.plan.Application, Severity: problem.Note,
			Title: "the plan has no service and no database", Meaning: "Hosts form a group and do nothing.", Remedy: "add services or databases"})
	}
}

func (c *checker) etcd(home Site, path string) {
	members := home.EtcdHosts()
	if len(members) == 1 && len(home.Hosts) > 1 {
		c.warn(problem.Problem{Code: "plan.one-etcd-member", Subject: members[0].Name, Severity: problem.Degraded,
			Title:   "it alone holds what the hosts agree on (one member of etcd)",
			Meaning: "When it dies, what runs keeps running, but no failover and no move happens until it is back.",
			Remedy:  "use three hosts, or set etcd: true on three of them"}, path+"."+members[0].Name+".etcd", path)
	}
	if len(members) < 3 || len(domainsOf(home.Hosts)) == 1 {
		return
	}
	for _, d := range domainsOf(members) {
		held := countIn(members, d)
		if held*2 > len(members) {
			c.warn(problem.Problem{Code: "plan.etcd-majority-in-one-domain", Subject: home.Name, Severity: problem.Degraded,
				Title:   fmt.Sprintf("fault domain %s holds %d of %d members of etcd", d, held, len(members)),
				Meaning: "When that domain dies, what runs elsewhere keeps running, but no failover happens until it is back.",
				Remedy:  "spread hosts over at least three fault domains"}, path)
		}
	}
}

func (c *checker) services() {
	home := c.plan.HomeSite().Hosts
	for _, s := range c.plan.Services {
		path := "services." + s.Name
		hosts := c.plan.ServiceHosts(s)
		switch {
		case len(hosts) == 1 && len(home) > 1:
			c.warn(problem.Problem{Code: "plan.service-on-one-host", Subject: s.Name, Severity: problem.Degraded,
				Title: "it may run on " + hosts[0].Name + " alone", Meaning: "When that host dies it stays away until the host is back.",
				Remedy: "name more hosts, or leave hosts out"}, path+".hosts", path)
		case s.Singleton() && s.Route != nil:
			c.warn(problem.Problem{Code: "plan.singleton-with-route", Subject: s.Name, Severity: problem.Degraded,
				Title: "it has one instance, and clients reach it by " + s.Route.String(), Meaning: "Clients see an outage while it is moved to another host or restarted.",
				Remedy: "set instances to 2, unless two must never run at once"}, path+".instances", path)
		case s.Singleton():
			c.warn(problem.Problem{Code: "plan.singleton", Subject: s.Name, Severity: problem.Note,
				Title: "it has one instance", Meaning: "Its work rests while it is moved to another host or restarted. Two never run at once.",
				Remedy: "set instances to 2 if two may run at once"}, path+".instances", path)
		case len(domainsOf(hosts)) == 1 && len(domainsOf(home)) > 1:
			c.warn(problem.Problem{Code: "plan.service-in-one-domain", Subject: s.Name, Severity: problem.Degraded,
				Title: "all hosts that it may run on are in fault domain " + hosts[0].FaultDomain, Meaning: "One failure takes every instance.",
				Remedy: "name hosts of more than one fault domain"}, path+".hosts", path)
		}
		if s.Route == nil {
			continue
		}
		if s.Ready == nil {
			c.warn(problem.Problem{Code: "plan.route-without-ready", Subject: s.Name, Severity: problem.Degraded,
				Title: "nothing tells whether an instance is ready", Meaning: "Clients are sent to an instance as soon as it runs, and learn by errors that it cannot answer yet.",
				Remedy: "add ready: /path"}, path+".route", path)
		}
		if s.Route.Scheme == "https" && s.TLS == nil {
			c.warn(problem.Problem{Code: "plan.route-own-certificate", Subject: s.Name, Severity: problem.Note,
				Title: "its certificate comes from the application's own authority", Meaning: "Browsers warn until they trust that authority.",
				Remedy: "add tls: { certificate: file:..., key: file:... }"}, path+".route", path)
		}
	}
}

func (c *checker) databases() {
	for _, d := range c.plan.Databases {
		path := "databases." + d.Name
		if d.ReadFallback == FallbackPrimary {
			c.warn(problem.Problem{Code: "plan.readers-on-the-primary", Subject: d.Name, Severity: problem.Note,
				Title:   "with no standby to read, sessions of its read-only listener go to the primary",
				Meaning: "Such a session is opened read-only by read_url, and a client that turns that off can write there, as safely as through the other listener.",
				Remedy:  "leave read_fallback out if nothing may ever be written through it"}, path+".listen.read_fallback", path)
		}
		if len(d.CopyFrom) > 0 && !slices.Contains(d.CopyFrom, CopyFromPrimary) && d.Standbys > 0 {
			c.warn(problem.Problem{Code: "plan.copies-not-from-primary", Subject: d.Name, Severity: problem.Note,
				Title:   "a lost standby is made of " + copySources(d.CopyFrom) + ", and never of the primary",
				Meaning: "While none of these can give a copy, the database goes on with one copy less, and says so.",
				Remedy:  "name primary last in copy_from if it may be copied after all"}, path+".copy_from", path)
		}
		if len(d.OnTrouble.Run) > 0 && d.Standbys > 0 {
			c.warn(problem.Problem{Code: "plan.takeover-waits-for-command", Subject: d.Name, Severity: problem.Note,
				Title:   fmt.Sprintf("a takeover waits up to %s for on_trouble where its disk refuses or hangs, or a restart did not help", FormatDuration(d.OnTrouble.Limit)),
				Meaning: "Writes wait that much longer. A crash that is the first, and a host that is silent, are answered without it. At most one run in ten minutes on a host.",
				Remedy:  "leave on_trouble out if a standby shall take over at once"}, path+".on_trouble", path)
		}
		c.readOnly(d, path)
		c.byVault(d, path)
		switch {
		case d.Standbys == 0:
			c.warn(problem.Problem{Code: "plan.no-standby", Subject: d.Name, Severity: problem.Degraded,
				Title: "it has no standby", Meaning: "When its host dies, it is away until the host is back or a backup is restored.",
				Remedy: "set standbys to 2"}, path+".standbys", path)
		case d.AcknowledgedBy == 0:
			c.warn(problem.Problem{Code: "plan.acknowledged-by-none", Subject: d.Name, Severity: problem.Critical,
				Title:   "no standby need hold a commit before the client hears of it",
				Meaning: "When the primary's host dies, acknowledged commits can be lost; so no standby takes over by itself, a person must force it.",
				Remedy:  fmt.Sprintf("set acknowledged_by to %d", acknowledgedByDefault(d.Standbys))}, path+".acknowledged_by", path)
		case d.Synchronous()-1 < d.AcknowledgedBy && d.Relaxed:
			c.warn(problem.Problem{Code: "plan.relaxed", Subject: d.Name, Severity: problem.Degraded,
				Title:   fmt.Sprintf("with %s and policy relaxed, the loss of any one host lets commits be acknowledged by %d", count(d.Synchronous(), "synchronous standby", "synchronous standbys"), d.Synchronous()-1),
				Meaning: "Writes go on, and what the next death takes may include acknowledged commits. With 0 no standby takes over by itself until one has caught up.",
				Remedy:  "add a standby, or set policy to strict: writes then wait"}, path+".policy", path)
		case d.Synchronous()-1 < d.AcknowledgedBy:
			c.warn(problem.Problem{Code: "plan.writes-stop-after-failover", Subject: d.Name, Severity: problem.Degraded,
				Title:   fmt.Sprintf("with %s and acknowledged_by %d, the loss of any one host leaves too few", count(d.Synchronous(), "standby", "standbys"), d.AcknowledgedBy),
				Meaning: "Nothing is lost, but writes stop after a failover, or when a standby dies, until that host is back.",
				Remedy:  "add a standby, or lower acknowledged_by"}, path+".acknowledged_by", path+".standbys", path)
		}
		if d.Salvage.Then == SalvageDiscard {
			c.warn(problem.Problem{Code: "plan.salvage-discards", Subject: d.Name, Severity: problem.Degraded,
				Title:   "what a forced failover gives up is discarded, and nobody is asked",
				Meaning: "When the old primary is back its commits are listed and its log is put aside; then it becomes a copy at once. Nobody looks before at what clients had been told is safe.",
				Remedy:  "leave salvage out to be asked, or let it be exported"}, path+".salvage", path)
		}
		c.promotions(d, path)
		if _, ok := c.plan.BackupOf(d.Name); !ok {
			c.warn(problem.Problem{Code: "plan.no-backup", Subject: d.Name, Severity: problem.Critical,
				Title: "it is not backed up", Meaning: "Standbys copy a mistake within milliseconds: what somebody deletes is gone.",
				Remedy: "add it to backup, with a vault"}, path)
		}
	}
}

// readOnly notes a plan that refuses writes. It is lawful, for sessions may turn it off; and hosts that follow such a plan
// must be able to read it.
func (c *checker) readOnly(d Database, path string) {
	const name = "default_transaction_read_only"
	for _, p := range d.Parameters {
		if p.Name == name && !slices.Contains([]string{"off", "false", "no", "0"}, strings.ToLower(p.Value)) {
			c.warn(problem.Problem{Code: "plan.read-only", Subject: d.Name, Severity: problem.Critical,
				Title:   "its parameters let no transaction write, unless its session asks for that",
				Meaning: "Every ordinary write fails, with room on the disk, too. Holdfast sets " + name + " itself while the primary's disk is nearly full, and takes it back.",
				Remedy:  "leave " + name + " out of parameters; for a disk that fills, disk_full says what happens"}, path+".parameters."+name, path)
		}
	}
}

// byVault notes what commits that wait for a vault may meet.
func (c *checker) byVault(d Database, path string) {
	b, ok := c.plan.BackupOf(d.Name)
	if d.ByVault == "" || !ok {
		return
	}
	if d.ByVault == VaultStrict {
		c.warn(problem.Problem{Code: "plan.writes-wait-for-vault", Subject: d.Name, Severity: problem.Note,
			Title:   "while vault " + b.Vault + " takes nothing, writes wait",
			Meaning: "That is what acknowledged_by_vault: strict is for: no commit is acknowledged that the loss of the site could take. Nor does a new database take a client's commit before its first base backup is in the vault. Reads go on.",
			Remedy:  "set it to relaxed if writes shall go on after 10 s without the vault"}, path+".acknowledged_by_vault", path)
	}
	v, _ := c.plan.VaultNamed(b.Vault)
	if slices.ContainsFunc(v.Copies, c.plan.inHomeSite) {
		c.warn(problem.Problem{Code: "plan.acknowledged-by-copy-in-home-site", Subject: d.Name, Severity: problem.Degraded,
			Title:   "a commit counts as held by vault " + v.Name + " once one of its copies has it, and one lies in the home site",
			Meaning: "The copies elsewhere get it moments later. When the site dies within them, an acknowledged commit may be lost.",
			Remedy:  "back it up to a vault whose copies all lie elsewhere"}, path+".acknowledged_by_vault", path)
	}
}

// promotions notes a database of which nobody may take over in the primary's place.
func (c *checker) promotions(d Database, path string) {
	voting := c.plan.votingPlacement(d)
	never := 0
	for _, h := range voting {
		m, _ := find(d.Members, func(m Member) bool { return m.Host == h.Name })
		if m.Promote == "never" {
			never++
		}
	}
	if never > 0 && never >= len(voting)-1 {
		c.warn(problem.Problem{Code: "plan.nobody-to-promote", Subject: d.Name, Severity: problem.Degraded,
			Title:   fmt.Sprintf("%d of its %d synchronous servers are never promoted", never, len(voting)),
			Meaning: "No switchover has a target, and one of them takes over all the same when the primary dies: the others would be too few.",
			Remedy:  "let at least two hosts be promoted"}, path+".members", path)
	}
}

func (c *checker) vaults() {
	home := c.plan.HomeSite()
	for _, v := range c.plan.Vaults {
		path := "vaults." + v.Name
		if !slices.ContainsFunc(c.plan.Backups, func(b Backup) bool { return b.Vault == v.Name }) &&
			!slices.ContainsFunc(c.plan.Files, func(s FileSet) bool { return s.Backup.Vault == v.Name }) {
			c.warn(problem.Problem{Code: "plan.vault-unused", Subject: v.Name, Severity: problem.Note,
				Title: "no backup goes to it", Meaning: "It stays empty.", Remedy: "name it in backup"}, path)
		}
		if !c.plan.copyElsewhere(v) {
			c.warn(problem.Problem{Code: "plan.copies-in-home-site", Subject: v.Name, Severity: problem.Degraded,
				Title:   "every copy of it is in the home site " + home.Name,
				Meaning: "What takes the site (fire, water, theft) takes the data and every backup of it.",
				Remedy:  "add a copy that lies outside " + home.Name + ", on a mount that is not below ${root}"}, path+".copies", path)
		}
		target := v.Key.Target()
		if v.Key.Kind() == "file" && within(target, rootTemplate) {
			c.warn(problem.Problem{Code: "plan.vault-key-beside-data", Subject: v.Name, Severity: problem.Degraded,
				Title:   "its key lies below Holdfast's data root",
				Meaning: "Who loses the machines loses the key with them, and no copy can be read without it.",
				Remedy:  "keep a second copy of the key away from the hosts, on paper too"}, path+".key", path)
		}
		for _, copied := range v.Copies {
			place := strings.TrimPrefix(copied.URL, "file://")
			if v.Key.Kind() == "file" && within(target, place) {
				c.warn(problem.Problem{Code: "plan.vault-key-inside-copy", Subject: v.Name, Severity: problem.Critical,
					Title: "its key lies inside its copy " + copied.Name, Meaning: "Who takes the copy can read it: the encryption protects nothing.",
					Remedy: "keep the key in another place"}, path+".key", path)
			}
			if within(place, rootTemplate) && !onOneMachine(home.Hosts) && len(home.Hosts) > 1 {
				c.warn(problem.Problem{Code: "plan.copy-on-hosts-disk", Subject: v.Name, Severity: problem.Degraded,
					Title:   "copy " + copied.Name + " lies below ${root}, which is another disk on each host",
					Meaning: "A backup that one host makes dies with that host, and the others do not see it.",
					Remedy:  "give a folder that every host mounts"}, path+".copies."+copied.Name, path)
			}
		}
	}
}

// files notes file sets that nobody backs up.
func (c *checker) files() {
	for _, s := range c.plan.Files {
		if s.Backup.Vault == "" {
			c.warn(problem.Problem{Code: "plan.no-backup", Subject: s.Name, Severity: problem.Critical,
				Title: "it is not backed up", Meaning: "What somebody deletes there is gone, and so is all of it with the host's disk.",
				Remedy: "add it to backup, with a vault"}, "files."+s.Name)
		}
	}
}

func (c *checker) objectives() {
	o := c.plan.Objectives
	for _, d := range c.plan.Databases {
		b, ok := c.plan.BackupOf(d.Name)
		if !ok {
			continue
		}
		gap := b.Gap()
		v, _ := c.plan.VaultNamed(b.Vault)
		path := "backup." + d.Name
		switch {
		case o.RPO > 0 && !c.plan.copyElsewhere(v):
			c.warn(problem.Problem{Code: "plan.rpo-without-copy-elsewhere", Subject: d.Name, Severity: problem.Degraded,
				Title:   "objective rpo " + FormatDuration(o.RPO) + " counts on a copy outside the home site, and there is none",
				Meaning: "When the site dies, everything is lost, not the last " + FormatDuration(o.RPO) + ".",
				Remedy:  "add a copy outside the home site to vault " + b.Vault}, "objectives.rpo", path)
		case o.RPO > 0 && b.PITR == 0 && gap > o.RPO:
			c.warn(problem.Problem{Code: "plan.rpo-below-backup-interval", Subject: d.Name, Severity: problem.Degraded,
				Title:   "objective rpo " + FormatDuration(o.RPO) + " is shorter than the " + FormatDuration(gap) + " from one backup to the next",
				Meaning: "With pitr: none the write-ahead log is not kept, so up to " + FormatDuration(gap) + " are lost when the site dies.",
				Remedy:  "set pitr, so that the log is streamed all the time"}, path+".pitr", "objectives.rpo")
		}
		if full := b.Gap(); o.RTO > 0 && b.PITR > 0 && full > day {
			c.warn(problem.Problem{Code: "plan.rto-long-replay", Subject: d.Name, Severity: problem.Note,
				Title:   "a restore replays up to " + FormatDuration(full) + " of the log, and objective rto is " + FormatDuration(o.RTO),
				Meaning: "Replaying many days of a busy database can take hours.",
				Remedy:  `make a full backup more often: full: "daily 01:00"`}, path+".full", path)
		}
	}
	if o.RTO > 0 && len(c.plan.Services)+len(c.plan.Databases) > 0 {
		c.warn(problem.Problem{Code: "plan.rto-by-hand", Subject: c.plan.Application, Severity: problem.Note,
			Title:   "objective rto " + FormatDuration(o.RTO) + " is not secured for a site's death",
			Meaning: "This version moves nothing to another site by itself: new machines and a restore by hand take as long as they take.",
			Remedy:  "practise a restore on other machines, and time it"}, "objectives.rto")
	}
}

// copyElsewhere reports whether a vault has a copy outside the home site. What lies below ${root} is on
// the hosts themselves, whatever it is called.
func (p *Plan) copyElsewhere(v Vault) bool {
	return slices.ContainsFunc(v.Copies, func(c Copy) bool { return !p.inHomeSite(c) })
}

func (p *Plan) inHomeSite(c Copy) bool {
	return c.Name == p.HomeSite().Name || within(strings.TrimPrefix(c.URL, "file://"), rootTemplate)
}

func onOneMachine(hosts []Host) bool {
	return len(hosts) > 0 && !slices.ContainsFunc(hosts, func(h Host) bool { return !onLoopback(h) })
}

func onLoopback(h Host) bool {
	a, err := netip.ParseAddr(h.Address)
	return err == nil && a.IsLoopback()
}

func countIn(hosts []Host, domain string) int {
	n := 0
	for _, h := range hosts {
		if h.FaultDomain == domain {
			n++
		}
	}
	return n
}

// count is a number with its noun: 1 standby, 2 standbys.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
