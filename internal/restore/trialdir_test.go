package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/disktest"
)

// What a killed restore has left goes with the next one, whatever it was for; what lives, what was kept and what is
// somebody's own stays.
func TestTrialsOfTheDeadAreRemoved(t *testing.T) {
	parent := t.TempDir()
	var dead, stay []string
	for _, why := range purposes() {
		for _, end := range []string{"killed", "living", "kept"} {
			x, err := NewTrial(parent, why, "b")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(x.Data(), 0o700); err != nil {
				t.Fatal(err)
			}
			switch end {
			case "killed":
				dead, err = append(dead, x.Dir), x.lock.Close() // as the end of a process does
			case "kept":
				stay, err = append(stay, x.Dir), x.Keep()
			default:
				stay = append(stay, x.Dir)
				defer func() {
					if err := x.Remove(t.Context()); err != nil {
						t.Error(err)
					}
				}()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		own := filepath.Join(parent, string(why)+"own")
		if err := os.Mkdir(own, 0o700); err != nil {
			t.Fatal(err)
		}
		stay = append(stay, own)
	}
	next, err := openTrial(t.Context(), parent, ForRecords, "b")
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(filepath.Join(parent, "*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(stay)
	if !slices.Equal(left, stay) {
		t.Errorf("left are %v, want %v; the dead were %v", left, stay, dead)
	}
}

// In a directory that anybody can write to, others may put what looks like the rest of a restore. Nothing that their mark names is
// removed, and nobody waits for what is no file.
func TestWhatOthersMarkedIsNotSwept(t *testing.T) {
	disktest.NeedRoot(t)
	const stranger = 65534
	for name, c := range map[string]struct {
		dirOwner, markOwner int
		mark                func(at, victim string) error
		goes                bool
	}{
		"a stranger's directory": {stranger, stranger, marking(`{"run":%q}`), false},
		"a stranger's mark":      {0, stranger, marking(`{"run":%q}`), false},
		"a pipe":                 {0, 0, func(at, _ string) error { return unix.Mkfifo(at, 0o666) }, false},
		"a link":                 {0, 0, func(at, victim string) error { return os.Symlink(filepath.Join(victim, "shadow"), at) }, false},
		"our own, which names what is no scratch": {0, 0, marking(`{"run":%q}`), true},
	} {
		t.Run(name, func(t *testing.T) {
			parent, victim := t.TempDir(), filepath.Join(t.TempDir(), "etc")
			dir := filepath.Join(parent, string(ForSample)+"x")
			mark := filepath.Join(dir, trialMark)
			for _, err := range []error{
				os.Mkdir(victim, 0o755), os.WriteFile(filepath.Join(victim, "shadow"), []byte("x"), 0o600),
				os.Mkdir(dir, 0o755), c.mark(mark, victim), os.Lchown(mark, c.markOwner, c.markOwner), os.Chown(dir, c.dirOwner, c.dirOwner),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			swept := make(chan []string, 1)
			go func() {
				removed, err := SweepTrials(t.Context(), parent)
				if err != nil {
					t.Error(err)
				}
				swept <- removed
			}()
			select {
			case removed := <-swept:
				if (len(removed) > 0) != c.goes {
					t.Errorf("removed %v", removed)
				}
			case <-time.After(time.Minute):
				t.Fatal("it waits")
			}
			if _, err := os.Stat(filepath.Join(victim, "shadow")); err != nil {
				t.Errorf("what the mark names: %v", err)
			}
			if _, err := os.Lstat(mark); (err != nil) != c.goes {
				t.Errorf("the mark: %v", err)
			}
		})
	}
}

// marking writes a mark that names a directory.
func marking(form string) func(at, victim string) error {
	return func(at, victim string) error { return os.WriteFile(at, fmt.Appendf(nil, form, victim), 0o644) }
}
