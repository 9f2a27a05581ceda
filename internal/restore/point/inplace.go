package point

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/files"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
)

// A recovery point goes back in place in two parts. The long one changes nothing that is live: files and database come back
// beside, the application's commands look at them, and the SQL databases are loaded into the live server under other names.
// The short one lies between the plan's before and after: names of SQL databases are exchanged in one transaction, then the
// two directories in one call. Everything is judged by [Next], from what is found; [Journal] outlives a crash.

// Stage is where an application lives on this machine, and how it is brought to stand still.
type Stage struct {
	Set      string // of files
	Database string // the plan's name
	Base     string // directory for journal and copy; PostgreSQL's user must reach it
	Path     string // the live directory of the set
	Live     func(database string) string

	Before, After []string      // commands; none = somebody sees to it that the application stands still
	Env           []string      // what both are told
	Freeze        time.Duration // how long before may take
	Run           func(ctx context.Context, c files.Command) error
	Held          string // file that keeps the host's agent from making both stand still, or go on, meanwhile
	Note          string // file that stands while the agent has made both stand still; see [files.Still]

	Progress func(phase string, done, total int64) // nil = nobody asks
	Log      *slog.Logger                          // nil = silent
}

const (
	// thawMax bounds one run of after.
	thawMax = time.Minute
	// noteMax is how long a recovery point that is being made is waited for: longer than it can take.
	noteMax = 3 * time.Minute
	// exchangeMax bounds the exchange of names: PostgreSQL gives up after five seconds when somebody stays.
	exchangeMax = time.Minute
)

// Outlook is what a restore in place, or taking one back, would do.
type Outlook struct {
	Run    string   `json:"run"`
	To     Side     `json:"to"`
	Path   string   `json:"path"`
	Beside string   `json:"beside"` // where the other content lies, before and after
	Begun  bool     `json:"begun"`  // it goes on with one that was cut off
	Steps  []Step   `json:"steps"`
	Place  *Place   `json:"place,omitempty"` // what the restore beside takes; nil = nothing is restored
	Unsure []string `json:"room_unknown,omitempty"`
	Kept   string   `json:"kept_before,omitempty"` // directory that an earlier one has set aside: undo leads there no more

	Journal Journal `json:"-"`
}

// Look says what a restore in place would do, and refuses one that cannot be done. It changes nothing.
func (st Stage) Look(ctx context.Context, o Options, members []restore.Member) (Outlook, error) {
	j, begun, kept, err := st.forward(o)
	if err != nil {
		return Outlook{}, err
	}
	h := st.hands(&j, o, members)
	out, err := h.outlook(ctx, Came, begun)
	if out.Kept = kept; err != nil || j.Done != nil {
		return out, err
	}
	p, err := Survey(ctx, h.beside())
	if err != nil {
		return out, err
	}
	if out.Place = &p; !p.Fits() {
		return out, noRoomBeside(h.beside(), p)
	}
	out.Unsure, err = restore.LiveRoom(ctx, st.Database, st.Live, members, o.Choice.Backup.Bytes)
	return out, err
}

// LookBack likewise says what [Stage.Undo] would do.
func (st Stage) LookBack(ctx context.Context) (Outlook, error) {
	j, err := st.backward()
	if err != nil {
		return Outlook{}, err
	}
	return st.hands(&j, Options{}, nil).outlook(ctx, j.To, j.Ended.IsZero())
}

func (h *inPlace) outlook(ctx context.Context, to Side, begun bool) (Outlook, error) {
	s, err := h.seen(ctx)
	return Outlook{Run: h.j.Run, To: to, Path: h.j.Path, Beside: h.j.Beside, Begun: begun, Steps: Steps(to, s), Journal: *h.j}, err
}

