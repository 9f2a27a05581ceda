package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/pgcontrol"
	"holdfast/internal/problem"
)

// ScratchOptions say which directory to run a server on.
type ScratchOptions struct {
	Dir       string
	BinDir    string // of the matching PostgreSQL version; see FindBinDir
	Owner     Owner
	Superuser string // "" = postgres
	RunDir    string // for socket and log, short path; "" = a temporary one
	Log       *slog.Logger
	// Settings go over everything else, for instance shared_preload_libraries.
	Settings map[string]string
	// Logins are let in besides the starter; none = whoever can enter the private directory, which is its owner and root.
	Logins []Login
	// Polite gives way to everything else on the host: for processor time, for the disk, and with little memory.
	Polite bool

	marked bool // the marker of an unfinished restore is the caller's own
}

// Scratch is a server that only its starter can reach: it listens on a Unix socket in a private directory,
// archives nothing, follows nobody. Stop ends it whatever happened.
type Scratch struct {
	o       ScratchOptions
	log     *slog.Logger
	runDir  string
	ownRun  bool // remove runDir at the end
	cmd     *exec.Cmd
	exited  chan struct{} // closed when the postmaster is gone; exitErr is set before
	unwatch func() bool   // takes back the kill at the end of the starter's context

	mu      sync.Mutex
	exitErr error
}

// FindBinDir looks for PostgreSQL's programs of a major version where distributions put them, then in PATH.
func FindBinDir(major int) (string, error) {
	for _, dir := range []string{
		fmt.Sprintf("/usr/lib/postgresql/%d/bin", major), fmt.Sprintf("/usr/pgsql-%d/bin", major), fmt.Sprintf("/usr/local/pgsql-%d/bin", major),
		fmt.Sprintf("/usr/libexec/postgresql%d", major), fmt.Sprintf("/opt/homebrew/opt/postgresql@%d/bin", major),
	} {
		if _, err := os.Stat(filepath.Join(dir, "postgres")); err == nil {
			return dir, nil
		}
	}
	if p, err := exec.LookPath("postgres"); err == nil {
		out, err := exec.Command(p, "--version").Output()
		if err == nil && strings.Contains(string(out), fmt.Sprintf(" %d.", major)) {
			return filepath.Dir(p), nil
		}
	}
	return "", noPostgres(major, "its programs are not on this host", fmt.Sprintf("install them: apt install postgresql-%d", major))
}

func noPostgres(major int, title, remedy string) error {
	return &problem.Problem{Code: "restore.no-postgres", Subject: fmt.Sprintf("PostgreSQL %d", major), Severity: problem.Critical,
		Title: title, Meaning: "A backup is only restored with the version that it was made with. Nothing was written.", Remedy: remedy}
}

// Programs is where PostgreSQL's programs of a major version are: in dir where one is named, which must hold that version's, else
// where [FindBinDir] finds them. restore.no-postgres says why not. It is asked before anything is copied: the server itself
// would refuse another version's data when all of them are there.
func Programs(dir string, major int) (string, error) {
	if dir == "" {
		return FindBinDir(major)
	}
	remedy := fmt.Sprintf("name the directory of the programs of PostgreSQL %d (--bin-dir, or bin_dir in the plan), or none where they lie where distributions put them; to install them: apt install postgresql-%d", major, major)
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return "", noPostgres(major, fmt.Sprintf("%s does not hold its programs: %v", dir, err), remedy)
	}
	if v := versionTold(string(out)); v != 0 && major != 0 && v != major {
		return "", noPostgres(major, fmt.Sprintf("%s holds the programs of another version: %s", dir, strings.TrimSpace(string(out))), remedy)
	}
	return dir, nil
}

// versionTold is the major version in what `postgres --version` prints, "postgres (PostgreSQL) 15.4 (Debian 15.4-1)" or "… 19beta1";
// 0 = it cannot be told, and the server itself judges.
func versionTold(s string) int {
	_, rest, _ := strings.Cut(s, ") ")
	digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	v, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return v
}

// EndedEarlyError says that the log ended before the target: PostgreSQL replayed all there is.
type EndedEarlyError struct {
	Dir          string
	Inconsistent bool // instead the target came before the data were consistent
}

func (e *EndedEarlyError) Error() string {
	if e.Inconsistent {
		return "recover " + e.Dir + ": the target lies before the end of the base backup"
	}
	return "recover " + e.Dir + ": the log ends before the target"
}

