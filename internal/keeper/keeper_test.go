package keeper

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the keeper, and a launcher that ends at once.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "keeper" {
		if err := Main(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 3 && os.Args[1] == "launch-and-leave" {
		s := Spec{Name: "left", Dir: os.Args[2], Argv: []string{"sleep", "1000"}}
		if _, err := Launch(context.Background(), os.Args[0], s); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func testSpec(t *testing.T, script string) Spec {
	t.Helper()
	return Spec{
		Name: "test", Dir: filepath.Join(t.TempDir(), "k"), Argv: []string{"/bin/sh", "-c", script},
		Env: []string{"PATH=" + os.Getenv("PATH")}, WorkDir: t.TempDir(),
	}
}

// patience bounds what must happen, however busy the machine; nothing is asserted about speed.
const patience = 4 * time.Minute

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// launchTest starts a keeper whose whole tree is gone when the test ends.
func launchTest(t *testing.T, s Spec) *Client {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := KillTree(ctx, s.Dir); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	c, err := Launch(testContext(t), os.Args[0], s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// pidsIn waits for a file of n pids, one a line.
func pidsIn(t *testing.T, path string, n int) []process {
	t.Helper()
	var ps []process
	eventually(t, fmt.Sprintf("%d pids in %s", n, path), func() bool {
		data, _ := os.ReadFile(path)
		ps = nil
		for _, f := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				t.Fatalf("pid %q: %v", f, err)
			}
			st, err := readStat(pid)
			if err != nil {
				return false
			}
			ps = append(ps, st.process)
		}
		return len(ps) == n
	})
	return ps
}

func wantGone(t *testing.T, ps []process) {
	t.Helper()
	for _, p := range ps {
		if p.alive() {
			t.Errorf("process %d still lives", p.PID)
		}
	}
}

func lastExit(t *testing.T, exits <-chan Exit) Exit {
	t.Helper()
	var last Exit
	for {
		select {
		case e, ok := <-exits:
			if !ok {
				return last
			}
			last = e
		case <-time.After(patience):
			t.Fatal("no exit was told")
		}
	}
}

// detached is a shell script that starts a child, one in a session of its own, and one whose parent ends at
// once; their pids go to $OUT.
const detached = `
sleep 1000 & echo $! >> pids
setsid sh -c 'echo $$ >> pids; exec sleep 1001' &
sh -c 'setsid sh -c "echo \$\$ >> pids; exec sleep 1002" >/dev/null 2>&1 &'
`

func modes(t *testing.T, f func(t *testing.T, mode TreeMode)) {
	for name, mode := range map[string]TreeMode{"in a cgroup where there is one": TreeAuto, "by /proc alone": TreeProc} {
		t.Run(name, func(t *testing.T) { t.Parallel(); f(t, mode) })
	}
}

func TestExitIsToldAndKept(t *testing.T) {
	t.Parallel()
	s := testSpec(t, "read x < go; exit 3")
	fifo := filepath.Join(s.WorkDir, "go")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	c := launchTest(t, s)
	exits := c.Watch(testContext(t))
	if _, err := c.Status(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fifo, []byte("x\n"), 0); err != nil {
		t.Fatal(err)
	}
	e := lastExit(t, exits)
	if e.Code != 3 || e.Signal != 0 || !e.TreeGone || e.KeeperLost || e.Fenced || e.Life != c.Life() {
		t.Errorf("told %+v", e)
	}
	if err := waitFree(testContext(t), s.Dir); err != nil {
		t.Fatal(err)
	}
	again, st, err := Find(s.Dir)
	if err != nil || again != nil || st.Condition != Exited || st.Exit.Code != 3 {
		t.Errorf("found %+v, %+v, %v", again, st, err)
	}
	if late := lastExit(t, c.Watch(testContext(t))); late.Code != 3 || late.KeeperLost {
		t.Errorf("told a late watcher %+v", late)
	}
	if _, err := c.Status(testContext(t)); !errors.Is(err, ErrGone) {
		t.Errorf("status of a keeper that has left: %v, want ErrGone", err)
	}
}

func TestStop(t *testing.T) {
	for name, tc := range map[string]struct {
		script string
		signal syscall.Signal
		grace  time.Duration
		code   int
		killed syscall.Signal
	}{
		"a child that obeys ends with its own status":  {"trap 'exit 7' TERM; touch up; while :; do sleep 0.02; done", 0, time.Minute, 7, 0},
		"the spec's own signal is used":                {"trap '' TERM; trap 'exit 8' INT; touch up; while :; do sleep 0.02; done", syscall.SIGINT, time.Minute, 8, 0},
		"a child that does not obey is killed":         {"trap '' TERM; touch up; while :; do sleep 0.02; done", 0, 50 * time.Millisecond, -1, syscall.SIGKILL},
		"a child that is itself stopped is killed too": {"touch up; kill -STOP $$", 0, 50 * time.Millisecond, -1, syscall.SIGKILL},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := testSpec(t, tc.script)
			s.StopSignal = tc.signal
			c := launchTest(t, s)
			eventually(t, "the child is up", func() bool {
				_, err := os.Stat(filepath.Join(s.WorkDir, "up"))
				return err == nil
			})
			if strings.Contains(tc.script, "kill -STOP") {
				st, err := c.Status(testContext(t))
				if err != nil {
					t.Fatal(err)
				}
				eventually(t, "it has stopped itself", func() bool {
					p, err := readStat(st.PID)
					return err == nil && p.stopped()
				})
			}
			e, err := c.Stop(testContext(t), tc.grace)
			if err != nil || e.Code != tc.code || e.Signal != tc.killed || !e.TreeGone {
				t.Errorf("stopped with %+v, %v", e, err)
			}
			if held, err := lockHeld(s.Dir); held || err != nil {
				t.Errorf("directory still held: %v, %v", held, err)
			}
		})
	}
}

func TestKillTakesTheWholeTree(t *testing.T) {
	modes(t, func(t *testing.T, mode TreeMode) {
		s := testSpec(t, detached+"wait; sleep 1000")
		s.Tree = mode
		c := launchTest(t, s)
		ps := pidsIn(t, filepath.Join(s.WorkDir, "pids"), 3)
		e, err := c.Kill(testContext(t))
		if err != nil || !e.TreeGone {
			t.Fatalf("killed with %+v, %v", e, err)
		}
		wantGone(t, ps)
	})
}

func TestWhatAChildLeavesBehindGoesWithIt(t *testing.T) {
	modes(t, func(t *testing.T, mode TreeMode) {
		s := testSpec(t, detached+"wait; sleep 1000")
		s.Tree = mode
		c := launchTest(t, s)
		ps := pidsIn(t, filepath.Join(s.WorkDir, "pids"), 3)
		exits := c.Watch(testContext(t))
		if err := c.Signal(testContext(t), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		e := lastExit(t, exits)
		if !e.TreeGone || e.Signal != syscall.SIGKILL {
			t.Errorf("told %+v", e)
		}
		wantGone(t, ps)
	})
}

func TestKeeperKilled(t *testing.T) {
	modes(t, func(t *testing.T, mode TreeMode) {
		s := testSpec(t, detached+"wait; sleep 1000")
		s.Tree = mode
		c := launchTest(t, s)
		ps := pidsIn(t, filepath.Join(s.WorkDir, "pids"), 3)
		st, err := c.Status(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if mode == TreeProc { // the third one gave the pipe away: only the keeper's notes know it
			eventually(t, "the descendants are noted", func() bool {
				r, err := readRecord(s.Dir)
				return err == nil && r != nil && slices.Contains(r.Pids, ps[2]) && slices.Contains(r.Pids, ps[0]) && slices.Contains(r.Pids, ps[1])
			})
		}
		exits := c.Watch(testContext(t))
		child, err := readStat(st.PID)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(st.KeeperPID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if e := lastExit(t, exits); !e.KeeperLost || e.TreeGone {
			t.Errorf("told %+v, want the keeper lost", e)
		}
		eventually(t, "the child follows its keeper", func() bool { return !child.alive() })
		if _, st, err := Find(s.Dir); err != nil || st.Condition != Lost {
			t.Errorf("found %+v, %v, want lost", st, err)
		}
		if n, err := Outlived(s.Dir); err != nil || n < 1 {
			t.Errorf("%d processes outlived it, %v", n, err)
		}
		if _, err := Launch(testContext(t), os.Args[0], s); !errors.Is(err, ErrLost) {
			t.Errorf("launched over what is left: %v, want ErrLost", err)
		}
		if err := KillTree(testContext(t), s.Dir); err != nil {
			t.Fatal(err)
		}
		wantGone(t, ps)
		if n, err := Outlived(s.Dir); err != nil || n != 0 {
			t.Errorf("%d processes are left after the cleaning, %v", n, err)
		}
		if _, st, err := Find(s.Dir); err != nil || st.Condition != Exited || !st.Exit.KeeperLost || !st.Exit.TreeGone {
			t.Errorf("found %+v, %v after the cleaning", st, err)
		}
		c, err = Launch(testContext(t), os.Args[0], s)
		if err != nil {
			t.Fatalf("launch after the cleaning: %v", err)
		}
		if _, err := c.Kill(testContext(t)); err != nil {
			t.Error(err)
		}
	})
}

func TestSilentKeeperIsFinishedOff(t *testing.T) {
	modes(t, func(t *testing.T, mode TreeMode) {
		s := testSpec(t, detached+"wait; sleep 1000")
		s.Tree = mode
		c := launchTest(t, s)
		ps := pidsIn(t, filepath.Join(s.WorkDir, "pids"), 3)
		st, err := c.Status(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(st.KeeperPID, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		eventually(t, "each of its threads has stopped", func() bool { return allStopped(st.KeeperPID) }) // one could still answer
		if _, st, err := Find(s.Dir); err != nil || st.Condition != Silent {
			t.Errorf("found %+v, %v, want silent", st, err)
		}
		if err := KillTree(testContext(t), s.Dir); err != nil {
			t.Fatal(err)
		}
		wantGone(t, ps)
		if held, err := lockHeld(s.Dir); held || err != nil {
			t.Errorf("the silent keeper still holds the directory: %v, %v", held, err)
		}
	})
}

// allStopped reports whether every thread of a process stands still (proc(5), /proc/pid/task/tid/stat).
func allStopped(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, at := range threads {
		text, err := os.ReadFile(at)
		_, state, _ := strings.Cut(string(text), ") ")
		if err != nil || !strings.HasPrefix(state, "T") {
			return false
		}
	}
	return err == nil && len(threads) > 0
}

// A host that is held for seconds while it asks has used up the time for an answer before anybody could give one.
func TestAKeeperThatIsAskedByAHeldHostIsNotSilent(t *testing.T) {
	t.Parallel()
	s := testSpec(t, "exec sleep 1000")
	c := launchTest(t, s)
	asked := 0
	held := func() time.Duration { // from the second look on it is later by a minute
		if asked++; asked == 1 {
			return 0
		}
		return time.Minute
	}
	found, st, err := find(s.Dir, held)
	if err != nil || st.Condition != Alive || found.Life() != c.Life() {
		t.Errorf("found %+v, %v", st, err)
	}
}

func TestKillTreeSparesARecycledPid(t *testing.T) {
	t.Parallel()
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	st, err := readStat(other.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	was := process{PID: st.PID, Start: st.Start - 1}
	if err := writeRecord(dir, record{Life: "x", BootID: boot, Child: was, Keeper: was, Pids: []process{was}}); err != nil {
		t.Fatal(err)
	}
	if err := KillTree(testContext(t), dir); err != nil {
		t.Fatal(err)
	}
	if !st.alive() {
		t.Error("a process that only has the pid of a dead one was killed")
	}
}

// gateSocket accepts a cut, and reports what it was sent. It answers only when told to.
func gateSocket(t *testing.T, answers bool) (path string, got <-chan string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "gate.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		in := bufio.NewReader(c)
		line, _ := in.ReadString('\n')
		lines <- line
		if answers {
			_, _ = c.Write([]byte("{}\n"))
		}
		_, _ = in.ReadString('\n') // until the keeper leaves
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return path, lines
}

func TestFence(t *testing.T) {
	for name, answers := range map[string]bool{"a gate that answers": true, "a gate that hangs": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cut, got := gateSocket(t, answers)
			s := testSpec(t, detached+"trap '' TERM INT; wait; sleep 1000")
			s.Fence = &Fence{Cut: cut}
			c := launchTest(t, s)
			ps := pidsIn(t, filepath.Join(s.WorkDir, "pids"), 3)
			ctx := testContext(t)
			st, err := c.Status(ctx)
			if err != nil || st.Armed {
				t.Fatalf("armed before the first extension: %+v, %v", st, err)
			}
			if err := c.Extend(ctx, 5, time.Now(), time.Minute); err != nil {
				t.Fatal(err)
			}
			if err := c.Extend(ctx, 4, time.Now(), time.Hour); !errors.Is(err, ErrEpoch) {
				t.Errorf("an older epoch extended: %v", err)
			}
			if err := c.Extend(ctx, 5, time.Now().Add(-time.Hour), time.Minute); err != nil {
				t.Errorf("a shorter extension: %v", err)
			}
			if st, err = c.Status(ctx); err != nil || st.FenceIn < 30*time.Second || st.FenceIn > time.Minute || st.Epoch != 5 {
				t.Errorf("deadline %+v, %v, want about a minute in epoch 5", st, err)
			}
			wantAlive(t, ps)
			if _, err := c.Kill(ctx); err != nil {
				t.Fatal(err)
			}

			s.Fence.First = 100 * time.Millisecond
			if err := os.Remove(filepath.Join(s.WorkDir, "pids")); err != nil {
				t.Fatal(err)
			}
			c, err = Launch(ctx, os.Args[0], s)
			if err != nil {
				t.Fatal(err)
			}
			e := lastExit(t, c.Watch(ctx))
			if !e.Fenced || !e.TreeGone || e.Signal != syscall.SIGKILL || !strings.Contains(e.Reason, "fenced") {
				t.Errorf("told %+v, want fenced", e)
			}
			if line := <-got; strings.TrimSpace(line) != `{"cut":true}` {
				t.Errorf("the gate was sent %q", line)
			}
			if err := c.Extend(ctx, 9, time.Now(), time.Hour); err == nil {
				t.Error("a fenced child was extended")
			}
			data, _ := os.ReadFile(filepath.Join(s.WorkDir, "pids"))
			for f := range strings.FieldsSeq(string(data)) {
				if pid, err := strconv.Atoi(f); err == nil {
					if st, err := readStat(pid); err == nil && !st.dead() {
						t.Errorf("process %d outlived the fence", pid)
					}
				}
			}
		})
	}
}

func wantAlive(t *testing.T, ps []process) {
	t.Helper()
	for _, p := range ps {
		if !p.alive() {
			t.Errorf("process %d ended too early", p.PID)
		}
	}
}

func TestExtensionsKeepAChildAlive(t *testing.T) {
	t.Parallel()
	s := testSpec(t, "exec sleep 1000")
	s.Fence = &Fence{First: 2 * time.Minute}
	c := launchTest(t, s)
	ctx := testContext(t)
	for range 5 {
		if err := c.Extend(ctx, 1, time.Now(), 10*time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	st, err := c.Status(ctx)
	if err != nil || st.Phase != Running || st.FenceIn <= 2*time.Minute {
		t.Errorf("status %+v, %v", st, err)
	}
}

func TestFreezeAndThaw(t *testing.T) {
	modes(t, func(t *testing.T, mode TreeMode) {
		s := testSpec(t, "while :; do echo x; sleep 0.01; done")
		s.Tree = mode
		c := launchTest(t, s)
		ctx := testContext(t)
		log := filepath.Join(s.Dir, childLogDef)
		size := func() int64 {
			i, err := os.Stat(log)
			if err != nil {
				return 0
			}
			return i.Size()
		}
		eventually(t, "output", func() bool { return size() > 4 })
		if err := c.Freeze(ctx); err != nil {
			t.Fatal(err)
		}
		// What was in the pipe may still come; then two readings far apart on the child's scale are equal.
		eventually(t, "no more output", func() bool {
			before := size()
			time.Sleep(100 * time.Millisecond)
			return size() == before
		})
		frozen := size()
		if err := c.Thaw(ctx); err != nil {
			t.Fatal(err)
		}
		eventually(t, "output again", func() bool { return size() > frozen })
		if err := c.Freeze(ctx); err != nil {
			t.Fatal(err)
		}
		if e, err := c.Kill(ctx); err != nil || !e.TreeGone {
			t.Errorf("kill of a frozen tree: %+v, %v", e, err)
		}
	})
}

func TestOutputIsRotated(t *testing.T) {
	t.Parallel()
	s := testSpec(t, "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done")
	s.LogMaxBytes, s.LogKeep = 8<<10, 2
	c := launchTest(t, s)
	lastExit(t, c.Watch(testContext(t)))
	if err := waitFree(testContext(t), s.Dir); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(s.Dir, childLogDef+"*"))
	if err != nil || len(names) != 3 {
		t.Fatalf("log files %v, %v, want 3", names, err)
	}
	last, err := os.ReadFile(filepath.Join(s.Dir, childLogDef))
	if err != nil || !strings.HasSuffix(string(last), "line 2999\n") {
		t.Errorf("the newest file ends with %q, %v", tail(names[0], 30), err)
	}
	for _, n := range names {
		if i, err := os.Stat(n); err != nil || i.Size() > s.LogMaxBytes {
			t.Errorf("%s holds %v, %v", n, i.Size(), err)
		}
	}
}

func TestLaunchRefuses(t *testing.T) {
	t.Parallel()
	s := testSpec(t, "exec sleep 1000")
	c := launchTest(t, s)
	if _, err := Launch(testContext(t), os.Args[0], s); !errors.Is(err, ErrRunning) {
		t.Errorf("a second keeper: %v, want ErrRunning", err)
	}
	if st, err := c.Status(testContext(t)); err != nil || st.Phase != Running {
		t.Errorf("the first keeper was disturbed: %+v, %v", st, err)
	}
	for name, bad := range map[string]func(*Spec){
		"a program that is not there":        func(s *Spec) { s.Argv = []string{"/does/not/exist"} },
		"a program not in PATH":              func(s *Spec) { s.Argv = []string{"holdfast-no-such-program"} },
		"a working directory that is absent": func(s *Spec) { s.WorkDir = "/does/not/exist" },
		"no argv":                            func(s *Spec) { s.Argv = nil },
		"a relative directory":               func(s *Spec) { s.Dir = "x" },
	} {
		s := testSpec(t, "exec sleep 1000")
		bad(&s)
		if _, err := Launch(testContext(t), os.Args[0], s); err == nil {
			t.Errorf("%s was launched", name)
			continue
		}
		if !filepath.IsAbs(s.Dir) {
			continue
		}
		if _, st, err := Find(s.Dir); err != nil || st.Condition != Absent {
			t.Errorf("after %s: found %+v, %v", name, st, err)
		}
	}
}

func TestKeeperOutlivesItsLauncher(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "k")
	t.Cleanup(func() {
		if err := KillTree(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
	out, err := exec.CommandContext(t.Context(), os.Args[0], "launch-and-leave", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c, st, err := Find(dir)
	if err != nil || st.Condition != Alive || st.Status.Phase != Running {
		t.Fatalf("found %+v, %v", st, err)
	}
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGHUP, unix.SIGTERM} {
		if err := unix.Kill(st.Status.KeeperPID, sig); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := c.Status(testContext(t)); err != nil || again.Phase != Running {
		t.Errorf("after signals: %+v, %v", again, err)
	}
	if e, err := c.Kill(testContext(t)); err != nil || !e.TreeGone {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestLongDirectory(t *testing.T) {
	t.Parallel()
	s := testSpec(t, "exec sleep 1000")
	s.Dir = filepath.Join(s.Dir, strings.Repeat("d", 120), strings.Repeat("e", 120))
	c := launchTest(t, s)
	if st, err := c.Status(testContext(t)); err != nil || st.Phase != Running {
		t.Errorf("%+v, %v", st, err)
	}
	info, err := os.Stat(filepath.Join(s.Dir, socketName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v, want 0600", info, err)
	}
}

func TestEnvironmentIsHandedOverInMemory(t *testing.T) {
	t.Parallel()
	s := testSpec(t, `[ ${#TOKEN} = 12 ] && [ -z "$HOME" ] && exit 42; exit 1`)
	s.Env = append(s.Env, "TOKEN=s3cr3t-value")
	c := launchTest(t, s)
	if e := lastExit(t, c.Watch(testContext(t))); e.Code != 42 {
		t.Errorf("exit %+v, want 42", e)
	}
	if err := waitFree(testContext(t), s.Dir); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(s.Dir)
	if err != nil || len(files) < 4 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, f := range files {
		if data, err := os.ReadFile(filepath.Join(s.Dir, f.Name())); err != nil || strings.Contains(string(data), "s3cr3t") {
			t.Errorf("%s holds the secret, or %v", f.Name(), err)
		}
	}
}

func TestChildRunsAsAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("running a child as another user needs root")
		}
		t.Skip("needs root")
	}
	s := testSpec(t, `echo hello > /dev/stderr || exit 1; [ $(id -u) = 65534 ] && [ $(id -g) = 65534 ] && exit 42`)
	s.UID, s.GID, s.WorkDir = 65534, 65534, "/"
	c := launchTest(t, s)
	if e := lastExit(t, c.Watch(testContext(t))); e.Code != 42 {
		t.Errorf("exit %+v, want 42", e)
	}
}

func TestWireRefusesNonsense(t *testing.T) {
	t.Parallel()
	s := testSpec(t, "exec sleep 1000")
	c := launchTest(t, s)
	conn, err := dial(testContext(t), s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	for _, line := range []string{"not json\n", `{"op":"dance"}` + "\n"} {
		if _, err := conn.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		got, err := in.ReadBytes('\n')
		var r reply
		if err != nil || json.Unmarshal(got, &r) != nil || r.Error == "" {
			t.Errorf("%q was answered %q, %v", line, got, err)
		}
	}
	if _, err := conn.Write([]byte(strings.Repeat("x", 2*requestMax))); err == nil {
		if _, err := in.ReadBytes('\n'); err == nil {
			t.Error("an endless line was answered")
		}
	}
	if st, err := c.Status(testContext(t)); err != nil || st.Phase != Running {
		t.Errorf("%+v, %v", st, err)
	}
	if err := c.Extend(testContext(t), 1, time.Now(), time.Second); !errors.Is(err, ErrNoFence) {
		t.Errorf("extended without a fence: %v", err)
	}
}

// A fence that comes late must not cut the clients of a later epoch, so the cut names its own.
func TestTheCutNamesItsEpoch(t *testing.T) {
	t.Parallel()
	cut, got := gateSocket(t, true)
	s := testSpec(t, "sleep 1000")
	s.Fence = &Fence{Cut: cut}
	c := launchTest(t, s)
	ctx := testContext(t)
	if err := c.Extend(ctx, 5, time.Now(), 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if e := lastExit(t, c.Watch(ctx)); !e.Fenced {
		t.Errorf("told %+v, want fenced", e)
	}
	if line := <-got; strings.TrimSpace(line) != `{"cut":true,"epoch":5}` {
		t.Errorf("the gate was sent %q", line)
	}
}