// Restore brings the whole application back to a point, where it is. What was live stays beside. It goes on with one of the
// same point that was cut off. An error that is no restore.half-exchanged leaves everything live as it was.
func (st Stage) Restore(ctx context.Context, o Options, members []restore.Member) (j Journal, r Record, err error) {
	unlock, err := lockBase(st.Base, st.Set)
	if err != nil {
		return j, r, err
	}
	defer unlock()
	if j, _, _, err = st.forward(o); err != nil {
		return j, r, err
	}
	h := st.hands(&j, o, members)
	err = h.run(ctx, Came)
	return j, h.record, err
}

// Undo gives what was live before its names again, or, when that was done last, what was restored: each time the other
// content stays beside. One that was cut off is taken back.
func (st Stage) Undo(ctx context.Context) (j Journal, err error) {
	unlock, err := lockBase(st.Base, st.Set)
	if err != nil {
		return j, err
	}
	defer unlock()
	if j, err = st.backward(); err != nil {
		return j, err
	}
	ended, h := j.Ended, st.hands(&j, Options{}, nil)
	err = h.run(ctx, j.To)
	if err != nil && !ended.IsZero() {
		if wrong := h.asBefore(context.WithoutCancel(ctx), ended); wrong != nil {
			err = errors.Join(err, wrong)
		}
	}
	return j, err
}

// asBefore notes that an exchange which was refused or taken back left everything as it was, so that the same command tries
// the same again. What is not so is left to whoever finishes it.
func (h *inPlace) asBefore(ctx context.Context, ended time.Time) error {
	s, err := h.seen(ctx)
	if err != nil || s.Halves() || s.Held || s.SQL == h.j.To {
		return nil //nolint:nilerr // it was told already, and is found out again
	}
	h.j.To, h.j.Ended = s.SQL, ended
	return h.j.write(h.st.Base)
}

// EndLeft ends the server that a restore in place which was killed has left on its copy, so that it can be looked at.
func (st Stage) EndLeft(ctx context.Context, o Options) error {
	j, begun, _, err := st.forward(o)
	if err != nil || !begun {
		return err
	}
	return EndLeft(ctx, st.hands(&j, o, nil).beside())
}

// forward is the journal of a restore to a point: the one that was cut off, or a fresh one.
func (st Stage) forward(o Options) (j Journal, begun bool, kept string, err error) {
	if o.Tree.Backup.Point == nil {
		return j, false, "", fmt.Errorf("restore backup %s in place: it belongs to no recovery point", o.Tree.Backup.ID)
	}
	at, err := st.livesAt()
	if err != nil {
		return j, false, "", err
	}
	j, known, err := ReadJournal(st.Base)
	if err != nil {
		return j, false, "", err
	}
	if known && j.Ended.IsZero() {
		if j.Backup != o.Tree.Backup.ID {
			return j, true, "", unfinished(j)
		}
		return j, true, "", j.samePath(at)
	}
	if known && j.began() {
		kept = j.Beside
	}
	run := restore.NewRun(time.Now())
	b := o.Tree.Backup
	return Journal{Format: journalFormat, Run: run, Point: *b.Point, Set: st.Set, Backup: b.ID, Path: at, Beside: at + ".holdfast-" + run,
		To: Came, Began: time.Now().UTC(), SQL: Was}, false, kept, nil
}

// backward is the journal of a restore that can be taken back, with the side that it would then be at.
func (st Stage) backward() (Journal, error) {
	j, known, err := ReadJournal(st.Base)
	if err != nil {
		return j, err
	}
	if !known || !j.Ended.IsZero() && !j.began() {
		return j, &problem.Problem{Code: "restore.nothing-kept", Subject: st.Set, Severity: problem.Note, Title: "there is no restore in place of a recovery point that could be taken back",
			Meaning: "Nothing was changed.", Remedy: "see which points there are: holdfast recovery-point list " + st.Set}
	}
	at, err := st.livesAt()
	if err == nil {
		err = j.samePath(at)
	}
	if err != nil {
		return j, err
	}
	if j.Ended.IsZero() {
		j.To = Was
	} else {
		j.To = j.To.other()
	}
	return j, nil
}

