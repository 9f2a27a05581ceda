package files_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/files"
	"holdfast/internal/vault"
)

func TestWhichCommandLetsFilesAndDatabaseGoOn(t *testing.T) {
	for _, c := range []struct {
		name, note string
		now        []string // of the plan
		fails      []string
		want       []string // that ran
		stays      bool     // the note
	}{
		{"the one that was noted", `{"after":["noted"]}`, []string{"now"}, nil, []string{"noted"}, false},
		{"when it fails the one of the plan", `{"after":["noted"]}`, []string{"now"}, []string{"noted"}, []string{"noted", "now"}, false},
		{"when both fail it is tried again", `{"after":["noted"]}`, []string{"now"}, []string{"noted", "now"}, []string{"noted", "now"}, true},
		{"the same does not run twice", `{"after":["noted"]}`, []string{"noted"}, []string{"noted"}, []string{"noted"}, true},
		{"the plan has none any more", `{"after":["noted"]}`, nil, nil, []string{"noted"}, false},
		{"nothing was noted, so nothing stands still", `{"after":null}`, []string{"now"}, nil, nil, false},
		{"the command before is of another run of the machine", `{"after":["noted"],"before":{"pid":1000000,"start":"7","boot":"x"}}`, nil, nil, []string{"noted"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "still.json")
			must(t, os.WriteFile(path, []byte(c.note), 0o600))
			var ran []string
			run := func(_ context.Context, x files.Command) error {
				ran = append(ran, x.Argv[0])
				if slices.Contains(c.fails, x.Argv[0]) {
					return errors.New("it does not want to")
				}
				return nil
			}
			_, err := files.Thaw(t.Context(), path, run, files.Command{Argv: c.now})
			_, left := os.Stat(path)
			if !slices.Equal(ran, c.want) || (err != nil) != c.stays || (left == nil) != c.stays {
				t.Errorf("ran %v, %v, note %v", ran, err, left)
			}
		})
	}
}

func TestNothingIsBroughtToStandStillThatCannotGoOn(t *testing.T) {
	v, dir := open(t), t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o600))
	note := filepath.Join(t.TempDir(), "still.json")
	still := &files.Still{Note: note, Freeze: time.Minute, Snapshot: time.Minute, Run: func(context.Context, files.Command) error {
		t.Error("something ran")
		return nil
	}}
	if _, err := files.Backup(t.Context(), files.Options{Vault: v, Set: "attachments", Host: "east-1", Path: dir, Still: still}); err == nil {
		t.Error("it was made")
	}
	if _, err := os.Stat(note); !os.IsNotExist(err) {
		t.Errorf("it was noted: %v", err)
	}
}

// An agent that is killed leaves the command that makes everything stand still. It must not end its work after the
// command that lets it go on.
func TestACommandThatOutlivedItsAgentIsEndedBeforeItIsUndone(t *testing.T) {
	v, dir := open(t), t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o600))
	for name, another := range map[string]bool{"it lives": false, "its number is another's by now": true} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "still.json")
			cmd := exec.Command("/bin/sh", "-c", "sleep 600 & wait")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			must(t, cmd.Start())
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			over := false
			t.Cleanup(func() {
				if !over {
					_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
					<-ended
				}
			})
			var noted []byte
			still := &files.Still{
				Note: path, Before: []string{"before"}, After: []string{"after"}, Freeze: time.Minute, Snapshot: time.Minute,
				Run: func(_ context.Context, x files.Command) error {
					if x.Began == nil {
						return nil
					}
					err := x.Began(cmd.Process.Pid)
					noted, _ = os.ReadFile(path) // checked below
					return errors.Join(err, errors.New("here the agent is killed"))
				},
				Mark: func(context.Context) (vault.Point, error) { return vault.Point{}, nil },
			}
			if _, err := files.Backup(t.Context(), files.Options{Vault: v, Set: "attachments", Host: "east-1", Path: dir, Still: still}); err == nil || len(noted) == 0 {
				t.Fatalf("%v, noted %q", err, noted)
			}
			if another {
				noted = regexp.MustCompile(`"start":"\d+"`).ReplaceAll(noted, []byte(`"start":"1"`))
			}
			must(t, os.WriteFile(path, noted, 0o600))
			_, err := files.Thaw(t.Context(), path, func(context.Context, files.Command) error {
				if another {
					if err := syscall.Kill(cmd.Process.Pid, 0); err != nil || len(ended) > 0 {
						t.Errorf("another process was ended: %v", err)
					}
					return nil
				}
				select {
				case <-ended:
					over = true
				case <-time.After(time.Minute):
					t.Error("it lives")
				}
				return nil
			}, files.Command{})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// Who holds files and database is left alone, and a note that was left between two looks lets nothing go on.
func TestNothingIsBroughtToStandStillThatAnotherHolds(t *testing.T) {
	v, dir := open(t), t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o600))
	note, held := filepath.Join(t.TempDir(), "note"), filepath.Join(t.TempDir(), "held")
	must(t, os.WriteFile(held, nil, 0o600))
	never := func(context.Context, files.Command) error { t.Error("a command ran"); return nil }
	still := &files.Still{Note: note, Held: held, Before: []string{"before"}, After: []string{"after"}, Run: never, Freeze: time.Minute, Snapshot: time.Minute}
	_, err := files.Backup(t.Context(), files.Options{Vault: v, Set: "attachments", Host: "east-1", Path: dir, Still: still})
	if !errors.Is(err, files.ErrHeld) {
		t.Errorf("it says %v", err)
	}
	if _, err := os.Stat(note); err == nil {
		t.Error("the note stays")
	}
	must(t, os.WriteFile(note, []byte(`{"after":null,"since":"2026-11-21T01:00:00Z"}`), 0o600)) // the agent died before it looked
	if _, err := files.Thaw(t.Context(), note, never, files.Command{Argv: []string{"after"}}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(note); err == nil {
		t.Error("the note stays")
	}
}
