package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// archivist keeps one database's vault up to date from this host, while the controller has named it: it streams
// the log, makes base backups when they are due or asked for, and proves each by restoring it.
type archivist struct {
	host *Host
	db   plan.Database
	plan plan.Backup

	mu      sync.Mutex // guards what follows
	told    agent.Archive
	covered time.Time // every commit that was acknowledged before is in the vault; zero = not known
	wrote   time.Time // when that was last written down; zero = not by this agent
	gaps    gaps

	looking sync.Mutex   // one look through the whole vault at a time, so that an older one never counts behind a newer one
	from    vault.Backup // newest base backup that the log leads on from; its ID is "" while there is none
	listed  string       // newest base backup that it may lead on from by what the vault lists of it; "" = there is none

	queue seen

	runs  []*run                 // base backups and trials under way, oldest first
	ended map[string]agent.Chore // by kind: what somebody ended last, as it is noted

	changed *backup.Changed  // pages that changed behind the log, as nobody has accepted; nil = none
	gone    *problem.Problem // packs of the vault that the last base backup did not find; nil = none

	second      backup.Status // of the receiver, as it stands with the second place
	secondIn    string        // that place; "" = there is none, or no receiver
	left        left          // what lies there while no receiver says so
	secondAsked time.Time     // when one that does not archive last looked into it; run's alone
}

const (
	// archivePace is how often an archivist looks whether it is its turn.
	archivePace = 500 * time.Millisecond
	// basePace is how often it looks whether a base backup is asked for.
	basePace = time.Second
	// duePace is how often the vault is asked what it holds: that reads its index, which is not for nothing.
	duePace = 30 * time.Second
	// dueSoon is that pace while commits may wait for what it finds.
	dueSoon = 3 * time.Second
	// baseRetry is the pause after a base backup that did not succeed, and badRetry after one that was made and found bad.
	baseRetry = time.Minute
	badRetry  = 30 * time.Minute
)

// run works whenever this host is the one named, until ctx ends.
func (a *archivist) run(ctx context.Context) error {
	recalled := false
	for ctx.Err() == nil {
		if !a.named() {
			a.host.agent.Archive(a.db.Name, agent.Archive{}, false)
			a.bringSecond(ctx)
			a.host.sleep(ctx, archivePace)
			continue
		}
		if !recalled {
			a.recallKnown(a.record().SystemID)
			recalled = true
		}
		if err := a.work(ctx); err != nil && ctx.Err() == nil {
			a.note(err)
			a.lookAtSecond(ctx)
			a.host.cfg.Log.Warn("archive interrupted", "database", a.db.Name, "err", err)
			a.host.sleep(ctx, 10*archivePace)
		}
	}
	return nil
}

// named reports whether the agreed state names this host, and the application is not being stopped.
func (a *archivist) named() bool {
	var name string
	now := a.host.agent.Last()
	if now.Facts.Stopping || now.Facts.WrittenOff() != "" {
		return false
	}
	e, ok := now.Agreed[agent.KeyArchivers+a.db.Name]
	return ok && json.Unmarshal(e.Value, &name) == nil && name == a.host.cfg.Self
}

