package plan

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Effect is what a change does to what runs, in one word.
type Effect string

// Effects, in the order in which they trouble clients, least first.
const (
	Nothing  Effect = "nothing" // words or future work alone change
	Starts   Effect = "start"   // something new begins; what runs goes on
	Reloads  Effect = "reload"  // it takes the new setting while it runs
	Pends    Effect = "pending" // it waits for a restart that an operator asks for: holdfast database restart NAME --pending
	Restarts Effect = "restart" // ended and begun again, one at a time
	Pauses   Effect = "pause"   // clients wait for seconds
	Stops    Effect = "stop"    // ended; its data stay where they are
	Refused  Effect = "refused" // cannot be reached by changing a plan
)

// Change is one difference between two plans, in words.
type Change struct {
	Subject string `json:"subject"` // "service web"
	Effect  Effect `json:"effect"`
	What    string `json:"what"`
}

// String is the change as a line of text.
func (c Change) String() string { return fmt.Sprintf("%s: %s (%s)", c.Subject, c.What, c.Effect) }

// Diff says what applying the plan new would do where old is in force: what starts, stops, restarts or
// pauses. Nothing is ever deleted: what is taken out of the plan is stopped and kept. old = nil is a first
// start. Equal plans give no change.
func Diff(old, new *Plan) []Change {
	if old == nil {
		old = &Plan{Application: new.Application, Ports: new.Ports, Release: new.Release, Objectives: new.Objectives}
	}
	d := &differ{old: old, new: new}
	d.whole()
	d.hosts()
	d.services()
	d.databases()
	d.vaults()
	d.backups()
	d.files()
	return d.changes
}

type differ struct {
	old, new *Plan
	changes  []Change
}

func (d *differ) add(subject string, e Effect, format string, args ...any) {
	d.changes = append(d.changes, Change{Subject: subject, Effect: e, What: fmt.Sprintf(format, args...)})
}

func (d *differ) whole() {
	subject := "application " + d.old.Application
	if d.old.Application != d.new.Application {
		d.add(subject, Refused, "its name becomes %s; data of one application are never taken over by another: adopt or restore them there", d.new.Application)
	}
	if d.old.Objectives != d.new.Objectives {
		d.add(subject, Nothing, "its objectives change; status and alarms measure by the new ones")
	}
	if d.old.Ports != d.new.Ports {
		d.add(subject, Pauses, "Holdfast's own ports change; agents, gates and database servers restart, and clients wait meanwhile")
	}
}

func (d *differ) hosts() {
	for _, h := range d.old.AllHosts() {
		if _, kept := d.new.Host(h.Name); !kept {
			d.add("host "+h.Name, Stops, "it leaves the plan; what runs on it starts elsewhere, and its data stay on its disk")
		}
	}
	for _, h := range d.new.AllHosts() {
		old, known := d.old.Host(h.Name)
		subject := "host " + h.Name
		switch {
		case !known:
			d.add(subject, Starts, "it joins at %s", h.Address)
			continue
		case old.Site != h.Site:
			d.add(subject, Refused, "it moves from site %s to %s; take it out under this name and add it there under a new one", old.Site, h.Site)
			continue
		case old.Address != h.Address:
			d.add(subject, Restarts, "its address becomes %s (was %s); everything on it restarts", h.Address, old.Address)
		}
		if old.FaultDomain != h.FaultDomain {
			d.add(subject, Nothing, "its fault domain becomes %s (was %s); instances are spread anew, one at a time", h.FaultDomain, old.FaultDomain)
		}
		if old.Etcd != h.Etcd && h.Etcd {
			d.add(subject, Starts, "a member of etcd starts on it")
		} else if old.Etcd != h.Etcd {
			d.add(subject, Stops, "its member of etcd leaves the group")
		}
	}
}

func (d *differ) services() {
	for _, s := range d.old.Services {
		if _, kept := d.new.ServiceNamed(s.Name); !kept {
			d.add("service "+s.Name, Stops, "%s stopped; its logs stay on the hosts until somebody deletes them", stop(s.Instances))
		}
	}
	for _, s := range d.new.Services {
		old, known := d.old.ServiceNamed(s.Name)
		if !known {
			d.add("service "+s.Name, Starts, "%s: %s", starts(s.Instances), strings.Join(s.Run, " "))
			continue
		}
		d.service(old, s)
	}
}

func stop(n int) string {
	if n == 1 {
		return "its instance is"
	}
	return fmt.Sprintf("its %d instances are", n)
}

func starts(n int) string {
	if n == 1 {
		return "1 instance starts"
	}
	return fmt.Sprintf("%d instances start", n)
}

