package agent

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/cluster"
	"holdfast/internal/database"
	"holdfast/internal/service"
)

// board holds the newest facts with the moments they were learnt. Observers write it, a round reads a copy.
type board struct {
	clock clock.Clock
	wake  func()

	mu       sync.Mutex // guards what follows
	state    map[string]cluster.Entry
	at       int64     // store revision that state stands for
	atSince  time.Time // when it was learnt
	contact  time.Time
	locals   map[string]seen
	archives map[string]Archive
	files    map[string]Files
	copies   []Restored
	planned  map[string]time.Time
	services ServiceFacts // Known and Observed alone
}

// seen is a local server's facts and when its received WAL last moved.
type seen struct {
	local    database.Local
	began    time.Time
	advanced time.Time // zero = never
}

func newBoard(c clock.Clock, wake func()) *board {
	return &board{
		clock: c, wake: wake, locals: map[string]seen{},
		archives: map[string]Archive{}, files: map[string]Files{}, planned: map[string]time.Time{},
	}
}

// agreed takes a whole linearizable reading, unless a watch has already brought something newer. One of the revision that
// is known counts, too: a watch may have begun before the first reading and told then what nobody took, and each later change
// brings the revision up to date without it. A reading that was sent after a revision was known and shows a lower one
// comes from a store that was put back to an older state: it is taken as it is, so that whoever promised more can say so.
func (b *board) agreed(entries []cluster.Entry, revision int64, sent time.Time) {
	b.mu.Lock()
	b.contact = sent
	state := make(map[string]cluster.Entry, len(entries))
	for _, e := range entries {
		state[e.Key] = e
	}
	fresh := b.state == nil || revision > b.at || revision == b.at && !sameEntries(state, b.state) || revision < b.at && sent.After(b.atSince)
	if fresh {
		b.state, b.at, b.atSince = state, revision, b.clock.Now()
	}
	b.mu.Unlock()
	if fresh {
		b.wake()
	}
}

// sameEntries reports whether two readings of one store hold the same: a key's revision names its content.
func sameEntries(a, b map[string]cluster.Entry) bool {
	return maps.EqualFunc(a, b, func(x, y cluster.Entry) bool { return x.Revision == y.Revision })
}

// change takes one watched change. Before the first whole reading there is nothing to change.
func (b *board) change(c cluster.Change) {
	b.mu.Lock()
	known := b.state != nil && c.Revision > b.at
	if known {
		b.state = maps.Clone(b.state)
		if c.Deleted {
			delete(b.state, c.Key)
		} else {
			b.state[c.Key] = c.Entry
		}
		b.at, b.atSince = c.Revision, b.clock.Now()
	}
	b.mu.Unlock()
	if known {
		b.wake()
	}
}

func (b *board) revision() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at
}

func (b *board) entries() map[string]cluster.Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}

// observed takes a look at a local server that began at a moment; one that began earlier than the last taken
// is dropped.
func (b *board) observed(name string, l database.Local, began time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.locals[name]
	if began.Before(old.began) {
		return
	}
	s := seen{local: l, began: began, advanced: old.advanced}
	if old.local.Known && l.Flushed > old.local.Flushed {
		s.advanced = b.clock.Now()
	}
	b.locals[name] = s
	b.wake()
}

// record is what is agreed of a database.
func (b *board) record(name string) database.Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	record, _ := recordOf(b.state, name)
	return record
}

// stopped reports whether a local server is known to have ended.
func (b *board) stopped(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.locals[name].local
	return l.Known && !l.Running
}

// archive takes how far a database's WAL is archived by this host; ok false = not by this host.
func (b *board) archive(name string, a Archive, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ok {
		b.archives[name] = a
	} else {
		delete(b.archives, name)
	}
}

// restored takes how this host's restored copies stand; the list is not changed afterwards.
func (b *board) restored(copies []Restored) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.copies = copies
}

