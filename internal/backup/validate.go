package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

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
	BinDir   string // "" = found by the backup's version
	CountMax int64  // tables larger than this many bytes are not counted twice; 0 = 1 GiB
	Progress func(phase string)
	Log      *slog.Logger
	// Settings go to the scratch server, for instance shared_preload_libraries.
	Settings map[string]string
}

// ErrNothingToValidate is returned when every backup has been validated.
var ErrNothingToValidate = errors.New("every backup has been validated")

// Validate restores a backup to a scratch server, looks at everything in it, removes it again, and records
// the outcome in the vault. A backup that fails is a Validation with Passed false, not an error; an error
// means that nothing could be found out, and nothing is recorded.
func Validate(ctx context.Context, o ValidateOptions) (vault.Backup, vault.Validation, error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.CountMax == 0 {
		o.CountMax = 1 << 30
	}
	c, err := restore.Load(ctx, o.Vault, o.Database)
	if err != nil {
		return vault.Backup{}, vault.Validation{}, err
	}
	b, err := pick(c.Backups, o.Backup)
	if err != nil {
		return b, vault.Validation{}, fmt.Errorf("validate %s: %w", o.Database, err)
	}
	v := &validation{o: o, b: b, began: time.Now()}
	if err := v.run(ctx, c); err != nil {
		return b, vault.Validation{}, fmt.Errorf("validate %s: %w", b.ID, err)
	}
	mark := v.outcome()
	if err := o.Vault.Mark(ctx, b.ID, mark); err != nil {
		return b, mark, err
	}
	b.Validation = &mark
	o.Log.InfoContext(ctx, "backup validated", "database", b.Database, "backup", b.ID, "passed", mark.Passed, "took", mark.Took)
	return b, mark, nil
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
	checks []vault.Check
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
// is a part that failed as a whole. Only the end of ctx is returned: it says nothing about the backup.
func (v *validation) check(ctx context.Context, name string, f func() (bad []string, detail string, err error)) error {
	v.o.Progress(name)
	began := time.Now()
	bad, detail, err := f()
	c := vault.Check{Name: name, Outcome: passed, Detail: detail, Objects: bad, Took: time.Since(began)}
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
	if len(c.Objects) > listed {
		c.Objects = append(c.Objects[:listed:listed], fmt.Sprintf("and %d more", len(c.Objects)-listed))
	}
	v.checks = append(v.checks, c)
	return nil
}

// ours reports whether an error is about this host and not about the backup: no room, no rights, no programs.
func ours(err error) bool {
	_, known := errors.AsType[*problem.Problem](err)
	return known || errors.Is(err, syscall.ENOSPC) || errors.Is(err, fs.ErrPermission) || errors.Is(err, exec.ErrNotFound)
}

func (v *validation) passedSoFar() bool { return v.outcome().Passed }

func (v *validation) run(ctx context.Context, c restore.Catalogue) (err error) {
	v.b.Validation = nil
	c.Backups = []vault.Backup{v.b}
	if v.o.BinDir == "" { // not the backup's fault: found out before anything is said about it
		if v.o.BinDir, err = restore.FindBinDir(v.b.ServerVersion / 10000); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp(v.o.Dir, "validate-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	choice, err := restore.Choose(c, restore.Target{Kind: restore.Consistent})
	if err != nil {
		// Choose's reason is a problem in words for people; here it is the backup's own fault.
		return v.check(ctx, "log", func() ([]string, string, error) { return []string{err.Error()}, "", nil })
	}
	if err := v.check(ctx, "pages", func() ([]string, string, error) { return v.b.BadPages, pagesDetail(v.b), nil }); err != nil {
		return err
	}
	err = v.check(ctx, "restore", func() ([]string, string, error) {
		res, err := restore.Run(ctx, restore.Options{Vault: v.o.Vault, Choice: choice, Dir: data, Owner: v.o.Owner, Throwaway: true})
		return nil, fmt.Sprintf("%d bytes and %d bytes of log", res.Bytes, res.Log), err
	})
	if err != nil || !v.passedSoFar() {
		return err
	}
	if err := v.live(ctx, choice, data); err != nil {
		return err
	}
	return v.check(ctx, "checksums", func() ([]string, string, error) { return v.checksums(ctx, data) })
}

func pagesDetail(b vault.Backup) string {
	if !b.Checksums {
		return "skipped: the cluster was made without page checksums"
	}
	return "read with their checksums while the backup was made"
}

// live runs the server and looks at it from inside.
func (v *validation) live(ctx context.Context, choice restore.Choice, data string) (err error) {
	var rec *restore.Recovered
	err = v.check(ctx, "recovery", func() ([]string, string, error) {
		var err error
		rec, err = restore.Recover(ctx, choice, restore.Promote, restore.ScratchOptions{
			Dir: data, BinDir: v.o.BinDir, Owner: v.o.Owner, Settings: v.o.Settings, Log: v.o.Log,
		})
		return nil, "", err
	})
	if rec != nil {
		defer func() { err = errors.Join(err, rec.Stop(context.WithoutCancel(ctx))) }()
	}
	if err != nil || rec == nil {
		return err
	}
	names, err := databases(ctx, rec.ConnString("template1"))
	if err != nil {
		return v.check(ctx, "databases", func() ([]string, string, error) { return nil, "", err })
	}
	for _, part := range []struct {
		name string
		look func(context.Context, *pgx.Conn) ([]string, int, error)
	}{
		{"indexes", checkIndexes}, {"heap", checkHeap},
		{"counts", func(ctx context.Context, conn *pgx.Conn) ([]string, int, error) {
			return compareCounts(ctx, conn, v.o.CountMax)
		}},
	} {
		err := v.check(ctx, part.name, func() ([]string, string, error) {
			return v.inEach(ctx, rec, names, part.look)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *validation) inEach(ctx context.Context, rec *restore.Recovered, names []string, look func(context.Context, *pgx.Conn) ([]string, int, error)) (bad []string, detail string, err error) {
	total := 0
	for _, name := range names {
		b, n, err := inDatabase(ctx, rec.ConnString(name), look)
		if errors.Is(err, errNoAmcheck) {
			return nil, "skipped: the extension amcheck is not installed on this host", nil
		}
		if err != nil {
			return bad, "", fmt.Errorf("database %s: %w", name, err)
		}
		for _, x := range b {
			bad = append(bad, name+": "+x)
		}
		total += n
	}
	return bad, fmt.Sprintf("%d objects in %d databases", total, len(names)), nil
}

func inDatabase(ctx context.Context, conn string, look func(context.Context, *pgx.Conn) ([]string, int, error)) ([]string, int, error) {
	c, err := pgx.Connect(ctx, conn)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }() // only asked
	return look(ctx, c)
}
