package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/vault/consent"
	"holdfast/internal/vault/store"
	"holdfast/internal/vault/wal"
)

// isPack names what holds chunks.
func isPack(name string) bool {
	id, ok := strings.CutPrefix(name, repositoryDir+"/")
	return ok && (strings.HasPrefix(id, "p") || strings.HasPrefix(id, "q"))
}

// needless errs unless nothing that is listed needs a lost blob, which is no pack: a receipt, log from before every backup
// of its server, an index without which every backup can be read.
func (v *Vault) needless(ctx context.Context, name string) error {
	dir, rest, _ := strings.Cut(name, "/")
	switch {
	case dir == receiptDir:
		return nil
	case dir == deletionDir:
		return v.setAside(ctx, name)
	case dir == "wal":
		return v.logNeedless(ctx, rest)
	case dir == repositoryDir && !changing(name):
		if _, ok := v.relearnt.Load(name); ok {
			return nil
		}
		dead, err := v.deadPacks(ctx, true)
		if err != nil {
			return err
		}
		return v.allReadable(ctx, dead)
	}
	return errors.New("the vault cannot do without it")
}

// setAside errs unless two persons agreed that a paper is not waited for.
func (v *Vault) setAside(ctx context.Context, name string) error {
	now, err := v.Requested(ctx, time.Now())
	switch {
	case err != nil:
		return err
	case now.Waits != "":
		return errors.New(now.Waits)
	}
	for _, c := range now.Cases {
		if c.Deed.Kind == consent.SetAside && c.State == consent.Agreed && slices.Contains(c.Deed.Items, name) {
			return nil
		}
	}
	return fmt.Errorf("it may be a refusal: two persons set it aside: holdfast vault deletions request set-aside %s", v.name)
}

// logNeedless errs when a listed backup, or a moment after one, is restored with a piece of log.
func (v *Vault) logNeedless(ctx context.Context, name string) error {
	system, rest, _ := strings.Cut(name, "/")
	id, err := strconv.ParseUint(system, 10, 64)
	if err != nil {
		return fmt.Errorf("read the server's identifier: %w", err)
	}
	base := rest[strings.LastIndexByte(rest, '/')+1:]
	all, err := v.Backups(ctx, "")
	if err != nil {
		return err
	}
	for _, b := range all {
		if b.SystemID != id {
			continue
		}
		_, start, err := wal.ParseSegmentName(base[:min(len(base), 24)], b.SegmentSize)
		segments := wal.LSN(1)
		if many, ok := parseBundleName(base); ok {
			segments = wal.LSN(many.count)
		}
		if err != nil || start+segments*wal.LSN(b.SegmentSize) > b.Start { // what is no segment tells how timelines go on
			return fmt.Errorf("backup %s and moments after it need it", b.ID)
		}
	}
	return nil
}

// listWhole errs when there is a pack of entries of which the indexes do not tell all: what is listed no more may stand there. A pack
// that none of them names may wait for its deletion, because everything in it was moved: it is asked what it holds.
func (v *Vault) listWhole(ctx context.Context) error {
	unnamed, err := v.unnamedLists(ctx)
	if err != nil {
		return err
	}
	for _, p := range unnamed {
		var told bool
		err := v.askPack(ctx, p.Name, func() (err error) {
			told, err = v.repo.Told(ctx, strings.TrimPrefix(p.Name, repositoryDir+"/"), p.Size)
			return err
		})
		if err != nil {
			return fmt.Errorf("no index names %s: it may be the entry of a backup: %w", p.Name, err)
		}
		if !told {
			return fmt.Errorf("no index knows what %s holds: it may be the entry of a backup", p.Name)
		}
	}
	return nil
}

// unnamedLists are the packs of entries that no index names, but those that were given up or are about to be deleted.
func (v *Vault) unnamedLists(ctx context.Context) ([]store.Info, error) {
	named, err := v.entered(ctx, true)
	if err != nil {
		return nil, err
	}
	cat, err := v.readCatalog(ctx)
	if err != nil {
		return nil, err
	}
	var out []store.Info
	err = v.files.List(ctx, blobName("q"), func(i store.Info) error {
		if !named[strings.TrimPrefix(i.Name, repositoryDir+"/")] && !cat.gone(i.Name) && !cat.mayBeGone(i.Name) {
			out = append(out, i)
		}
		return nil
	})
	return out, err
}

// allReadable errs when the index lacks anything that a listed backup needs, or backups themselves, or when a listed backup needs
// one of the packs that are dead.
func (v *Vault) allReadable(ctx context.Context, dead map[string]bool) error {
	if err := v.listWhole(ctx); err != nil {
		return err
	}
	bases, err := v.Backups(ctx, "")
	if err != nil {
		return err
	}
	for _, b := range bases {
		r, err := v.OpenBackup(ctx, b.ID)
		if err != nil {
			return fmt.Errorf("backup %s cannot be read: %w", b.ID, err)
		}
		for _, e := range r.entries {
			if e.object == "" {
				continue
			}
			if err := v.lacks(ctx, e.object, dead); err != nil {
				return fmt.Errorf("%s in backup %s cannot be read: %w", e.Path, b.ID, err)
			}
		}
	}
	sets, err := v.FileBackups(ctx, "")
	if err != nil {
		return err
	}
	for _, b := range sets {
		err := v.OpenTree(b).Each(ctx, func(n Node) error {
			if n.Object == "" {
				return nil
			}
			return v.lacks(ctx, n.Object, dead)
		})
		if err != nil {
			return fmt.Errorf("backup %s cannot be read: %w", b.ID, err)
		}
	}
	return nil
}

// lacks errs when the index lacks anything of an object, or leads into a pack that is dead.
func (v *Vault) lacks(ctx context.Context, object string, dead map[string]bool) error {
	pack, err := v.needs(ctx, object, dead)
	if err == nil && pack != "" {
		err = fmt.Errorf("it lies in %s, which no copy has", pack)
	}
	return err
}

// nowhere errs when a copy has a blob whole, or does not say.
func (v *Vault) nowhere(ctx context.Context, open map[string]store.Store, name string) error {
	for c, s := range open {
		raw, err := store.Read(ctx, s, name)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return fmt.Errorf("copy %s: %w", c, err)
		case v.whole(name, raw) == nil:
			return fmt.Errorf("copy %s has %s whole", c, name)
		}
	}
	return nil
}
