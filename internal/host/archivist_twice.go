package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// isTwice keeps that a piece of log came with other content than the vault holds of it, and reports whether that is news.
// Whose the stored one is nobody knows here, so no log leads on through it: until a base backup was made behind it, it is
// lost log like any other.
func (a *archivist) isTwice(d *vault.DuplicateError) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	text := fmt.Sprintf("archive the log of %s: vault %s holds other content for %s", a.db.Name, d.Vault, d.Name)
	news := a.gaps.twice != text
	a.gaps.twice, a.gaps.lost, a.gaps.streaming = text, text, false
	a.told.Gap = text
	return news
}

// twiceProblem says that two servers have written the same piece of log; nil = none have. Pure.
func twiceProblem(name, twice string) []problem.Problem {
	if twice == "" {
		return nil
	}
	return []problem.Problem{{Code: "backup.log-twice", Subject: name, Severity: problem.Critical, Title: twice,
		Meaning: "Two servers have written log at one place, or a disk gave back what was not written there. What was stored first stays as it is, and what came is not stored. No moment from there to the next base backup can be restored; a whole one is begun at once. The database goes on.",
		Remedy:  "find out whether another server writes as " + name + " (an old primary that somebody started by hand, a copy of its disk) and end it; if the log comes in no further (holdfast backup status), holdfast database switchover " + name + " begins a timeline of its own"}}
}

// twiceNote outlives the agent: the log goes on behind a piece that came twice, and nothing in the vault tells of it afterwards.
type twiceNote struct {
	Says string    `json:"says"`
	At   time.Time `json:"at"` // when it came
}

func (a *archivist) twicePath() string {
	return filepath.Join(a.host.cfg.Dir, "spool", a.db.Name+".twice")
}

// keepTwice notes what [archivist.isTwice] has just kept, so that an agent that starts again knows it.
func (a *archivist) keepTwice() {
	a.mu.Lock()
	note := twiceNote{Says: a.gaps.twice, At: a.host.clock.Now().UTC()}
	a.mu.Unlock()
	raw, err := json.Marshal(note)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(a.twicePath()), 0o700)
	}
	if err == nil {
		err = durable.WriteFile(a.twicePath(), raw, 0o600)
	}
	if err != nil {
		a.host.cfg.Log.Warn("log that came twice is not noted: an agent that starts again does not know of it", "database", a.db.Name, "err", err)
	}
}

// dropTwice removes the note once nothing that came twice is left.
func (a *archivist) dropTwice() {
	a.mu.Lock()
	left := a.gaps.twice
	a.mu.Unlock()
	if left != "" {
		return
	}
	if err := os.Remove(a.twicePath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.host.cfg.Log.Warn("the note of log that came twice stays", "database", a.db.Name, "err", err)
	}
}

// recallTwice takes up what was noted before this agent began, unless a base backup stands behind it by now: another host may
// have made that. While the vault does not say, none does.
func (a *archivist) recallTwice(ctx context.Context, made lister) {
	raw, err := os.ReadFile(a.twicePath())
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var note twiceNote
	if err == nil {
		err = json.Unmarshal(raw, &note)
	}
	if err != nil || note.Says == "" {
		a.host.cfg.Log.Warn("the note of log that came twice cannot be read", "database", a.db.Name, "err", err)
		return
	}
	all, err := made(ctx, a.db.Name)
	if err != nil {
		a.host.cfg.Log.Warn("not known whether a base backup stands behind log that came twice", "database", a.db.Name, "err", err)
	}
	for _, b := range all {
		if leadsOn(b) && b.Started.After(note.At) {
			a.bridged(note.Says)
			a.dropTwice()
			return
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gaps.twice, a.gaps.lost, a.told.Gap = note.Says, note.Says, note.Says
}
