package stored

import (
	"slices"
	"strconv"
	"strings"

	"holdfast/internal/database"
)

// votePrefix begins the names under which the archive receiver votes for the vault. No standby has such a name: theirs
// hold an @.
const votePrefix = "holdfast-vault-"

// VoteName is the replication name of the vault's vote i, from 1.
func VoteName(i int) string { return votePrefix + strconv.Itoa(i) }

// IsVote reports whether a replication name is one of the vault's.
func IsVote(name string) bool { return strings.HasPrefix(name, votePrefix) }

// Setting is synchronous_standby_names as the driver writes it: the names that the room database knows, and whether
// the vault must hold a commit as well. Whatever satisfies a setting satisfies its Names.
type Setting struct {
	Names    database.Names
	Vault    bool // the vault must hold a commit too; never of closed names
	Standbys int  // with Vault: for how many standbys the votes are counted out; 0 = as many as the names have

	// Between is a stage on the way from one setting to another, see [Way]: stricter than what it stands for.
	Between     bool
	need, votes int // with Between
}

// betweenPrefix begins the name, which nobody has, that tells a stage from what a hand wrote. W follows.
const betweenPrefix = "holdfast-between-"

// open reports whether some commit can be acknowledged at all.
func (s Setting) open() bool { return !s.Names.IsClosed() }

// quorum is how many must hold a commit, and how many of the listed are votes of the vault. One vote at least is in
// every quorum, for it has one more than there are standbys; and W standbys, for there are no more votes than that
// leaves room for.
func (s Setting) quorum() (need, votes int) {
	switch {
	case s.Between:
		return s.need, s.votes
	case !s.open() || !s.Vault:
		return s.Names.W, 0
	case s.Names.W == 0:
		return 1, 1
	}
	n := max(s.Standbys, len(s.Names.List), s.Names.W)
	return n + 1, n + 1 - s.Names.W
}

// Votes is how many votes the vault has in s; 0 = it is not asked.
func (s Setting) Votes() int { _, votes := s.quorum(); return votes }

// Asking is s with the vault, its votes counted out for so many standbys or for as many as the names have.
func (s Setting) Asking(standbys int) Setting {
	return Setting{Names: s.Names, Vault: true, Standbys: standbys}
}

// Wanted is how many votes whoever votes for the vault must give a server with this setting so that commits go on: as many
// as it asks for, whatever the plan says by now, and at least those that it would ask for next, counted out for so many
// standbys; standbys < 0 = the plan does not ask the vault. Votes that are not in the names count for nothing.
func Wanted(value string, standbys int) (votes int, ok bool) {
	s, ok := Parse(value)
	if !ok || !s.open() {
		return 0, false
	}
	votes = s.Votes()
	if standbys >= 0 {
		votes = max(votes, s.Asking(standbys).Votes())
	}
	return votes, true
}

// countedOut is for how many standbys the votes of s are.
func (s Setting) countedOut() int {
	if need, votes := s.quorum(); votes > 0 && s.Names.W > 0 {
		return need - 1
	}
	return 0
}

// Miscounted reports whether s asks the vault with another number of votes than it would be asked with now.
func (s Setting) Miscounted(standbys int) (more, less bool) {
	if !s.Vault || s.Between {
		return false, false
	}
	now, want := s.countedOut(), s.Asking(standbys).countedOut()
	return now > want, now < want
}

// String is the value of synchronous_standby_names.
func (s Setting) String() string {
	need, votes := s.quorum()
	list := slices.Clone(s.Names.List)
	for i := range votes {
		list = append(list, VoteName(i+1))
	}
	if s.Between {
		list = append(list, betweenPrefix+strconv.Itoa(s.Names.W))
	}
	return database.Names{W: need, List: list}.String()
}

