package host

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// logKeeper has one database's standby on this host keep what the vault lacks of the log, so that the archive goes on
// without a hole when this host takes over. Whoever archives then finds the slot that was kept.
type logKeeper struct {
	host   *Host
	db     plan.Database
	server logServer

	kept   database.LSN // where the slot stood after the last look; 0 = there is none
	apart  int64        // bytes of log between two restart points of the server at most; 0 = not known yet
	life   string       // of the server, at the last look
	looked time.Time
	let    string    // life of the server whose log was let go, at the last look
	low    bool      // the disk is nearly full
	failed string    // why the last look did not succeed; "" = it did
	since  time.Time // when the log was first seen not to be kept; zero = it is

	mu  sync.Mutex // guards what follows
	now []problem.Problem
}

// logServer is what is asked of our server.
type logServer interface {
	ArchiveConfirmed(context.Context, database.Endpoint) (database.LSN, error)
	KeepForArchive(context.Context, database.LSN) (postgres.KeptForArchive, error)
	ForgetArchive(ctx context.Context, standbyOnly bool) error
	RestartPoint(context.Context) error
}

const (
	// keepPace is how often it is judged whether a slot must be moved; what is kept needlessly is what is written in that time.
	keepPace = 5 * time.Second
	// keepEvery is how old the last look at the slot may be.
	keepEvery = time.Minute
	// lowEvery is how often a server whose disk is nearly full is asked to remove what it need not keep any more.
	lowEvery = 20 * time.Second
	// keptAnyway is wal_keep_size, in bytes: so much of the log a server has without a slot.
	keptAnyway = 256 << 20
	// keepSegment is the piece of log that a slot keeps at least, in bytes: below it a move changes nothing.
	keepSegment = 16 << 20
	// notKeptAfter is how long log must be missing before it is said: a new standby's begins where it was copied, and the
	// archive is there a moment later.
	notKeptAfter = 30 * time.Second
)

func newLogKeepers(h *Host) (out []*logKeeper) {
	for _, d := range h.cfg.Plan.Databases {
		if s := h.servers[d.Name]; s != nil {
			out = append(out, &logKeeper{host: h, db: d, server: s})
		}
	}
	return out
}

// run keeps the slot until ctx ends.
func (k *logKeeper) run(ctx context.Context) error {
	for k.host.sleep(ctx, keepPace) {
		failed := ""
		if err := k.look(ctx); err != nil {
			failed = err.Error()
		}
		if failed != "" && failed != k.failed && ctx.Err() == nil {
			k.host.cfg.Log.Warn("log not kept for the archive", "database", k.db.Name, "err", failed)
		}
		k.failed = failed
	}
	return nil
}

// look is one judgement, and what follows from it.
func (k *logKeeper) look(ctx context.Context) error {
	now := k.host.agent.Last()
	i := slices.IndexFunc(now.Facts.Databases, func(d agent.DatabaseFacts) bool { return d.Name == k.db.Name })
	if i < 0 || now.Facts.Stopping || now.Facts.WrittenOff() != "" {
		k.tell(nil, k.host.clock.Now())
		return nil
	}
	d, at := now.Facts.Databases[i], k.host.clock.Now()
	_, backed := k.host.plan().BackupOf(k.db.Name)
	k.low = lowOn(d.Local.Disk, k.apart, k.low)
	archived := k.archived(now)
	switch keepLog(d, k.host.cfg.Self, backed, k.low) {
	case logStays:
		k.tell(nil, at)
		return nil
	case logGoes:
		k.tell(k.elsewhere(notKept(k.db.Name, k.host.cfg.Self, d.Local, archived, k.low && backed)), at)
		return k.letGo(ctx, d.Local.Life, backed)
	}
	k.tell(k.elsewhere(notKept(k.db.Name, k.host.cfg.Self, d.Local, archived, false)), at)
	fresh := k.life == d.Local.Life && at.Sub(k.looked) < keepEvery
	if fresh && k.kept != 0 && archived/keepSegment <= k.kept/keepSegment {
		return nil
	}
	return k.keep(ctx, d)
}

// keep moves the slot to where the primary's stands. Without an answer of the primary it is made where it is missing, and
// stays where it stands.
func (k *logKeeper) keep(ctx context.Context, d agent.DatabaseFacts) error {
	to, ok := k.host.cfg.Plan.Host(d.Record.Primary)
	if !ok {
		return fmt.Errorf("the plan has no host %q", d.Record.Primary)
	}
	at, err := k.server.ArchiveConfirmed(ctx, endpoint(to, k.host.cfg.Plan, k.db))
	if err != nil {
		k.host.cfg.Log.Debug("how far the archive is was not learnt", "database", k.db.Name, "err", err)
	}
	kept, err := k.server.KeepForArchive(ctx, at)
	if err != nil {
		return err
	}
	if kept.Anew {
		k.host.cfg.Log.Warn("the slot that keeps log for the archive was made anew", "database", k.db.Name, "lsn", kept.From.String(), "archived", at.String())
	}
	k.kept, k.apart, k.life, k.looked, k.let = kept.From, kept.Apart, d.Local.Life, k.host.clock.Now(), ""
	return nil
}

