package restore

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// leftByRestore is a data directory with the postmaster.pid that a restore's own server leaves there; its number is pid.
func leftByRestore(t *testing.T, pid int) (dir, run string) {
	t.Helper()
	run, err := os.MkdirTemp("", scratchRun+"*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(run); err != nil {
			t.Error(err)
		}
	})
	dir = t.TempDir()
	numberServer(t, dir, run, pid)
	return dir, run
}

func numberServer(t *testing.T, dir, run string, pid int) {
	t.Helper()
	text := fmt.Sprintf("%d\n%s\n0\n5432\n%s\n\n", pid, dir, run)
	if err := os.WriteFile(filepath.Join(dir, "postmaster.pid"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startServer has a shell, under a name of its own, start what passes for PostgreSQL in dir. Both end with the test.
func startServer(t *testing.T, dir, starter string) (pid int, shell *exec.Cmd) {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	server := filepath.Join(t.TempDir(), "postgres")
	if err := os.Symlink(sleep, server); err != nil {
		t.Fatal(err)
	}
	shell = exec.Command(starter, "-c", `"$0" 600 >/dev/null 2>&1 & echo $!; wait`, server)
	shell.Dir = dir
	out, err := shell.StdoutPipe()
	if err == nil {
		err = shell.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		pid, err = strconv.Atoi(strings.TrimSpace(line))
	}
	t.Cleanup(func() {
		killTree(dir)
		_ = shell.Process.Kill() // it may have ended already
		_ = shell.Wait()
	})
	if err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	eventually(t, "the server is not seen", func() bool { return worksIn(pid, dir) })
	return pid, shell
}

func eventually(t *testing.T, not string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(not)
		}
	}
}

// copyShell puts a copy of the shell where at says. A process of its own writes it: of this one another test may fork meanwhile, and
// what is open for writing cannot be run.
func copyShell(t *testing.T, at string) string {
	t.Helper()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-L", sh, at).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return at
}

// The server of a restore that another copy of this program waits for is not ended, neither when that copy was removed by an
// upgrade; it is once its starter was killed, or when somebody else has started it.
func TestOnlyAServerThatNobodyWaitsForIsAnOrphan(t *testing.T) {
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	starter := copyShell(t, filepath.Join(t.TempDir(), filepath.Base(own)))
	dir, run := leftByRestore(t, 1)
	pid, shell := startServer(t, dir, starter)
	numberServer(t, dir, run, pid)
	if _, orphan := orphaned(dir); orphan {
		t.Error("another copy of this program waits for it")
	}
	if err := os.Remove(starter); err != nil {
		t.Fatal(err)
	}
	if _, orphan := orphaned(dir); orphan {
		t.Error("a copy of this program that was removed since waits for it")
	}
	if err := shell.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = shell.Wait() // it was killed
	eventually(t, "its starter was killed, and it counts as waited for", func() bool { got, orphan := orphaned(dir); return orphan && got == run })

	dir, run = leftByRestore(t, 1)
	pid, _ = startServer(t, dir, copyShell(t, filepath.Join(t.TempDir(), "another")))
	numberServer(t, dir, run, pid)
	if _, orphan := orphaned(dir); !orphan {
		t.Error("another program has started it")
	}
}

// A number from a container says nothing here: who works in the directory all the same is not ended.
func TestAServerWithANumberOfItsOwnIsNoOrphan(t *testing.T) {
	dir, run := leftByRestore(t, 1<<30) // more than Linux numbers
	if got, orphan := orphaned(dir); !orphan || got != run {
		t.Errorf("nobody works there: %s, %t", got, orphan)
	}
	pid, _ := startServer(t, dir, "sh")
	if _, orphan := orphaned(dir); orphan {
		t.Error("somebody works there under another number")
	}
	if err := endOrphan(t.Context(), dir); err != nil || !worksIn(pid, dir) {
		t.Errorf("it was ended: %v", err)
	}
	if err := stopped(dir, "orders"); err == nil {
		t.Error("the directory counts as free")
	}
}
