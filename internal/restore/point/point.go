// Package point brings a recovery point back: the files and the database of one moment, beside the live ones. Then the
// application's own commands bring both in order and hold them against each other, on a server that nobody else can reach,
// before anything is opened. Start at [Restore].
//
// A record in the directory says how far it is ([Record]): the same call goes on where one before it ended, whatever ended
// it. What was restored is not restored again; commands may run again, and each does no harm when it does.
package point

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"holdfast/internal/files"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// Options say what is brought back, and to where.
type Options struct {
	Tree        *vault.Tree    // the backup of files that belongs to the point
	Vault       *vault.Vault   // that holds the database
	Choice      restore.Choice // the way to the point
	Dir         string         // absolute; empty, absent, or left by a restore of the same point
	Files       string         // absolute; where the files are to lie; "" = with the rest, see [FilesDir]
	Owner       restore.Owner
	BinDir      string
	Tablespaces map[string]string
	Commands    Commands
	Progress    func(phase string, done, total int64) // bytes; nil = nobody asks
	Log         *slog.Logger                          // nil = silent
}

// FilesDir is where the files of a restored point lie.
func FilesDir(dir string) string { return filepath.Join(dir, "files") }

func (o Options) files() string {
	if o.Files != "" {
		return o.Files
	}
	return FilesDir(o.Dir)
}

// DatabaseDir is the data directory of a restored point.
func DatabaseDir(dir string) string { return filepath.Join(dir, "database") }

// Place is what a directory looks like before a restore, and the room that it takes.
type Place struct {
	Dir      string        `json:"dir"`
	State    string        `json:"state"` // absent, empty, begun, restored
	Files    files.Size    `json:"files"`
	Database restore.Place `json:"database"`
	Need     int64         `json:"need"` // bytes: of both, without what is there already
	Free     int64         `json:"free"`
	Record   *Record       `json:"record,omitempty"` // what the restore before has left
}

// Fits reports whether there is room.
func (p Place) Fits() bool { return p.Need <= p.Free && (p.State == "restored" || p.Database.Fits()) }

// fresh is the record of a restore that begins.
func (o Options) fresh() Record {
	b := o.Tree.Backup
	return Record{Format: recordFormat, Point: *b.Point, Set: b.Set, Backup: b.ID, Base: o.Choice.Backup.ID, Began: time.Now().UTC(), FilesAt: o.Files}
}

// Survey looks at the place, and refuses one that must not be written to, and commands that cannot run. It changes nothing.
func Survey(ctx context.Context, o Options) (Place, error) {
	p := Place{Dir: o.Dir, State: "empty"}
	if o.Tree.Backup.Point == nil {
		return p, fmt.Errorf("restore backup %s: it belongs to no recovery point", o.Tree.Backup.ID)
	}
	if err := o.Commands.find(o.Tree.Backup.Set); err != nil {
		return p, err
	}
	r, known, err := look(o.Dir, o.fresh())
	if err != nil {
		return p, err
	}
	if _, err := os.Stat(o.Dir); errors.Is(err, os.ErrNotExist) {
		p.State = "absent"
	}
	if known {
		p.State, p.Record = "begun", &r
	}
	if p.Files, err = files.Measure(ctx, o.Tree, nil); err != nil {
		return p, err
	}
	if r.Files == nil {
		at, err := files.Survey(ctx, files.RestoreOptions{Tree: o.Tree, To: o.files(), Onto: files.OntoDelta}, p.Files)
		if err != nil {
			return p, err
		}
		if at.State == "absent" || at.State == "empty" {
			p.Need = at.Need
		}
		p.Free = at.Free
	}
	if !r.Database.IsZero() {
		if r.Files != nil {
			p.State = "restored"
		}
		return p, nil
	}
	if p.Database, err = restore.Survey(DatabaseDir(o.Dir), o.Choice, known, o.Tablespaces); err != nil {
		return p, err
	}
	if o.Files != "" && !sameDisk(o.Files, o.Dir) { // its own disk has room for the files: they were looked at
		p.Need = 0
	}
	p.Need += p.Database.Need
	p.Free = p.Database.Free
	return p, nil
}