// letGo drops the slot, now and then again: a host whose plan is older may make it anew. A server removes log only at the
// end of a restart point, and needs a new checkpoint of the primary for one: while the disk is low it is asked for them.
func (k *logKeeper) letGo(ctx context.Context, life string, backed bool) error {
	now, every := k.host.clock.Now(), keepEvery
	if k.low {
		every = lowEvery
	}
	if k.let == life && now.Sub(k.looked) < every {
		return nil
	}
	if err := k.server.ForgetArchive(ctx, backed); err != nil {
		return err
	}
	k.let, k.kept, k.looked = life, 0, now
	if !k.low {
		return nil
	}
	return k.server.RestartPoint(ctx)
}

// tell says what has been so for a while.
func (k *logKeeper) tell(p *problem.Problem, now time.Time) {
	switch {
	case p == nil:
		k.since = time.Time{}
	case k.since.IsZero():
		k.since = now
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now = nil
	if p != nil && now.Sub(k.since) >= notKeptAfter {
		k.now = []problem.Problem{*p}
	}
}

func (k *logKeeper) problems() []problem.Problem {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.now)
}

// What becomes of the log that a server keeps for the archive.
const (
	logStays = iota // as it is: it is the primary's, which the archive itself looks after, or nothing is known
	logKept
	logGoes
)

// keepLog judges whether our server is to keep the log that the vault lacks. Pure.
func keepLog(d agent.DatabaseFacts, self string, backed, low bool) int {
	switch {
	case !d.Local.Ready || d.Local.Role == database.NoRole:
		return logStays
	case !backed:
		return logGoes
	case d.Record.Phase != database.Steady || !d.Record.Opened || d.Local.Role != database.Standby || d.Record.Primary == self:
		return logStays
	case !slices.Contains(d.Record.Members, self) || low:
		return logGoes
	}
	return logKept
}

// lowOn reports whether a disk is so full that a standby keeps no log for the archive. What is let go is there until the
// primary's next checkpoint is replayed, so it begins well above where a server ends: at twice three segments, or a
// twentieth up to half a GiB, and with room for the log that may come until then, a tenth of the disk at most. It has twice
// that free again before it does. Pure.
func lowOn(d database.Disk, apart int64, was bool) bool {
	floor := 2*max(3*keepSegment, min(512<<20, d.Size/20)) + min(apart, d.Size/10)
	if was {
		floor *= 2
	}
	return d.Size > 0 && d.Free < floor
}

// archived is how far the log is in the vault, as its archivist last said; 0 = it is not heard.
func (k *logKeeper) archived(now agent.Snapshot) database.LSN {
	var who string
	e, ok := now.Agreed[agent.KeyArchivers+k.db.Name]
	if !ok || json.Unmarshal(e.Value, &who) != nil {
		return 0
	}
	for _, a := range k.host.archives {
		if who == k.host.cfg.Self && a.db.Name == k.db.Name {
			return a.archived()
		}
	}
	for _, p := range now.Facts.Peers {
		if p.Host == who && p.Report != nil {
			return p.Report.Archive[k.db.Name].Archived
		}
	}
	return 0
}

// notKept says that a takeover by this host would lose log of the archive. Pure.
func notKept(name, self string, l database.Local, archived database.LSN, low bool) *problem.Problem {
	p := &problem.Problem{Code: "backup.log-not-kept", Subject: name, Severity: problem.Degraded,
		Meaning: "Nothing is lost yet: the primary keeps that log for the vault. If this host took over before the vault has it, no moment from there to the next base backup, which is then made at once, could be restored. The database itself loses nothing.",
		Remedy:  "bring the vault back (holdfast status says what is wrong with it), and make no switchover to " + self + " before the problem is gone"}
	switch {
	case low && archived != 0 && (l.Oldest > archived || l.Flushed > archived+keptAnyway):
		p.Title = fmt.Sprintf("%s keeps no log for the vault any more: its disk is nearly full", self)
		p.Remedy = "free or add space on " + self + "; or bring the vault back, so that nothing needs to be kept"
	case l.Role == database.Standby && archived != 0 && l.Oldest > archived:
		p.Title = fmt.Sprintf("%s lacks log that the vault does not have yet: from %s to %s", self, archived, l.Oldest)
	default:
		return nil
	}
	return p
}
