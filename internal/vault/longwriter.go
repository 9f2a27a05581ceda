package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/snapshot"
	"holdfast/internal/vault/store"
)

// A backup may find in the vault what nobody listed uses, and last longer than such a thing is left alone. Its writer says that it
// lives: while one does that began long ago, nothing is freed.

const (
	// writingDir holds a mark for each writer at work, with when it began.
	writingDir = "writing"
	// writingTold is how often a writer says again that it lives.
	writingTold = time.Hour
	// writingDead is after how long without a word a writer is taken to be dead.
	writingDead = 24 * time.Hour
	// writingLong is the age from which on a living writer keeps things from being freed: what it found a moment before a clean-up
	// looked for the first time goes [Grace] after that at the soonest.
	writingLong = Grace / 2
)

// atWork is the mark of one writer.
type atWork struct {
	vault *Vault
	name  string
	began time.Time

	mu   sync.Mutex // guards what follows
	told time.Time  // by the wall clock
}

// beginWork marks that a writer lives.
func (v *Vault) beginWork(ctx context.Context) (*atWork, error) {
	a := &atWork{vault: v, began: time.Now().UTC()}
	a.name = path.Join(writingDir, a.began.Format(stateTime)+"-"+rand.Text())
	return a, a.tell(ctx)
}

// alive says once more that the writer lives, when that was said a while ago. That it cannot be said ends the writing: what it
// relies on may be freed. So does a silence, as of a host that slept, in which it may have been taken to be dead.
func (a *atWork) alive(ctx context.Context) error {
	a.mu.Lock()
	silent := time.Now().Round(0).Sub(a.told) // by the wall clock: the other one stands still while a host sleeps
	a.mu.Unlock()
	switch {
	case silent > writingDead:
		return fmt.Errorf("write to vault %s: the writer was silent for %s, and what it relies on may be freed", a.vault.name, silent.Round(time.Minute))
	case silent >= 0 && silent < writingTold: // negative: the clock was set back
		return nil
	}
	err := a.tell(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && time.Now().Round(0).Sub(a.told).Abs() < writingDead/2 { // the next one may get through
		return nil
	}
	return err
}

func (a *atWork) tell(ctx context.Context) error {
	now := time.Now().Round(0)
	if err := a.vault.files.Replace(ctx, a.name, store.Bytes(a.began.Format(time.RFC3339))); err != nil {
		return fmt.Errorf("say in vault %s that a backup is being written: %w", a.vault.name, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told = now
	return nil
}

// list stores the entry of a backup. Where that took so long that the writer was taken to be dead before the entry was known to be
// there, what the writer had found may have been freed: that is an error, and the entry goes again if it came to be there.
func (a *atWork) list(ctx context.Context, w *repo.Writer, m *snapshot.Manifest) error {
	id, err := snapshot.Save(ctx, w, m)
	if err != nil {
		return err
	}
	err = w.Flush(ctx)
	silence := a.alive(ctx)
	if silence == nil {
		return err
	}
	r := w.Repository()
	gone := r.Refresh(ctx)
	if gone == nil { // in a session of its own: this one may have ended with the flush
		gone = r.Write(ctx, repo.WriteOptions{Purpose: "holdfast-unlist"}, func(ctx context.Context, w *repo.Writer) error {
			return w.DeleteManifest(ctx, id)
		})
	}
	return errors.Join(err, silence, gone)
}

// end takes the mark away. Where it stays, it is old in a day.
func (a *atWork) end(ctx context.Context) {
	if err := a.vault.files.Delete(context.WithoutCancel(ctx), a.name); err != nil && !errors.Is(err, store.ErrDenied) {
		a.vault.log.WarnContext(ctx, "the mark of a writer that has ended stays for a day", "mark", a.name, "err", err)
	}
}

// nobodyWritesLong errs while a writer lives that began so long ago that what it found in the vault may be about to go.
func (v *Vault) nobodyWritesLong(ctx context.Context) error {
	var began time.Time
	var dead []string
	err := v.files.List(ctx, writingDir+"/", func(i store.Info) error {
		text, _, _ := strings.Cut(path.Base(i.Name), "-")
		at, err := time.Parse(stateTime, text)
		if time.Since(i.ModTime) > writingDead {
			dead = append(dead, i.Name)
			return nil
		}
		if err != nil || time.Since(at).Abs() < writingLong {
			return nil // none of ours, or young; one that began in the future may have begun long ago, by a clock that was set back
		}
		if began.IsZero() || at.Before(began) {
			began = at
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look who writes to vault %s: %w", v.name, err)
	}
	for _, name := range dead {
		if err := v.letGo(ctx, name); err != nil {
			return err
		}
	}
	if began.IsZero() {
		return nil
	}
	return &problem.Problem{Code: "vault.long-backup", Subject: v.name, Severity: problem.Note,
		Title:   "a backup that began at " + began.UTC().Format(time.RFC3339) + " is still being written",
		Meaning: "Nothing is freed until it ends: it may use what no listed backup does. Backups and the log go on.",
		Remedy:  "wait for it; a backup whose process has ended is passed over a day later"}
}
