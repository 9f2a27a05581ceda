package host

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/cluster"
	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/database/stored"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// storer has one database's commits wait for the vault, where the plan asks for that, while its primary is here. What
// the rounds judge knows nothing of it: see package stored.
type storer struct {
	host   *Host
	name   string
	server storedServer
	store  cluster.Store
	memory stored.Memory
	leaves int64  // the epoch in which the last that we wrote, and know to be agreed, is that the vault is left; 0 = there is none
	said   string // why nothing could be judged in the last look; "" = it could

	mu  sync.Mutex // guards what follows
	now []problem.Problem
}

// storedServer is what is asked of our server.
type storedServer interface {
	AsksVault() bool
	Stored(context.Context) (stored.Server, error)
	AskVault(ctx context.Context, epoch int64, vault bool) error
}

const (
	// storerPace is how often it is judged whether commits wait for the vault.
	storerPace = 500 * time.Millisecond
	// storerMax bounds a read or write of what is agreed, askMax a change of what the server waits for.
	storerMax = 2 * time.Second
	// archivistHeard is how old an archivist's word of its vault may be.
	archivistHeard = 5 * time.Second
	askMax         = 10 * time.Second // the rounds' own changes wait for it
)

func newStorers(h *Host) (out []*storer) {
	for _, d := range h.cfg.Plan.Databases {
		if s := h.servers[d.Name]; s != nil {
			out = append(out, &storer{host: h, name: d.Name, server: s, store: h.store})
		}
	}
	return out
}

// run judges until ctx ends.
func (s *storer) run(ctx context.Context) error {
	for s.host.sleep(ctx, storerPace) {
		said := ""
		if err := s.look(ctx, s.host.agent.Last()); err != nil {
			said = err.Error()
		}
		if said != "" && said != s.said && ctx.Err() == nil {
			s.host.cfg.Log.Warn("not judged whether commits wait for the vault", "database", s.name, "err", said)
		}
		s.said = said
	}
	return nil
}

// look is one judgement by what the last round saw, and what follows from it.
func (s *storer) look(ctx context.Context, now agent.Snapshot) error {
	d, _ := s.host.plan().DatabaseNamed(s.name)
	v, leads := leading(now, s.host.cfg.Self, s.name)
	if !leads {
		s.tell(nil)
		s.memory = stored.Memory{}
		return nil
	}
	mode := stored.Mode(d.ByVault)
	if mode == stored.Off && !s.server.AsksVault() && done(now, s.name, v.Epoch) { // without a question to the server
		s.tell(nil)
		s.memory = stored.Memory{}
		return nil
	}
	var err error
	if v.Server, err = s.server.Stored(ctx); err != nil {
		return err
	}
	key := cluster.Key[stored.Claim](storedKey(s.name))
	reading, done := context.WithTimeout(ctx, storerMax)
	defer done()
	claim, revision, err := key.Load(reading, s.store)
	if err != nil && !errors.Is(err, cluster.ErrUnavailable) && reading.Err() == nil {
		return err
	}
	b, _ := s.host.plan().BackupOf(s.name)
	v.Vault, v.Voted = b.Vault, storesIn(now, s.host.cfg.Self, s.name)
	v.Claim, v.Read, v.Now, v.Settled = claim, err == nil, now.Facts.Now, s.leaves == v.Epoch
	var decided stored.Decision
	decided, s.memory = stored.Decide(s.name, mode, stored.DefaultTimes(), v, s.memory)
	s.tell(decided.Problems)
	return s.act(ctx, key, revision, v.Epoch, decided)
}

// act carries a decision out. What is agreed is written before the server is told anything: that comes with a later look.
func (s *storer) act(ctx context.Context, key cluster.Key[stored.Claim], revision, epoch int64, d stored.Decision) error {
	switch {
	case d.Write != nil:
		ctx, done := context.WithTimeout(ctx, storerMax)
		defer done()
		d.Write.At = s.host.clock.Now().UTC()
		s.leaves = 0 // what becomes of this write may never be heard
		_, err := key.Swap(ctx, s.store, revision, *d.Write)
		if errors.Is(err, cluster.ErrConflict) || errors.Is(err, cluster.ErrUnavailable) {
			return nil // another look comes
		}
		if err == nil {
			if !d.Write.On {
				s.leaves = d.Write.Epoch
			}
			s.host.diary.Note("database", s.name, sayClaim(*d.Write), nil, 0)
		}
		return err
	case d.Ask:
		ctx, done := context.WithTimeout(ctx, askMax)
		defer done()
		err := s.server.AskVault(ctx, epoch, d.Vault)
		if errors.Is(err, database.ErrStale) {
			return nil
		}
		return err
	}
	return nil
}

func sayClaim(c stored.Claim) string {
	if c.On {
		return "commits are acknowledged once the vault has them: " + c.Why
	}
	return "commits are acknowledged without the vault: " + c.Why
}

func (s *storer) tell(p []problem.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = p
}

func (s *storer) problems() []problem.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.now)
}

func storedKey(name string) string { return agent.KeyRoot + stored.KeyPrefix + name }