// Restore brings the point back to a directory, and says what was found there: an [Outcome] that failed is no error. An
// error says that it did not come to its end; the same call goes on then.
func Restore(ctx context.Context, o Options) (Record, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	if o.Tree.Backup.Point != nil { // else the survey refuses
		if err := EndLeft(ctx, o); err != nil {
			return Record{}, err
		}
	}
	place, err := Survey(ctx, o)
	if err != nil {
		return Record{}, err
	}
	if !place.Fits() {
		return Record{}, &problem.Problem{Code: "restore.no-space", Subject: o.Dir, Severity: problem.Critical,
			Title: fmt.Sprintf("%d MB are free, %d MB are needed for files and database", place.Free>>20, place.Need>>20), Meaning: "Nothing was written.",
			Remedy: "name a directory on a larger disk with --to"}
	}
	r, unlock, err := claim(o.Dir, o.fresh())
	if err != nil {
		return r, err
	}
	defer unlock()
	if r.answers(o.Commands) {
		r.Again = true
		return r, nil
	}
	if err := o.bring(ctx, &r); err != nil {
		return r, fmt.Errorf("restore %s to %s: %w", r.Point.ID, o.Dir, err)
	}
	if r.Outcome = (Outcome{Verified: r.Verified}); !r.Touched {
		r.Verified = nil
	}
	if err := o.judge(ctx, &r); err != nil {
		return r, fmt.Errorf("look at %s in %s: %w", r.Point.ID, o.Dir, err)
	}
	r.Ended = time.Now().UTC()
	o.Log.InfoContext(ctx, "recovery point restored", "point", r.Point.ID, "dir", o.Dir, "outcome", r.Outcome.Outcome, "because", r.Because)
	return r, r.write(o.Dir)
}

// bring restores files and database, each once.
func (o Options) bring(ctx context.Context, r *Record) error {
	if r.Files == nil {
		// What lies there is this restore's own: it is gone on with, and after a start of the machine written anew.
		onto := files.OntoDelta
		if r.Verified != nil { // it was found wrong, whatever size and time say
			onto = files.OntoAll
		}
		done, err := files.Restore(ctx, files.RestoreOptions{Tree: o.Tree, To: o.files(), Onto: onto, Log: o.Log,
			Progress: func(p files.Restored) { o.Progress("restoring files", p.Bytes+p.Kept, p.Of.Bytes) }})
		if err != nil {
			return err
		}
		r.Files = &done
		if err := r.write(o.Dir); err != nil {
			return err
		}
	}
	if !r.Database.IsZero() {
		return nil
	}
	r.Base, r.Serving = o.Choice.Backup.ID, true // while it replays the log
	if err := r.write(o.Dir); err != nil {
		return err
	}
	_, err := restore.Database(ctx, restore.Options{Vault: o.Vault, Choice: o.Choice, Dir: DatabaseDir(o.Dir), Delta: true, Owner: o.Owner, Tablespaces: o.Tablespaces,
		LogMax: math.MaxInt64, Log: o.Log, Progress: o.restored}, restore.ScratchOptions{BinDir: o.BinDir})
	if err != nil {
		return err
	}
	r.Database, r.Serving = time.Now().UTC(), false
	return r.write(o.Dir)
}

func (o Options) restored(p restore.Progress) {
	switch {
	case p.Phase == "log" && p.Done >= p.Total:
		o.Progress("replaying the log", 0, 0)
	case p.Phase == "log":
		o.Progress("fetching the log", p.Done, p.Total)
	default:
		o.Progress("restoring the database", p.Done, p.Total)
	}
}

