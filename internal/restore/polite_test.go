package restore

import (
	"log/slog"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A trial's server gives way from its first moment on, so that what it starts early does too, and no thread of the program
// that starts it goes on that way.
func TestWhatIsStartedPolitelyGivesWayFromTheBeginning(t *testing.T) {
	usual, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	usual = 20 - usual // getpriority(2) of the kernel counts the other way
	if usual >= niceLowest {
		t.Fatalf("the test itself runs with niceness %d", usual)
	}
	for range 5 {
		var said strings.Builder
		cmd := exec.Command("nice") // says how nice it is
		cmd.Stdout = &said
		if err := startPolite(t.Context(), cmd, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil || said.String() != strconv.Itoa(niceLowest)+"\n" {
			t.Fatalf("it began with niceness %q, %v", said.String(), err)
		}
	}
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		threads, err := filepath.Glob("/proc/self/task/[0-9]*")
		if err != nil {
			t.Fatal(err)
		}
		slow := 0
		for _, f := range threads {
			tid, err := strconv.Atoi(filepath.Base(f))
			if err != nil {
				t.Fatal(err)
			}
			if p, err := unix.Getpriority(unix.PRIO_PROCESS, tid); err == nil && 20-p == niceLowest {
				slow++
			}
		}
		if slow == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d threads still give way", slow)
		}
	}
}
