package lab

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"

	"holdfast/internal/local"
)

// isOff reports whether a host has no power.
func (w *World) isOff(host string) bool {
	_, err := os.Stat(local.HoldFile(w.Root, host))
	return err == nil
}

// PowerOff ends everything on a host at once and keeps it off. Nobody is told: its links fall silent first, as a
// machine's do, whereas a killed process's kernel would still say that its connections are gone.
func (w *World) PowerOff(host string) {
	w.t.Helper()
	w.Net.Isolate(host)
	w.agents.mu.Lock() // so that no agent of it is being started
	defer w.agents.mu.Unlock()
	if err := os.WriteFile(local.HoldFile(w.Root, host), nil, 0o644); err != nil {
		w.t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		left := w.Net.Processes(host)
		for _, pid := range left {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				w.t.Fatalf("power %s off: %v", host, err)
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("power %s off: %v still run", host, left)
		}
	}
}

// PowerOn lets a host start again. Its links stay as they are: see [Network.Heal].
func (w *World) PowerOn(host string) {
	w.t.Helper()
	if err := os.Remove(local.HoldFile(w.Root, host)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
}
