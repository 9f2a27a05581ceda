package cli

import (
	"os"
	"os/signal"
	"slices"
	"syscall"
	"testing"
)

func TestALostSessionEndsACommandInOrder(t *testing.T) {
	all := endSignals()
	if !slices.Contains(all, os.Signal(syscall.SIGTERM)) || slices.Contains(all, os.Signal(syscall.SIGHUP)) == signal.Ignored(syscall.SIGHUP) {
		t.Errorf("a command ends at %v", all)
	}
}
