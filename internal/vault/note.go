package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/vault/consent"
	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/snapshot"
	"holdfast/internal/vault/store"
)

// typeNote labels the manifests that hold a [Note].
const typeNote = "holdfast-note"

// The kinds of notes.
const (
	Pin    = "pin"    // an operator wants the backup to stay
	Hold   = "hold"   // a legal hold: it must stay, and lifting that needs a reason
	Doomed = "doomed" // retention will let it go when the grace is over
	Lifted = "lifted" // a legal hold was lifted: who did, and why; it stays with the backup
	// Accepted says that an operator has looked at what changed behind the log in this backup, and takes the data as it is.
	Accepted = "accepted"
)

// Note says something about one backup beside what is in it. There is at most one of a kind for a backup.
type Note struct {
	Backup string    `json:"backup"`
	Kind   string    `json:"kind"`
	By     string    `json:"by"` // who; for Doomed the host
	At     time.Time `json:"at"` // by the writer's clock
	Reason string    `json:"reason,omitempty"`
	// Stored is when the vault's place took it in, by the clock of whoever wrote it; with At it lets a reader see a
	// note of the future.
	Stored time.Time `json:"-"`
}

// Notes lists what is noted about backups, by backup and kind.
func (v *Vault) Notes(ctx context.Context) ([]Note, error) {
	v.repoMu.Lock()
	defer v.repoMu.Unlock()
	if err := v.broken(); err != nil {
		return nil, err
	}
	if err := v.repo.Refresh(ctx); err != nil {
		return nil, fmt.Errorf("list notes in vault %s: %w", v.name, err)
	}
	return v.notes(ctx)
}

func (v *Vault) notes(ctx context.Context) ([]Note, error) {
	found, err := v.repo.FindManifests(ctx, map[string]string{repo.TypeLabel: typeNote})
	if err != nil {
		return nil, fmt.Errorf("list notes in vault %s: %w", v.name, err)
	}
	latest := map[[2]string]Note{}
	for _, m := range found {
		var n Note
		if _, err := v.repo.Manifest(ctx, m.ID, &n); err != nil {
			return nil, fmt.Errorf("read a note on %s in vault %s: %w", m.Labels["backup"], v.name, err)
		}
		n.Stored = m.ModTime
		key := [2]string{n.Backup, n.Kind}
		// Two writers at one moment: the older note counts for a pin, the newer for what is doomed, so that nothing
		// goes sooner than either said.
		if old, ok := latest[key]; !ok || n.Kind == Doomed && n.At.After(old.At) || n.Kind != Doomed && n.At.Before(old.At) {
			latest[key] = n
		}
	}
	var out []Note
	for _, n := range latest {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b Note) int { return cmp.Or(cmp.Compare(a.Backup, b.Backup), cmp.Compare(a.Kind, b.Kind)) })
	return out, nil
}

// PutNote writes a note, in the place of an older one of its kind. It makes sure afterwards that the backup is still
// listed: otherwise ErrNoBackup, and nothing is noted.
func (v *Vault) PutNote(ctx context.Context, n Note) error {
	if n.Backup == "" || n.By == "" || n.At.IsZero() || !slices.Contains([]string{Pin, Hold, Doomed, Lifted, Accepted}, n.Kind) {
		return fmt.Errorf("note %q on backup %q: it must name backup, kind, who and when", n.Kind, n.Backup)
	}
	n.At = n.At.UTC().Truncate(time.Second)
	_, err := v.listed(ctx, n.Backup)
	if err == nil {
		err = v.write(ctx, "holdfast-note", func(ctx context.Context, w *repo.Writer) error {
			_, err := w.ReplaceManifests(ctx, noteLabels(n.Backup, n.Kind), n)
			return err
		})
	}
	if err == nil { // retention may have been quicker
		if _, err = v.listed(ctx, n.Backup); errors.Is(err, ErrNoBackup) {
			err = errors.Join(err, v.dropNotes(ctx, n.Backup, n.Kind))
		}
	}
	if err != nil {
		return fmt.Errorf("note %s on %s in vault %s: %w", n.Kind, n.Backup, v.name, err)
	}
	return nil
}

// DropNotes removes the notes of some kinds on a backup; one that is not there is no error. A pin, and a legal hold, go only
// when two persons agreed to that where two must.
func (v *Vault) DropNotes(ctx context.Context, backup string, kinds ...string) error {
	if slices.Contains(kinds, Pin) {
		if err := v.mayDropNote(ctx, consent.Unpin, backup, Pin); err != nil {
			return err
		}
	}
	if slices.Contains(kinds, Hold) {
		if err := v.mayDropNote(ctx, consent.Release, backup, Hold); err != nil {
			return err
		}
	}
	return v.dropNotes(ctx, backup, kinds...)
}

// mayDropNote is nil when there is none, or when it may go.
func (v *Vault) mayDropNote(ctx context.Context, kind, backup, note string) error {
	d, err := v.noteDeed(ctx, kind, backup, note)
	if err == nil && len(d.Items) > 0 {
		_, err = v.leave(ctx, d)
	}
	return err
}

