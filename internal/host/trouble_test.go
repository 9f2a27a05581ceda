package host

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/plan"
)

func script(t *testing.T, text string) plan.Trouble {
	t.Helper()
	path := filepath.Join(t.TempDir(), "on-trouble")
	if err := durable.WriteProgram(path, strings.NewReader("#!/bin/sh\n"+text)); err != nil {
		t.Fatal(err)
	}
	return plan.Trouble{Run: []string{path, "first"}}
}

func TestTheCommandForTroubleIsToldWhatItIsAndTellsItsEnd(t *testing.T) {
	said, err := runTrouble(t.Context(), script(t, "echo \"$1: $HOLDFAST_TROUBLE\"; echo second >&2\n"), []string{"HOLDFAST_TROUBLE=io-error"}, time.Minute)
	if err != nil || said != "first: io-error second" {
		t.Errorf("%q, %v", said, err)
	}
	said, err = runTrouble(t.Context(), script(t, "echo no; exit 3\n"), nil, time.Minute)
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || said != "no" {
		t.Errorf("%q, %v", said, err)
	}
	if _, err = runTrouble(t.Context(), plan.Trouble{Run: []string{"/nowhere/to/be/found"}}, nil, time.Minute); err == nil {
		t.Error("a command that is not there ended well")
	}
	said, err = runTrouble(t.Context(), script(t, "i=0; while [ $i -lt 2000 ]; do echo 0123456789; i=$((i+1)); done; echo end\n"), nil, time.Minute)
	if err != nil || len(said) > troubleOutputMax || !strings.HasSuffix(said, " end") {
		t.Errorf("%d bytes, %v", len(said), err)
	}
}

func TestTheCommandForTroubleEndsAtItsLimitWithAllThatItStarted(t *testing.T) {
	left := filepath.Join(t.TempDir(), "left")
	for name, ctx := range map[string]func() (context.Context, context.CancelFunc){
		"its limit": func() (context.Context, context.CancelFunc) { return context.WithCancel(t.Context()) },
		"the database goes on": func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), 300*time.Millisecond)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, cancel := ctx()
			defer cancel()
			limit := 300 * time.Millisecond
			if name != "its limit" {
				limit = time.Hour
			}
			_, err := runTrouble(c, script(t, "(sleep 600; touch "+left+") & sleep 600\n"), nil, limit)
			if err == nil || !strings.Contains(err.Error(), "killed") {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}