func (d *differ) service(old, s Service) {
	subject := "service " + s.Name
	var why []string
	if d.old.Release != d.new.Release {
		why = append(why, "the release")
	}
	if !slices.Equal(old.Run, s.Run) {
		why = append(why, "run")
	}
	if old.Port != s.Port {
		why = append(why, "port")
	}
	why = append(why, changedEnv(old.Env, s.Env)...)
	why = append(why, d.changedAddresses(s)...)
	if len(why) > 0 && s.Singleton() {
		d.add(subject, Restarts, "%s changed; its one instance restarts, with an outage of seconds", strings.Join(why, ", "))
	} else if len(why) > 0 {
		d.add(subject, Restarts, "%s changed; instances restart one at a time, the first alone until it is ready", strings.Join(why, ", "))
	}
	switch {
	case s.Instances > old.Instances && old.Singleton():
		d.add(subject, Starts, "%s more: two may now run at once", starts(s.Instances-old.Instances))
	case s.Instances > old.Instances:
		d.add(subject, Starts, "%s more", starts(s.Instances-old.Instances))
	case s.Instances < old.Instances:
		d.add(subject, Stops, "%s stopped after draining (%d left)", count(old.Instances-s.Instances, "instance is", "instances are"), s.Instances)
	}
	if !reflect.DeepEqual(old.Route, s.Route) {
		effect := Reloads
		if old.Route != nil {
			effect = Stops
		}
		d.add(subject, effect, "its route becomes %s (was %s)%s", s.Route, old.Route, map[bool]string{true: "; clients of the old one are drained"}[old.Route != nil])
	}
	for _, c := range []struct {
		name     string
		old, new *Check
	}{{"live", old.Live, s.Live}, {"ready", old.Ready, s.Ready}} {
		if !reflect.DeepEqual(c.old, c.new) {
			d.add(subject, Reloads, "its check %s changes (%s, was %s)", c.name, describeCheck(c.new), describeCheck(c.old))
		}
	}
	if !reflect.DeepEqual(old.TLS, s.TLS) {
		d.add(subject, Reloads, "its certificate comes from another place; new connections get it")
	}
	if old.StopGrace != s.StopGrace {
		d.add(subject, Reloads, "stop_grace becomes %s (was %s)", FormatDuration(s.StopGrace), FormatDuration(old.StopGrace))
	}
	if !slices.Equal(old.Hosts, s.Hosts) {
		d.add(subject, Restarts, "it may run on %s (was %s); instances elsewhere move one at a time", hostList(s.Hosts), hostList(old.Hosts))
	}
}

// changedAddresses names the databases that a service uses and that it reaches otherwise from now on.
func (d *differ) changedAddresses(s Service) (why []string) {
	for _, v := range s.Env {
		for _, a := range addressesIn(v.Value) {
			old, known := d.old.DatabaseNamed(a.database)
			if !known {
				continue
			}
			if text := "the port of database " + a.database; a.port(d.old) != a.port(d.new) && !slices.Contains(why, text) {
				why = append(why, text)
			}
			next, _ := d.new.DatabaseNamed(a.database)
			if text := "the role for database " + a.database; !old.logsInAs(next) && !slices.Contains(why, text) {
				why = append(why, text)
			}
		}
	}
	return why
}

// changedEnv names the variables that differ, never their values.
func changedEnv(old, new []EnvVar) []string {
	values := func(all []EnvVar) map[string]string {
		m := map[string]string{}
		for _, v := range all {
			m[v.Name] = v.Value
		}
		return m
	}
	before, after := values(old), values(new)
	var names []string
	for _, v := range new {
		if was, there := before[v.Name]; !there || was != v.Value {
			names = append(names, v.Name)
		}
	}
	for _, v := range old {
		if _, there := after[v.Name]; !there {
			names = append(names, v.Name)
		}
	}
	return names
}

func hostList(names []string) string {
	if len(names) == 0 {
		return "any host"
	}
	return strings.Join(names, ", ")
}

func reserveWords(n int64) string {
	if n == 0 {
		return "a tenth, 4GB at most"
	}
	return formatSize(n)
}