// leading tells whether a database's primary is here, open and confirmed, as the last round saw it.
func leading(now agent.Snapshot, self, name string) (v stored.View, leads bool) {
	v.Self = self
	if now.Facts.Stopping || now.Facts.WrittenOff() != "" || !now.Facts.Known {
		return v, false
	}
	for _, d := range now.Facts.Databases {
		if d.Name == name {
			r, l := d.Record, d.Local
			v.Epoch = r.Epoch
			v.Leads = r.Phase == database.Steady && r.Opened && r.Primary == self &&
				l.Known && l.Ready && l.Role == database.Primary && l.Promise.Epoch == r.Epoch && !l.Names.IsClosed()
		}
	}
	return v, v.Leads
}

// storesIn is the vault that the archivist named says it stores a database's log in; "" = it was not heard lately.
func storesIn(now agent.Snapshot, self, name string) string {
	who := ""
	e, ok := now.Agreed[agent.KeyArchivers+name]
	if !ok || json.Unmarshal(e.Value, &who) != nil {
		return ""
	}
	if who == self {
		return now.Outcome.Report.Archive[name].Vault
	}
	for _, p := range now.Facts.Peers {
		if p.Host == who && p.Report != nil && p.AgentAge < archivistHeard {
			return p.Report.Archive[name].Vault
		}
	}
	return ""
}

// done tells whether, as the last round saw it, nothing was ever agreed, or that nobody asks for the vault in this epoch.
func done(now agent.Snapshot, name string, epoch int64) bool {
	e, ok := now.Agreed[storedKey(name)]
	if !ok {
		return true
	}
	c, err := cluster.Decode[stored.Claim](e)
	return err == nil && !c.On && c.Done && c.Epoch == epoch
}

// storedWish is what the plan asks of the driver.
func storedWish(d plan.Database) postgres.StoredWish {
	return postgres.StoredWish{Vault: d.ByVault != "", Standbys: max(0, d.Synchronous())}
}

// voting is whether commits of a database may wait for the vault, and for how many standbys the plan counts its votes out;
// < 0 = it asks for none. Where they ever did, a server may still, whatever was planned since, until it is agreed of this epoch that it does not: it is asked.
func voting(d plan.Database, now agent.Snapshot) (asked bool, standbys int) {
	if d.ByVault != "" {
		return true, max(0, d.Synchronous())
	}
	epoch := int64(0)
	if i := slices.IndexFunc(now.Facts.Databases, func(x agent.DatabaseFacts) bool { return x.Name == d.Name }); i >= 0 {
		epoch = now.Facts.Databases[i].Record.Epoch
	}
	return !done(now, d.Name, epoch), -1
}

// leadsFrom is the newest base backup of this very database that a restore may begin with and that lies on the committed chain,
// by what is listed of it. Whether the log leads on from it says [restorable].
func leadsFrom(made []vault.Backup, r database.Record) vault.Backup {
	for _, b := range slices.Backward(made) {
		if leadsOn(b) && ofChain(b, r) {
			return b
		}
	}
	return vault.Backup{}
}

// ofChain reports whether a base backup is of this very database and lies on the committed chain.
func ofChain(b vault.Backup, r database.Record) bool {
	return b.SystemID == r.SystemID && onChain(r, b.Timeline, database.LSN(b.Start))
}

// onChain reports whether what is written at a place belongs to the primary's history.
func onChain(r database.Record, timeline uint32, at database.LSN) bool {
	if timeline == r.Timeline {
		return true
	}
	return slices.ContainsFunc(r.Forks, func(f database.Fork) bool { return f.Parent == timeline && at < f.LSN })
}

// votes says what the receiver asks: see [backup.ReceiverOptions].
func (a *archivist) votes() backup.Vote {
	asked, standbys := a.voting()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !asked || !a.gaps.judged || a.gaps.lost != "" || a.from.ID == "" {
		return backup.Vote{}
	}
	return backup.Vote{Asked: true, Standbys: standbys, Timeline: a.from.Timeline, Base: a.from.Start, Doubts: a.gaps.doubts}
}

func (a *archivist) voting() (asked bool, standbys int) {
	d, _ := a.host.plan().DatabaseNamed(a.db.Name)
	d.Name = a.db.Name // also of one that the plan has no more
	return voting(d, a.host.agent.Last())
}

// asksVotes reports whether a server may be waiting for votes of this archivist.
func (a *archivist) asksVotes() bool {
	asked, _ := a.voting()
	return asked
}

// newLead reports whether votes are asked for and the log may lead on from another base backup than the one that is known: it
// takes a look through the vault to tell.
func (a *archivist) newLead() bool {
	if !a.asksVotes() {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.from.ID != a.listed
}

// baseless reports whether commits wait, and no base backup is listed that the log could lead on from.
func (a *archivist) baseless() bool {
	if !a.leadless() {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.listed == ""
}

// waitedFor reports whether commits may wait for this archivist.
func (a *archivist) waitedFor() bool {
	d, _ := a.host.plan().DatabaseNamed(a.db.Name)
	return d.ByVault != ""
}

// leadless reports whether commits wait, and no base backup is there that the log in the vault leads on from.
func (a *archivist) leadless() bool {
	if !a.waitedFor() {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.from.ID == ""
}