// work holds the vault open while it is this host's turn.
func (a *archivist) work(ctx context.Context) error {
	v, err := a.host.openVault(ctx, a.plan.Vault)
	if err != nil {
		return err
	}
	defer func() { _ = v.Close(context.WithoutCancel(ctx)) }() // read-only from here on
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	second, err := a.secondPlace()
	if err != nil {
		return err
	}
	r, err := backup.NewReceiver(backup.ReceiverOptions{
		Vault: v, Database: a.db.Name, SystemID: a.record().SystemID,
		Spool: filepath.Join(a.host.cfg.Dir, "spool", a.db.Name), Log: a.host.cfg.Log, SkipGap: true,
		Slot: postgres.ArchiveSlot, Spill: second, Keep: a.slotMax() / keptBeside, Lost: a.lostThere, Votes: a.votes,
	})
	if err != nil {
		return err
	}
	a.recallTwice(ctx, v.Backups)
	a.useSecond(second)
	defer a.useSecond("")
	defer a.host.proofs.leave(a.db.Name)
	g.Go(func() error {
		for a.named() && !a.secondMoved(second) {
			a.tell(r.Status())
			a.keepKnown(a.record().SystemID)
			if !a.host.sleep(ctx, archivePace) {
				return nil
			}
		}
		cancel()
		return nil
	})
	a.turn()
	a.lookForGap(ctx, v)
	g.Go(func() error { return a.stream(ctx, r) })
	g.Go(func() error {
		return a.host.works.do(ctx, func(ctx context.Context) error { return a.bases(ctx, v) })
	})
	g.Go(func() error {
		return a.host.works.do(ctx, func(ctx context.Context) error { a.proveLater(ctx, v); return nil })
	})
	g.Go(func() error { return a.refuseCancels(ctx) })
	g.Go(func() error { a.host.copies.follow(ctx, a.db.Name, v); return nil })
	err = g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (a *archivist) record() database.Record {
	for _, d := range a.host.agent.Last().Facts.Databases {
		if d.Name == a.db.Name {
			return d.Record
		}
	}
	return database.Record{}
}

// stream takes the log from whoever is the primary.
func (a *archivist) stream(ctx context.Context, r *backup.Receiver) error {
	for ctx.Err() == nil {
		rec := a.record()
		if rec.Phase != database.Steady || !rec.Opened {
			a.host.sleep(ctx, a.pace())
			continue
		}
		dsn, err := a.host.primaryDSN(a.db, rec.Primary)
		if err != nil {
			return err
		}
		conf, err := backup.StreamFrom(dsn)
		if err != nil {
			return err
		}
		run, cancel := context.WithCancel(ctx)
		moved := a.watchEpoch(run, rec.Epoch, cancel)
		err = r.Run(run, conf)
		cancel()
		<-moved
		var gap *backup.GapError
		var twice *vault.DuplicateError
		switch {
		case errors.As(err, &gap):
			if a.lost(gap) {
				a.host.diary.Note("backup", a.db.Name, gap.Error()+"; no moment from there to the next base backup can be restored", nil, 0)
			}
		case errors.As(err, &twice):
			if a.isTwice(twice) {
				a.keepTwice()
				a.host.diary.Note("backup", a.db.Name, twice.Error()+"; no moment from there to the next base backup can be restored", nil, 0)
			}
			return err
		case err != nil && ctx.Err() == nil:
			a.host.cfg.Log.Info("log stream ended", "database", a.db.Name, "err", err)
		}
		a.host.sleep(ctx, a.pace())
	}
	return nil
}

// pace is how long the archivist rests between two streams, and between two looks whether its primary is still the one. Where
// commits wait for the vault, they wait for that too.
func (a *archivist) pace() time.Duration {
	if a.waitedFor() {
		return archivePace / 10
	}
	return archivePace
}

// watchEpoch ends a stream whose primary is no longer the one.
func (a *archivist) watchEpoch(ctx context.Context, epoch int64, end func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for a.host.sleep(ctx, a.pace()) {
			if a.record().Epoch != epoch {
				end()
				return
			}
		}
	}()
	return done
}

// tell puts what the receiver says into this host's report.
func (a *archivist) tell(s backup.Status) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told.Vault, a.told.Received, a.told.Archived = a.plan.Vault, database.LSN(s.Flushed), database.LSN(s.Archived)
	if s.Spilled == 0 && (a.second.Spilled > 0 || s.Doubts != a.gaps.doubts) { // the vault has all of it now, and shows what is missing
		a.gaps.judged = false
	}
	a.gaps.streaming, a.second = s.Streaming, s
	a.covers(s, a.host.clock.Now())
	a.told.Trouble = s.VaultError
	if !s.Connected && a.told.Trouble == "" {
		a.told.Trouble = "no stream from the primary"
	}
	a.say()
}

