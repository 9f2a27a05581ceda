package durable_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"holdfast/internal/durable"
)

// Many programs are written and started at once: none is found open by a process that another goroutine began.
func TestAProgramIsStartedAsSoonAsItIsWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for n := range 25 {
				path := filepath.Join(dir, fmt.Sprintf("%d-%d", worker, n))
				if err := durable.WriteProgram(path, strings.NewReader("#!/bin/sh\nexit 0\n")); err != nil {
					t.Error(err)
					return
				}
				if out, err := exec.CommandContext(t.Context(), path).CombinedOutput(); err != nil {
					t.Errorf("%v %s", err, out)
					return
				}
			}
		})
	}
	all.Wait()
	if err := durable.WriteProgram(filepath.Join(dir, "0-0"), strings.NewReader("")); err == nil {
		t.Error("what was there already was overwritten")
	}
}