// judge holds the files against the list, then lets the application's commands work on both. Once a command has run the
// files are the application's: what it changed there is no damage.
func (o Options) judge(ctx context.Context, r *Record) error {
	r.Lacks = r.Files.Lacks
	if !r.Touched {
		v, err := files.Verify(ctx, files.VerifyOptions{Tree: o.Tree, Dir: o.files(),
			Progress: func(p files.Verified) { o.Progress("comparing files", p.Bytes, r.Files.Of.Bytes) }})
		if err != nil {
			return err
		}
		if r.Verified = &v; v.Wrong.Count > 0 {
			r.Files = nil // they are restored again by the next call
			r.Outcome.Outcome, r.Because = Failed, fmt.Sprintf("%d files are not as they were stored: %s", v.Wrong.Count, v.Wrong.First[0])
			return nil
		}
	}
	if n := r.Lacks.Count; n > 0 {
		r.Outcome.Outcome, r.Because = Failed, fmt.Sprintf("%d files could not be restored as they were: %s", n, r.Lacks.First[0])
		if !r.Touched {
			r.Files = nil // as above: what was in the way may be gone then
		}
		return nil
	}
	if r.Outcome.Outcome = Passed; !o.Commands.any() {
		return nil
	}
	r.Touched = true
	return o.serve(ctx, r, func(s *restore.Scratch) error {
		return o.Commands.Work(ctx, r.Point, r.Set, o.files(), s, o.Choice.Backup.Superuser, o.Progress, &r.Outcome)
	})
}

// serve runs a server on the restored database for as long as work takes.
func (o Options) serve(ctx context.Context, r *Record, work func(*restore.Scratch) error) (err error) {
	data := DatabaseDir(o.Dir)
	if r.Serving { // one that a killed restore has left; nobody else started one: this directory is locked
		if err := restore.EndServer(ctx, data); err != nil {
			return err
		}
	}
	logins, err := o.Commands.Logins(o.Choice.Backup.Superuser)
	if err != nil {
		return err
	}
	r.Serving = true
	unjudged := *r
	unjudged.Outcome = Outcome{Verified: r.Verified, Lacks: r.Lacks} // until the commands have ended nothing is known
	if err := unjudged.write(o.Dir); err != nil {
		return err
	}
	s, err := restore.StartScratch(ctx, restore.ScratchOptions{Dir: data, BinDir: o.BinDir, Owner: o.Owner, Superuser: o.Choice.Backup.Superuser, Log: o.Log,
		Logins: logins, Settings: map[string]string{"fsync": "on"}})
	if err != nil {
		return err
	}
	defer func() {
		stopped := s.Stop(context.WithoutCancel(ctx))
		if err = errors.Join(err, stopped); stopped == nil {
			r.Serving = false
			if unjudged.Serving = false; err != nil {
				err = errors.Join(err, unjudged.write(o.Dir))
			}
		}
	}()
	o.Progress("starting the server", 0, 0)
	if _, err := s.WaitReady(ctx); err != nil {
		return err
	}
	if err := work(s); err != nil {
		return err
	}
	return flush(ctx, s, o.files())
}

// flush brings to disk what the commands wrote, so that the server ends in good order however much it is.
func flush(ctx context.Context, s *restore.Scratch, dir string) error {
	conn, err := pgx.Connect(ctx, s.ConnString("template1")) // which every cluster has
	if err == nil {
		_, err = conn.Exec(ctx, "checkpoint")
		err = errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}
	at, opened := os.Open(dir)
	if opened == nil {
		opened = errors.Join(unix.Syncfs(int(at.Fd())), at.Close())
	}
	if err = errors.Join(err, opened); err != nil {
		return fmt.Errorf("write to disk what the commands did: %w", err)
	}
	return nil
}

// Work runs the commands on a restored pair, and adds what came of it. The first that does not end well is the last.
func (c Commands) Work(ctx context.Context, p vault.Point, set, dir string, s *restore.Scratch, superuser string, tell func(string, int64, int64), out *Outcome) error {
	env := c.env(p, set, dir, s, superuser)
	fail := func(what string, r Ran) {
		why := r.Error
		if why == "" {
			why = fmt.Sprintf("exit status %d", r.Status)
		}
		out.Outcome, out.Because = Failed, fmt.Sprintf("%s %s: %s", what, r.Argv[0], why)
	}
	for _, argv := range c.After {
		tell("running "+argv[0], 0, 0)
		r, err := c.run(ctx, argv, env)
		if err != nil {
			return err
		}
		if out.After = append(out.After, r); !r.OK() {
			fail("after_restore", r)
			return nil
		}
	}
	if len(c.Check) == 0 {
		return nil
	}
	tell("running "+c.Check[0], 0, 0)
	r, err := c.run(ctx, c.Check, env)
	if err != nil {
		return err
	}
	if out.Check = &r; !r.OK() {
		fail("check", r)
	}
	return nil
}
