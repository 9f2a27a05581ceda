package database

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// LSN is a position in the write-ahead log, in bytes (PostgreSQL manual, "WAL Internals").
type LSN uint64

// String is PostgreSQL's own notation: 0/3045048.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// ParseLSN reads PostgreSQL's own notation.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("read LSN %q: no slash", s)
	}
	h, err := strconv.ParseUint(hi, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("read LSN %q: %w", s, err)
	}
	l, err := strconv.ParseUint(lo, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("read LSN %q: %w", s, err)
	}
	return LSN(h<<32 | l), nil
}

// Phase is where a change of primary stands.
type Phase string

// Phases of the record.
const (
	Creating   Phase = "creating"   // the first server is being made; nothing was ever acknowledged
	Steady     Phase = "steady"     // one primary, confirmed
	Switching  Phase = "switching"  // planned: the primary stops so that SwitchTo can take over
	Recruiting Phase = "recruiting" // unplanned: voters promise Epoch and tell their positions
	Promoting  Phase = "promoting"  // Primary has been chosen in Epoch and makes itself one
)

// Voter is one server whose copy counts: a host together with its incarnation, the random id of its data
// directory. Whatever can take flushed WAL back makes a new incarnation (DATABASE.md, A4).
type Voter struct {
	Host        string `json:"host"`
	Incarnation string `json:"incarnation"`
}

// Fork is one step of the committed timeline chain: Timeline was made in Epoch, out of Parent at LSN.
type Fork struct {
	Timeline uint32 `json:"timeline"`
	Epoch    int64  `json:"epoch"`
	Parent   uint32 `json:"parent"`
	LSN      LSN    `json:"lsn"`
}

// Record is what the hosts of one database agree on. It is only ever written by compare-and-swap on its
// revision. Invariant I1, at every instant: W + E > |S ∪ V|, the primary not counted.
type Record struct {
	Epoch      int64    `json:"epoch"`      // fencing token, only ever raised; each promotion has its own
	Generation int64    `json:"generation"` // raised by every change of S, W, V or E
	Members    []string `json:"members"`    // hosts that hold a copy, in order of preference
	// Standings are those members that do not stand as a standby usually does, sorted by host.
	Standings []Standing `json:"standings,omitempty"`

	SystemID uint64 `json:"system_id,omitempty"`

	Primary     string  `json:"primary"`
	Incarnation string  `json:"incarnation"` // the primary's; "" until its data exist
	Voters      []Voter `json:"voters"`      // V, sorted by host
	E           int     `json:"e"`           // recruits that an election needs
	W           int     `json:"w"`           // standbys that surely hold a commit before the client hears of it: never more than the server waits for

	Phase    Phase  `json:"phase"`
	Timeline uint32 `json:"timeline"`       // the primary's; in Promoting the assigned one
	Forks    []Fork `json:"forks"`          // committed chain, oldest first
	Assigned []Fork `json:"assigned"`       // numbers given to promotions that were never confirmed; LSN unknown. Never reused
	Opened   bool   `json:"opened"`         // the primary serves clients: listeners may lead to it
	Alone    bool   `json:"alone"`          // the former primary took this epoch by itself
	Former   Voter  `json:"former"`         // the last confirmed primary, when Primary is or was another; else empty
	SwitchTo string `json:"switch_to"`      // Switching: who takes over
	Switch   string `json:"switch_request"` // id of the request that Switching carries out

	Forced   *Forced `json:"forced,omitempty"`   // Recruiting: an operator accepts a loss, if it must be
	Losses   []Loss  `json:"losses,omitempty"`   // what forced failovers gave up, oldest first, and what waits to be settled
	Unsealed bool    `json:"unsealed,omitempty"` // after a forced failover no W voters are known yet to hold what the primary holds: no election may be trusted
	Answered Answer  `json:"answered"`           // how the last forced failover ended

	Ends []End `json:"ends,omitempty"` // unplanned ends of primaries that left last words, oldest first
	Halt *Halt `json:"halt,omitempty"` // nothing moves by itself, for that does not help

	Hooks    []HookRun  `json:"hooks,omitempty"`    // runs of the plan's on_trouble, oldest first
	Silences []Silenced `json:"silences,omitempty"` // moves of the primary by the silence of its host, oldest first
	Pace     Pace       `json:"pace,omitzero"`      // how long such changes took

	Runner  string   `json:"runner"`          // who wrote this epoch
	Because []string `json:"because"`         // why this epoch exists
	Spans   []Span   `json:"spans,omitempty"` // how long the parts of this change of primary took
}

