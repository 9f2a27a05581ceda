package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/files"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// filer backs up this host's directory of one file set when that is due or asked for.
type filer struct {
	host *Host
	set  plan.FileSet                                     // as it was when the host began; what counts now: now()
	turn *sync.Mutex                                      // the filers of a host work one at a time
	runs func(ctx context.Context, c files.Command) error // runs a command of the moment

	orphan bool       // the plan has no such set here: only what stands still is let go on
	moment sync.Mutex // held while files and database stand still for a recovery point, or are let go on after one

	last    *vault.FileBackup // newest of this host; nil = none
	points  points            // those that are made by themselves
	known   bool              // last is as the vault has it
	stopped time.Time         // when somebody last ended a backup, of this agent; see [filer.cancelledAt]
	failed  time.Time         // when the last try began that did not succeed; zero = the last one did

	mu    sync.Mutex // guards what follows
	told  agent.Files
	stood error // why files and database were not let go on; nil = they were
	wrong *problem.Problem
	gone  *problem.Problem // packs of the vault that the last backup did not find; nil = none
}

const (
	// filesPace is how often it is looked whether a backup is due or asked for.
	filesPace = time.Second
	// filesRetry is the pause after a backup that did not succeed, or a look into the vault.
	filesRetry = time.Minute
)

func (h *Host) newFilers() ([]*filer, error) {
	var out []*filer
	turn := &sync.Mutex{}
	for _, s := range h.cfg.Plan.Files {
		for _, name := range s.Hosts {
			if name == h.cfg.Self && s.Backup.Vault != "" {
				out = append(out, &filer{host: h, set: s, turn: turn, runs: RunMoment, told: agent.Files{Vault: s.Backup.Vault, Path: s.Path}})
			}
		}
	}
	orphans, err := h.orphans(out)
	return append(out, orphans...), err
}

// now is the file set by the plan that counts.
func (f *filer) now() plan.FileSet {
	if s, ok := f.host.plan().FileSetNamed(f.set.Name); ok {
		return s
	}
	return f.set
}

// run works until ctx ends.
func (f *filer) run(ctx context.Context) error {
	if f.orphan {
		f.thaws(ctx, true)
		return nil
	}
	f.thawed(ctx) // before anything else
	var thaws sync.WaitGroup
	defer thaws.Wait()
	thaws.Go(func() { f.thaws(ctx, false) })
	for f.host.sleep(ctx, filesPace) {
		last := f.host.agent.Last()
		if last.Facts.Stopping || last.Facts.WrittenOff() != "" {
			continue
		}
		f.answerCancels(ctx, "", "")
		asked := f.asked(last)
		if p := f.refused(asked); p != nil {
			f.settle(ctx, asked, vault.FileBackup{}, p)
			continue
		}
		paused := !f.failed.IsZero() && f.host.clock.Now().Sub(f.failed) < filesRetry
		if asked == nil && paused {
			continue
		}
		if asked == nil && (!f.known || f.keyUnproven()) {
			if err := f.learn(ctx); err != nil {
				f.fail(ctx, "the vault was not asked for the last backup", err)
			}
			continue
		}
		due, err := f.due()
		if err != nil {
			return err
		}
		id, err := f.pointWanted(asked, time.Now())
		if err != nil {
			return err
		}
		if asked == nil && !due.Now && id == "" {
			continue
		}
		f.turn.Lock()
		r := f.underWay(ctx, asked)
		b, err := f.backUp(r, id)
		f.turn.Unlock()
		if err != nil && whoCancelled(r.ctx) != "" && ctx.Err() == nil {
			if err := f.wasCancelled(ctx, r, id); err != nil {
				return err
			}
			continue
		}
		r.stop()
		if ctx.Err() != nil {
			return nil
		}
		if id != "" {
			f.pointEnded(ctx, asked, b, err)
			continue
		}
		f.ended(ctx, asked, b, err)
	}
	return nil
}