// plan takes when a chore that is this host's duty runs next; zero = it is not this host's duty, or never runs.
func (b *board) plan(name string, next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if next.IsZero() {
		delete(b.planned, name)
	} else {
		b.planned[name] = next
	}
}

// served takes a look at this host's instances.
func (b *board) served(observed []service.Observed, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := known != b.services.Known || !slices.EqualFunc(observed, b.services.Observed, func(x, y service.Observed) bool {
		return x.ID == y.ID && x.State == y.State && x.Life == y.Life
	})
	b.services.Known, b.services.Observed = known, observed
	if changed {
		b.wake()
	}
}

// fileSet takes how this host's directory of a file set is backed up.
func (b *board) fileSet(name string, f Files) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.files[name] = f
}

// servesStill names an instance that has not ended, or "".
func (b *board) servesStill() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range b.services.Observed {
		if o.State != service.Exited {
			return "instance " + o.ID
		}
	}
	return ""
}

// decorate adds to a report what is told but not judged.
func (b *board) decorate(r *Report) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.Archive, r.Files, r.Restored, r.Planned = maps.Clone(b.archives), maps.Clone(b.files), b.copies, maps.Clone(b.planned)
}

// fill copies the facts for a round.
func (b *board) fill(f *Facts, policies []database.Policy, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f.ContactAge = database.Never
	if b.state != nil {
		f.Known, f.ContactAge = true, now.Sub(b.contact)
		_, f.Stopping = b.state[KeyStopping]
	}
	f.Services = agreedServices(b.state)
	f.Services.Known, f.Services.Observed = b.services.Known, b.services.Observed
	for _, p := range policies {
		d := DatabaseFacts{Name: p.Name, Advanced: database.Never}
		d.Record, d.Revision = recordOf(b.state, p.Name)
		d.Requests = requestsOf(b.state, p.Name, now)
		if s, ok := b.locals[p.Name]; ok {
			d.Local = s.local
			d.Local.Age = now.Sub(s.began)
			if !s.advanced.IsZero() {
				d.Advanced = now.Sub(s.advanced)
			}
		}
		f.Databases = append(f.Databases, d)
	}
}

func recordOf(state map[string]cluster.Entry, name string) (database.Record, int64) {
	e, ok := state[RecordKey(name)]
	if !ok {
		return database.Record{}, 0
	}
	var r database.Record
	if err := json.Unmarshal(e.Value, &r); err != nil {
		return database.Record{}, 0
	}
	return r, e.Revision
}

// agreedServices is what is placed, and by whom.
func agreedServices(state map[string]cluster.Entry) ServiceFacts {
	var f ServiceFacts
	if e, ok := state[KeyAssignments]; ok {
		var p placement
		if json.Unmarshal(e.Value, &p) == nil {
			f.Agreed, f.Revision = p.Services, e.Revision
		}
	}
	if e, ok := state[KeyController]; ok {
		var office struct {
			Holder string `json:"holder"`
		}
		if json.Unmarshal(e.Value, &office) == nil {
			f.Controller.Host, _, _ = strings.Cut(office.Holder, "/")
			f.Controller.Revision = e.Revision
		}
	}
	return f
}

// requestsOf are a database's unsettled requests, oldest first.
func requestsOf(state map[string]cluster.Entry, name string, now time.Time) []database.Request {
	var out []database.Request
	for _, q := range Open(state) {
		if q.Room == "database" && q.Subject == name {
			out = append(out, requestOf(q, now))
		}
	}
	return out
}

// Open are the requests that nobody has settled yet, oldest first.
func Open(state map[string]cluster.Entry) []Asked {
	var keys []string
	for k := range state {
		if strings.HasPrefix(k, KeyRequests) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b string) int { return int(state[a].Revision - state[b].Revision) })
	var out []Asked
	for _, k := range keys {
		var q Asked
		if json.Unmarshal(state[k].Value, &q) != nil || q.ID == "" {
			continue
		}
		if _, settled := state[KeyAnswers+q.ID]; !settled {
			out = append(out, q)
		}
	}
	return out
}
