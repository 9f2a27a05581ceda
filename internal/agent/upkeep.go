package agent

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"holdfast/internal/cluster"
	"holdfast/internal/problem"
)

// The chores that hosts do for vaults and backups by themselves.
const (
	ChoreBase      = "base"      // of a database: make a base backup
	ChoreProve     = "prove"     // of a database: restore one on trial again
	ChoreRetention = "retention" // of a vault: let go of what is not to be kept any more
	ChoreScrub     = "scrub"     // of a vault
	ChoreRenew     = "renew"     // of a vault: make locks longer
	ChoreSync      = "sync"      // of a vault: compare and fill copies
	ChoreFiles     = "files"     // of a file set's directory on a host: make a backup; kept when one was ended by somebody
)

// Chore is how a chore last went. It lies in the store, so that whoever has the duty next goes on from there.
type Chore struct {
	Kind    string           `json:"kind"`
	Subject string           `json:"subject"`          // a vault, or a database
	Backup  string           `json:"backup,omitempty"` // the base backup that it was about; of a database alone
	Host    string           `json:"host"`
	Since   time.Time        `json:"since"`          // the schedule counts from here: the start of the last run that succeeded, or when it was first seen
	Began   time.Time        `json:"began,omitzero"` // zero = it never ran
	Ended   time.Time        `json:"ended,omitzero"`
	OK      bool             `json:"ok"`
	Text    string           `json:"text"` // the outcome in a line
	Problem *problem.Problem `json:"problem,omitempty"`
	Result  json.RawMessage  `json:"result,omitempty"`
	// Cancelled is when somebody last ended a run of it; zero = nobody did. What the schedule wanted by then is left out.
	Cancelled time.Time `json:"cancelled,omitzero"`
	// Waived is why the run that was ended had begun, when that was no schedule: no other one begins by itself for that.
	Waived string `json:"waived,omitempty"`
}

// Took is how long the last run took.
func (c Chore) Took() time.Duration { return c.Ended.Sub(c.Began) }

// Key is where the chore's last outcome lies.
func (c Chore) Key() string { return KeyUpkeep + c.Name() }

// Name tells it from all others.
func (c Chore) Name() string { return c.Kind + "/" + c.Subject }

// ChoreKey is where a chore's last outcome lies.
func ChoreKey(kind, subject string) cluster.Key[Chore] {
	return cluster.Key[Chore](Chore{Kind: kind, Subject: subject}.Key())
}

// ChoreOf is a chore as the agreed state has it; false = it was never seen.
func ChoreOf(state map[string]cluster.Entry, kind, subject string) (Chore, bool) {
	e, ok := state[Chore{Kind: kind, Subject: subject}.Key()]
	if !ok {
		return Chore{}, false
	}
	c, err := cluster.Decode[Chore](e)
	return c, err == nil
}

// Chores are all that were ever seen, by name.
func Chores(state map[string]cluster.Entry) []Chore {
	var out []Chore
	for k, e := range state {
		if !strings.HasPrefix(k, KeyUpkeep) {
			continue
		}
		if c, err := cluster.Decode[Chore](e); err == nil {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Chore) int { return strings.Compare(a.Name(), b.Name()) })
	return out
}