// asked is the oldest request for a backup of the set on this host.
func (f *filer) asked(now agent.Snapshot) *agent.Asked {
	for _, q := range agent.Open(now.Agreed) {
		if q.Room == "files" && (q.Kind == "backup" || q.Kind == "point") && q.Subject == f.set.Name && q.Args[agent.ArgOn] == f.host.cfg.Self {
			return &q
		}
	}
	return nil
}

// due says when the next backup is.
func (f *filer) due() (backup.Due, error) {
	var last time.Time
	if f.last != nil {
		last = f.last.Started
	}
	b := f.now().Backup
	timing := backup.Timing{Schedule: b.Every, Zone: b.Zone, Jitter: b.Jitter, Of: f.set.Name + "@" + f.host.cfg.Self}
	due, err := backup.NextBut(timing, last, f.cancelledAt(), time.Now())
	f.tell(func(t *agent.Files) { t.Next = due.At.UTC() })
	return due, err
}

// learn asks the vault which backup is the newest of this host's.
func (f *filer) learn(ctx context.Context) error {
	v, err := f.host.openVault(ctx, f.set.Backup.Vault)
	if err != nil {
		return err
	}
	err = f.newest(ctx, v)
	if err == nil {
		f.looked()
	}
	return errors.Join(err, v.Close(context.WithoutCancel(ctx)))
}

// looked notes that the vault has told what there is: what was wrong with it is over, and what the newest backup lacks
// it lacks still.
func (f *filer) looked() {
	f.failed = time.Time{}
	f.complain(nil)
	if f.last != nil {
		f.complain(incomplete(f.set.Name, *f.last))
	}
	f.tell(func(t *agent.Files) { t.Trouble = "" })
}

func (f *filer) newest(ctx context.Context, v *vault.Vault) error {
	all, err := v.FileBackups(ctx, f.set.Name)
	if err != nil {
		return err
	}
	for _, b := range all {
		if b.Host == f.host.cfg.Self {
			f.last = &b
			if b.Point != nil {
				f.points.last = b.Started
			}
		}
	}
	f.known = true
	f.tell(func(t *agent.Files) { t.Last = summary(f.last) })
	if f.alone() {
		return f.host.proofs.look(ctx, "files "+f.set.Name, v)
	}
	return nil
}

// alone reports whether no database goes to the vault: else whoever archives that has it open, and looks after its key.
func (f *filer) alone() bool {
	return !slices.ContainsFunc(f.host.plan().Backups, func(b plan.Backup) bool { return b.Vault == f.set.Backup.Vault })
}

// keyUnproven reports whether the vault's key was not proven when it was last asked, long enough ago to ask again.
func (f *filer) keyUnproven() bool {
	who := "files " + f.set.Name
	return f.failed.IsZero() && f.alone() && f.host.proofs.unproven(who) && f.host.proofs.due(who)
}

func summary(b *vault.FileBackup) *agent.FileBackup {
	if b == nil {
		return nil
	}
	return &agent.FileBackup{ID: b.ID, At: b.Started, Took: b.Ended.Sub(b.Started), Files: b.Files, Bytes: b.Bytes, Read: b.Read, Stored: b.Stored,
		Unreadable: b.Unreadable.Count, Changed: b.Changed.Count}
}

