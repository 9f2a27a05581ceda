package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/problem"
	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/store"
)

// lostIndexes are the indexes that the catalog names and that no copy has whole, as far as is known without reading them.
// Backups that they alone know of are not listed any more.
func (v *Vault) lostIndexes(ctx context.Context) ([]string, error) {
	there := map[string]bool{}
	err := v.files.List(ctx, indexPrefix, func(i store.Info) error { there[i.Name] = !v.isUnread(i.Name); return nil })
	if err != nil {
		return nil, fmt.Errorf("look for the indexes of vault %s: %w", v.name, err)
	}
	var lost []string
	for range 2 { // one that was let go of while it was looked for is in the catalog by now
		c, err := v.readCatalog(ctx)
		if err != nil {
			return nil, err
		}
		lost = nil
		for name, r := range c.rows {
			if strings.HasPrefix(name, indexPrefix) && !r.Gone && !there[name] && !c.mayBeGone(name) {
				lost = append(lost, name)
			}
		}
		for _, name := range v.unread { // the catalog may not have it yet
			if _, ok := c.rows[name]; !ok && !there[name] && !slices.Contains(lost, name) {
				lost = append(lost, name)
			}
		}
		if lost, err = v.notThere(ctx, lost); err != nil || len(lost) == 0 {
			return nil, err
		}
	}
	slices.Sort(lost)
	return lost, nil
}

// notThere leaves out the indexes that were stored while they were looked for.
func (v *Vault) notThere(ctx context.Context, names []string) (out []string, err error) {
	for _, name := range names {
		_, err := v.files.Stat(ctx, name)
		switch {
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return nil, fmt.Errorf("look for the indexes of vault %s: %w", v.name, err)
		case err != nil || v.isUnread(name):
			out = append(out, name)
		}
	}
	return out, nil
}

// Hides is a problem when the vault's lists may lack backups that are stored: indexes are lost in every copy, or entries of
// backups. nil = they lack none, as far as the catalog and the copies that answer can tell.
func (v *Vault) Hides(ctx context.Context) (*problem.Problem, error) {
	lost, err := v.lostIndexes(ctx)
	if err != nil {
		return nil, err
	}
	if len(lost) > 0 {
		return indexesLost(v.name, lost), nil
	}
	v.repoMu.Lock()
	defer v.repoMu.Unlock()
	listed, err := v.repo.ReadableManifests(ctx)
	if err != nil || listed.Unread == nil {
		return nil, err
	}
	return entriesLost(v.name, listed.Unread), nil
}

// entriesLost words it that entries of backups cannot be read.
func entriesLost(vault string, unread error) *problem.Problem {
	what := "cannot be read: " + unread.Error()
	pack, lost := errors.AsType[*repo.LostPackError](unread)
	switch {
	case lost && errors.Is(unread, store.ErrUnseen):
		return &problem.Problem{Code: "vault.copy-away", Subject: vault, Severity: problem.Critical,
			Title:   "entries of backups lie in " + blobName(pack.Pack) + ", which no copy that answers has",
			Meaning: "Backups whose entries lie there are not listed, and nothing says that they are lost. Nothing is let go meanwhile.",
			Remedy:  "bring the copy back that does not answer: holdfast vault status " + vault}
	case lost:
		what = "lie in " + blobName(pack.Pack) + ", which is in no copy"
	}
	return &problem.Problem{Code: "vault.damaged", Subject: vault, Severity: problem.Critical, Title: "entries of backups " + what,
		Meaning: "Backups whose entries lie there are not listed, and one that was let go of may be listed again. What is listed can be restored as far as its " +
			"own content is there. Nothing is let go meanwhile.",
		Remedy: "bring the file back if you can; else holdfast vault scrub " + vault + " says what is lost, and holdfast vault repair " + vault +
			" --give-up-lost forgets what nobody has any more"}
}

func indexesLost(vault string, lost []string) *problem.Problem {
	return &problem.Problem{Code: "vault.damaged", Subject: vault, Severity: problem.Critical,
		Title: fmt.Sprintf("%d indexes are lost in every copy: %s", len(lost), lost[0]),
		Meaning: "Backups that only they know of are not listed, and may be whole: their files and entries lie in other objects. Nothing is let go " +
			"meanwhile. New backups and the log go on.",
		Remedy: "bring the files back if you can; else holdfast vault repair " + vault + " --scrub makes the indexes anew"}
}

