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

func TestWhatACommandLeavesBehindIsEndedWhateverItCameTo(t *testing.T) {
	for name, script := range map[string]string{
		"it ends well and its output is not held": "sleep 600 >/dev/null 2>&1 & echo $!",
		"it fails":           "sleep 600 >/dev/null 2>&1 & echo $!; exit 3",
		"its output is held": "sleep 600 & echo $!",
	} {
		r, err := Commands{Limit: time.Minute}.run(t.Context(), []string{"/bin/sh", "-c", script}, nil)
		if err != nil {
			t.Fatal(err)
		}
		pid := strings.TrimSpace(r.Output)
		for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			if err != nil || strings.Contains(string(stat), ") Z ") { // whose it is now has not asked for it yet
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: process %s goes on", name, pid)
			}
		}
	}
}

func TestAPointThatHasPassedIsLookedAtAgainForOtherCommands(t *testing.T) {
	after, check := [][]string{{"/bin/a", "1"}}, []string{"/bin/b"}
	with := Record{Outcome: Outcome{Outcome: Passed, After: []Ran{{Argv: after[0]}}, Check: &Ran{Argv: check}}}
	without := Record{Outcome: Outcome{Outcome: Passed}}
	failed := with
	failed.Outcome.Outcome = Failed
	for name, c := range map[string]struct {
		r    Record
		c    Commands
		want bool
	}{
		"the same commands":               {with, Commands{After: after, Check: check}, true},
		"none are wanted now":             {with, Commands{}, true},
		"none then and none now":          {without, Commands{}, true},
		"none then":                       {without, Commands{After: after, Check: check}, false},
		"another check":                   {with, Commands{After: after, Check: []string{"/bin/c"}}, false},
		"one more":                        {with, Commands{After: append(after, check), Check: check}, false},
		"other words":                     {with, Commands{After: [][]string{{"/bin/a", "2"}}, Check: check}, false},
		"the same, and it has not passed": {failed, Commands{After: after, Check: check}, false},
	} {
		if got := c.r.answers(c.c); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