// backUp makes one backup, with a point a recovery point whose name ends in it; the vault is open for as long as that takes.
func (f *filer) backUp(r *filesRun, point string) (b vault.FileBackup, err error) {
	ctx, asked := r.ctx, r.asked
	s := f.now()
	v, err := f.host.openVault(ctx, f.set.Backup.Vault)
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, v.Close(context.WithoutCancel(ctx))) }()
	if err := f.newest(ctx, v); err != nil {
		return b, err
	}
	following, stop := context.WithCancel(ctx)
	var follow sync.WaitGroup
	follow.Go(func() { f.host.copies.follow(following, "files "+s.Name, v) })
	defer follow.Wait()
	defer stop()
	o := files.Options{Vault: v, Set: s.Name, Host: f.host.cfg.Self, Path: s.Path, Exclude: s.Exclude, Earlier: f.last, Log: f.host.cfg.Log}
	if asked != nil {
		o.AllowEmpty = asked.Args[agent.ArgAllowEmpty] == "true"
		if asked.Args[agent.ArgMode] == "full" {
			o.Earlier = nil
		}
	}
	far := func(p files.Progress) {
		run := howFar(p, f.last, r.began, time.Now())
		run.ID, run.Request = r.id, r.request()
		f.tell(func(t *agent.Files) { t.Running, t.Run = true, run })
	}
	far(files.Progress{})
	defer f.tell(func(t *agent.Files) { t.Running, t.Run = false, nil })
	var said time.Time
	o.Progress = func(p files.Progress) {
		if now := f.host.clock.Now(); now.Sub(said) >= filesPace {
			said = now
			far(p)
			f.host.progress(ctx, asked, fmt.Sprintf("%d names, %d MiB read, %d MiB stored", p.Files, p.Read>>20, p.Stored>>20))
		}
	}
	if point != "" {
		// What changed until now is stored before anything stands still: only the rest is taken then.
		if b, err = f.made(ctx, v, o); err != nil {
			return b, err
		}
		o.Earlier, o.Still = f.last, f.still(s, point)
		f.host.progress(ctx, asked, "files and database stand still")
		f.moment.Lock()
		defer f.moment.Unlock()
	}
	return f.made(ctx, v, o)
}

// howFar is how far a backup is that began at a moment, after an earlier one (nil = there is none). Pure.
func howFar(p files.Progress, earlier *vault.FileBackup, began, now time.Time) *agent.FilesRun {
	r := &agent.FilesRun{Since: began.UTC(), Names: p.Files, Read: p.Read, Stored: p.Stored}
	if earlier != nil {
		r.Of = earlier.Entries
	}
	took := now.Sub(began)
	if took < time.Second || p.Files == 0 {
		return r
	}
	r.Rate = int64(float64(p.Read) / took.Seconds())
	if r.Of > p.Files {
		r.Left = int64(took.Seconds() * float64(r.Of-p.Files) / float64(p.Files))
	}
	return r
}

// made makes a backup, notes it as the newest, and leaves a receipt.
func (f *filer) made(ctx context.Context, v *vault.Vault, o files.Options) (vault.FileBackup, error) {
	b, err := files.Backup(ctx, o)
	f.mu.Lock()
	if lost, looked := v.LostPacks(); looked {
		f.gone = lost
	}
	f.mu.Unlock()
	if err == nil {
		f.last = &b
		f.tell(func(t *agent.Files) { t.Last = summary(&b) })
		f.host.receipt(ctx, v, fileBackupReceipt(b))
	}
	return b, err
}

// ended tells how a backup went.
func (f *filer) ended(ctx context.Context, asked *agent.Asked, b vault.FileBackup, err error) {
	if err != nil {
		f.fail(ctx, "backup of files did not succeed", err)
	} else {
		f.succeeded(b)
		f.pointRefused(nil)
	}
	text := sayFiles(b, err)
	f.host.diary.Note("files", f.set.Name, text, nil, b.Ended.Sub(b.Started))
	if asked != nil {
		f.settle(ctx, asked, b, err)
	}
}

// succeeded takes back what was wrong with the backups of the set.
func (f *filer) succeeded(b vault.FileBackup) {
	f.failed = time.Time{}
	f.complain(incomplete(f.set.Name, b))
	f.tell(func(t *agent.Files) { t.Trouble = "" })
}

// settle answers whoever asked.
func (f *filer) settle(ctx context.Context, asked *agent.Asked, b vault.FileBackup, err error) {
	s := agent.Settled{ID: asked.ID, OK: wentWell(b, err), Host: f.host.cfg.Self, Text: sayFiles(b, err)}
	if asked.Kind == "point" {
		s.Text = sayPoint(b, err)
	}
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		s.Text = p.Text()
	}
	f.mu.Lock()
	if f.gone != nil && err == nil {
		s.Text += "\n" + f.gone.Text()
	}
	f.mu.Unlock()
	if result, e := json.Marshal(b); e == nil && b.ID != "" {
		s.Result = result
	}
	f.host.agent.Settle(ctx, s)
}