// note keeps why the archive does not go on.
func (a *archivist) note(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told.Vault, a.told.Trouble = a.plan.Vault, firstLine(err.Error())
	a.gaps.streaming = false
	a.say()
}

func firstLine(s string) string { line, _, _ := strings.Cut(s, "\n"); return line }

// bases makes base backups when one is due or asked for, one at a time.
func (a *archivist) bases(ctx context.Context, v *vault.Vault) error {
	var rest time.Time // until when no base backup is begun that nobody asks for
	var looked time.Time
	var due backup.Wanted
	var void voids
	for a.host.sleep(ctx, basePace) {
		asked := a.asked()
		lost, streaming := a.gapNow()
		pace := duePace
		if a.waitedFor() && (!a.judged() || a.leadless()) { // commits may be waiting for that
			pace = dueSoon
		}
		if now := a.host.clock.Now(); looked.IsZero() || now.Sub(looked) >= pace {
			var err error
			if due, err = a.dueOrNot(ctx, v); err != nil {
				return err
			}
			looked = now
			if !a.judged() || a.newLead() {
				a.lookForGap(ctx, v)
			}
		}
		wants, why := due, a.besides(lost)
		// Then only a new base backup leads to anything, and it must be whole; one that begins before the log goes on would begin in the hole.
		if asked == nil && why != "" && (lost != "" || !due.Now) {
			wants = backup.Wanted{Now: streaming && (due.Now || !a.waived(why))}
		}
		now := a.host.clock.Now()
		if asked == nil && (!wants.Now || now.Before(rest)) || now.Before(void.until) || !a.canRead() {
			continue
		}
		r := a.underWay(ctx, agent.ChoreBase, asked)
		look := func(ctx context.Context) { a.lookForGap(ctx, v) }
		stop := a.lookWhile(ctx, look)
		result, err := a.base(r, v, wants.Mode, func(b vault.Backup) { a.stored(ctx, lost, b, look) })
		stop()
		if ctx.Err() != nil {
			r.over(ctx, false, "")
			return ctx.Err()
		}
		rest = a.host.clock.Now().Add(restAfter(result.Backup, err, lost != "" || a.leadless()))
		looked = time.Time{}
		if leadsOn(result.Backup) {
			a.bridged(lost)
			a.dropTwice()
		}
		if again := a.baseEnded(ctx, v, r, &void, why, result, err); again {
			rest = void.until
		}
	}
	return nil
}

// besides is why a base backup is wanted at once, whatever the schedule says; "" = it is not.
func (a *archivist) besides(lost string) string {
	if lost == "" && a.baseless() {
		return noLead
	}
	return lost
}

// baseEnded tells all who want to know how the making of a base backup ended, and reports whether it begins again by itself, for
// its server changed. why is what else than the schedule had wanted it.
func (a *archivist) baseEnded(ctx context.Context, v *vault.Vault, r *run, void *voids, why string, result backup.Result, err error) bool {
	if err != nil && r.cancelled() != "" {
		*void = voids{}
		r.over(ctx, true, a.wasCancelled(ctx, v.Backups, r, result.Backup.ID, why))
		return false
	}
	began, text := r.told.Since, sayBase(result, err)
	if err != nil {
		a.host.cfg.Log.Error("base backup did not succeed", "database", a.db.Name, "err", err)
	} else {
		a.made()
	}
	a.host.choreEnded(ctx, agent.ChoreBase, a.db.Name, result.Backup.ID, began, began, text, err)
	a.host.diary.Note("backup", a.db.Name, text, nil, result.Took)
	r.over(ctx, false, "it came to its end before: "+text)
	if a.voided(ctx, v, void, r.asked, began, result, err) {
		return true
	}
	if r.asked != nil {
		a.settle(ctx, *r.asked, result, err)
	}
	return false
}

