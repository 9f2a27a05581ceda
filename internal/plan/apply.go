package plan

import "slices"

// OverlayDatabases is the plan p with what can be changed while a database runs taken from the plan applied: how many
// standbys, on which hosts, how they take part, and how many acknowledge. Databases that applied does not have stay
// as p has them. The source bytes stay those of p.
func (p *Plan) OverlayDatabases(applied *Plan) *Plan {
	q := *p
	q.Databases = slices.Clone(p.Databases)
	for i, d := range q.Databases {
		from, ok := applied.DatabaseNamed(d.Name)
		if !ok {
			continue
		}
		known := func(name string) bool { _, ok := p.Host(name); return ok }
		if slices.ContainsFunc(from.Hosts, func(h string) bool { return !known(h) }) ||
			slices.ContainsFunc(from.Members, func(m Member) bool { return !known(m.Host) }) || from.Standbys+1 > len(p.candidates(from.Hosts)) {
			continue // its hosts are not those of p
		}
		d.Standbys, d.AcknowledgedBy, d.Hosts, d.Members, d.Relaxed = from.Standbys, from.AcknowledgedBy, from.Hosts, from.Members, from.Relaxed
		q.Databases[i] = d
	}
	return &q
}

// Fixed lists what of the way from old to new this version cannot do while the application runs, in words: all but
// what [Plan.OverlayDatabases] takes over. Changes of words alone are left out.
func Fixed(old, new *Plan) []Change {
	return slices.DeleteFunc(Diff(old.OverlayDatabases(new), new), func(c Change) bool { return c.Effect == Nothing })
}
