package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// ValidateOptions say which backup to prove and where there is room for it.
type ValidateOptions struct {
	Vault    *vault.Vault
	Database string
	Backup   string // ID; "" = the newest that has not been validated
	Dir      string // a directory below which the scratch copy is made; PostgreSQL's user must be able to reach it
	Owner    restore.Owner
	BinDir   string         // "" = found by the backup's version
	CountMax int64          // tables larger than this many bytes are not counted twice; 0 = no limit
	Probes   []plan.Probe   // the plan's questions
	Usual    string         // the SQL database that a probe is asked in which names none; "" = Database
	Limit    int64          // bytes written and read a second, at most; 0 = no limit
	Progress func(Progress) // its phase is the check that is made; bytes are told of the restore alone; nil = none
	Log      *slog.Logger
	// Settings go to the scratch server, for instance shared_preload_libraries.
	Settings map[string]string
	NoRecord bool // say the outcome, and write nothing into the vault
}

// ErrNothingToValidate is returned when every backup has been validated.
var ErrNothingToValidate = errors.New("every backup has been validated")

// Validate restores a backup to a scratch server, looks at everything in it, removes it again, and records
// the outcome in the vault. A backup that fails is a Validation with Passed false, not an error; an error
// means that nothing could be found out, and nothing is recorded.
func Validate(ctx context.Context, o ValidateOptions) (vault.Backup, vault.Validation, error) {
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Usual == "" {
		o.Usual = o.Database
	}
	c, err := restore.Load(ctx, o.Vault, o.Database)
	if err != nil {
		return vault.Backup{}, vault.Validation{}, err
	}
	b, err := pick(c.Backups, o.Backup)
	if err != nil {
		return b, vault.Validation{}, fmt.Errorf("validate %s: %w", o.Database, err)
	}
	v := &validation{o: o, b: b, began: time.Now(), pace: newPacer(o.Limit), files: newRelfiles()}
	if err := v.run(ctx, c); err != nil {
		return b, vault.Validation{}, fmt.Errorf("validate %s: %w", b.ID, err)
	}
	mark := v.outcome()
	if !o.NoRecord {
		if err := o.Vault.Mark(ctx, b.ID, mark); err != nil {
			return b, mark, err
		}
	}
	b.Validation = &mark
	o.Log.InfoContext(ctx, "backup validated", "database", b.Database, "backup", b.ID, "passed", mark.Passed, "took", mark.Took)
	return b, mark, nil
}

// FirstBad is the first thing that a validation found bad in a backup; "" = none was, or none was made.
func FirstBad(b vault.Backup) string {
	if b.Validation == nil || b.Validation.Passed {
		return ""
	}
	for _, c := range b.Validation.Checks {
		if c.Outcome != failed {
			continue
		}
		if len(c.Objects) > 0 {
			return c.Name + ": " + c.Objects[0]
		}
		return c.Name + ": " + firstLine(c.Detail)
	}
	return "it was not said what"
}

func pick(list []vault.Backup, id string) (vault.Backup, error) {
	for i := len(list) - 1; i >= 0; i-- {
		if b := list[i]; b.ID == id || id == "" && b.Validation == nil {
			return b, nil
		}
	}
	if id != "" {
		return vault.Backup{}, fmt.Errorf("%w: %s", vault.ErrNoBackup, id)
	}
	return vault.Backup{}, ErrNothingToValidate
}

type validation struct {
	o      ValidateOptions
	b      vault.Backup
	began  time.Time
	pace   *pacer
	files  *relfiles
	checks []vault.Check
	// figures are those of the check that is being made.
	figures map[string]float64
}

func (v *validation) outcome() vault.Validation {
	m := vault.Validation{Passed: true, At: time.Now().UTC().Truncate(time.Second), Took: time.Since(v.began), Checks: v.checks}
	for _, c := range v.checks {
		m.Passed = m.Passed && c.Outcome != failed
	}
	return m
}