// ThePacks is from where an index is made anew, see [Mending].
const ThePacks = "the packs"

// NoEntries is from where a lost mark among the indexes is mended, which says only how far they are joined, see [Mending].
const NoEntries = "nothing: it held no entries"

// isMarker names the marks among the indexes.
func isMarker(name string) bool {
	return strings.HasPrefix(name, indexPrefix+"e") || strings.HasPrefix(name, indexPrefix+"w")
}

// listedNow are the backups of all kinds that are listed; none in a dry run, or where they cannot be listed.
func (v *Vault) listedNow(ctx context.Context, dry bool) (ids []string) {
	if dry {
		return nil
	}
	bases, err := v.Backups(ctx, "")
	for _, b := range bases {
		ids = append(ids, b.ID)
	}
	sets, filesErr := v.FileBackups(ctx, "")
	for _, b := range sets {
		ids = append(ids, b.ID)
	}
	if err = errors.Join(err, filesErr); err != nil {
		v.log.WarnContext(ctx, "backups cannot be listed beside the indexes that are lost", "err", err)
	}
	return ids
}

// remakeLanes is how many packs are asked at a time what they hold.
const remakeLanes = 8

// remakeFlush is after how many entries they are written, so that a large vault fits into the memory.
const remakeFlush = 500_000

// remake makes indexes anew that no copy has whole: each pack says at its end what it holds. What the repository does not know
// of it is added, and the lost indexes are waited for no more. It gives the number of entries that were missing. While a copy
// is away, or a pack does not say what it holds, or a listed backup cannot be read, the lost indexes stay lost: they may come
// back, or know more.
func (v *Vault) remake(ctx context.Context, lost []string, dry bool) (int, error) {
	open, away := v.copiesAlone()
	if len(away) > 0 {
		return 0, fmt.Errorf("a copy that does not answer may have it: %s", strings.Join(away, "; "))
	}
	for _, name := range lost {
		if err := v.nowhere(ctx, open, name); err != nil {
			return 0, err
		}
	}
	packs, err := v.packs(ctx, nil)
	if err != nil {
		return 0, err
	}
	n, err := v.learnPacks(ctx, packs, dry)
	if err != nil || dry {
		return n, err
	}
	if err := v.forgetDead(ctx, lost); err != nil {
		return n, err
	}
	for _, name := range lost {
		err := v.files.Delete(ctx, name) // what is left of it would be in the way of every opening
		switch {
		case err == nil: // it is written down as gone
		case errors.Is(err, store.ErrLocked), errors.Is(err, store.ErrDenied):
			v.recorder.add(row{Name: name, Gone: true})
		default:
			return n, err
		}
	}
	return n, v.writeDown(ctx, false)
}

// forgetDead deletes entries into packs that were let go of: a lost index said that they do not count any more. It errs when a
// listed backup still needs such a pack: the lost indexes would not help it, and may be given up then.
func (v *Vault) forgetDead(ctx context.Context, lost []string) error {
	dead, err := v.deadPacks(ctx, false)
	if err != nil {
		return err
	}
	if _, err := v.forgetChunks(ctx, dead); err != nil {
		return err
	}
	if dead, err = v.deadPacks(ctx, true); err != nil {
		return err
	}
	if err := v.listWhole(ctx); err != nil {
		return err
	}
	if err := v.allReadable(ctx, dead); err != nil {
		for _, name := range lost {
			v.relearnt.Store(name, true)
		}
		return err
	}
	return nil
}