// StartScratch starts a server and returns at once; see WaitReady. When ctx ends the server is killed.
func StartScratch(ctx context.Context, o ScratchOptions) (*Scratch, error) {
	if o.Superuser == "" {
		o.Superuser = "postgres"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if _, err := os.Stat(filepath.Join(o.Dir, markerFile)); err == nil && !o.marked {
		return nil, fmt.Errorf("start a scratch server on %s: the restore there was not finished", o.Dir)
	}
	s := &Scratch{o: o, log: o.Log.With("dir", o.Dir), runDir: o.RunDir, exited: make(chan struct{})}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("start a scratch server on %s: %w", o.Dir, err)
	}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start a scratch server on %s: %w", o.Dir, err), s.clean())
	}
	return s, nil
}

// prepare makes the private directory with the files that replace the original's configuration.
func (s *Scratch) prepare() error {
	if s.runDir == "" {
		dir, err := os.MkdirTemp("", "hf-scratch-")
		if err != nil {
			return err
		}
		s.runDir, s.ownRun = dir, true
	}
	if err := s.o.Owner.take(s.runDir); err != nil {
		return err
	}
	hba, ident, err := s.whoMay()
	if err != nil {
		return err
	}
	for name, content := range map[string]string{"postgresql.conf": "# Everything is set on the command line.\n", "pg_hba.conf": hba, "pg_ident.conf": ident} {
		p := filepath.Join(s.runDir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			return err
		}
		if err := s.o.Owner.take(p); err != nil {
			return err
		}
	}
	return nil
}

// arguments overrule postgresql.auto.conf too.
func (s *Scratch) arguments() ([]string, error) {
	limits, err := s.controlLimits()
	if err != nil {
		return nil, err
	}
	set := append([]setting{
		{"config_file", filepath.Join(s.runDir, "postgresql.conf")},
		{"hba_file", filepath.Join(s.runDir, "pg_hba.conf")},
		{"ident_file", filepath.Join(s.runDir, "pg_ident.conf")},
		{"unix_socket_directories", s.runDir},
		{"unix_socket_permissions", "0700"},
		{"port", "5432"}, // only part of the socket's name
		{"external_pid_file", ""},
		{"shared_preload_libraries", ""}, {"session_preload_libraries", ""}, {"local_preload_libraries", ""},
		{"logging_collector", "off"}, {"log_destination", "stderr"}, {"lc_messages", "C"}, {"log_timezone", "UTC"}, {"log_checkpoints", "on"}, // see redo
		{"hot_standby", "on"},
		{"fsync", "off"}, // a scratch server that loses power is restored again
		{"autovacuum", "off"},
		{"shared_buffers", "64MB"}, {"huge_pages", "off"}, {"max_wal_size", "4GB"},
		{"jit", "off"}, {"wal_level", "replica"}, {"data_directory", s.o.Dir},
		{"dynamic_shared_memory_type", "mmap"}, // lies in the data directory: nothing outlasts that
	}, append(isolation(), limits...)...)
	if len(s.o.Logins) > 0 {
		set = append(set, setting{"unix_socket_permissions", "0777"}) // who comes is proven by the kernel
	}
	if s.o.Polite {
		set = append(set, polite()...)
	}
	for k, v := range s.o.Settings {
		set = append(set, setting{k, v})
	}
	args := []string{"-D", s.o.Dir}
	for _, x := range set {
		args = append(args, "-c", x.name+"="+x.value)
	}
	return args, nil
}

// controlLimits reads the settings below which recovery of this directory refuses to serve queries.
func (s *Scratch) controlLimits() ([]setting, error) {
	c, err := pgcontrol.Read(s.o.Dir)
	if err != nil {
		return nil, err
	}
	var set []setting
	for _, l := range c.Limits {
		set = append(set, setting{l.Name, fmt.Sprint(l.Value)})
	}
	return set, nil
}