const (
	passed  = "passed"
	failed  = "failed"
	skipped = "skipped"
)

// listed bounds how many objects a check names.
const listed = 50

// check runs one part and notes how it went: objects that are bad, or a note on why it was skipped. An error
// is a part that failed as a whole. What says nothing about the backup is returned: the end of ctx, or this host's lack.
func (v *validation) check(ctx context.Context, name string, f func() (bad []string, detail string, err error)) error {
	began := time.Now()
	v.o.Progress(Progress{Phase: name, Took: began.Sub(v.began)})
	v.figures = nil
	bad, detail, err := f()
	c := vault.Check{Name: name, Outcome: passed, Detail: detail, Objects: bad, Took: time.Since(began), Figures: v.figures}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if ours(err) {
		return err
	}
	switch {
	case err != nil:
		c.Outcome, c.Detail = failed, err.Error()
	case len(bad) > 0:
		c.Outcome = failed
	case strings.HasPrefix(detail, "skipped: "):
		c.Outcome, c.Detail = skipped, strings.TrimPrefix(detail, "skipped: ")
	}
	v.checks = append(v.checks, c)
	return nil
}

// ours reports whether an error is about this host and not about the backup: no room, no rights, no programs, no memory.
func ours(err error) bool {
	if err == nil {
		return false
	}
	_, known := errors.AsType[*problem.Problem](err)
	_, host := errors.AsType[*restore.HostFaultError](err)
	if says, ok := errors.AsType[*pgconn.PgError](err); ok && (strings.HasPrefix(says.Code, "53") || strings.HasPrefix(says.Code, "57")) {
		return true // too few of this host's means, or somebody ended it
	}
	for _, no := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, fs.ErrPermission, exec.ErrNotFound} {
		if errors.Is(err, no) {
			return true
		}
	}
	return known || host
}

func (v *validation) passedSoFar() bool { return v.outcome().Passed }

func (v *validation) run(ctx context.Context, c restore.Catalogue) (err error) {
	v.b.Validation = nil
	c.Backups = []vault.Backup{v.b}
	// Not the backup's fault: found out before anything is said about it.
	if v.o.BinDir, err = restore.Programs(v.o.BinDir, v.b.ServerVersion/10000); err != nil {
		return err
	}
	if err := os.MkdirAll(v.o.Dir, 0o755); err != nil {
		return err
	}
	removed, err := SweepTrials(ctx, v.o.Dir)
	for _, dir := range removed {
		v.o.Log.InfoContext(ctx, "what a killed validation or restore left was removed", "dir", dir)
	}
	if err != nil {
		return err
	}
	choice, err := restore.Choose(c, restore.Target{Kind: restore.Consistent})
	if err != nil {
		// Choose's reason is a problem in words for people; here it is the backup's own fault.
		return v.check(ctx, "log", func() ([]string, string, error) { return []string{err.Error()}, "", nil })
	}
	if err := checkRoom(v.o.Dir, v.b, int64(len(choice.Pieces))*int64(v.b.SegmentSize)); err != nil {
		return err
	}
	t, err := restore.NewTrial(v.o.Dir, restore.ForValidation, v.b.ID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Remove(context.WithoutCancel(ctx))) }()
	if err := v.look(ctx, choice, t); err != nil {
		return err
	}
	v.name()
	return nil
}

// look restores, starts, and looks at everything, as far as it gets.
func (v *validation) look(ctx context.Context, choice restore.Choice, t *restore.Trial) error {
	if err := v.check(ctx, "pages", func() ([]string, string, error) { return v.b.BadPages, pagesDetail(v.b), nil }); err != nil {
		return err
	}
	before := len(v.checks)
	err := v.check(ctx, "restore", func() ([]string, string, error) { return v.restore(ctx, choice, t.Data()) })
	if err != nil || v.checks[before].Outcome == failed {
		return err
	}
	ran, err := v.live(ctx, choice, t)
	if err != nil || !ran {
		return err
	}
	err = v.check(ctx, "files", func() ([]string, string, error) {
		bad, n, err := v.files.whole(t.Data())
		return bad, fmt.Sprintf("%d files of relations", n), err
	})
	if err != nil {
		return err
	}
	return v.check(ctx, "checksums", func() ([]string, string, error) { return v.checksums(ctx, t.Data()) })
}

