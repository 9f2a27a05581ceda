package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/database"
	"holdfast/internal/files"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// stillNote is the file that stands while a set and its database stand still.
func (f *filer) stillNote() string {
	return StillNote(f.host.cfg.Dir, f.set.Name)
}

// StillNote is the file in a host's directory that stands while its agent makes a file set and its database stand still.
func StillNote(dir, set string) string { return filepath.Join(dir, "still-"+set+".json") }

// HeldFile is the file in a host's directory that stands while a restore in place makes them stand still: the agent makes no
// recovery point meanwhile.
func HeldFile(dir, set string) string { return filepath.Join(dir, "held-"+set) }

// still is how the set and its database are brought to stand still for one recovery point.
func (f *filer) still(s plan.FileSet, id string) *files.Still {
	return &files.Still{
		Note: f.stillNote(), Held: HeldFile(f.host.cfg.Dir, f.set.Name), Before: s.Moment.Before, After: s.Moment.After, Freeze: s.Moment.Freeze, Snapshot: s.Moment.Snapshot,
		Env: MomentEnv(f.host.plan().Application, s, f.host.cfg.Self), Run: f.runs,
		Mark:  func(ctx context.Context) (vault.Point, error) { return f.mark(ctx, s, id) },
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
	at := time.Now().UTC()
	p, err := backup.MarkPoint(ctx, conf, fmt.Sprintf("%s-%s-%s", s.Name, at.Format("20060102T150405Z"), id[:6]))
	p.Database, p.At = d.Name, at
	return p, err
}

// refused says why a recovery point cannot be asked for now; nil = it can.
func (f *filer) refused(asked *agent.Asked) *problem.Problem {
	if asked == nil || asked.Kind != "point" {
		return nil
	}
	if m := f.now().Moment; m.Database == "" {
		return &problem.Problem{Code: "files.no-moment", Subject: f.set.Name, Severity: problem.Note, Title: "the plan does not say how it stands still",
			Meaning: "No recovery point was made and nothing was changed.", Remedy: "add moment with database, before and after below files." + f.set.Name + " in the plan"}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stood == nil {
		return nil
	}
	p := f.frozen()
	return &p
}

// frozen is the problem that files and database stand still. Whoever calls holds mu.
func (f *filer) frozen() problem.Problem {
	return problem.Problem{Code: "files.still-frozen", Subject: f.set.Name, Severity: problem.Critical,
		Title:   "files and database were brought to stand still, and not let go on: " + f.stood.Error(),
		Meaning: "The application may wait. The command is run again every few seconds until it succeeds. Backups go on, recovery points are refused.",
		Remedy:  "see what the command after of the plan says: correct it, or what it needs, and apply the plan; or let the application go on by hand"}
}

// MomentEnv is what the commands of a set's moment are told on a host.
func MomentEnv(application string, s plan.FileSet, host string) []string {
	return []string{"HOLDFAST_APPLICATION=" + application, "HOLDFAST_FILES=" + s.Name, "HOLDFAST_PATH=" + s.Path,
		"HOLDFAST_HOST=" + host, "HOLDFAST_DATABASE=" + s.Moment.Database}
}

// gated is a shell that becomes the command once it reads a line, and ends when whoever would write it is gone.
const gated = `read -r go <&3 && exec "$@" 3<&-`

// RunMoment runs one of the commands of a moment, in a process group of its own, so that at its end all of it ends.
func RunMoment(ctx context.Context, c files.Command) (err error) {
	if len(c.Argv) == 0 {
		return errors.New("run a command of the moment: there is none")
	}
	argv := c.Argv
	if c.Began != nil {
		argv = slices.Concat([]string{"/bin/sh", "-c", gated, argv[0]}, argv)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // what it left behind may hold its output
	said := &tail{most: troubleOutputMax}
	cmd.Stdout, cmd.Stderr = said, said
	if c.Began == nil {
		err = cmd.Run()
	} else {
		err = runGated(cmd, c.Began)
	}
	if errors.Is(err, exec.ErrWaitDelay) { // it ended well, and something that it left behind goes on
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", c.Argv[0], err, oneLine(said.String()))
	}
	return nil
}

// runGated lets the command do something only once began has succeeded.
func runGated(cmd *exec.Cmd, began func(pid int) error) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.ExtraFiles = []*os.File{read}
	err = cmd.Start()
	_ = read.Close() // the command has its own
	if err != nil {
		return errors.Join(err, write.Close())
	}
	err = began(cmd.Process.Pid)
	if err == nil {
		_, err = write.WriteString("go\n")
	}
	_ = write.Close() // nothing is kept back that closing could lose
	ended := cmd.Wait()
	if err != nil {
		return errors.Join(err, ended)
	}
	return ended
}

// thaws lets go on what stands still whenever no recovery point is made, until ctx ends, or with once until it goes on.
func (f *filer) thaws(ctx context.Context, once bool) {
	for {
		f.moment.Lock()
		ok := f.thawed(ctx)
		f.moment.Unlock()
		if ok && once || !f.host.sleep(ctx, thawPace) {
			return
		}
	}
}

// thawPace is the pause between two tries to let go on what stands still.
const thawPace = 4 * filesPace

// thawed lets go on what an agent before this one, or a command that failed, has left standing still. false = it does still.
func (f *filer) thawed(ctx context.Context) bool {
	s := f.now()
	since, err := files.Thaw(ctx, f.stillNote(), f.runs, files.Command{Argv: s.Moment.After, Env: MomentEnv(f.host.plan().Application, s, f.host.cfg.Self)})
	f.stand(err)
	if err != nil {
		f.host.cfg.Log.Error("files and database were not let go on", "files", f.set.Name, "since", since, "err", err)
		return false
	}
	if !since.IsZero() {
		f.host.diary.Note("files", f.set.Name, "let go on what had stood still since "+since.Format(time.RFC3339), nil, time.Since(since))
	}
	return true
}

// orphans let go on what stands still of sets that the plan has no more on this host.
func (h *Host) orphans(known []*filer) ([]*filer, error) {
	notes, err := filepath.Glob(filepath.Join(h.cfg.Dir, "still-*.json"))
	if err != nil {
		return nil, fmt.Errorf("look for what stands still: %w", err)
	}
	var out []*filer
	for _, path := range notes {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "still-"), ".json")
		if !slices.ContainsFunc(known, func(f *filer) bool { return f.set.Name == name }) {
			out = append(out, &filer{host: h, set: plan.FileSet{Name: name}, runs: RunMoment, orphan: true})
		}
	}
	return out, nil
}

// stand notes why files and database were not let go on; nil = they were.
func (f *filer) stand(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stood = err
}
