package host

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/plan"
)

// outputKept is how much of a command's output is kept, from its end.
const outputKept = 4 << 10

// outputLines is how many lines of it the history shows.
const outputLines = 20

// command gives the rows in dir to the plan's command, as the account of services and with little around it. It is
// killed with all its children when its time is over. told is the end of what it said.
func (s *salvor) command(ctx context.Context, d plan.Database, k database.Kept, dir string) (told []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, d.Salvage.Timeout)
	defer cancel()
	argv := append([]string(nil), d.Salvage.Run...)
	work := s.host.services.release.dir
	if work == "" {
		work = s.host.cfg.Dir
	} else if !filepath.IsAbs(argv[0]) {
		argv[0] = filepath.Join(work, argv[0])
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = work
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent", "LANG=C.UTF-8",
		"HOLDFAST_HOST=" + s.host.cfg.Self, "HOLDFAST_DATABASE=" + d.Name, "HOLDFAST_SALVAGE=" + dir, "HOLDFAST_SALVAGE_ID=" + k.ID,
		"HOLDFAST_COMMITS=" + strconv.Itoa(k.Commits), "HOLDFAST_ACKNOWLEDGED=" + strconv.Itoa(k.Acknowledged),
	}
	if _, _, ok := d.Login(); ok {
		u, err := s.host.services.databaseURL(d, false)
		if err != nil {
			return nil, fmt.Errorf("say how the database is reached: %w", err)
		}
		cmd.Env = append(cmd.Env, "DATABASE_URL="+u)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if who := s.host.services.user; who != (account{}) {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(who.uid), Gid: uint32(who.gid)}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	said := &ending{most: outputKept}
	cmd.Stdout, cmd.Stderr = said, said
	err = cmd.Run()
	if cmd.Process != nil { // whatever it left behind is no part of a command that has ended
		if kill := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); kill != nil && !errors.Is(kill, syscall.ESRCH) {
			err = errors.Join(err, fmt.Errorf("end what it left behind: %w", kill))
		}
	}
	told = lines(said.String(), outputLines)
	switch {
	case err == nil:
		return told, nil
	case ctx.Err() != nil:
		return told, fmt.Errorf("%s did not end within %s", d.Salvage.Run[0], d.Salvage.Timeout)
	}
	last := ""
	if len(told) > 0 {
		last = ": " + told[len(told)-1]
	}
	return told, fmt.Errorf("run %s: %w%s", d.Salvage.Run[0], err, last)
}

// ending keeps the last bytes that are written to it.
type ending struct {
	most int

	mu   sync.Mutex // guards what follows
	data []byte
}

// Write implements io.Writer.
func (e *ending) Write(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.data = append(e.data, b...)
	if over := len(e.data) - e.most; over > 0 {
		e.data = append(e.data[:0], e.data[over:]...)
	}
	return len(b), nil
}

// String is what is kept.
func (e *ending) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return string(e.data)
}
