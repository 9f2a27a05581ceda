package vault

import (
	"context"
	"errors"
	"fmt"

	"holdfast/internal/problem"
	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/store"
)

// A pack that is gone is found by a scrub within a week. Until then every backup would refer to what lay in it, and be as gone: so each
// writer looks first, stores anew what lies in such a pack, and lets it be known.

// lostPacks looks which packs are gone that the index needs, and remembers it for [Vault.LostPacks].
func (v *Vault) lostPacks(ctx context.Context) (map[string]bool, error) {
	v.repoMu.Lock()
	defer v.repoMu.Unlock()
	lost, err := v.repo.LostPacks(ctx)
	if err != nil {
		v.lost.Store(nil)
		return nil, fmt.Errorf("look for the packs of vault %s: %w", v.name, err)
	}
	names := sortedKeys(lost)
	v.lost.Store(&names)
	if len(names) > 0 {
		v.log.ErrorContext(ctx, "packs of the vault are gone: what lies in them is stored again where it is still there", "packs", len(names), "first", blobName(names[0]))
	}
	return lost, nil
}

// LostPacks is a problem when the writer that began last found that packs are gone which backups need; nil = none are. looked is false
// when none has looked since the vault was opened, or the last look failed: then nothing is known.
func (v *Vault) LostPacks() (lost *problem.Problem, looked bool) {
	names := v.lost.Load()
	if names == nil || len(*names) == 0 {
		return nil, names != nil
	}
	return packsLost(v.name, *names), true
}

// LooksForPacks is [Vault.LostPacks] once it has looked itself, which takes one list of all packs. An error says that it could not.
func (v *Vault) LooksForPacks(ctx context.Context) (*problem.Problem, error) {
	if _, err := v.lostPacks(ctx); err != nil {
		return nil, err
	}
	lost, _ := v.LostPacks()
	return lost, nil
}

func packsLost(vault string, names []string) *problem.Problem {
	return &problem.Problem{Code: "vault.damaged", Subject: vault, Severity: problem.Critical,
		Title: fmt.Sprintf("%d packs are gone from every copy, the first: %s", len(names), blobName(names[0])),
		Meaning: "Backups from before that need them cannot be restored whole. What is backed up now does not rely on them: what is still there " +
			"is stored again.",
		Remedy: "bring the file back if you can; else holdfast vault scrub " + vault + " names the backups, and holdfast vault repair " + vault +
			" --give-up-lost forgets what nobody has any more"}
}

// Unreadable says of an error that came up while a backup was read what the loss of a pack means; any other error, and nil, is given
// back.
func (v *Vault) Unreadable(backup string, err error) error {
	lost, ok := errors.AsType[*repo.LostPackError](err)
	if _, said := errors.AsType[*problem.Problem](err); !ok || said {
		return err
	}
	p := &problem.Problem{Code: "vault.damaged", Subject: v.name, Severity: problem.Critical,
		Title:   fmt.Sprintf("backup %s needs %s, which is in no copy", backup, blobName(lost.Pack)),
		Meaning: "What lies in it cannot be restored from this backup. Other backups, and files that do not lie in it, may be whole.",
		Remedy: "bring the file back if you can; holdfast vault scrub " + v.name + " names what is lost; or restore another backup: " +
			"holdfast backup list, holdfast files list"}
	if errors.Is(err, store.ErrUnseen) {
		p.Code, p.Title = "vault.copy-away", fmt.Sprintf("backup %s needs %s, which no copy that answers has", backup, blobName(lost.Pack))
		p.Meaning = "It may lie in the copy that does not answer. Nothing says that it is lost."
		p.Remedy = "bring the copy back, then restore again: holdfast vault status " + v.name
	}
	return errors.Join(p, err)
}

// Unreadable is [Vault.Unreadable] for this backup.
func (t *Tree) Unreadable(err error) error { return t.vault.Unreadable(t.Backup.ID, err) }