func (s *Scratch) start(ctx context.Context) error {
	args, err := s.arguments()
	if err != nil {
		return err
	}
	logFile, err := os.OpenFile(s.logPath(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = logFile.Close() }() // the child has its own
	s.cmd = exec.Command(filepath.Join(s.o.BinDir, "postgres"), args...)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = s.o.Dir, logFile, logFile
	s.cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	s.cmd.SysProcAttr = s.o.Owner.attr()
	begin := s.cmd.Start
	if s.o.Polite {
		begin = func() error { return startPolite(ctx, s.cmd, s.log) }
	}
	if err := begin(); err != nil {
		return err
	}
	go func() { // ends with the child, whose end Stop waits for
		err := s.cmd.Wait()
		s.mu.Lock()
		s.exitErr = err
		s.mu.Unlock()
		close(s.exited)
	}()
	s.unwatch = context.AfterFunc(ctx, s.kill)
	return nil
}

func (s *Scratch) logPath() string { return filepath.Join(s.runDir, "server.log") }

// ConnString leads to a database of the server.
func (s *Scratch) ConnString(database string) string {
	q := url.Values{"host": {s.runDir}, "port": {"5432"}, "user": {s.o.Superuser}, "dbname": {database}, "application_name": {"holdfast-scratch"}, "connect_timeout": {"10"}}
	return "postgres:///?" + q.Encode()
}

// WaitReady returns when the target is reached: the server has been promoted, or stands paused at it.
// *EndedEarlyError says that the log does not lead to the target; any other end of the server is an error with
// the server's last words.
func (s *Scratch) WaitReady(ctx context.Context) (paused bool, err error) {
	for {
		select {
		case <-s.exited:
			return false, s.lastWords()
		case <-ctx.Done():
			return false, fmt.Errorf("wait for recovery of %s: %w", s.o.Dir, context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
		recovering, paused, err := s.state(ctx)
		if err != nil {
			continue // not consistent yet: it takes no connections
		}
		if !recovering || paused {
			return paused, nil
		}
	}
}

func (s *Scratch) state(ctx context.Context) (recovering, paused bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.ConnString("template1"))
	if err != nil {
		return false, false, err
	}
	defer func() { _ = conn.Close(ctx) }() // only asked
	err = conn.QueryRow(ctx, "select pg_is_in_recovery(), case when pg_is_in_recovery() then pg_get_wal_replay_pause_state() = 'paused' else false end").Scan(&recovering, &paused)
	return recovering, paused, err
}

// HostFaultError says that this host, and not the data, ended a server or something that it did.
type HostFaultError struct{ Line string } // of the server's log

func (e *HostFaultError) Error() string {
	return "this host ended the scratch server's work: " + e.Line
}

// hostFault finds a line of a server's log that speaks of the host: no memory, no room, a kill from outside.
func hostFault(log string) error {
	for line := range strings.Lines(log) {
		for _, sign := range []string{
			"terminated by signal 9", "could not create shared memory segment", "could not map anonymous shared memory", "could not create semaphores",
			"No space left on device", "Cannot allocate memory", "out of memory", "Too many open files", "could not fork", "Disk quota exceeded",
		} {
			if strings.Contains(line, sign) {
				return &HostFaultError{Line: strings.TrimSpace(line)}
			}
		}
	}
	return nil
}

// HostFault is a *HostFaultError when the server's log tells of one, else nil.
func (s *Scratch) HostFault() error {
	raw, err := os.ReadFile(s.logPath())
	if err != nil {
		return fmt.Errorf("read the scratch server's log: %w", err)
	}
	return hostFault(string(raw))
}

// lastWords explains why the server ended.
func (s *Scratch) lastWords() error {
	raw, err := os.ReadFile(s.logPath())
	if err != nil {
		return fmt.Errorf("the scratch server on %s ended, and its log is gone: %w", s.o.Dir, err)
	}
	if err := hostFault(string(raw)); err != nil {
		return err
	}
	var said []string
	for line := range strings.Lines(string(raw)) {
		if strings.Contains(line, "recovery ended before configured recovery target was reached") {
			return &EndedEarlyError{Dir: s.o.Dir}
		}
		if strings.Contains(line, "requested recovery stop point is before consistent recovery point") {
			return &EndedEarlyError{Dir: s.o.Dir, Inconsistent: true}
		}
		if strings.Contains(line, "FATAL:") || strings.Contains(line, "PANIC:") || strings.Contains(line, "HINT:") {
			said = append(said, strings.TrimSpace(line))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Errorf("the scratch server on %s ended (%v): %s", s.o.Dir, s.exitErr, strings.Join(said[max(0, len(said)-5):], "; "))
}

// Stop ends the server, its children too, and removes its private directory. The data directory stays, shut
// down cleanly when there was time for it.
func (s *Scratch) Stop(ctx context.Context) error {
	s.signal(syscall.SIGINT) // fast shutdown
	select {
	case <-s.exited:
	case <-time.After(20 * time.Second):
		s.kill()
	case <-ctx.Done():
		s.kill()
	}
	<-s.exited
	s.unwatch()
	killTree(s.o.Dir)
	return s.clean()
}

func (s *Scratch) clean() error {
	if !s.ownRun {
		return nil
	}
	return os.RemoveAll(s.runDir)
}

// kill ends the postmaster without asking, and every process that works in its directory.
func (s *Scratch) kill() {
	s.signal(syscall.SIGQUIT) // lets it end its children
	select {
	case <-s.exited:
	case <-time.After(3 * time.Second):
		s.signal(syscall.SIGKILL)
		<-s.exited
	}
	killTree(s.o.Dir)
}

func (s *Scratch) signal(sig syscall.Signal) {
	select {
	case <-s.exited: // its number may be another's by now
	default:
		_ = s.cmd.Process.Signal(sig) // gone is as good
	}
}