// livesAt is the directory that is exchanged, once it is sure that it can be and that the plan's commands are here.
func (st Stage) livesAt() (string, error) {
	if err := (Commands{After: [][]string{st.Before, st.After}}).find(st.Set); err != nil {
		return "", err
	}
	at, err := liveDirectory(st.Path, st.Set)
	if err != nil {
		return "", err
	}
	base, err := resolved(st.Base)
	if err != nil {
		return "", err
	}
	if within(base, at) || within(at, base) {
		return "", notExchangeable(st.Set, at+" and "+base+", where Holdfast works, lie in one another", "let the set be a directory apart from it in the plan")
	}
	return at, nil
}

func (j Journal) samePath(at string) error {
	if at == j.Path {
		return nil
	}
	return unclear(j, "the set lies at "+at+" now, and lay at "+j.Path)
}

func unfinished(j Journal) error {
	return &problem.Problem{Code: "restore.in-place-unfinished", Subject: j.Set, Severity: problem.Note, Title: "a restore in place to " + j.Point.ID + " was cut off and is not finished",
		Meaning: "Nothing was changed by this one.",
		Remedy:  fmt.Sprintf("finish it: holdfast recovery-point restore %s --in-place; or take it back: holdfast recovery-point undo %s", j.Point.ID, j.Set)}
}

// unclear says that what lies there is not what was left there.
func unclear(j Journal, title string) error {
	return &problem.Problem{Code: "restore.undo-unclear", Subject: j.Set, Severity: problem.Critical, Title: title,
		Meaning: "Nothing was changed now: it is not known whose names these are.",
		Remedy:  fmt.Sprintf("%s and %s are to hold what was live and what was restored, in whichever order; put there what was moved away, and give the command again", j.Path, j.Beside)}
}

// inPlace is a restore in place at work.
type inPlace struct {
	st      Stage
	j       *Journal
	o       Options
	members []restore.Member

	restored, frozen bool
	since            time.Time // when before began, of this process
	record           Record
	in               *restore.InPlace // what was loaded; nil = nothing in this process
}

func (st Stage) hands(j *Journal, o Options, members []restore.Member) *inPlace {
	if st.Log == nil {
		st.Log = slog.New(slog.DiscardHandler)
	}
	if st.Progress == nil {
		st.Progress = func(string, int64, int64) {}
	}
	if o.Log == nil {
		o.Log = st.Log
	}
	if o.Progress == nil {
		o.Progress = st.Progress
	}
	return &inPlace{st: st, j: j, o: o, members: members}
}

// beside are the options of the restore beside.
func (h *inPlace) beside() Options {
	o := h.o
	o.Dir, o.Files = h.j.dir(h.st.Base), h.j.Beside
	return o
}

func (h *inPlace) run(ctx context.Context, to Side) (err error) {
	h.j.To, h.j.Ended = to, time.Time{}
	if err := h.j.write(h.st.Base); err != nil {
		return err
	}
	defer func() {
		if h.in != nil {
			err = errors.Join(err, h.in.Close(context.WithoutCancel(ctx)))
		}
	}()
	return carry(ctx, to, h)
}

// seen says how it stands. An exchange of SQL names that was begun and not noted as done is asked of the live server.
func (h *inPlace) seen(ctx context.Context) (Seen, error) {
	j := h.j
	if j.Doing != nil {
		asking, done := context.WithTimeout(ctx, exchangeMax)
		defer done()
		did, err := restore.Swapped(asking, h.st.Live, *j.Doing)
		if err != nil {
			return Seen{}, fmt.Errorf("find out whether the SQL databases were exchanged: %w", err)
		}
		if did {
			j.SQL, j.Done = j.SQL.other(), j.Doing
			if h.in != nil {
				h.in.Release(ctx)
			}
		}
		j.Doing = nil
	}
	s := Seen{Restored: h.restored, Loaded: h.in != nil || j.Done != nil, Frozen: h.frozen, Held: j.Held, SQL: j.SQL, Files: Was}
	if j.CameInode == 0 {
		return s, nil
	}
	now, err := inodeOf(j.Path)
	if err != nil {
		return s, err
	}
	switch now {
	case j.CameInode:
		s.Files = Came
	case j.WasInode:
	default:
		return s, unclear(*j, "the directory at "+j.Path+" is neither what was live nor what was restored")
	}
	return s, nil
}

