package point

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// Commands are what the application does with what was restored, before anybody else comes to it.
type Commands struct {
	After [][]string    // in turn; each does no harm when it runs again
	Check []string      // exit status 0 = database and files agree; none = the application is not asked
	Limit time.Duration // of each
	User  string        // user of the host as whom they run; "" = this process's

	Application string
	Role        string // as whom they are led to the database; "" = its superuser
	Inside      string // SQL database that they are led to; "" = postgres
}

// Ran is one command that ran.
type Ran struct {
	Argv   []string      `json:"argv"`
	Status int           `json:"status"` // exit status; -1 = it did not end by itself, or did not begin
	Error  string        `json:"error,omitempty"`
	Output string        `json:"output,omitempty"` // the end of what it said on both streams
	Began  time.Time     `json:"began"`
	Took   time.Duration `json:"took"`
}

// MarshalJSON tells the time in seconds too, for who reads it; took, in nanoseconds, is what a record is read by.
func (r Ran) MarshalJSON() ([]byte, error) {
	type bare Ran
	return json.Marshal(struct {
		bare
		Seconds float64 `json:"took_seconds"`
	}{bare(r), r.Took.Seconds()})
}

// OK reports whether it ended well.
func (r Ran) OK() bool { return r.Status == 0 && r.Error == "" }

// outputMax is how much of what a command says is kept, in bytes.
const outputMax = 16 << 10

// any reports whether there is a command at all.
func (c Commands) any() bool { return len(c.After)+len(c.Check) > 0 }

// find refuses commands that are not on this machine, or a user who is not, before anything is restored.
func (c Commands) find(set string) error {
	var wrong []string
	for _, argv := range append(append([][]string{}, c.After...), c.Check) {
		if len(argv) == 0 {
			continue
		}
		if st, err := os.Stat(argv[0]); err != nil {
			wrong = append(wrong, err.Error())
		} else if st.IsDir() || st.Mode()&0o111 == 0 {
			wrong = append(wrong, argv[0]+" is no program")
		}
	}
	if who, err := c.who(); err != nil && c.any() {
		wrong = append(wrong, err.Error())
	} else if who != nil && os.Geteuid() != 0 {
		wrong = append(wrong, "only root can run them as "+c.User)
	}
	if len(wrong) == 0 {
		return nil
	}
	return &problem.Problem{Code: "restore.no-command", Subject: set, Severity: problem.Note,
		Title:   "commands of its moment cannot run here: " + strings.Join(wrong, "; "),
		Meaning: "Nothing was restored: what comes back would neither be brought in order nor held against each other.",
		Remedy:  "restore on the host that has them; or without them: --no-commands"}
}

// who is the other user as whom they run; nil = this process's own.
func (c Commands) who() (*user.User, error) {
	if c.User == "" {
		return nil, nil
	}
	u, err := user.Lookup(c.User)
	if err != nil {
		return nil, err
	}
	if u.Uid == strconv.Itoa(os.Geteuid()) {
		return nil, nil
	}
	return u, nil
}

// Logins let the commands' user into the database as the role that they are told.
func (c Commands) Logins(superuser string) ([]restore.Login, error) {
	u, err := c.who()
	if err != nil || u == nil {
		return nil, err
	}
	role := c.Role
	if role == "" {
		role = superuser
	}
	return []restore.Login{{User: u.Username, Role: role}}, nil
}