// Parse reads what [Setting.String] writes; anything else is ok=false.
func Parse(value string) (Setting, bool) {
	all, ok := database.ParseNames(value)
	if !ok {
		return Setting{}, false
	}
	s := Setting{Names: database.Names{W: all.W}}
	var votes []string
	for _, name := range all.List {
		if w, between := strings.CutPrefix(name, betweenPrefix); between {
			n, err := strconv.Atoi(w)
			if err != nil || n < 0 || s.Between {
				return Setting{}, false
			}
			s.Between, s.need, s.Names.W = true, all.W, n
		} else if IsVote(name) {
			votes = append(votes, name)
		} else {
			s.Names.List = append(s.Names.List, name)
		}
	}
	for i := range votes {
		ok = ok && slices.Contains(votes, VoteName(i+1))
	}
	if s.Between {
		s.Vault, s.votes = true, len(votes) // not known: the stricter
		return s, ok && s.open() && s.need > s.Names.W
	}
	if len(votes) == 0 {
		return s, true
	}
	s.Vault, s.Names.W, s.Standbys = true, all.W-len(votes), all.W-1
	need, k := s.quorum()
	ok = ok && s.Names.W >= 0 && need == all.W && k == len(votes) && (s.Names.W > 0 || len(s.Names.List) == 0)
	return s, ok && s.open()
}

// Stage is one value to write on the way from a setting to another.
type Stage struct {
	Value string
	Force bool // before the next is written, every walsender of before must be ended
}

// Acted is what walsenders may still act on besides the setting that stands. The zero value is what somebody knows who has
// just begun: it may be any setting that ever stood.
type Acted struct {
	Known    bool     // what follows is all of it
	Standbys []string // of those settings
	Votes    bool     // some of them ask the vault
}

// Add is a with one setting more.
func (a Acted) Add(s Setting) Acted {
	a.Votes = a.Votes || s.Vault
	a.Standbys = slices.Clone(a.Standbys)
	for _, x := range s.Names.List {
		if s.open() && !slices.Contains(a.Standbys, x) {
			a.Standbys = append(a.Standbys, x)
		}
	}
	return a
}

// Way is how to get from one setting to another; known = from is what stands, else nobody knows. Each walsender acts on a
// copy of its own: it counts who stands in the lists that *they* have read, against the number that *it* has read. So while
// some have read the one and some the other, the smaller number can meet the votes of both, and votes of the vault could
// stand for standbys. Where numbers differ the way leads over one that is stricter than both: the larger number, and only
// whom both lists have. From such a stage, on which a driver died, it leads over another that is no less strict, for the
// walsenders of before may never have ended. A closed setting is no such stage before they have: until then somebody may
// act on what was before it.
func Way(from Setting, known bool, to Setting, acted Acted) []Stage {
	last := Stage{Value: to.String()}
	m, k := from.quorum()
	n, l := to.quorum()
	closed := []Stage{{Value: database.Closed().String(), Force: true}, last}
	switch {
	case !to.open(): // whoever has read that releases nobody
		return []Stage{last}
	case !known && (l > 0 || acted.Votes || !acted.Known):
		return closed
	case !known:
		return []Stage{last}
	case !from.open() && (!acted.Known || acted.Votes || l > 0 && len(acted.Standbys) > 0):
		return closed
	case !from.open():
		return []Stage{last}
	case n == 0: // it is agreed that nothing need be waited for
		return []Stage{last}
	case from.Between: // somebody may act on what was before it
	case m == 0: // nothing was waited for: the driver closes first
		return []Stage{last}
	case k == 0 && l == 0: // the room's own steps
		return []Stage{last}
	case k > 0 && l > 0 && m == n && acted.Known && len(acted.Add(from).Add(to).Standbys) < m:
		return []Stage{last}
	}
	both := slices.DeleteFunc(slices.Clone(from.Names.List), func(x string) bool { return !slices.Contains(to.Names.List, x) })
	over := Setting{Between: true, Names: database.Names{W: min(from.Names.W, to.Names.W), List: both}, need: max(m, n), votes: min(k, l)}
	return []Stage{{Value: over.String(), Force: true}, last}
}