func (h *inPlace) do(ctx context.Context, step Step) error {
	h.st.Log.InfoContext(ctx, "restore in place", "step", string(step), "files", h.j.Set)
	switch step {
	case StepRestore:
		return h.bringBeside(ctx)
	case StepLoad:
		return h.load(ctx)
	case StepFreeze:
		return h.freeze(ctx)
	case StepSQL:
		h.st.Progress("exchanging the names of SQL databases", 0, 0)
		return h.swapSQL(ctx)
	case StepFiles:
		h.st.Progress("exchanging the directories", 0, 0)
		return h.swapFiles()
	case StepThaw:
		return h.thaw(ctx)
	}
	return h.tidy(ctx)
}

// bringBeside restores files and database and lets the application look at them.
func (h *inPlace) bringBeside(ctx context.Context) error {
	o := h.beside()
	if err := restore.EndServer(ctx, DatabaseDir(o.Dir)); err != nil { // one that a load which was killed has left; this place is locked
		return err
	}
	if err := exchangeable(h.j.Path, h.j.Set); err != nil { // before an hour of copying
		return err
	}
	if fi, err := os.Lstat(o.Files); err == nil && !fi.IsDir() { // whoever may write beside the set could lead elsewhere
		return unclear(*h.j, o.Files+" is no directory")
	}
	r, err := Restore(ctx, o)
	if err != nil {
		return err
	}
	if h.record = r; r.Outcome.Outcome != Passed {
		return &problem.Problem{Code: "restore.point-failed", Subject: r.Point.ID, Severity: problem.Critical, Title: "was restored beside and did not pass: " + r.Because,
			Meaning: "Nothing live was changed: it is not brought in place as it is. It lies in " + o.Dir + " and " + o.Files + ".",
			Remedy:  "see what was said; correct it and give the same command again, which only looks again; or let go of it, with holdfast recovery-point undo " + r.Set + ", and take an earlier point"}
	}
	h.restored = true
	return nil
}

// load brings the SQL databases of the copy into the live server, under names of their own.
func (h *inPlace) load(ctx context.Context) error {
	data := DatabaseDir(h.j.dir(h.st.Base))
	h.st.Progress("starting the restored server", 0, 0)
	in, err := restore.OpenInPlace(ctx, restore.IntoOptions{Database: h.st.Database, At: h.o.Choice.Target, Live: h.st.Live, Owner: h.o.Owner, BinDir: h.o.BinDir,
		Members: h.members, Copy: data, Way: h.o.Choice}, nil)
	if err != nil {
		return err
	}
	if err := in.Load(ctx, func(name string) { h.st.Progress("loading "+name, 0, 0) }); err != nil {
		return errors.Join(err, in.Close(context.WithoutCancel(ctx)))
	}
	h.in, h.j.Alone, h.j.LeftOut = in, in.Alone, nil
	for _, x := range in.Databases {
		for _, what := range x.LeftOut {
			h.j.LeftOut = append(h.j.LeftOut, x.Name+": "+what)
		}
	}
	return h.j.write(h.st.Base)
}

// next is the exchange of SQL names that brings the other side.
func (h *inPlace) next() restore.Swap {
	if h.j.Done == nil {
		return h.in.Planned()
	}
	at := "restore point " + h.j.Point.ID
	if h.j.SQL == Came {
		at = "before the restore to " + h.j.Point.ID + " was taken back"
	}
	return h.j.Done.Back(time.Now(), at)
}

