package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An agent that starts while the vault is away learns nothing of it, and what the one before knew is true still: until when the
// vault has everything. So that is kept in a file, by a clock that nobody sets: the time since this machine was started.

// knownPace is how often what is known is written down. What is older by that much says too much of the lag, never too little.
const knownPace = 10 * time.Second

// knownNote is what the file says.
type knownNote struct {
	Vault    string        `json:"vault"`
	SystemID uint64        `json:"system_id"` // of the database: one that was made anew has nothing in the vault
	Boot     string        `json:"boot"`      // start of the machine from which Up counts
	Up       time.Duration `json:"up"`        // until when the vault has everything
}

func (a *archivist) knownPath() string {
	return filepath.Join(a.host.cfg.Dir, "spool", a.db.Name+".known")
}

// keepKnown writes down until when the vault has everything, when it is time for that. It need not outlive the machine, so nothing
// waits for a disk.
func (a *archivist) keepKnown(systemID uint64) {
	boot, up, err := sinceBoot() // before the clock is read: what passes between makes the note older, never younger
	now := a.host.clock.Now()
	a.mu.Lock()
	covered, wrote := a.covered, a.wrote
	a.mu.Unlock()
	if covered.IsZero() || !wrote.IsZero() && now.Sub(wrote) < knownPace {
		return
	}
	if err == nil {
		err = writeKnown(a.knownPath(), knownNote{Vault: a.plan.Vault, SystemID: systemID, Boot: boot, Up: up - now.Sub(covered)})
	}
	if err != nil {
		a.host.cfg.Log.Debug("how far the vault is is not noted", "database", a.db.Name, "err", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wrote = now
}

func writeKnown(path string, n knownNote) error {
	raw, err := json.Marshal(n)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = os.WriteFile(path+".new", raw, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	return err
}

// recallKnown takes up what an agent before this one wrote down, unless this one knows more.
func (a *archivist) recallKnown(systemID uint64) {
	raw, err := os.ReadFile(a.knownPath())
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var note knownNote
	if err == nil {
		err = json.Unmarshal(raw, &note)
	}
	now := a.host.clock.Now() // before it is asked how long the machine runs: the same, the other way round
	boot, up, bootErr := sinceBoot()
	if err = errors.Join(err, bootErr); err != nil {
		a.host.cfg.Log.Debug("not known how far the vault was", "database", a.db.Name, "err", err)
		return
	}
	age, ok := note.age(a.plan.Vault, systemID, boot, up)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if at := now.Add(-age); at.After(a.covered) {
		a.covered = at
	}
}

// age is how long ago the vault had everything, up after the start of the machine that boot names; false = the note says nothing
// of that. Pure.
func (n knownNote) age(vault string, systemID uint64, boot string, up time.Duration) (time.Duration, bool) {
	if n.Boot != boot || n.Boot == "" || n.Vault != vault || n.SystemID != systemID || systemID == 0 || n.Up > up {
		return 0, false
	}
	return up - n.Up, true
}

// sinceBoot names this start of the machine, and says how long ago it was; time that the machine slept is counted (proc(5),
// random/boot_id; clock_gettime(2), CLOCK_BOOTTIME).
func sinceBoot() (boot string, up time.Duration, err error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", 0, fmt.Errorf("read which start of the machine this is: %w", err)
	}
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return "", 0, fmt.Errorf("ask how long the machine runs: %w", err)
	}
	return strings.TrimSpace(string(raw)), time.Duration(t.Nano()), nil
}
