package point

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/problem"
)

func TestWhatACommandCameToIsKept(t *testing.T) {
	long := strings.Repeat("x", outputMax)
	for name, c := range map[string]struct {
		script string
		limit  time.Duration
		want   Ran
	}{
		"one that ends well":             {"echo yes; echo no >&2", time.Minute, Ran{Status: 0, Output: "yes\nno\n"}},
		"one that fails":                 {"echo 3 letters are missing; exit 3", time.Minute, Ran{Status: 3, Error: "exit status 3", Output: "3 letters are missing\n"}},
		"one that does not end":          {"sleep 600 & wait", 300 * time.Millisecond, Ran{Status: -1, Error: "it was ended after 300ms"}},
		"one that leaves something":      {"sleep 600 & echo done", time.Minute, Ran{Status: 0, Output: "done\n"}},
		"one that says too much":         {"echo begin; printf %s " + long, time.Minute, Ran{Status: 0, Output: "... " + long}},
		"one that is told of no secrets": {"echo $SECRET_OF_MINE $TOLD", time.Minute, Ran{Status: 0, Output: "this\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("SECRET_OF_MINE", "hunter2")
			got, err := Commands{Limit: c.limit}.run(t.Context(), []string{"/bin/sh", "-c", c.script}, []string{"TOLD=this"})
			if err != nil {
				t.Fatal(err)
			}
			if got.Status != c.want.Status || got.Error != c.want.Error || got.Output != c.want.Output || got.OK() != (c.want.Status == 0) {
				t.Errorf("status %d, %q, said %q", got.Status, got.Error, got.Output)
			}
		})
	}
}

func TestACommandThatIsInterruptedIsNoVerdict(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (Commands{Limit: time.Minute}).run(ctx, []string{"/bin/true"}, nil); err == nil {
		t.Error("it came to something")
	}
}

func TestCommandsThatCannotRunHereAreRefusedBeforeAnythingIsRestored(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		c    Commands
		want string
	}{
		"all there":             {Commands{After: [][]string{{"/bin/sh"}}, Check: []string{"/bin/sh"}}, ""},
		"none at all":           {Commands{User: "nobody-of-that-name"}, ""},
		"one is absent":         {Commands{After: [][]string{{"/bin/sh"}, {"/nowhere/x"}}}, "/nowhere/x"},
		"one is no program":     {Commands{Check: []string{plain}}, "is no program"},
		"the user is not there": {Commands{Check: []string{"/bin/sh"}, User: "nobody-of-that-name"}, "unknown user"},
	} {
		err := c.c.find("letters")
		p, ok := err.(*problem.Problem)
		if c.want == "" && err != nil || c.want != "" && (!ok || p.Code != "restore.no-command" || !strings.Contains(p.Title, c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