// freeze brings the application to stand still, and makes sure that it does.
func (h *inPlace) freeze(ctx context.Context) (err error) {
	if h.j.Done != nil {
		if err := restore.CanSwap(ctx, h.st.Live, h.st.Database, h.next()); err != nil {
			return err
		}
	}
	if err := durable.WriteFile(h.st.Held, []byte(h.j.Run+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep the agent from recovery points meanwhile: %w", err)
	}
	if err := h.awaitNote(ctx); err != nil {
		if !h.j.Held {
			err = errors.Join(err, os.Remove(h.st.Held))
		}
		return err
	}
	h.j.Held, h.since = true, time.Now()
	if err := h.j.write(h.st.Base); err != nil {
		return err
	}
	if err := h.runBefore(ctx); err != nil {
		return h.notFrozen("the command before did not succeed: " + err.Error())
	}
	writing, err := writers(h.j.Path)
	if err != nil {
		return err
	}
	mounted, err := mounters(h.j.Path)
	if err != nil {
		return err
	}
	if still := append(writing, mounted...); len(still) > 0 {
		return h.notFrozen("somebody is still there: " + strings.Join(still[:min(len(still), 5)], ", "))
	}
	h.frozen = true
	return nil
}

// runBefore runs the command that brings the application to stand still. The journal knows its process before it does anything.
func (h *inPlace) runBefore(ctx context.Context) error {
	if err := h.endBefore(ctx); err != nil || len(h.st.Before) == 0 {
		return err
	}
	h.st.Progress("bringing the application to stand still", 0, 0)
	limited, done := context.WithTimeout(ctx, h.st.Freeze)
	defer done()
	return h.st.Run(limited, files.Command{Argv: h.st.Before, Env: h.st.Env, Began: func(pid int) error {
		p, err := files.ProcessOf(pid)
		if err != nil {
			return err
		}
		h.j.Before = &p
		return h.j.write(h.st.Base)
	}})
}

// endBefore ends a command before that has outlived the process that ran it: it would bring the application to stand still
// again when that was let go on.
func (h *inPlace) endBefore(ctx context.Context) error {
	if h.j.Before == nil {
		return nil
	}
	limited, done := context.WithTimeout(context.WithoutCancel(ctx), thawMax)
	defer done()
	if err := h.j.Before.End(limited); err != nil {
		return fmt.Errorf("end the command before of a restore in place that was killed: %w", err)
	}
	h.j.Before = nil
	return nil
}

func (h *inPlace) notFrozen(title string) error {
	return &problem.Problem{Code: "restore.not-frozen", Subject: h.j.Set, Severity: problem.Critical, Title: "the application was not brought to stand still: " + title,
		Meaning: "Nothing was exchanged now: what was written meanwhile would be set aside with the rest.",
		Remedy:  "correct the command before of the plan or end what writes, and give the same command again; or stop the application by hand and add --no-commands"}
}

// awaitNote waits until no recovery point is being made.
func (h *inPlace) awaitNote(ctx context.Context) error {
	limited, done := context.WithTimeout(ctx, noteMax)
	defer done()
	for {
		_, err := os.Stat(h.st.Note)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		h.st.Progress("waiting for a recovery point that is being made", 0, 0)
		select {
		case <-limited.Done():
			return h.notFrozen("a recovery point is being made, or the application was not let go on after one")
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// swapSQL exchanges the names of the SQL databases. The journal says so first.
func (h *inPlace) swapSQL(ctx context.Context) error {
	ctx, done := context.WithTimeout(ctx, exchangeMax)
	defer done()
	first := h.j.Done == nil
	swap := h.next()
	h.j.Doing = &swap
	if err := h.j.write(h.st.Base); err != nil {
		h.j.Doing = nil // nothing was begun
		return err
	}
	if first {
		return h.in.Exchange(ctx)
	}
	return swap.Do(ctx, h.st.Live, h.st.Database)
}

// swapFiles exchanges the directories. The journal knows both by their inodes first.
func (h *inPlace) swapFiles() error {
	if at, err := liveDirectory(h.j.Path, h.j.Set); err != nil || at != h.j.Path {
		return errors.Join(err, h.j.samePath(at))
	}
	if h.j.CameInode == 0 {
		was, err := inodeOf(h.j.Path)
		if err != nil {
			return err
		}
		came, err := inodeOf(h.j.Beside)
		if err != nil {
			return err
		}
		if came == 0 {
			return unclear(*h.j, h.j.Beside+" is not there any more")
		}
		h.j.WasInode, h.j.CameInode = was, came
	}
	if err := h.pair(); err != nil {
		return err
	}
	if err := h.j.write(h.st.Base); err != nil { // with the exchange of SQL names, which is done
		return err
	}
	return exchange(h.j.Path, h.j.Beside)
}

// pair refuses two directories that are not what was live and what was restored: what somebody has put beside since does not
// become live.
func (h *inPlace) pair() error {
	live, err := inodeOf(h.j.Path)
	if err != nil {
		return err
	}
	beside, err := inodeOf(h.j.Beside)
	if err != nil {
		return err
	}
	was, came := h.j.WasInode, h.j.CameInode
	if live == was && beside == came || live == came && beside == was {
		return nil
	}
	return unclear(*h.j, h.j.Path+" and "+h.j.Beside+" are not what was live and what was restored")
}

// thaw lets the application go on.
func (h *inPlace) thaw(ctx context.Context) error {
	if err := h.endBefore(ctx); err != nil {
		return err
	}
	if len(h.st.After) > 0 {
		h.st.Progress("letting the application go on", 0, 0)
		limited, done := context.WithTimeout(context.WithoutCancel(ctx), thawMax)
		defer done()
		if err := h.st.Run(limited, files.Command{Argv: h.st.After, Env: h.st.Env}); err != nil {
			return &problem.Problem{Code: "files.still-frozen", Subject: h.j.Set, Severity: problem.Critical, Title: "the application was not let go on: " + err.Error(),
				Meaning: "Database and files are of one moment, and the application may wait.",
				Remedy:  "correct the command after of the plan and give the same command again, which runs it; or let the application go on by hand and add --no-commands"}
		}
	}
	if err := h.unhold(); err != nil {
		return err
	}
	if h.frozen, h.j.Held = false, false; !h.since.IsZero() {
		h.j.Stood = time.Since(h.since)
	}
	return h.j.write(h.st.Base)
}

// tidy removes the copy, which is loaded, and what was restored when nothing of it was ever live. What was live stays.
func (h *inPlace) tidy(ctx context.Context) error {
	if h.in != nil { // its server works in the copy
		err := h.in.Close(ctx)
		if h.in = nil; err != nil {
			return err
		}
	}
	if err := restore.EndServer(ctx, DatabaseDir(h.j.dir(h.st.Base))); err != nil { // one that a process which was killed has left
		return err
	}
	gone := []string{h.j.dir(h.st.Base)}
	if !h.j.began() {
		gone = append(gone, h.j.Beside)
	}
	for _, dir := range gone {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove what is not needed any more: %w", err)
		}
	}
	if err := h.unhold(); err != nil { // of a process that was killed before it noted that it holds the agent
		return err
	}
	h.j.Ended = time.Now().UTC()
	return h.j.write(h.st.Base)
}

// unhold lets the agent make recovery points again.
func (h *inPlace) unhold() error {
	if err := os.Remove(h.st.Held); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("let the agent make recovery points again: %w", err)
	}
	return nil
}

func noRoomBeside(o Options, p Place) error {
	return &problem.Problem{Code: "restore.no-space", Subject: o.Tree.Backup.Set, Severity: problem.Critical,
		Title:   fmt.Sprintf("%d MB are free, %d MB are needed in %s and beside %s", p.Free>>20, p.Need>>20, filepath.Dir(o.Dir), o.Files),
		Meaning: "Nothing was written: both contents lie there for as long as the old one is kept.", Remedy: "make room there; or bring the point back on a larger disk: holdfast recovery-point restore POINT --to DIR"}
}
