package database

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ServerState is what a host's server has that a standby must have too before it can take over: part of it comes with
// the log (roles, databases), part of it is each machine's own (files, libraries, programs) and follows nobody.
type ServerState struct {
	Host       string            `json:"host"`
	Version    int               `json:"version"` // server_version_num: 150018
	Collations []Collation       `json:"collations"`
	TimeZones  string            `json:"time_zones"`        // hash of what the machine's time zone data say
	Settings   map[string]string `json:"settings"`          // of the configuration files, those apart that differ by nature
	ByHand     []string          `json:"by_hand,omitempty"` // settings of postgresql.auto.conf that Holdfast never writes
	Rules      bool              `json:"rules"`             // pg_hba.conf is as Holdfast writes it
	Extensions []Extension       `json:"extensions"`
	Roles      []string          `json:"roles"`     // name and attributes, a line each
	Databases  []string          `json:"databases"` // name, owner and collation, a line each
	Unplanned  []string          `json:"unplanned"` // what is not as the plan has it, in words
}

// Collation is one database's default collation: the library version that its indexes were built with, and the
// version that this machine has.
type Collation struct {
	Database string `json:"database"`
	Name     string `json:"name"`
	Recorded string `json:"recorded"` // "" = none: the C collation has no version
	Actual   string `json:"actual"`
}

// Extension is one that a database uses.
type Extension struct {
	Database string `json:"database"`
	Name     string `json:"name"`
	Version  string `json:"version"`
	Here     bool   `json:"here"` // this machine has the files of that version
}

// Difference is what a takeover by Host would trip over.
type Difference struct {
	Host       string `json:"host"`
	Object     string `json:"object"`
	Text       string `json:"text"`
	Remedy     string `json:"remedy"`
	Grave      bool   `json:"grave"`      // it corrupts or stops; else it behaves otherwise
	Replicated bool   `json:"replicated"` // it comes with the log: a standby that is behind shows it for a moment
}

// Faults is what is wrong with one server by itself, whoever the others are. Sorted by object.
func (s ServerState) Faults() []Difference {
	var out []Difference
	add := func(d Difference) { d.Host = s.Host; out = append(out, d) }
	for _, c := range s.Collations {
		if c.Recorded != "" && c.Recorded != c.Actual {
			add(Difference{Object: "collation of database " + c.Database, Grave: true,
				Text:   fmt.Sprintf("its indexes on text were built with version %s of %s, this machine has %s: they may be corrupt", c.Recorded, c.Name, orNone(c.Actual)),
				Remedy: fmt.Sprintf("give every host the same operating system release; or, on the primary, REINDEX DATABASE %q and ALTER DATABASE %q REFRESH COLLATION VERSION", c.Database, c.Database)})
		}
	}
	for _, e := range s.Extensions {
		if !e.Here {
			add(Difference{Object: fmt.Sprintf("extension %s of database %s", e.Name, e.Database), Grave: true,
				Text: fmt.Sprintf("this machine has no files of version %s", e.Version), Remedy: "install the package of the extension on " + s.Host})
		}
	}
	if len(s.ByHand) > 0 {
		add(Difference{Object: "settings", Text: "set by hand with ALTER SYSTEM: " + strings.Join(s.ByHand, ", ") + "; the next write of Holdfast's own drops them",
			Remedy: "put them below parameters: in the plan"})
	}
	if !s.Rules {
		add(Difference{Object: "access rules", Text: "pg_hba.conf is not as Holdfast wrote it", Remedy: "leave pg_hba.conf alone: the next change of Holdfast's own puts it right"})
	}
	for _, u := range s.Unplanned {
		add(Difference{Object: "roles", Text: u, Remedy: "undo it by hand, or change the plan"})
	}
	return sorted(out)
}

// CompareServers is what standby lacks, or has otherwise, beside the primary; sorted by object. A standby that
// differs is no worse as a copy: it is worse once it is promoted.
func CompareServers(primary, standby ServerState) []Difference {
	var out []Difference
	add := func(d Difference) { d.Host = standby.Host; out = append(out, d) }
	if primary.Version != standby.Version {
		add(Difference{Object: "PostgreSQL", Text: fmt.Sprintf("it runs %s, the primary on %s runs %s", release(standby.Version), primary.Host, release(primary.Version)),
			Remedy: "bring both to the same minor release, standbys first", Grave: primary.Version/10000 != standby.Version/10000})
	}
	if primary.TimeZones != standby.TimeZones {
		add(Difference{Object: "time zones", Text: "its time zone data differ from those on " + primary.Host + ": local times would be computed otherwise", Remedy: "update the tzdata package on both"})
	}
	for _, name := range slices.Sorted(maps.Keys(primary.Settings)) {
		if has, ok := standby.Settings[name]; !ok || has != primary.Settings[name] {
			add(Difference{Object: "setting " + name, Text: fmt.Sprintf("%s here, %s on %s", orNone(has), orNone(primary.Settings[name]), primary.Host), Remedy: "put it below parameters: in the plan, and restart the servers that say so"})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(standby.Settings)) {
		if _, ok := primary.Settings[name]; !ok {
			add(Difference{Object: "setting " + name, Text: fmt.Sprintf("%s here, not set on %s", standby.Settings[name], primary.Host), Remedy: "put it below parameters: in the plan, or remove it"})
		}
	}
	for _, c := range primary.Collations {
		i := slices.IndexFunc(standby.Collations, func(x Collation) bool { return x.Database == c.Database })
		if i >= 0 && standby.Collations[i].Actual != c.Actual {
			add(Difference{Object: "collation of database " + c.Database, Grave: true,
				Text: fmt.Sprintf("this machine sorts text with version %s of %s, %s with %s: an index that one wrote the other reads wrongly",
					orNone(standby.Collations[i].Actual), c.Name, primary.Host, orNone(c.Actual)),
				Remedy: "give every host the same operating system release, before this one takes over"})
		}
	}
	replicated := func(object string, theirs, ours []string) {
		if missing := lacking(theirs, ours); len(missing) > 0 {
			add(Difference{Object: object, Replicated: true, Text: "not as on " + primary.Host + ": " + strings.Join(missing, "; "), Remedy: "see that it streams (holdfast status); a copy that stays different must be made anew"})
		}
	}
	replicated("roles", primary.Roles, standby.Roles)
	replicated("databases", primary.Databases, standby.Databases)
	return sorted(out)
}

// lacking are the lines of want that have lacks.
func lacking(want, have []string) []string {
	return slices.DeleteFunc(slices.Clone(want), func(x string) bool { return slices.Contains(have, x) })
}

func sorted(all []Difference) []Difference {
	slices.SortFunc(all, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Text, b.Text))
	})
	return all
}

func orNone(s string) string { return cmp.Or(s, "nothing") }

// release is a version as people write it: 150018 is 15.18.
func release(v int) string { return fmt.Sprintf("%d.%d", v/10000, v%10000) }
