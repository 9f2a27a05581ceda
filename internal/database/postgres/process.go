package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/keeper"
	"holdfast/internal/pgcontrol"
)

// life is what is known of the server's processes now.
type life struct {
	client *keeper.Client // nil unless a keeper answers
	alive  bool           // some process of the tree lives
	gone   bool           // attested: none is left
	exit   string         // how the last life ended
	last   *keeper.Exit   // the same, as the keeper told it; nil = it did not
	why    string         // what could not be learnt
	silent bool           // its keeper lives and does not answer
}

// keeperWait bounds a question to the keeper within an observation.
const keeperWait = 500 * time.Millisecond

// look asks the keeper, and /proc where the keeper is no longer there to ask.
func (s *Server) look(ctx context.Context) life {
	s.mu.Lock()
	c := s.now.keeper
	s.mu.Unlock()
	if c != nil {
		ask, cancel := context.WithTimeout(ctx, keeperWait)
		st, err := c.Status(ask)
		late := ask.Err() != nil // before cancel, which would make it so
		cancel()
		if err == nil && st.Phase != keeper.Ended {
			return life{client: c, alive: true}
		}
		if err != nil && late && !errors.Is(err, keeper.ErrGone) {
			return life{client: c, alive: true, silent: true, why: "the keeper does not answer"}
		}
	}
	c, st, err := keeper.Find(s.at.keep)
	if err != nil {
		return s.byProc(life{why: err.Error()})
	}
	s.mu.Lock()
	s.now.keeper = c
	s.mu.Unlock()
	switch st.Condition {
	case keeper.Alive:
		if st.Status.Phase == keeper.Ended {
			return s.byProc(life{exit: "it is ending"})
		}
		return life{client: c, alive: true}
	case keeper.Silent:
		return life{alive: true, silent: true, why: "the keeper lives and does not answer"}
	case keeper.Exited, keeper.Lost:
		return s.byProc(life{exit: exitText(*st.Exit), last: st.Exit})
	default:
		return s.byProc(life{})
	}
}

// byProc attests by the process table that nothing of the server is left, or finds what is.
func (s *Server) byProc(l life) life {
	left, err := s.processes()
	if err != nil {
		l.why = err.Error()
		return l
	}
	l.alive, l.gone = len(left) > 0, len(left) == 0
	return l
}

func exitText(e keeper.Exit) string {
	text := e.Reason
	switch {
	case e.Signal != 0:
		text += fmt.Sprintf(" (signal %d)", int(e.Signal))
	case e.Code >= 0:
		text += fmt.Sprintf(" (status %d)", e.Code)
	}
	if text == "" {
		text = "it ended"
	}
	return strings.TrimSpace(text)
}

// processes are the living processes of this data directory: PostgreSQL's all have it as their working
// directory, whoever their parent is, so a backend that outlived its postmaster is seen too.
func (s *Server) processes() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	data, err := filepath.EvalSymlinks(s.at.data)
	if err != nil {
		if os.IsNotExist(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if worksIn(pid, data) {
			found = append(found, pid)
		}
	}
	return found, nil
}

// worksIn reports whether a process lives and has dir as its working directory. A zombie has none.
func worksIn(pid int, dir string) bool {
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	return err == nil && cwd == dir
}

// postmaster is the running server's main process and what its lock file says; pid 0 = none runs.
type postmaster struct {
	pid    int
	status string // starting, stopping, ready, standby
}

func (s *Server) postmaster() (postmaster, error) {
	b, err := os.ReadFile(filepath.Join(s.at.data, "postmaster.pid"))
	if os.IsNotExist(err) {
		return postmaster{}, nil
	}
	if err != nil {
		return postmaster{}, fmt.Errorf("find the postmaster: %w", err)
	}
	lines := strings.Split(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil {
		return postmaster{}, nil // being written
	}
	data, err := filepath.EvalSymlinks(s.at.data)
	if err != nil {
		return postmaster{}, fmt.Errorf("find the postmaster: %w", err)
	}
	if !worksIn(pid, data) {
		return postmaster{}, nil // left behind by a crash
	}
	p := postmaster{pid: pid}
	if len(lines) > 7 { // the eighth line is the status (miscadmin.h, LOCK_FILE_LINE_PM_STATUS)
		p.status = strings.TrimSpace(lines[7])
	}
	return p, nil
}

// hot tells whether a server answers queries while it is a standby; known is false until it has shown that.
func (p postmaster) hot() (hot, known bool) {
	return p.status == "ready", p.status == "ready" || p.status == "standby"
}

// signal sends a signal to the postmaster.
func (s *Server) signal(sig syscall.Signal) error {
	p, err := s.postmaster()
	if err != nil {
		return err
	}
	if p.pid == 0 {
		return errNotRunning
	}
	if err := syscall.Kill(p.pid, sig); err != nil {
		return fmt.Errorf("send %s to the postmaster: %w", sig, err)
	}
	return nil
}

var errNotRunning = errors.New("the server does not run")

// child is a direct child of the postmaster, with its title. PostgreSQL gives each a title soon after its start;
// until then it has the postmaster's.
type child struct {
	pid     int
	started string // field 22 of its stat: tells a process from a later one of the same pid
	title   string
}

func (s *Server) children(pm int) ([]child, error) {
	pids, err := s.processes()
	if err != nil {
		return nil, err
	}
	var out []child
	for _, pid := range pids {
		parent, started := lineage(pid)
		title, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if parent != pm || err != nil || len(title) == 0 { // an empty one has just ended
			continue
		}
		out = append(out, child{pid: pid, started: started, title: strings.TrimRight(strings.ReplaceAll(string(title), "\x00", " "), " ")})
	}
	return out, nil
}

// lives reports whether this very process still lives.
func (c child) lives() bool {
	_, started := lineage(c.pid)
	return started == c.started
}

// lineage tells a process's parent and when it started, in the kernel's ticks; zero when it is gone.
func lineage(pid int) (parent int, started string) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, ""
	}
	rest := string(b)
	rest = rest[strings.LastIndexByte(rest, ')')+1:] // the name before it may hold anything
	f := strings.Fields(rest)
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return 0, ""
	}
	parent, err = strconv.Atoi(f[1])
	if err != nil {
		return 0, ""
	}
	return parent, f[19]
}