func (d *differ) vaults() {
	for _, v := range d.old.Vaults {
		if _, kept := d.new.VaultNamed(v.Name); !kept {
			d.add("vault "+v.Name, Stops, "nothing is written to it or expires in it; its copies stay where they are until somebody deletes them")
		}
	}
	for _, v := range d.new.Vaults {
		old, known := d.old.VaultNamed(v.Name)
		subject := "vault " + v.Name
		if !known {
			d.add(subject, Starts, "it is made in %s", count(len(v.Copies), "place", "places"))
			continue
		}
		if old.Key != v.Key {
			d.add(subject, Reloads, "its key is read from another place; it must be the same key")
		}
		if old.Undelete != v.Undelete {
			d.add(subject, Reloads, "what is deleted from its directories can be brought back for %s (was %s)", spanOrWord(v.Undelete), spanOrWord(old.Undelete))
		}
		if old.Reserve != v.Reserve {
			d.add(subject, Reloads, "base backups and files leave %s of the disk to the log in its directories (was %s)", reserveWords(v.Reserve), reserveWords(old.Reserve))
		}
		if old.TwoPersons != v.TwoPersons {
			d.add(subject, Reloads, "deletions: %s (was %s); once two persons have agreed on how long things stay, only two persons end that", deletionsWord(v.TwoPersons), deletionsWord(old.TwoPersons))
		}
		for _, c := range old.Copies {
			if i := slices.IndexFunc(v.Copies, func(n Copy) bool { return n.Name == c.Name }); i < 0 {
				d.add(subject, Stops, "copy %s gets nothing new; what it holds is kept", c.Name)
			} else if n := v.Copies[i]; !n.same(c) {
				d.add(subject, Starts, "copy %s moves to %s and is filled from the others; what lies at the old place is kept", c.Name, n.URL)
			} else if n.S3.Lock != c.S3.Lock {
				d.add(subject, Reloads, "what is stored in copy %s from then on cannot be deleted for %s (was %s); what is locked stays so", c.Name, spanOrWord(n.S3.Lock), spanOrWord(c.S3.Lock))
			} else if n != c {
				d.add(subject, Reloads, "copy %s is reached in another way; it must be the same bucket", c.Name)
			}
		}
		d.upkeep(subject, old.Upkeep, v.Upkeep)
		for _, c := range v.Copies {
			if !slices.ContainsFunc(old.Copies, func(o Copy) bool { return o.Name == c.Name }) {
				d.add(subject, Starts, "copy %s is made at %s and filled from the others", c.Name, c.URL)
			}
		}
	}
}

// untilBackup says what commits of a database wait for when its vault is another one.
func (d *differ) untilBackup(name string) string {
	switch now, _ := d.new.DatabaseNamed(name); now.ByVault {
	case "strict":
		return "; commits wait until that backup is stored there"
	case "relaxed":
		return "; until that backup is stored there commits are acknowledged without the vault"
	}
	return ""
}

func (d *differ) backups() {
	for _, b := range d.old.Backups {
		if _, kept := d.new.BackupOf(b.Of); !kept {
			d.add("backup of "+b.Of, Stops, "no backup is made any more; those there are stay in vault %s", b.Vault)
		}
	}
	for _, b := range d.new.Backups {
		old, known := d.old.BackupOf(b.Of)
		subject := "backup of " + b.Of
		if !known {
			d.add(subject, Starts, "a first backup is made at once, then %s, into vault %s", b.Full.inWords(), b.Vault)
			continue
		}
		if old.Vault != b.Vault {
			d.add(subject, Starts, "it goes to vault %s (was %s), beginning with a full backup; the old ones are kept%s", b.Vault, old.Vault, d.untilBackup(b.Of))
		}
		if old.Full != b.Full {
			d.add(subject, Reloads, "its full backups are made %s (was %s)", b.Full.inWords(), old.Full.inWords())
		}
		if old.Incremental != b.Incremental {
			d.add(subject, Reloads, "its incremental backups are made %s (was %s)", b.Incremental.inWords(), old.Incremental.inWords())
		}
		if old.Prove != b.Prove {
			d.add(subject, Reloads, "one is restored on trial again %s (was %s)", b.Prove.inWords(), old.Prove.inWords())
		}
		if old.Zone != b.Zone || old.Jitter != b.Jitter {
			d.add(subject, Reloads, "its times are those of %s, %s late at most (was %s, %s)", zoneText(b.Zone), spanOrWord(b.Jitter), zoneText(old.Zone), spanOrWord(old.Jitter))
		}
		if old.Limit != b.Limit {
			d.add(subject, Reloads, "a base backup that the schedule makes reads %s (was %s), from the next one on", rateOrAny(b.Limit), rateOrAny(old.Limit))
		}
		if old.All != b.All || old.HalfDaily != b.HalfDaily || old.Daily != b.Daily {
			d.add(subject, Reloads, "all stay for %s, one of 12 hours for %s, one of a day for %s (was %s, %s, %s), except the last proven backup, which stays",
				spanOrWord(b.All), spanOrWord(b.HalfDaily), spanOrWord(b.Daily), spanOrWord(old.All), spanOrWord(old.HalfDaily), spanOrWord(old.Daily))
		}
		if old.PITR != b.PITR || old.Weekly != b.Weekly {
			shorter := ""
			if b.PITR < old.PITR || b.Weekly < old.Weekly {
				shorter = "; what is older expires, except the last proven backup"
			}
			d.add(subject, Reloads, "it keeps any moment of %s and weekly backups of %s (was %s, %s)%s",
				spanOrWord(b.PITR), spanOrWord(b.Weekly), spanOrWord(old.PITR), spanOrWord(old.Weekly), shorter)
		}
		if old.Spill != b.Spill {
			d.add(subject, Reloads, "log that waits for the vault and has no room elsewhere goes to %s (was %s); what lies there goes into the vault first", placeOrNone(b.Spill), placeOrNone(old.Spill))
		}
		if !b.Validate.same(old.Validate) {
			d.add(subject, Reloads, "backups that are restored on trial from now on are looked at by %s (was %s)", b.Validate.words(), old.Validate.words())
		}
	}
}

func placeOrNone(dir string) string {
	if dir == "" {
		return "no second place"
	}
	return dir
}
