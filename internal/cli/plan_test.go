package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"holdfast/internal/durable"
	"holdfast/internal/plan"
)

// planProcess makes the test binary behave as `holdfast plan` alone, so that the scripts run real commands.
const planProcess = "HOLDFAST_TEST_PLAN_PROCESS"

func TestPlanScripts(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join("testdata", "script", "plan_*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	testscript.Run(t, testscript.Params{
		Files: files,
		Setup: func(env *testscript.Env) error {
			bin := filepath.Join(env.WorkDir, ".bin")
			if err := os.Mkdir(bin, 0o755); err != nil {
				return fmt.Errorf("make the folder of the test's holdfast: %w", err)
			}
			script := fmt.Sprintf("#!/bin/sh\n%s=1 exec '%s' -test.run='^TestPlanProcess$' -- \"$@\"\n", planProcess, binary)
			env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			return durable.WriteProgram(filepath.Join(bin, "holdfast"), strings.NewReader(script))
		},
	})
}

// TestPlanProcess is not a test: it is the holdfast that the scripts start.
func TestPlanProcess(t *testing.T) {
	if os.Getenv(planProcess) == "" {
		t.Skip("started by TestPlanScripts alone")
	}
	root := &cobra.Command{Use: "holdfast", SilenceErrors: true}
	root.AddCommand(planCommand())
	for i, arg := range os.Args {
		if arg == "--" {
			root.SetArgs(os.Args[i+1:])
			break
		}
	}
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "holdfast:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func TestPlanCheckGivesJSON(t *testing.T) {
	cmd := planCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"check", "--output", "json", filepath.Join("..", "..", "examples", "clinic", "holdfast.yaml")})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Mistakes []plan.Mistake
		Outcomes []plan.Outcome
		Warnings []plan.Warning
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Mistakes) != 0 || len(got.Outcomes) == 0 || len(got.Warnings) == 0 || got.Warnings[0].Code == "" || got.Warnings[0].Line == 0 {
		t.Errorf("got %+v", got)
	}
}

// The plan that --help shows is one that parses, and whose program and route hold together.
func TestPlanHelpShowsAPlanThatParses(t *testing.T) {
	_, small, found := strings.Cut(planCommand().Long, "A small plan:\n\n")
	if !found {
		t.Fatal("--help shows no plan")
	}
	if _, mistakes := plan.Parse("/srv/holdfast.yaml", []byte(small)); len(mistakes) > 0 {
		t.Errorf("%v", mistakes)
	}
}