// is reports whether the child is a part of this server, such as "walreceiver" or "startup". The cluster's name
// stands before it in the title, so that no name of a user or database can be taken for a part.
func (s *Server) is(c child, part string) bool {
	return strings.HasPrefix(c.title, "postgres: "+s.cfg.Database+": "+part)
}

// titled reports whether it has got its title.
func (c child) titled() bool { return strings.HasPrefix(c.title, "postgres: ") }

// pause waits a moment, or less when ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Kill ends the whole process tree at once. It may be called while another method runs, which then fails.
func (s *Server) Kill(ctx context.Context, why string) error {
	s.mu.Lock()
	s.now.killing++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.now.killing--
		s.mu.Unlock()
	}()
	l := s.look(ctx)
	if !l.gone {
		s.log.Warn("server killed", "why", why)
	}
	if l.alive {
		s.cutClients()
	}
	if l.client != nil && !l.silent {
		ask, cancel := context.WithTimeout(ctx, 3*time.Second)
		if err := l.client.Freeze(ask); err != nil { // killing a tree that is not frozen works too, only less neatly
			s.log.Debug("tree not frozen before the kill", "err", err)
		}
		_, err := l.client.Kill(ask)
		cancel()
		if err != nil {
			s.log.Warn("keeper did not end the tree, ending it without the keeper", "err", err)
		}
	}
	if err := keeper.KillTree(ctx, s.at.keep); err != nil {
		return fmt.Errorf("kill the server: %w", err)
	}
	if err := s.sweep(ctx); err != nil {
		return fmt.Errorf("kill the server: %w", err)
	}
	s.afterStop()
	return nil
}

// cutTime is how long clients may take to be cut before the server is frozen regardless (DATABASE.md, A12).
const cutTime = 100 * time.Millisecond

// cutClients asks the gate to cut the clients of a primary that is about to be killed. A gate that does not
// answer in time changes nothing: the kill cuts them too.
func (s *Server) cutClients() {
	if c, err := pgcontrol.Read(s.at.data); s.cfg.GateControl == "" || err != nil || c.State != pgcontrol.Production {
		return // through a standby's host, clients reach another server
	}
	conn, err := net.DialTimeout("unix", s.cfg.GateControl, cutTime)
	if err != nil {
		s.log.Warn("clients not cut before the kill", "err", err)
		return
	}
	defer func() { _ = conn.Close() }() // the answer is in by then, or too late
	err = conn.SetDeadline(time.Now().Add(cutTime))
	if err == nil {
		_, err = conn.Write([]byte("{\"cut\":true}\n"))
	}
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		s.log.Warn("clients not cut before the kill", "err", err)
	}
}

// sweep kills whatever still works in the data directory, a server that no keeper of ours started included,
// until nothing is left.
func (s *Server) sweep(ctx context.Context) error {
	for {
		left, err := s.processes()
		if err != nil || len(left) == 0 {
			return err
		}
		for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} { // none starts another meanwhile
			for _, pid := range left {
				if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
					return fmt.Errorf("kill process %d: %w", pid, err)
				}
			}
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("%d processes still live: %w", len(left), err)
		}
	}
}

// afterStop forgets what ended with the processes.
func (s *Server) afterStop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.force, s.now.forceAt, s.now.roles, s.now.keeper = database.Force{}, time.Time{}, false, nil
}

// Extend lets a primary of epoch run for the given time from now before its keeper fences it.
func (s *Server) Extend(ctx context.Context, epoch int64, remainingMillis int64) error {
	sent := time.Now() // the keeper's own clock is monotonic; this only measures how long the question takes
	l := s.look(ctx)
	if l.client == nil {
		return fmt.Errorf("extend the deadline in epoch %d: %w", epoch, errNotRunning)
	}
	p, ok, err := s.readPromise()
	if err != nil {
		return fmt.Errorf("extend the deadline in epoch %d: %w", epoch, err)
	}
	if !ok || p.Epoch > epoch {
		return fmt.Errorf("extend the deadline in epoch %d: promised is %d: %w", epoch, p.Epoch, database.ErrPromised)
	}
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return fmt.Errorf("extend the deadline in epoch %d: %w", epoch, err)
	}
	if c.State != pgcontrol.Production { // the first Extend arms the fence, which is no standby's business
		return fmt.Errorf("extend the deadline in epoch %d: the server is no primary: %w", epoch, database.ErrStale)
	}
	return l.client.Extend(ctx, epoch, sent, time.Duration(remainingMillis)*time.Millisecond)
}