func sayBase(r backup.Result, err error) string {
	switch {
	case err != nil:
		return "base backup did not succeed: " + firstLine(err.Error())
	case !r.Backup.Validated():
		return "base backup " + r.Backup.ID + " was made, and is not proven"
	}
	text := "base backup " + r.Backup.ID + " was made and proven by restoring it"
	if len(r.Backup.Differs) > 0 {
		text += fmt.Sprintf("; pages changed on the disk since %s though no log changed them, in %s: %s", r.Backup.Earlier, backup.ChangedPlaces(r.Backup.Differs), r.Backup.Differs[0])
	}
	return text
}

// canRead reports whether the server here runs, so that its data directory can be read beside it.
func (a *archivist) canRead() bool {
	for _, d := range a.host.agent.Last().Facts.Databases {
		if d.Name == a.db.Name {
			return d.Local.Ready && d.Record.Phase == database.Steady && d.Record.Opened
		}
	}
	return false
}

// asked is the oldest request for a base backup of this database.
func (a *archivist) asked() *agent.Asked { return a.askedFor("base") }

// askedFor is the oldest request of a kind for this database.
func (a *archivist) askedFor(kind string) *agent.Asked {
	for _, q := range agent.Open(a.host.agent.Last().Agreed) {
		if q.Room == "backup" && q.Kind == kind && q.Subject == a.db.Name {
			return &q
		}
	}
	return nil
}

// wanted is when backups are made and how long they stay, by the plan that counts.
func (a *archivist) wanted() plan.Backup {
	if b, ok := a.host.plan().BackupOf(a.db.Name); ok {
		return b
	}
	return a.plan
}

// due judges the plan's schedule from what the vault lists.
func (a *archivist) due(ctx context.Context, v *vault.Vault) (backup.Wanted, error) {
	all, err := v.ReadableBackups(ctx, a.db.Name) // beside entries that are lost, the more so a backup is made when it is due
	if err != nil {
		return backup.Wanted{}, err
	}
	if len(all) > 0 {
		newest := all[len(all)-1]
		a.mu.Lock()
		a.told.Last = &agent.BaseBackup{ID: newest.ID, At: newest.Stopped, Bytes: newest.Bytes, Stored: newest.Stored, Proven: newest.Validated(), Bad: backup.FirstBad(newest)}
		a.mu.Unlock()
	}
	rec := a.record()
	a.mu.Lock()
	a.listed = leadsFrom(all, rec).ID
	a.mu.Unlock()
	changed, err := backup.StandingChangeIn(ctx, v, all)
	if err != nil {
		return backup.Wanted{}, err
	}
	a.mu.Lock()
	a.changed = changed
	a.mu.Unlock()
	if err := a.host.proofs.look(ctx, a.db.Name, v); err != nil {
		return backup.Wanted{}, err
	}
	if err := a.provenSince(ctx, all); err != nil {
		return backup.Wanted{}, err
	}
	return a.want(all, time.Now())
}

// dueOrNot is [archivist.due], and nothing is due while the vault does not say what it holds. An error is for another opening of the
// vault to mend; where it cannot be opened, the log must be taken in all the same by whoever holds it open.
func (a *archivist) dueOrNot(ctx context.Context, v *vault.Vault) (backup.Wanted, error) {
	due, err := a.due(ctx, v)
	if err == nil || ctx.Err() != nil {
		return due, err
	}
	again, openErr := a.host.openVault(ctx, a.plan.Vault)
	if openErr == nil {
		return backup.Wanted{}, errors.Join(err, again.Close(ctx))
	}
	if ctx.Err() != nil {
		return backup.Wanted{}, ctx.Err()
	}
	a.host.cfg.Log.Warn("vault does not say whether a base backup is due", "database", a.db.Name, "err", err)
	return backup.Wanted{}, nil
}

