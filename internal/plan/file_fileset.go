package plan

import (
	"errors"
	"fmt"
	pathpkg "path"
	"reflect"
	"slices"
	"strings"
	"time"
)

// fileSetFile is a file set as it is written.
type fileSetFile struct {
	path    located[string]
	hosts   located[[]located[string]]
	exclude located[[]located[string]]
	moment  located[momentFile]
}

// momentFile says how a set and a database stand still, as it is written.
type momentFile struct {
	database         located[string]
	before, after    located[[]string]
	freeze, snapshot located[time.Duration]
	afterRestore     located[[]located[[]string]]
	check            located[[]string]
	restoreLimit     located[time.Duration]
	restoreUser      located[string]
	every            located[Schedule]
	zone             located[string]
	jitter           located[time.Duration]
}

// minFilesEvery is the shortest repetition of a file set's backup: each looks at every file.
const minFilesEvery = 5 * time.Minute

const filesEvery = 6 * time.Hour

// everySpan is a schedule of one repetition.
func everySpan(d time.Duration) Schedule {
	return Schedule{Text: "every " + FormatDuration(d), Every: d}
}

// filesSchedule is when a file set is backed up: a span of time alone, or a schedule.
func filesSchedule() form[Schedule] {
	least := FormatDuration(minFilesEvery)
	allowed := "6h, or a schedule: " + scheduleWays + "; " + least + " to " + FormatDuration(everyMax) + " from one to the next"
	return text(jsonSchema{"pattern": durationPattern + "|" + schedulePattern}, allowed, func(s string) (Schedule, error) {
		when, err := parseSchedule(s)
		if d, wrong := parseDuration(s); wrong == nil {
			when, err = everySpan(d), nil
		}
		if err != nil {
			return when, err
		}
		if shortest, _ := when.gaps(); shortest < minFilesEvery || when.Every > everyMax {
			return when, fmt.Errorf("%q is out of range (%s)", s, allowed)
		}
		return when, nil
	})
}

func fileSet() form[fileSetFile] {
	return object(
		must(key("path", fileSetPath(), "The directory: a whole path, the same on each of its hosts.", func(f *fileSetFile) *located[string] { return &f.path })),
		key("hosts", listOf(nameText(label())), "Hosts that have the directory; each is backed up by itself (default: the only host of the home site).", func(f *fileSetFile) *located[[]located[string]] { return &f.hosts }),
		key("exclude", listOf(excluded()), "Patterns of what is left out: a name (*.tmp), a path from the directory on (cache/*), or a directory with all in it (cache/).", func(f *fileSetFile) *located[[]located[string]] { return &f.exclude }),
		key("moment", moment(), "How files and a database are brought to stand still for a recovery point (default: the set has none).", func(f *fileSetFile) *located[momentFile] { return &f.moment }),
		notYet[fileSetFile]("copies"), notYet[fileSetFile]("bucket"), notYet[fileSetFile]("watch"), notYet[fileSetFile]("proof"),
	)
}

func moment() form[momentFile] {
	return object(
		must(key("database", nameText(label()), "Database whose position is noted while everything stands still.", func(f *momentFile) *located[string] { return &f.database })),
		must(key("before", argv(), "Command on the set's host, by its whole path: once it has ended nothing changes files or database. No shell reads it.", func(f *momentFile) *located[[]string] { return &f.before })),
		must(key("after", argv(), "Command that lets them go on. It runs whatever happened, and again until it succeeds, so once too often must do no harm.", func(f *momentFile) *located[[]string] { return &f.after })),
		key("freeze", span(time.Second, freezeMax), "Longest time from the beginning of before to that of after (default 60s, which is the most).", func(f *momentFile) *located[time.Duration] { return &f.freeze }),
		key("snapshot", span(100*time.Millisecond, snapshotMax), "Longest time of that for taking files and position (default 10s, which is the most).", func(f *momentFile) *located[time.Duration] { return &f.snapshot }),
		key("after_restore", listOf(argv()), "Commands that run in turn once both were restored, before anything serves: recovery processing. They run again with a restore that is repeated, so twice must come to the same.", func(f *momentFile) *located[[]located[[]string]] { return &f.afterRestore }),
		key("check", argv(), "Command that holds the restored database against the restored files; exit status 0 = they agree. What it says is kept.", func(f *momentFile) *located[[]string] { return &f.check }),
		key("restore_limit", span(time.Second, 24*time.Hour), "Longest time of each command of after_restore and of check (default 10m).", func(f *momentFile) *located[time.Duration] { return &f.restoreLimit }),
		key("restore_user", nameText(osUser()), "User of the host as whom they run (default: whoever restores).", func(f *momentFile) *located[string] { return &f.restoreUser }),
		key("every", schedule(), "When recovery points are made by themselves (default: when somebody asks).", func(f *momentFile) *located[Schedule] { return &f.every }),
		key("zone", zone(), "Time zone of these times, such as Europe/Berlin (default UTC).", func(f *momentFile) *located[string] { return &f.zone }),
		key("jitter", spanOrNone(time.Second, 6*time.Hour), "By how much each may be late, so that not everything begins at once (default none).", func(f *momentFile) *located[time.Duration] { return &f.jitter }),
	)
}