func (v *Vault) dropNotes(ctx context.Context, backup string, kinds ...string) error {
	err := v.write(ctx, "holdfast-note", func(ctx context.Context, w *repo.Writer) error {
		for _, kind := range kinds {
			if err := dropManifests(ctx, w, noteLabels(backup, kind)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove notes on %s in vault %s: %w", backup, v.name, err)
	}
	return nil
}

// Lift ends a legal hold, and notes who did and why before that. Where no hold stands that is a [*problem.Problem], and nothing is
// noted: who lifted an earlier one, and why, stays as it was said.
func (v *Vault) Lift(ctx context.Context, backup, by, reason string, at time.Time) error {
	if reason == "" {
		return fmt.Errorf("lift the hold on %s: it needs a reason", backup)
	}
	d, err := v.ReleaseDeed(ctx, backup)
	if err != nil {
		return err
	}
	if len(d.Items) == 0 {
		if _, err := v.listed(ctx, backup); err != nil {
			return fmt.Errorf("lift the hold on %s: %w", backup, err)
		}
		return noHold(backup)
	}
	two, err := v.leave(ctx, d)
	if err != nil {
		return err
	}
	by = cmp.Or(two, by)
	if err := v.PutNote(ctx, Note{Backup: backup, Kind: Lifted, By: by, At: at, Reason: reason}); err != nil {
		return err
	}
	return v.DropNotes(ctx, backup, Hold)
}

func noHold(backup string) *problem.Problem {
	return &problem.Problem{Code: "backup.no-hold", Subject: backup, Severity: problem.Note, Title: "no legal hold stands on it",
		Meaning: "Nothing was changed: who lifted an earlier one, and why, stays noted.", Remedy: "see what is noted on it: holdfast backup list --output json"}
}

func noteLabels(backup, kind string) map[string]string {
	return map[string]string{repo.TypeLabel: typeNote, "backup": backup, "kind": kind}
}

func dropManifests(ctx context.Context, w *repo.Writer, labels map[string]string) error {
	found, err := w.FindManifests(ctx, labels)
	if err != nil {
		return err
	}
	for _, m := range found {
		if err := w.DeleteManifest(ctx, m.ID); err != nil {
			return err
		}
	}
	return nil
}

// write runs a short session that is flushed at its end.
func (v *Vault) write(ctx context.Context, purpose string, f func(context.Context, *repo.Writer) error) error {
	v.repoMu.Lock()
	defer v.repoMu.Unlock()
	if err := v.broken(); err != nil {
		return err
	}
	if err := v.repo.Refresh(ctx); err != nil {
		return err
	}
	// Marks are small, and what retention says before it lets something go.
	return v.repo.Write(store.LettingGo(ctx), repo.WriteOptions{Purpose: purpose}, f)
}

// listed finds a backup's manifest as others have written it meanwhile.
func (v *Vault) listed(ctx context.Context, backup string) (*snapshot.Manifest, error) {
	v.repoMu.Lock()
	defer v.repoMu.Unlock()
	if err := v.broken(); err != nil {
		return nil, err
	}
	if err := v.repo.Refresh(ctx); err != nil {
		return nil, err
	}
	found, err := v.repo.FindManifests(ctx, map[string]string{repo.TypeLabel: snapshot.ManifestType, "tag:backup": backup})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoBackup, backup)
	}
	return snapshot.Load(ctx, v.repo, found[0].ID)
}

// Forget takes a backup off the list, which is the second step of letting it go; what only it used is freed by a later
// [Vault.Reclaim]. A pin or hold is looked for right before, and once more after: whoever pins at the same moment wins,
// and the backup is listed again. It reports whether the backup went.
func (v *Vault) Forget(ctx context.Context, backup string) (gone bool, err error) {
	m, err := v.listed(ctx, backup)
	if err != nil {
		return false, fmt.Errorf("let go of backup %s: %w", backup, err)
	}
	if kept, err := v.kept(ctx, backup); err != nil || kept {
		return false, err
	}
	err = v.write(ctx, "holdfast-forget", func(ctx context.Context, w *repo.Writer) error {
		return dropManifests(ctx, w, map[string]string{repo.TypeLabel: snapshot.ManifestType, "tag:backup": backup})
	})
	if err != nil {
		return false, fmt.Errorf("let go of backup %s: %w", backup, err)
	}
	kept, err := v.kept(ctx, backup)
	if err != nil {
		return true, err
	}
	if kept {
		err := v.write(ctx, "holdfast-relist", func(ctx context.Context, w *repo.Writer) error {
			_, err := snapshot.Save(ctx, w, m)
			return err
		})
		if err != nil {
			return true, fmt.Errorf("list backup %s again, which was pinned while it was let go: %w", backup, err)
		}
		return false, nil
	}
	err = v.write(ctx, "holdfast-forget", func(ctx context.Context, w *repo.Writer) error {
		if err := dropManifests(ctx, w, map[string]string{repo.TypeLabel: typeValidation, "backup": backup}); err != nil {
			return err
		}
		return errors.Join(dropManifests(ctx, w, noteLabels(backup, Doomed)), dropManifests(ctx, w, noteLabels(backup, Lifted)), dropManifests(ctx, w, noteLabels(backup, Accepted)))
	})
	if err != nil {
		return true, fmt.Errorf("remove what was noted on backup %s: %w", backup, err)
	}
	return true, nil
}

// kept reports whether a pin or hold is on a backup.
func (v *Vault) kept(ctx context.Context, backup string) (bool, error) {
	all, err := v.Notes(ctx)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(all, func(n Note) bool { return n.Backup == backup && (n.Kind == Pin || n.Kind == Hold) }), nil
}
