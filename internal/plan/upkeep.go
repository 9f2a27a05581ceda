package plan

import (
	"fmt"
	"time"
	_ "time/tzdata" // a zone means the same on every host, whatever is installed there

	"github.com/goccy/go-yaml/ast"
)

// Upkeep says when a vault is looked after, by one host that archives into it.
type Upkeep struct {
	Retention  Schedule // what the tiers do not keep is let go of; zero = never
	Scrub      Schedule // everything is read and compared; zero = never
	Renew      Schedule // locks are made longer; zero = never
	Sync       Schedule // copies are compared and filled; zero = never
	Compact    Schedule // old log is bundled, and indexes are joined; zero = never
	ScrubLimit int64    // bytes a second at most; 0 = no limit
	Zone       string   // in which the schedules are read; "" = UTC
}

type upkeepFile struct {
	retention  located[Schedule]
	scrub      located[Schedule]
	renew      located[Schedule]
	sync       located[Schedule]
	compact    located[Schedule]
	scrubLimit located[int64]
	zone       located[string]
}

func upkeep() form[upkeepFile] {
	return object(
		key("retention", scheduleOrNever(), `When backups and log that are not to be kept any more are let go of (default "daily 04:30"); never = not by itself.`, func(f *upkeepFile) *located[Schedule] { return &f.retention }),
		key("scrub", scheduleOrNever(), `When everything is read and held against what was stored (default "Sunday 03:00").`, func(f *upkeepFile) *located[Schedule] { return &f.scrub }),
		key("scrub_limit", rate(), "Most that a scrub reads (default 50MB/s).", func(f *upkeepFile) *located[int64] { return &f.scrubLimit }),
		key("renew", scheduleOrNever(), `When locks are made longer, of copies with lock (default "daily 05:30").`, func(f *upkeepFile) *located[Schedule] { return &f.renew }),
		key("sync", scheduleOrNever(), `When copies are compared and filled, besides what goes on all the time (default "daily 02:30").`, func(f *upkeepFile) *located[Schedule] { return &f.sync }),
		key("compact", scheduleOrNever(), `When old log is put together in bundles, and the repository's indexes are joined (default "every 6h").`, func(f *upkeepFile) *located[Schedule] { return &f.compact }),
		key("zone", zone(), "Time zone of these times, such as Europe/Berlin (default UTC).", func(f *upkeepFile) *located[string] { return &f.zone }),
	)
}

func (f upkeepFile) resolved() Upkeep {
	daily := func(hour, minute int) Schedule {
		return Schedule{Text: fmt.Sprintf("daily %02d:%02d", hour, minute), Cron: fmt.Sprintf("%d %d * * *", minute, hour)}
	}
	return Upkeep{
		Retention: f.retention.or(daily(4, 30)), Renew: f.renew.or(daily(5, 30)), Sync: f.sync.or(daily(2, 30)),
		Compact:    f.compact.or(Schedule{Text: "every 6h", Every: 6 * time.Hour}),
		Scrub:      f.scrub.or(Schedule{Text: "Sunday 03:00", Cron: "0 3 * * 0"}),
		ScrubLimit: f.scrubLimit.or(50 << 20), Zone: f.zone.value,
	}
}

// scheduleOrNever is a schedule, or the word never for the zero value.
func scheduleOrNever() form[Schedule] {
	f := schedule()
	some := f.read
	f.schema = jsonSchema{"type": "string", "pattern": `^never$|` + schedulePattern}
	f.read = func(r *mistakes, n ast.Node, at Place, path keyPath) (Schedule, bool) {
		if s, ok := n.(*ast.StringNode); ok && s.Value == "never" {
			return Schedule{}, true
		}
		return some(r, n, at, path)
	}
	return f
}

// zone is the name of a time zone; UTC is "".
func zone() form[string] {
	const allowed = "a time zone such as Europe/Berlin, or UTC"
	return text(jsonSchema{}, allowed, func(s string) (string, error) {
		if s == "UTC" {
			return "", nil
		}
		if _, err := time.LoadLocation(s); err != nil || s == "Local" || s == "" {
			return "", fmt.Errorf("%q is no time zone (%s)", s, allowed)
		}
		return s, nil
	})
}

// Location is a zone of the plan; it was checked with the plan.
func Location(zone string) *time.Location {
	at, err := time.LoadLocation(zone)
	if err != nil {
		return time.UTC
	}
	return at
}

func zoneText(zone string) string {
	if zone == "" {
		return "UTC"
	}
	return zone
}

func showUpkeep(u Upkeep) mapping {
	var m mapping
	m.put("retention", scheduleWord(u.Retention))
	m.put("scrub", scheduleWord(u.Scrub))
	m.put("scrub_limit", formatSize(u.ScrubLimit)+"/s")
	m.put("renew", scheduleWord(u.Renew))
	m.put("sync", scheduleWord(u.Sync))
	m.put("compact", scheduleWord(u.Compact))
	m.put("zone", zoneText(u.Zone))
	return m
}

func scheduleWord(s Schedule) string {
	if s == (Schedule{}) {
		return "never"
	}
	return s.Text
}

func (d *differ) upkeep(subject string, old, now Upkeep) {
	for _, c := range []struct {
		what     string
		old, now Schedule
	}{
		{"retention lets go of what is old", old.Retention, now.Retention}, {"it is scrubbed", old.Scrub, now.Scrub},
		{"locks are made longer", old.Renew, now.Renew}, {"copies are compared", old.Sync, now.Sync},
		{"old log is bundled", old.Compact, now.Compact},
	} {
		if c.old != c.now {
			d.add(subject, Reloads, "%s %s (was %s)", c.what, c.now.inWords(), c.old.inWords())
		}
	}
	if old.Zone != now.Zone {
		d.add(subject, Reloads, "its times are those of %s (was %s)", zoneText(now.Zone), zoneText(old.Zone))
	}
	if old.ScrubLimit != now.ScrubLimit {
		d.add(subject, Reloads, "a scrub reads at most %s/s (was %s/s)", formatSize(now.ScrubLimit), formatSize(old.ScrubLimit))
	}
}
