package point

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/files"
)

// A command before that outlives a killed restore in place is ended before after runs, and before before runs again: it would
// bring to stand still what was let go on.
func TestACommandThatOutlivedAKilledRestoreInPlaceIsEndedFirst(t *testing.T) {
	for name, next := range map[string]func(*inPlace) error{
		"and the application goes on":   func(h *inPlace) error { return h.thaw(t.Context()) },
		"and it is brought to it again": func(h *inPlace) error { return h.freeze(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			left := exec.CommandContext(t.Context(), "/bin/sleep", "600")
			left.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := left.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = left.Process.Kill() // it is to have ended
				_ = left.Wait()
			})
			dir := t.TempDir()
			j := Journal{Format: journalFormat, Path: filepath.Join(dir, "set")}
			st := Stage{Base: dir, Held: filepath.Join(dir, "held"), Note: filepath.Join(dir, "note"), Before: []string{"before"}, After: []string{"after"}, Freeze: time.Minute,
				Run: func(_ context.Context, c files.Command) error { return c.Began(left.Process.Pid) }}
			if err := st.hands(&j, Options{}, nil).freeze(t.Context()); err != nil {
				t.Fatal(err)
			}
			j, _, err := ReadJournal(dir) // by which another process knows of it
			if err != nil || j.Before == nil || j.Before.PID != left.Process.Pid || !j.Held {
				t.Fatalf("%+v, %v", j, err)
			}
			ran := 0
			st.Run = func(context.Context, files.Command) error {
				ran++
				if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", left.Process.Pid)); err == nil && len(line) > 0 { // one that has ended has none
					t.Error("it runs still")
				}
				return nil
			}
			if err := next(st.hands(&j, Options{}, nil)); err != nil || ran != 1 || j.Before != nil {
				t.Errorf("%d commands ran, %+v, %v", ran, j, err)
			}
		})
	}
}