// Clone is a deep copy, so that a decision can change it freely.
func (r Record) Clone() Record {
	r.Members, r.Standings = slices.Clone(r.Members), slices.Clone(r.Standings)
	r.Voters = slices.Clone(r.Voters)
	r.Forks = slices.Clone(r.Forks)
	r.Assigned = slices.Clone(r.Assigned)
	r.Because = slices.Clone(r.Because)
	r.Losses = slices.Clone(r.Losses)
	for i := range r.Losses {
		r.Losses[i].Left = slices.Clone(r.Losses[i].Left)
	}
	if r.Forced != nil {
		f := *r.Forced
		r.Forced = &f
	}
	r.Spans = slices.Clone(r.Spans)
	r.Ends = slices.Clone(r.Ends)
	r.Silences = slices.Clone(r.Silences)
	r.Hooks = slices.Clone(r.Hooks)
	if r.Halt != nil {
		h := *r.Halt
		r.Halt = &h
	}
	return r
}

// Has reports whether v, host and incarnation, is a voter.
func (r *Record) Has(v Voter) bool { return slices.Contains(r.Voters, v) }

// Holds reports whether host is a member.
func (r *Record) Holds(host string) bool { return slices.Contains(r.Members, host) }

// recruitsNeeded is the smallest E that keeps I1 with S = V: W + E > |V|, and never below one.
func recruitsNeeded(voters, w int) int { return max(1, voters-w+1) }

func with(v []Voter, x Voter) []Voter {
	v = append(without(v, x), x)
	slices.SortFunc(v, func(a, b Voter) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Incarnation, b.Incarnation))
	})
	return v
}

func without(v []Voter, x Voter) []Voter {
	return slices.DeleteFunc(slices.Clone(v), func(y Voter) bool { return x == y })
}

// Promise is what a server swore, kept in its data directory's volume and synced before it is spoken.
type Promise struct {
	Epoch       int64  `json:"epoch"`
	Generation  int64  `json:"generation"`
	Incarnation string `json:"incarnation"`
	Told        LSN    `json:"told"` // highest position ever told in an election
}

// Position is how far a server's own WAL reaches: the end of its last complete record, read from the WAL
// itself and never from pg_last_wal_receive_lsn (DATABASE.md, A2).
type Position struct {
	Epoch    int64  `json:"epoch"` // the promise under which it was read; 0 = not read
	Timeline uint32 `json:"timeline"`
	LSN      LSN    `json:"lsn"`
}

// StandbyName is the replication name of a voter in an epoch. PostgreSQL itself counts no acknowledgement
// from another epoch, for no other name is in synchronous_standby_names.
func StandbyName(incarnation string, epoch int64) string {
	return incarnation + "@" + strconv.FormatInt(epoch, 10)
}

// ClosedName is a name that nobody has: a server whose list holds only it acknowledges nothing.
const ClosedName = "holdfast-closed"

// Names is synchronous_standby_names, as ANY W (List...). W = 0 with an empty list is the empty string.
type Names struct {
	W    int      `json:"w"`
	List []string `json:"list"` // sorted
}

// Closed are the names that every data directory carries until a confirmed epoch opens it.
func Closed() Names { return Names{W: 1, List: []string{ClosedName}} }

// IsClosed reports whether nobody can satisfy these names.
func (n Names) IsClosed() bool { return n.Equal(Closed()) }

// Equal compares W and the list.
func (n Names) Equal(m Names) bool { return n.W == m.W && slices.Equal(n.List, m.List) }

// String is the value of synchronous_standby_names.
func (n Names) String() string {
	if n.W == 0 {
		return ""
	}
	quoted := make([]string, len(n.List))
	for i, s := range n.List {
		quoted[i] = `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
	}
	return fmt.Sprintf("ANY %d (%s)", n.W, strings.Join(quoted, ", "))
}

// ParseNames reads what [Names.String] writes; anything else is ok=false.
func ParseNames(s string) (n Names, ok bool) {
	if strings.TrimSpace(s) == "" {
		return Names{}, true
	}
	rest, found := strings.CutPrefix(s, "ANY ")
	if !found {
		return Names{}, false
	}
	num, list, found := strings.Cut(rest, " (")
	w, err := strconv.Atoi(num)
	if !found || err != nil || !strings.HasSuffix(list, ")") {
		return Names{}, false
	}
	n.W = w
	for part := range strings.SplitSeq(strings.TrimSuffix(list, ")"), ", ") {
		if len(part) < 2 || part[0] != '"' || part[len(part)-1] != '"' {
			return Names{}, false
		}
		n.List = append(n.List, strings.ReplaceAll(part[1:len(part)-1], `""`, `"`))
	}
	slices.Sort(n.List)
	return n, true
}

// namesFor are the names that S = voters gives in an epoch.
func namesFor(voters []Voter, w int, epoch int64) Names {
	if w == 0 {
		return Names{}
	}
	if len(voters) == 0 {
		return Closed()
	}
	n := Names{W: w}
	for _, v := range voters {
		n.List = append(n.List, StandbyName(v.Incarnation, epoch))
	}
	slices.Sort(n.List)
	return n
}
