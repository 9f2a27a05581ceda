package rebuild

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/cluster"
	"holdfast/internal/database"
)

// Found is what is left, as the surviving host found it.
type Found struct {
	Application string
	Survivor    string
	Hosts       []string  // of the plan, in its order
	Now         time.Time // by the survivor's clock

	Own      *State // the agreed state on the survivor's own disk; nil = none that can be read
	OwnWhy   string // why not
	Saved    *State // the furthest saving in a vault; nil = none that can be read
	SavedWhy string
	// PassedOver is a later saving that is not as far; nil = none.
	PassedOver *State
	Promises   []Promise // of the survivor's own servers, from their files
	Heard      int64     // the highest rebuilding that the survivor ever heard of
}

// Proposal is what a cluster of one would begin with, and what a person must know before.
type Proposal struct {
	From      string            `json:"from"` // what it begins with, in words
	Number    int64             `json:"number"`
	Founding  string            `json:"founding"`
	Survivor  string            `json:"survivor"`
	Lost      []string          `json:"lost"`  // hosts that are written off
	Found     []string          `json:"found"` // what was found, a sentence each
	Unknown   []string          `json:"unknown"`
	Databases []DatabaseOutlook `json:"databases"`
	Entries   []cluster.Entry   `json:"-"`
	Files     map[string][]byte `json:"-"` // only when there is nothing of our own
}

// DatabaseOutlook is what becomes of one database's record.
type DatabaseOutlook struct {
	Name    string `json:"name"`
	Primary string `json:"primary"`         // the last one that is known
	Was     int64  `json:"was"`             // epoch
	Epoch   int64  `json:"epoch"`           // that it begins with
	Next    string `json:"next"`            // what must happen then, in words
	Older   *Older `json:"older,omitempty"` // the record is from before an epoch that was heard of
}

// ErrNothingLeft means that neither the survivor's disk nor a vault holds an agreed state.
var ErrNothingLeft = errors.New("nothing is left to rebuild the agreed state from")

// Propose judges. Equal arguments, equal result. It lowers no epoch: each database begins above everything that its
// record, the survivor's own promises and the saved ones tell of.
func Propose(f Found) (Proposal, error) {
	p := Proposal{Survivor: f.Survivor}
	p.describe(f)
	from, err := f.choose(&p)
	if err != nil {
		return p, err
	}
	if from.Application != f.Application {
		return p, fmt.Errorf("rebuild the agreed state of %s: what is left is of application %s", f.Application, from.Application)
	}
	p.Number = f.Heard
	for _, s := range []*State{f.Own, f.Saved} {
		if s != nil {
			p.Number = max(p.Number, s.Recovery)
		}
	}
	p.Number++
	p.Founding = fmt.Sprintf("%d-%s-%s", p.Number, f.Survivor, f.Now.UTC().Format("20060102T150405"))
	for _, h := range f.Hosts {
		if h != f.Survivor {
			p.Lost = append(p.Lost, h)
		}
	}
	p.unknown(f, from)
	return p, p.entries(f, from)
}

// describe says what was found.
func (p *Proposal) describe(f Found) {
	told := func(where string, s *State, why string) {
		if s == nil {
			p.Found = append(p.Found, where+": nothing that helps ("+why+")")
			return
		}
		line := fmt.Sprintf("%s: %d keys at revision %d", where, len(s.Entries), s.Revision)
		if !s.At.IsZero() {
			line += fmt.Sprintf(", saved by %s at %s, %s ago", s.By, s.At.UTC().Format(time.RFC3339), f.Now.Sub(s.At).Round(time.Second))
		}
		p.Found = append(p.Found, line)
	}
	told("the agreed state on "+f.Survivor+"'s own disk", f.Own, f.OwnWhy)
	told("the newest saving in a vault", f.Saved, f.SavedWhy)
	if f.PassedOver != nil {
		told("passed over, for it is later and yet not as far: etcd may have been put back to an old backup before it", f.PassedOver, "")
	}
	for _, x := range f.Promises {
		p.Found = append(p.Found, fmt.Sprintf("%s's own server of %s promised epoch %d of generation %d", x.Host, x.Database, x.Promise.Epoch, x.Promise.Generation))
	}
}

