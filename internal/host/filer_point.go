package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/database"
	"holdfast/internal/files"
	"holdfast/internal/plan"
	"holdfast/internal/vault"
)

// stillNote is the file that stands while a set and its database stand still.
func (f *filer) stillNote() string {
	return filepath.Join(f.host.cfg.Dir, "still-"+f.set.Name+".json")
}

// still is how the set and its database are brought to stand still for one recovery point.
func (f *filer) still(s plan.FileSet, asked *agent.Asked) *files.Still {
	return &files.Still{
		Note: f.stillNote(), Before: s.Moment.Before, After: s.Moment.After, Freeze: s.Moment.Freeze, Snapshot: s.Moment.Snapshot,
		Run:   f.command,
		Mark:  func(ctx context.Context) (vault.Point, error) { return f.mark(ctx, s, asked.ID) },
		Stuck: f.stand,
	}
}

// mark notes the database's position. Its name is the recovery point's.
func (f *filer) mark(ctx context.Context, s plan.FileSet, id string) (vault.Point, error) {
	d, ok := f.host.plan().DatabaseNamed(s.Moment.Database)
	if !ok {
		return vault.Point{}, fmt.Errorf("note the position of %s: the plan has no such database", s.Moment.Database)
	}
	var rec database.Record
	for _, x := range f.host.agent.Last().Facts.Databases {
		if x.Name == d.Name {
			rec = x.Record
		}
	}
	if rec.Phase != database.Steady || !rec.Opened {
		return vault.Point{}, fmt.Errorf("note the position of %s: it has no primary that serves", d.Name)
	}
	dsn, err := f.host.primaryDSN(d, rec.Primary)
	if err != nil {
		return vault.Point{}, err
	}
	conf, err := backup.ReadFrom(dsn)
	if err != nil {
		return vault.Point{}, err
	}
	p := vault.Point{ID: fmt.Sprintf("%s-%s-%s", s.Name, time.Now().UTC().Format("20060102T150405Z"), id[:6]), Database: d.Name, At: time.Now().UTC()}
	p.LSN, err = backup.MarkPoint(ctx, conf, p.ID)
	return p, err
}

// command runs one of the commands of a moment, in a process group of its own, so that at its end all of it ends.
func (f *filer) command(ctx context.Context, argv []string) error {
	s := f.now()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "HOLDFAST_APPLICATION="+f.host.plan().Application, "HOLDFAST_FILES="+s.Name, "HOLDFAST_PATH="+s.Path,
		"HOLDFAST_HOST="+f.host.cfg.Self, "HOLDFAST_DATABASE="+s.Moment.Database)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // what it left behind may hold its output
	said := &tail{most: troubleOutputMax}
	cmd.Stdout, cmd.Stderr = said, said
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) { // it ended well, and something that it left behind goes on
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", argv[0], err, oneLine(said.String()))
	}
	return nil
}

// thawed lets go on what an agent before this one, or a command that failed, has left standing still. false = it does still.
func (f *filer) thawed(ctx context.Context) bool {
	since, err := files.Thaw(ctx, f.stillNote(), f.command)
	if err != nil {
		f.stand(err)
		f.host.cfg.Log.Error("files and database were not let go on", "files", f.set.Name, "since", since, "err", err)
		f.host.sleep(ctx, 4*filesPace)
		return false
	}
	f.stand(nil)
	if !since.IsZero() {
		f.host.diary.Note("files", f.set.Name, "let go on what had stood still since "+since.Format(time.RFC3339), nil, time.Since(since))
	}
	return true
}

// stand notes why files and database were not let go on; nil = they were.
func (f *filer) stand(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stood = err
}