// env is all that the commands are told: none of this process's own secrets.
func (c Commands) env(p vault.Point, set, dir string, s *restore.Scratch, superuser string) []string {
	role, inside := c.Role, c.Inside
	if role == "" {
		role = superuser
	}
	if inside == "" {
		inside = "postgres"
	}
	at := "postgres:///" + url.PathEscape(inside) + "?" + url.Values{"host": {s.Socket()}, "port": {"5432"}, "user": {role}}.Encode()
	env := []string{
		"HOLDFAST_APPLICATION=" + c.Application, "HOLDFAST_FILES=" + set, "HOLDFAST_PATH=" + dir, "HOLDFAST_DATABASE=" + p.Database,
		"HOLDFAST_POINT=" + p.ID, "HOLDFAST_AT=" + p.At.UTC().Format(time.RFC3339Nano), "HOLDFAST_DATABASE_URL=" + at,
		"PGHOST=" + s.Socket(), "PGPORT=5432", "PGUSER=" + role, "PGDATABASE=" + inside,
	}
	for _, name := range []string{"PATH", "LANG", "LC_ALL", "TZ"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// run runs one command in a process group of its own, and ends what is left of it.
func (c Commands) run(ctx context.Context, argv, env []string) (Ran, error) {
	r := Ran{Argv: argv, Status: -1, Began: time.Now().UTC()}
	attr, more, err := c.as()
	if err != nil {
		return r, fmt.Errorf("run %s: %w", argv[0], err)
	}
	limited, done := context.WithTimeout(ctx, c.Limit)
	defer done()
	cmd := exec.CommandContext(limited, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir, cmd.SysProcAttr = append(env, more...), "/", attr
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // what it left behind may hold its output
	said := &ending{}
	cmd.Stdout, cmd.Stderr = said, said
	if err = cmd.Start(); err == nil {
		err = errors.Join(endGroup(cmd.Process.Pid), cmd.Wait())
	}
	r.Took, r.Output = time.Since(r.Began), said.text()
	if errors.Is(err, exec.ErrWaitDelay) { // it ended well; what left its group has its output
		err = nil
	}
	if err := ctx.Err(); err != nil {
		return r, fmt.Errorf("run %s: %w", argv[0], context.Cause(ctx))
	}
	if cmd.ProcessState != nil {
		r.Status = cmd.ProcessState.ExitCode()
	}
	switch {
	case limited.Err() != nil && r.Status != 0:
		r.Error = fmt.Sprintf("it was ended after %s", c.Limit)
	case err != nil:
		r.Error = err.Error()
	}
	return r, nil
}

// endGroup waits until a command has ended, and ends what it left behind: that must not go on working on what is judged.
// The command is not reaped yet, which keeps the group's number from being another's.
func endGroup(leader int) error {
	for {
		err := unix.Waitid(unix.P_PID, leader, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for process %d: %w", leader, err)
		}
		break
	}
	if err := unix.Kill(-leader, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end what process %d left behind: %w", leader, err)
	}
	return nil
}

// as is what starts a command as the user, and what it is told of that one.
func (c Commands) as() (*syscall.SysProcAttr, []string, error) {
	attr := &syscall.SysProcAttr{Setpgid: true}
	u, err := c.who()
	if err != nil {
		return nil, nil, err
	}
	if u == nil {
		self, err := user.LookupId(strconv.Itoa(os.Geteuid()))
		if err != nil {
			return attr, nil, nil // a user without a name
		}
		return attr, aboutUser(self), nil
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, nil, err
	}
	attr.Credential = &syscall.Credential{}
	if attr.Credential.Uid, err = number(u.Uid); err != nil {
		return nil, nil, err
	}
	if attr.Credential.Gid, err = number(u.Gid); err != nil {
		return nil, nil, err
	}
	for _, g := range groups {
		id, err := number(g)
		if err != nil {
			return nil, nil, err
		}
		attr.Credential.Groups = append(attr.Credential.Groups, id)
	}
	return attr, aboutUser(u), nil
}

func aboutUser(u *user.User) []string {
	return []string{"HOME=" + filepath.Clean(u.HomeDir), "USER=" + u.Username, "LOGNAME=" + u.Username}
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}

// ending keeps the end of what is written to it.
type ending struct {
	kept []byte
	more bool
}

func (e *ending) Write(p []byte) (int, error) {
	e.kept = append(e.kept, p...)
	if n := len(e.kept) - outputMax; n > 0 {
		e.kept, e.more = append(e.kept[:0], e.kept[n:]...), true
	}
	return len(p), nil
}

func (e *ending) text() string {
	s := strings.ToValidUTF8(string(e.kept), "?")
	if e.more {
		s = "... " + s
	}
	return s
}
