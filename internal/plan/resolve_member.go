package plan

import (
	"cmp"
	"slices"
	"strings"
)

// resolveMembers checks how hosts take part: each may hold the database, there are servers for all of them, and
// nobody is asked for what contradicts itself.
func resolveMembers(ms *mistakes, path keyPath, db Database, candidates []Host, f databaseFile) []Member {
	below := path.to("members")
	var names []string
	for _, h := range candidates {
		names = append(names, h.Name)
	}
	if n := len(f.members.value); f.members.written() && n > db.Standbys+1 && n <= len(candidates) {
		ms.add(f.members.at, below, "name %d hosts, and a primary with %s are %d servers (at most %d)",
			n, count(db.Standbys, "standby", "standbys"), db.Standbys+1, db.Standbys+1)
	}
	var all []Member
	aside := 0
	for _, w := range f.members.value {
		m := Member{Host: w.name, Promote: w.value.promote.or("normal"), Follows: w.value.follows.value}
		m.Async = w.value.mode.value == "async" || m.Follows != ""
		at := below.to(w.name)
		if !slices.Contains(names, w.name) && len(names) > 0 {
			ms.addKey(w.at, below, "%s is no host that may hold it (allowed: %s)", w.name, strings.Join(names, ", "))
			continue
		}
		if m.Follows != "" && w.value.mode.value == "sync" {
			ms.add(w.value.mode.at, at.to("mode"), "sync contradicts follows: a commit waits only for standbys that stream from the primary (allowed: async, or leave it out)")
		}
		if m.Async && (m.Promote == "high" || m.Promote == "low") {
			ms.add(w.value.promote.at, at.to("promote"), "%s: an asynchronous standby may lack commits and is not promoted (allowed: never, normal, or leave it out)", m.Promote)
		}
		if m.Async {
			aside++
		}
		all = append(all, m)
	}
	for i, m := range all {
		if m.Follows != "" {
			checkFollows(ms, below, all, m, f.members.value[slices.IndexFunc(f.members.value, func(n named[memberFile]) bool { return n.name == all[i].Host })])
		}
	}
	if aside > db.Standbys {
		ms.add(f.members.at, below, "leave no host that may be the primary: all %d are asynchronous (at most %d)", aside, db.Standbys)
	}
	return all
}

// checkFollows refuses a source that holds no copy, or that streams from another standby itself.
func checkFollows(ms *mistakes, below keyPath, all []Member, m Member, w named[memberFile]) {
	at := below.to(m.Host).to("follows")
	i := slices.IndexFunc(all, func(x Member) bool { return x.Host == m.Follows })
	switch {
	case m.Follows == m.Host:
		ms.add(w.value.follows.at, at, "%s is the host itself (allowed: another member)", m.Follows)
	case i < 0:
		ms.add(w.value.follows.at, at, "%s is not among members (allowed: a host that members names: %s: {})", m.Follows, m.Follows)
	case all[i].Follows != "":
		ms.add(w.value.follows.at, at, "%s follows %s itself (allowed: a member that streams from the primary)", m.Follows, all[i].Follows)
	}
}

// placement orders a database's candidates: in their order, a fault domain again only when the others are used as
// often; the hosts that the plan names are all among the first, and the first may be the primary.
func placement(d Database, candidates []Host) []Host {
	var order []Host
	for _, i := range spreadOver(candidates, func(int) bool { return true }, len(candidates)) {
		order = append(order, candidates[i])
	}
	named := func(h Host) (Member, bool) {
		return find(d.Members, func(m Member) bool { return m.Host == h.Name })
	}
	free := d.Standbys + 1 - len(d.Members)
	chosen := slices.DeleteFunc(order, func(h Host) bool {
		if _, ok := named(h); ok {
			return false
		}
		free--
		return free < 0
	})
	rank := func(h Host) int {
		m, ok := named(h)
		switch {
		case !ok:
			return 1
		case !m.Votes():
			return 4
		}
		return max(slices.Index([]string{"high", "normal", "low", "never"}, cmp.Or(m.Promote, "normal")), 0)
	}
	slices.SortStableFunc(chosen, func(a, b Host) int { return cmp.Compare(rank(a), rank(b)) })
	return chosen
}