// base makes one base backup from the server here, tells when it is stored, and proves it.
func (a *archivist) base(r *run, v *vault.Vault, mode backup.Mode, stored func(vault.Backup)) (backup.Result, error) {
	ctx, asked := r.ctx, r.asked
	limit, err := baseLimit(a.wanted(), asked)
	if err != nil {
		return backup.Result{}, err
	}
	if asked != nil {
		mode = backup.Mode(asked.Args[agent.ArgMode])
		if mode == "full" {
			mode = ""
		}
	}
	server := a.host.servers[a.db.Name]
	conf, err := backup.ReadFrom(a.host.localDSN(a.db, server))
	if err != nil {
		return backup.Result{}, err
	}
	dsn, err := a.host.primaryDSN(a.db, a.record().Primary)
	if err != nil {
		return backup.Result{}, err
	}
	primary, err := backup.ReadFrom(dsn)
	if err != nil {
		return backup.Result{}, err
	}
	result, err := backup.Base(ctx, backup.BaseOptions{
		Conn: conf, Primary: primary, DataDir: server.DataDir(), Vault: v, Database: a.db.Name, Log: a.host.cfg.Log, Progress: r.copies,
		Mode: mode, Limit: limit,
	})
	a.mu.Lock()
	if lost, looked := v.LostPacks(); looked {
		a.gone = lost
	}
	a.mu.Unlock()
	if err != nil {
		return result, err
	}
	id := result.Backup.ID
	stored(result.Backup)
	a.host.receipt(ctx, v, backupReceipt(result.Backup, result.Took))
	proven, err := a.prove(r, v, id, false)
	if err != nil {
		return result, fmt.Errorf("prove base backup %s: %w", id, err)
	}
	result.Backup = proven
	return result, nil
}

// baseLimit is how many bytes a second a base backup may read: what whoever asked for it said, or the plan for one of the
// schedule (asked is nil); 0 = no limit. Pure.
func baseLimit(b plan.Backup, asked *agent.Asked) (int64, error) {
	if asked == nil {
		return b.Limit, nil
	}
	text := asked.Args[agent.ArgLimit]
	if text == "" {
		return 0, nil
	}
	limit, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the limit: %w", err)
	}
	return limit, nil
}

func (a *archivist) settle(ctx context.Context, q agent.Asked, r backup.Result, err error) {
	a.settleWith(ctx, q, r.Backup, err == nil && r.Backup.Validated() && len(r.Backup.Differs) == 0, sayBase(r, err))
}

// settleWith answers a request with the backup that it was about.
func (a *archivist) settleWith(ctx context.Context, q agent.Asked, b vault.Backup, ok bool, text string) {
	s := agent.Settled{ID: q.ID, OK: ok, Host: a.host.cfg.Self, Text: text}
	if result, e := json.Marshal(b); e == nil && b.ID != "" {
		s.Result = result
	}
	a.host.agent.Settle(ctx, s)
}

// primaryDSN leads to a primary's own server, with this host's certificate; to our own by its private socket.
func (h *Host) primaryDSN(d plan.Database, primary string) (string, error) {
	if s := h.servers[d.Name]; s != nil && primary == h.cfg.Self {
		return h.localDSN(d, s), nil
	}
	to, ok := h.cfg.Plan.Host(primary)
	if !ok {
		return "", fmt.Errorf("reach the primary of %s: the plan has no host %q", d.Name, primary)
	}
	e, dir := endpoint(to, h.cfg.Plan, d), certDir(h.cfg.Dir)
	return fmt.Sprintf("host=%s port=%d user=%s dbname=postgres sslmode=verify-full sslcert=%s sslkey=%s sslrootcert=%s connect_timeout=3",
		e.Address, e.Port, postgres.Superuser, filepath.Join(dir, "host.crt"), filepath.Join(dir, "host.key"), filepath.Join(dir, "ca.crt")), nil
}

// localDSN leads to this host's own server by its private socket.
func (h *Host) localDSN(d plan.Database, s *postgres.Server) string {
	return fmt.Sprintf("host=%s port=%d user=%s dbname=postgres connect_timeout=3", s.SocketDir(), h.cfg.Plan.Ports.Server+d.Index, postgres.Superuser)
}

// sleep waits for d, and tells false when ctx ended first.
func (h *Host) sleep(ctx context.Context, d time.Duration) bool {
	t := h.clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C():
		return true
	}
}