// restore fills the scratch directory. What fails is tried once more when the vault answers: a fault on the way there
// must not make a good backup one that is never restored again.
func (v *validation) restore(ctx context.Context, choice restore.Choice, data string) ([]string, string, error) {
	o := restore.Options{Vault: v.o.Vault, Choice: choice, Dir: data, Owner: v.o.Owner, Throwaway: true, Progress: v.restored()}
	if v.o.Limit > 0 {
		o.Pace = v.pace.wait
	}
	res, err := restore.Run(ctx, o)
	if err != nil && !ours(err) && ctx.Err() == nil {
		v.o.Log.WarnContext(ctx, "restore on trial is tried again", "backup", v.b.ID, "err", err)
		if _, askErr := v.o.Vault.Backups(ctx, v.b.Database); askErr != nil {
			return nil, "", vaultAway(v.b, askErr)
		}
		res, err = restore.Run(ctx, o)
	}
	if err != nil && !ours(err) && ctx.Err() == nil {
		if _, askErr := v.o.Vault.Backups(ctx, v.b.Database); askErr != nil {
			return nil, "", vaultAway(v.b, askErr)
		}
	}
	v.figures = restoreFigures(res, v.o.Limit)
	return nil, fmt.Sprintf("%d bytes and %d bytes of log", res.Bytes, res.Log), err
}

// restored tells of a restore's progress as that of the check that it is.
func (v *validation) restored() func(restore.Progress) {
	phase, since := "", time.Time{}
	return func(p restore.Progress) {
		if p.Phase != phase {
			phase, since = p.Phase, time.Now()
		}
		v.o.Progress(Progress{Phase: "restore", Done: p.Done, Total: p.Total, Took: time.Since(v.began), Copied: time.Since(since)})
	}
}

// vaultAway says that nothing was found out, for the vault did not answer.
func vaultAway(b vault.Backup, err error) error {
	return &problem.Problem{Code: "backup.not-read", Subject: b.Database, Severity: problem.Degraded,
		Title: fmt.Sprintf("the vault stopped answering while %s was restored on trial: %v", b.ID, err), Meaning: "Nothing was found out about the backup. It is tried again.",
		Remedy: "see that the vault answers: holdfast vault status"}
}

func pagesDetail(b vault.Backup) string {
	if !b.Checksums {
		return "skipped: the cluster was made without page checksums"
	}
	return "read with their checksums while the backup was made"
}

// name says which relations the files are that checks have found bad, and bounds how many each names.
func (v *validation) name() {
	for i, c := range v.checks {
		if c.Name == "pages" || c.Name == "checksums" {
			named := make([]string, len(c.Objects))
			for j, x := range c.Objects {
				named[j] = v.files.words(x)
			}
			c.Objects = named
		}
		if len(c.Objects) > listed {
			c.Objects = append(c.Objects[:listed:listed], fmt.Sprintf("and %d more", len(c.Objects)-listed))
		}
		v.checks[i] = c
	}
}