// choose takes the newer of what is left. The one that was rebuilt more often is the later; then the one whose databases
// are further, for epochs and generations only ever rise. Revisions come last: they compare within one cluster alone,
// and in one that was put back to an old backup they grow again with whatever passes. The survivor's own data win a
// tie: they are what it agreed to itself.
func (f Found) choose(p *Proposal) (*State, error) {
	own, saved := f.Own, f.Saved
	switch {
	case own == nil && saved == nil:
		return nil, fmt.Errorf("%w: %s; %s", ErrNothingLeft, f.OwnWhy, f.SavedWhy)
	case own == nil:
		p.Files = saved.Files
		p.From = "the newest saving in a vault"
		return saved, nil
	case saved != nil && saved.newerThan(own):
		p.From = "the newest saving in a vault, which is newer than " + f.Survivor + "'s own disk"
		return saved, nil
	default:
		p.From = "the agreed state on " + f.Survivor + "'s own disk"
		return own, nil
	}
}

// Furthest is the saving that got furthest: the one that was rebuilt most often, then the latest by the savers' clocks, unless an earlier
// one has a database at a later epoch or generation and none at an earlier one. A state that was put back to an old backup and
// runs on is saved again and again; no server follows it below what it has promised, so it is not the truth before it has passed that.
// over is the latest of those that were rebuilt as often as the furthest, where that is another one. nil = there is none.
func Furthest(all []State) (best, over *State) {
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b State) int { return a.At.Compare(b.At) })
	for i := range sorted {
		s := &sorted[i]
		if best == nil || s.Recovery > best.Recovery || s.Recovery == best.Recovery && !best.ahead(s) {
			best = s
		}
	}
	for i := range sorted {
		if best != nil && sorted[i].Recovery == best.Recovery {
			over = &sorted[i]
		}
	}
	if over == best {
		over = nil
	}
	return best, over
}

func (s *State) newerThan(other *State) bool {
	switch {
	case s.Recovery != other.Recovery:
		return s.Recovery > other.Recovery
	case s.ahead(other) != other.ahead(s):
		return s.ahead(other)
	default:
		return s.ClusterID == other.ClusterID && s.Revision > other.Revision
	}
}

// ahead reports whether some database's record is later than in another state, and none is earlier.
func (s *State) ahead(other *State) bool {
	theirs, later := recordsOf(other), false
	for name, r := range recordsOf(s) {
		o, ok := theirs[name]
		if !ok {
			continue
		}
		order := cmp.Or(cmp.Compare(r.Epoch, o.Epoch), cmp.Compare(r.Generation, o.Generation))
		if order < 0 {
			return false
		}
		later = later || order > 0
	}
	return later
}

// unknown says what nobody who is left can know.
func (p *Proposal) unknown(f Found, from *State) {
	lost := f.lost()
	p.Unknown = append(p.Unknown,
		"what "+lost+" agreed on after that: changes of the plan, of primaries, of standbys",
		"commits that were acknowledged and that only "+lost+" may hold; the standbys and the archive in the vault have the rest",
		"whether "+lost+" can come back: see to it that they do not before they are taken in again")
	if from == f.Saved && f.Saved != nil {
		p.Unknown = append(p.Unknown, fmt.Sprintf("everything that was agreed in the %s since the saving", f.Now.Sub(from.At).Round(time.Second)))
	}
}