// deadPacks are the packs into which entries lead and that no copy has. deleted = also those of which all entries are deleted.
func (v *Vault) deadPacks(ctx context.Context, deleted bool) (map[string]bool, error) {
	dead, err := v.entered(ctx, deleted)
	if err != nil || len(dead) == 0 {
		return nil, err
	}
	cat, err := v.readCatalog(ctx)
	if err != nil {
		return nil, err
	}
	for _, prefix := range packPrefixes() { // behind the entries: a pack is stored before an entry leads to it
		err := v.files.List(ctx, blobName(prefix), func(i store.Info) error {
			if !cat.gone(i.Name) {
				delete(dead, strings.TrimPrefix(i.Name, repositoryDir+"/"))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return dead, nil
}

// entered are the packs into which entries of the index lead.
func (v *Vault) entered(ctx context.Context, deleted bool) (map[string]bool, error) {
	v.repoMu.Lock()
	defer v.repoMu.Unlock()
	if err := v.repo.Refresh(ctx); err != nil {
		return nil, err
	}
	packs := map[string]bool{}
	var mu sync.Mutex // guards packs
	err := v.repo.EachContent(ctx, deleted, func(i repo.Info) error {
		mu.Lock()
		defer mu.Unlock()
		if i.Pack != "" {
			packs[string(i.Pack)] = true
		}
		return nil
	})
	return packs, err
}

// packs lists the packs for which want is true (nil = all), but those that are about to be deleted or were given up.
func (v *Vault) packs(ctx context.Context, want func(store.Info) bool) ([]store.Info, error) {
	cat, err := v.readCatalog(ctx)
	if err != nil {
		return nil, err
	}
	var out []store.Info
	for _, prefix := range packPrefixes() {
		err := v.files.List(ctx, blobName(prefix), func(i store.Info) error {
			if !cat.gone(i.Name) && !cat.mayBeGone(i.Name) && (want == nil || want(i)) {
				out = append(out, i)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// learnPacks adds to the repository's index what packs hold and it does not know. dry = only count.
func (v *Vault) learnPacks(ctx context.Context, packs []store.Info, dry bool) (n int, err error) {
	v.repoMu.Lock()
	defer v.repoMu.Unlock()
	if err := v.broken(); err != nil {
		return 0, err
	}
	if err := v.repo.Refresh(ctx); err != nil {
		return 0, err
	}
	err = v.repo.Write(ctx, repo.WriteOptions{Purpose: "holdfast-learn-packs"}, func(ctx context.Context, w *repo.Writer) error {
		n, err = v.learn(ctx, w, packs, dry)
		return err
	})
	return n, err
}

func (v *Vault) learn(ctx context.Context, w *repo.Writer, packs []store.Info, dry bool) (int, error) {
	var mu sync.Mutex // guards what follows
	var silent []error
	n, waiting := 0, 0
	var work errgroup.Group
	work.SetLimit(remakeLanes)
	for _, p := range packs {
		work.Go(func() error {
			fresh, err := v.learnPack(ctx, w, p, dry)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent = append(silent, fmt.Errorf("%s does not say what it holds: %w", p.Name, err))
				return nil
			}
			if n, waiting = n+fresh, waiting+fresh; waiting < remakeFlush || dry {
				return nil
			}
			waiting = 0
			return w.Flush(ctx)
		})
	}
	if err := work.Wait(); err != nil {
		return n, err
	}
	if !dry {
		if err := w.Flush(ctx); err != nil {
			return n, err
		}
	}
	if len(silent) > 0 { // what the others hold is known now all the same
		return n, fmt.Errorf("%d packs are silent: %w", len(silent), silent[0])
	}
	return n, nil
}

// learnPack adds what one pack holds, if the repository lacks any of it, and gives how many entries that were.
func (v *Vault) learnPack(ctx context.Context, w *repo.Writer, p store.Info, dry bool) (int, error) {
	id := strings.TrimPrefix(p.Name, repositoryDir+"/")
	var held []repo.Info
	err := v.askPack(ctx, p.Name, func() (err error) {
		held, err = w.Recover(ctx, id, p.Size, false)
		return err
	})
	if err != nil {
		return 0, err
	}
	fresh := 0
	for _, c := range held {
		known, err := w.ContentInfo(ctx, c.ID)
		switch {
		case errors.Is(err, repo.ErrContentNotFound):
			if !c.Deleted {
				fresh++
			}
		case err != nil:
			return 0, err
		case known.Time < c.Time: // it was moved here, and what is known is where it was
			fresh++
		}
	}
	if fresh > 0 && !dry {
		_, err = w.Recover(ctx, id, p.Size, true)
	}
	return fresh, err
}

// askPack asks a pack what it holds, and again where the copy that was asked has it bad and another has it whole.
func (v *Vault) askPack(ctx context.Context, name string, ask func() error) error {
	err := ask()
	if err != nil && v.members != nil {
		if differ, examineErr := v.members.Examine(ctx, name); examineErr == nil && differ {
			err = ask()
		}
	}
	return err
}