// live runs the server and looks at it from inside. ran is false when it never came to that.
func (v *validation) live(ctx context.Context, choice restore.Choice, t *restore.Trial) (ran bool, err error) {
	var rec *restore.Recovered
	err = v.check(ctx, "recovery", func() ([]string, string, error) {
		var err error
		began := time.Now()
		rec, err = restore.Recover(ctx, choice, restore.Promote, restore.ScratchOptions{
			Dir: t.Data(), BinDir: v.o.BinDir, Owner: v.o.Owner, RunDir: t.Run, Settings: v.o.Settings, Log: v.o.Log, Polite: true,
		})
		if err == nil {
			v.figures = recoveryFigures(rec.Times(time.Since(began)))
		}
		return nil, "", err
	})
	if rec != nil {
		defer func() { err = errors.Join(err, rec.Stop(context.WithoutCancel(ctx))) }()
	}
	if err != nil || rec == nil {
		return false, err
	}
	var names, missed []string
	before := len(v.checks)
	err = v.check(ctx, "databases", func() ([]string, string, error) {
		var err error
		names, missed, err = databases(ctx, rec.ConnString("template1"))
		return nil, strings.Join(append([]string{strings.Join(names, ", ")}, missed...), "; not looked at: "), err
	})
	if err != nil || v.checks[before].Outcome == failed {
		return false, err
	}
	for _, part := range []struct {
		name string
		look look
	}{
		{"indexes", checkIndexes}, {"heap", checkHeap}, {"visibility", checkVisibility},
		{"counts", func(ctx context.Context, conn *pgx.Conn) (findings, error) {
			return compareCounts(ctx, conn, v.o.CountMax)
		}},
	} {
		if err := v.check(ctx, part.name, func() ([]string, string, error) { return v.inEach(ctx, rec, names, part.look) }); err != nil {
			return true, err
		}
	}
	if len(v.o.Probes) > 0 {
		err := v.check(ctx, "probes", func() ([]string, string, error) {
			return runProbes(ctx, v.o.Probes, v.o.Usual, rec, v.b.Stopped)
		})
		if err != nil {
			return true, err
		}
	}
	for _, name := range names {
		if err := v.learn(ctx, name, rec.ConnString(name)); err != nil {
			return true, err
		}
	}
	return true, nil
}

// learn notes which files a database's relations lie in. A catalog that cannot be read was found bad already.
func (v *validation) learn(ctx context.Context, name, conn string) error {
	_, err := inDatabase(ctx, conn, func(ctx context.Context, c *pgx.Conn) (findings, error) {
		return findings{}, v.files.learn(ctx, name, c)
	})
	if err != nil && v.passedSoFar() {
		return v.check(ctx, "catalog", func() ([]string, string, error) { return nil, "", fmt.Errorf("database %s: %w", name, err) })
	}
	return nil
}

// inEach looks into each database. A database that ends the look does not keep the others from being looked at.
func (v *validation) inEach(ctx context.Context, rec *restore.Recovered, names []string, look look) (bad []string, detail string, err error) {
	total, missed, warned := 0, []string(nil), []string(nil)
	for _, name := range names {
		f, err := inDatabase(ctx, rec.ConnString(name), look)
		if f.missing != "" {
			return nil, "skipped: the extension " + f.missing + " is not installed on this host (package postgresql-contrib, where it is not part of the server's)", nil
		}
		for _, x := range f.bad {
			bad = append(bad, name+": "+x)
		}
		for _, x := range f.missed {
			missed = append(missed, name+": "+x)
		}
		for _, x := range f.warned {
			warned = append(warned, name+": "+x)
		}
		total += f.looked
		if err == nil {
			continue
		}
		if host := hostFault(ctx, rec, err); host != nil {
			return nil, "", host
		}
		if ctx.Err() != nil || ours(err) {
			return nil, "", err
		}
		bad = append(bad, name+": "+firstLine(err.Error()))
	}
	detail = fmt.Sprintf("%d objects in %d databases", total, len(names))
	if len(missed) > 0 {
		detail += "; not looked at: " + strings.Join(missed[:min(len(missed), listed)], "; ")
	}
	if len(warned) > 0 {
		detail += "; " + strings.Join(warned[:min(len(warned), listed)], "; ")
	}
	return bad, detail, nil
}

func inDatabase(ctx context.Context, conn string, look look) (findings, error) {
	c, err := openForLook(ctx, conn)
	if err != nil {
		return findings{}, err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }() // only asked
	return look(ctx, c)
}