// entries makes the keys that the new cluster begins with.
func (p *Proposal) entries(f Found, from *State) error {
	promises := map[string][]database.Promise{}
	for _, list := range [][]Promise{f.Promises, promisesOf(f.Own), promisesOf(f.Saved)} {
		for _, x := range list {
			promises[x.Database] = append(promises[x.Database], x.Promise)
		}
	}
	// A record that is not the one to begin with may still tell of a higher epoch.
	for _, s := range []*State{f.Own, f.Saved} {
		for name, r := range recordsOf(s) {
			promises[name] = append(promises[name], database.Promise{Epoch: r.Epoch, Generation: r.Generation})
		}
	}
	why := fmt.Sprintf("a majority of the hosts was lost; %s rebuilt the agreed state from %s", f.Survivor, p.From)
	for _, e := range from.Entries {
		if agent.Passing(e.Key) || e.Key == agent.KeyStopping || e.Key == agent.KeyRecovery {
			continue
		}
		if name, ok := strings.CutPrefix(e.Key, agent.RecordKey("")); ok {
			var r database.Record
			if err := json.Unmarshal(e.Value, &r); err != nil {
				return fmt.Errorf("read the record of database %s: %w", name, err)
			}
			next := database.Recovered(r, promises[name], f.Survivor, why)
			value, err := json.Marshal(next)
			if err != nil {
				return fmt.Errorf("write the record of database %s: %w", name, err)
			}
			older := f.olderThan(name, r)
			p.Databases = append(p.Databases, DatabaseOutlook{Name: name, Primary: r.Primary, Was: r.Epoch, Epoch: next.Epoch, Next: f.outlook(name, r, older), Older: older})
			e.Value = value
		}
		p.Entries = append(p.Entries, cluster.Entry{Key: e.Key, Value: e.Value})
	}
	value, err := json.Marshal(agent.Recovery{Number: p.Number, Founding: p.Founding, At: f.Now, Survivor: f.Survivor, Lost: p.Lost, From: p.From})
	if err != nil {
		return fmt.Errorf("write the recovery: %w", err)
	}
	p.Entries = append(p.Entries, cluster.Entry{Key: agent.KeyRecovery, Value: value})
	slices.SortFunc(p.Entries, func(a, b cluster.Entry) int { return strings.Compare(a.Key, b.Key) })
	return nil
}

// outlook says what must happen before a database serves again.
func (f Found) outlook(name string, r database.Record, older *Older) string {
	survivor := f.Survivor
	switch {
	case r.Phase == database.Creating:
		return "it had not been made yet, and nothing was ever acknowledged"
	case !r.Holds(survivor), f.incarnation(name) == "":
		return survivor + " holds no copy: restore it from its vault"
	case older != nil && r.Primary == survivor:
		return fmt.Sprintf("%s was its primary in epoch %d, which is not the last one", survivor, r.Epoch)
	case older != nil:
		return fmt.Sprintf("%s was a standby in epoch %d, which is not the last one", survivor, r.Epoch)
	case r.Primary == survivor:
		return survivor + " was its primary and holds every commit of its last known epoch; it opens " + standbys(r.W)
	default:
		return survivor + " was a standby; it serves after a forced failover, which shows what would be lost"
	}
}

// standbys says when a primary opens that came back by itself.
func standbys(w int) string {
	switch w {
	case 0:
		return "at once"
	case 1:
		return "once a standby follows"
	default:
		return fmt.Sprintf("once %d standbys follow", w)
	}
}

func promisesOf(s *State) []Promise {
	if s == nil {
		return nil
	}
	return s.Promises
}

// recordsOf are the databases' records in a state; one that cannot be read is left out, and refused where it counts.
func recordsOf(s *State) map[string]database.Record {
	out := map[string]database.Record{}
	if s == nil {
		return out
	}
	for _, e := range s.Entries {
		var r database.Record
		if name, ok := strings.CutPrefix(e.Key, agent.RecordKey("")); ok && json.Unmarshal(e.Value, &r) == nil {
			out[name] = r
		}
	}
	return out
}