// wentWell reports whether all that was asked for was done: a point after which the application stands still is none.
func wentWell(b vault.FileBackup, err error) bool {
	return err == nil && b.Complete() && (b.Point == nil || b.Point.Stuck == "")
}

func sayFiles(b vault.FileBackup, err error) string {
	switch {
	case err != nil:
		return "backup of files did not succeed: " + firstLine(err.Error())
	case !b.Complete():
		return fmt.Sprintf("backup %s was made, and lacks %d names that could not be read: %s", b.ID, b.Unreadable.Count, b.Unreadable.First[0])
	}
	changed := ""
	if n := b.Changed.Count; n > 0 {
		changed = fmt.Sprintf("; %d changed whenever they were read, and may be of two moments: %s", n, b.Changed.First[0])
	}
	if p := b.Point; p != nil {
		return fmt.Sprintf("recovery point %s was made: database %s at %s and %d files, which stood still for %s%s", p.ID, p.Database, p.LSN, b.Files, p.Stood(), changed)
	}
	return fmt.Sprintf("backup %s of %d files was made, %d of them read%s", b.ID, b.Files, b.Files-b.Reused, changed)
}

// fail notes a try that did not succeed.
func (f *filer) fail(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	f.failed = f.host.clock.Now()
	f.host.cfg.Log.Error(what, "files", f.set.Name, "err", err)
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok {
		p = &problem.Problem{Code: "files.failed", Severity: problem.Critical, Title: "no backup was made: " + firstLine(err.Error()),
			Meaning: "The directory and the earlier backups are as they were. It is tried again every minute.",
			Remedy:  "see the message; when it is the vault: holdfast vault status"}
	}
	told := *p
	told.Subject = f.set.Name
	f.complain(&told)
	f.tell(func(t *agent.Files) { t.Trouble = told.Title })
}

// incomplete is what is wrong with a backup that was made.
func incomplete(set string, b vault.FileBackup) *problem.Problem {
	if b.Complete() {
		return nil
	}
	return &problem.Problem{Code: "files.incomplete", Subject: set, Severity: problem.Critical,
		Title:   fmt.Sprintf("%d names on %s could not be read and are not in backup %s: %s", b.Unreadable.Count, b.Host, b.ID, b.Unreadable.First[0]),
		Meaning: "Everything else is in it. What is named would be missing after a restore, unless an earlier backup has it.",
		Remedy:  "see them all: holdfast files list " + set + " --output json; correct their rights or the disk, or exclude them in the plan"}
}

func (f *filer) complain(p *problem.Problem) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrong = p
}

func (f *filer) tell(change func(*agent.Files)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.told)
	f.host.agent.Files(f.set.Name, f.told)
}

func (f *filer) problems() []problem.Problem {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []problem.Problem
	if f.wrong != nil {
		out = append(out, *f.wrong)
	}
	if f.gone != nil {
		out = append(out, *f.gone)
	}
	if f.stood != nil {
		out = append(out, f.frozen())
	}
	if f.points.wrong != nil {
		out = append(out, *f.points.wrong)
	}
	if f.points.refused != nil {
		out = append(out, *f.points.refused)
	}
	return out
}

// progress tells the one who asked how far it is; losing such a word costs nothing.
func (h *Host) progress(ctx context.Context, asked *agent.Asked, text string) {
	if asked == nil {
		return
	}
	q := *asked
	q.Host, q.Progress = h.cfg.Self, text
	value, err := json.Marshal(q)
	if err == nil {
		_, err = h.store.Set(ctx, agent.KeyRequests+q.ID, value)
	}
	if err != nil && ctx.Err() == nil {
		h.cfg.Log.Debug("progress not told", "err", err)
	}
}