const (
	// freezeMax and snapshotMax are what users are made to wait at most.
	freezeMax   = time.Minute
	snapshotMax = 10 * time.Second
	// restoreLimit is how long a command after a restore may take unless the plan says otherwise.
	restoreLimit = 10 * time.Minute
)

// osUser is what useradd takes for a name.
func osUser() nameRule {
	return nameRule{pattern: `^[a-z_][a-z0-9_-]{0,31}$`, allows: isOSUser, allowed: "a user's name: small letters, digits, - and _, first no digit"}
}

func isOSUser(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'a' || r > 'z') && (i == 0 || r != '-' && (r < '0' || r > '9')) {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

func resolveMoment(ms *mistakes, p *Plan, at keyPath, set FileSet, f located[momentFile]) Moment {
	if !f.written() || !f.value.database.written() {
		return Moment{}
	}
	m := Moment{Database: f.value.database.value, Before: f.value.before.value, After: f.value.after.value,
		Freeze: f.value.freeze.or(freezeMax), Snapshot: f.value.snapshot.or(snapshotMax),
		Check: f.value.check.value, RestoreLimit: f.value.restoreLimit.value, RestoreUser: f.value.restoreUser.value,
		Every: f.value.every.value, Zone: f.value.zone.value, Jitter: f.value.jitter.value}
	if _, ok := p.DatabaseNamed(m.Database); !ok {
		ms.add(f.value.database.at, at.to("database"), "%q is not known (%s)", m.Database, namesOr(databaseNames(p), func(n string) string { return n }, "the plan has no databases"))
	}
	type command struct {
		key string
		run located[[]string]
	}
	commands := []command{{"before", f.value.before}, {"after", f.value.after}, {"check", f.value.check}}
	for _, c := range f.value.afterRestore.value {
		if commands = append(commands, command{"after_restore", c}); c.written() {
			m.AfterRestore = append(m.AfterRestore, c.value)
		}
	}
	if m.RestoreLimit == 0 && len(m.AfterRestore)+len(m.Check) > 0 {
		m.RestoreLimit = restoreLimit
	}
	for _, c := range commands {
		if c.run.written() && len(c.run.value) > 0 && !rooted(c.run.value[0]) {
			ms.add(c.run.at, at.to(c.key), "%q is relative (allowed: a whole path)", c.run.value[0])
		}
	}
	if len(set.Hosts) > 1 {
		ms.add(f.at, at, "the set is on %d hosts, and only one can be brought to stand still at once in this version (allowed: one host)", len(set.Hosts))
	}
	return m
}

func fileSetPath() form[string] {
	return text(jsonSchema{"pattern": `^(/|\$\{root\}/).+$`}, "a whole path such as /srv/clinic/attachments", func(s string) (string, error) {
		switch {
		case strings.ContainsRune(s, 0), strings.Contains(strings.TrimPrefix(s, rootTemplate), "${"):
			return "", fmt.Errorf("%q is not a path (such as /srv/clinic/attachments)", s)
		case !strings.HasPrefix(s, "/") && !strings.HasPrefix(s, rootTemplate+"/"):
			return "", fmt.Errorf("%q is relative (a whole path, the same on each of its hosts)", s)
		}
		clean := pathpkg.Clean(s)
		if clean == "/" || clean == rootTemplate || strings.HasPrefix(s, rootTemplate) && !strings.HasPrefix(clean, rootTemplate+"/") {
			return "", fmt.Errorf("%q is no directory of the application's own (such as /srv/clinic/attachments)", s)
		}
		return clean, nil
	})
}

func excluded() form[string] {
	return text(jsonSchema{"minLength": 1}, "a pattern such as *.tmp or cache/", func(s string) (string, error) { return s, JudgeExclude(s) })
}

// JudgeExclude refuses what is no pattern of files to leave out.
func JudgeExclude(s string) error {
	body := strings.TrimSuffix(strings.TrimPrefix(s, "/"), "/")
	switch {
	case body == "" || strings.ContainsRune(s, 0):
		return errors.New("an empty pattern leaves nothing out (such as *.tmp or cache/)")
	case pathpkg.Clean(body) != body || strings.HasPrefix(body, ".."):
		return fmt.Errorf("%q leads out of the directory or holds empty parts (such as *.tmp or cache/)", s)
	case slices.Contains(strings.Split(body, "/"), "**"):
		return fmt.Errorf("%q: ** is not available in this version (a pattern without / fits at any depth)", s)
	}
	if _, err := pathpkg.Match(body, ""); err != nil {
		return fmt.Errorf("%q is no pattern: %w (* any letters, ? one, [a-z] one of these)", s, err)
	}
	return nil
}

func resolveFileSet(ms *mistakes, p *Plan, s named[fileSetFile]) FileSet {
	at, f := keyPath{"files", s.name}, s.value
	set := FileSet{Name: s.name, Path: f.path.value, Hosts: resolveHosts(ms, p, at.to("hosts"), f.hosts)}
	home := p.HomeSite().Hosts
	switch {
	case f.hosts.written():
	case ms.where[at.to("hosts").String()] != Place{}: // written wrongly, and said
	case len(home) == 1:
		set.Hosts = []string{home[0].Name}
	case len(home) > 1:
		ms.addKey(s.at, at, "hosts is missing (those that have the directory; each is backed up by itself; hosts of site %s: %s)", p.HomeSite().Name, hostNames(home))
	}
	for _, e := range f.exclude.value {
		if e.written() {
			set.Exclude = append(set.Exclude, e.value)
		}
	}
	set.Moment = resolveMoment(ms, p, at.to("moment"), set, f.moment)
	return set
}

func resolveFileBackup(ms *mistakes, p *Plan, b named[backupFile]) FileBackup {
	at, f := keyPath{"backup", b.name}, b.value
	for _, k := range []struct {
		name string
		at   Place
	}{{"full", f.full.at}, {"incremental", f.incremental.at}, {"pitr", f.pitr.at}, {"validate", f.validate.at},
		{"prove", f.prove.at}, {"limit", f.limit.at}, {"spill", f.spill.at}} {
		onlyFor(ms, at.to(k.name), k.at, "databases (a file set has every and keep)")
	}
	out := FileBackup{Vault: backupVault(ms, p, b), Every: f.every.or(everySpan(filesEvery)), Zone: f.zone.value, Jitter: f.jitter.value}
	if f.keep.value == KeepTiers {
		out.Keep = KeepTiers
		out.All, out.HalfDaily, out.Daily, out.Weekly = f.all.or(day), f.halfDaily.or(7*day), f.daily.or(15*day), f.weekly.or(2*year)
		return out
	}
	for _, k := range []struct {
		name string
		at   Place
	}{{"all", f.all.at}, {"half_daily", f.halfDaily.at}, {"daily", f.daily.at}, {"weekly", f.weekly.at}} {
		onlyFor(ms, at.to(k.name), k.at, "databases, and for file sets with keep: tiers")
	}
	return out
}

// onlyFor refuses a key of one kind of backup that stands at another.
func onlyFor(ms *mistakes, at keyPath, written Place, whom string) {
	if written.Line > 0 {
		ms.add(written, at, "is for %s", whom)
	}
}

// filesApart refuses file sets that hold each other, or a vault's copy: a backup would hold itself.
func filesApart(ms *mistakes, p *Plan, f planFile) {
	for i, s := range p.Files {
		if s.Path == "" {
			continue
		}
		written := f.files.value[i]
		at := keyPath{"files", s.Name, "path"}
		for _, other := range p.Files[:i] {
			if other.Path != "" && (within(s.Path, other.Path) || within(other.Path, s.Path)) {
				ms.add(written.value.path.at, at, "%s and file set %s (%s) lie in one another (allowed: directories apart)", s.Path, other.Name, other.Path)
			}
		}
		for _, v := range p.Vaults {
			for _, c := range v.Copies {
				place, isDir := strings.CutPrefix(c.URL, "file://")
				if isDir && (within(place, s.Path) || within(s.Path, place)) {
					ms.add(written.value.path.at, at, "%s and copy %s of vault %s (%s) lie in one another: a backup would hold itself (allowed: directories apart)", s.Path, c.Name, v.Name, place)
				}
			}
		}
	}
}

func databaseNames(p *Plan) []string {
	var names []string
	for _, d := range p.Databases {
		names = append(names, d.Name)
	}
	return names
}

func fileSetNames(p *Plan) []string {
	var names []string
	for _, s := range p.Files {
		names = append(names, s.Name)
	}
	return names
}

func showFileSet(s FileSet) mapping {
	var m mapping
	m.put("path", s.Path)
	m.put("hosts", s.Hosts)
	if len(s.Exclude) > 0 {
		m.put("exclude", s.Exclude)
	}
	if x := s.Moment; x.Database != "" {
		m.put("moment", showMoment(x))
	}
	return m
}

func showMoment(x Moment) mapping {
	m := mapping{{Key: "database", Value: x.Database}, {Key: "before", Value: x.Before}, {Key: "after", Value: x.After},
		{Key: "freeze", Value: FormatDuration(x.Freeze)}, {Key: "snapshot", Value: FormatDuration(x.Snapshot)}}
	var after []any
	for _, c := range x.AfterRestore {
		var words []any
		for _, w := range c {
			words = append(words, readable(w))
		}
		after = append(after, words)
	}
	if len(after) > 0 {
		m.put("after_restore", after)
	}
	m.putList("check", x.Check)
	m.putSpan("restore_limit", x.RestoreLimit)
	m.putText("restore_user", x.RestoreUser)
	m.putText("every", x.Every.Text)
	m.putText("zone", x.Zone)
	m.putSpan("jitter", x.Jitter)
	return m
}

// files says what becomes of file sets and their backups.
func (d *differ) files() {
	for _, s := range d.old.Files {
		if _, kept := d.new.FileSetNamed(s.Name); !kept {
			d.add("file set "+s.Name, Stops, "no backup is made any more; the directory and the backups there are stay")
		}
	}
	for _, s := range d.new.Files {
		subject := "file set " + s.Name
		old, known := d.old.FileSetNamed(s.Name)
		switch {
		case !known || old.Backup.Vault == "" && s.Backup.Vault != "":
			if s.Backup.Vault != "" {
				d.add(subject, Starts, "a first backup of %s on %s is made at once, then %s, into vault %s", s.Path, strings.Join(s.Hosts, ", "), s.Backup.Every.inWords(), s.Backup.Vault)
			}
			continue
		case s.Backup.Vault == "" && old.Backup.Vault != "":
			d.add(subject, Stops, "no backup is made any more; those there are stay in vault %s", old.Backup.Vault)
			continue
		}
		if old.Path != s.Path || !slices.Equal(old.Hosts, s.Hosts) {
			d.add(subject, Restarts, "it is %s on %s (was %s on %s); the agents take it up when they start", s.Path, strings.Join(s.Hosts, ", "), old.Path, strings.Join(old.Hosts, ", "))
		}
		if !slices.Equal(old.Exclude, s.Exclude) {
			d.add(subject, Reloads, "its backups leave out [%s] (was [%s])", strings.Join(s.Exclude, " "), strings.Join(old.Exclude, " "))
		}
		if !reflect.DeepEqual(old.Moment, s.Moment) {
			d.add(subject, Reloads, "its recovery points are made, or brought back, in another way from the next on")
		}
		if old.Backup.Vault != s.Backup.Vault {
			d.add(subject, Restarts, "it goes to vault %s (was %s); the agents take it up when they start; the old backups are kept", s.Backup.Vault, old.Backup.Vault)
		}
		if was, is := old.Backup.keepText(), s.Backup.keepText(); was != is {
			d.add(subject, Reloads, "its backups are kept %s (were kept %s); what the next run of retention lets go is gone 72 hours later", is, was)
		}
		if was, is := old.Backup, s.Backup; was.Every != is.Every || was.Zone != is.Zone || was.Jitter != is.Jitter {
			d.add(subject, Reloads, "it is backed up %s (was %s)", is.whenText(), was.whenText())
		}
	}
}

// whenText is when backups are made, in words.
func (b FileBackup) whenText() string {
	text := b.Every.inWords()
	if b.Every.Cron != "" {
		text += " " + zoneText(b.Zone)
	}
	if b.Jitter > 0 {
		text += ", up to " + FormatDuration(b.Jitter) + " late"
	}
	return text
}

// keepText is how long backups stay, in words.
func (b FileBackup) keepText() string {
	if b.Keep != KeepTiers {
		return KeepForever
	}
	span := func(d time.Duration) string {
		if d == 0 {
			return "none"
		}
		return FormatDuration(d)
	}
	return fmt.Sprintf("all for %s, one of 12 hours for %s, of a day for %s, of a week for %s", span(b.All), span(b.HalfDaily), span(b.Daily), span(b.Weekly))
}

func showFileBackup(b FileBackup) mapping {
	m := mapping{{Key: "vault", Value: b.Vault}}
	if b.Every.Every > 0 {
		m.put("every", FormatDuration(b.Every.Every))
	} else {
		m.put("every", b.Every.Text)
	}
	m.putText("zone", b.Zone)
	m.putSpan("jitter", b.Jitter)
	if b.Keep != KeepTiers {
		m.put("keep", KeepForever)
		return m
	}
	m.put("keep", KeepTiers)
	for _, t := range []struct {
		key  string
		span time.Duration
	}{{"all", b.All}, {"half_daily", b.HalfDaily}, {"daily", b.Daily}, {"weekly", b.Weekly}} {
		if t.span == 0 {
			m.put(t.key, "none")
		} else {
			m.put(t.key, FormatDuration(t.span))
		}
	}
	return m
}
