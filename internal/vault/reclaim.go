package vault

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/snapshot"
	"holdfast/internal/vault/repo/upkeep"
	"holdfast/internal/vault/store"
	"holdfast/internal/vault/wal"
)

// Grace is how long what is no longer wanted stays before it is freed: a backup between its mark and its end, and
// chunks after the last backup that used them.
const Grace = 72 * time.Hour

// reclaimLanes is how many chunks are deleted at a time: each may take a place far away some requests.
const reclaimLanes = 8

// Freed is what was let go of in a vault's place.
type Freed struct {
	Objects int64 `json:"objects"`
	Locked  int64 `json:"locked"` // kept by the place's own lock for now; tried again another time
	Ended   int64 `json:"ended"`  // deleted earlier, and ended now that the time for which the trash keeps them is over
	locked  []string
}

// ReclaimOptions say under whose leave chunks are freed.
type ReclaimOptions struct {
	// May is asked before each deletion, and before anything else is changed that others go by: an error says that another host
	// has the duty now, and ends the work.
	May func(context.Context) error
	// Alone says that nobody else has the vault open, so that nothing needs to be waited for. For tests.
	Alone bool
}

// Reclaim frees what no listed backup uses any more: chunks, indexes that newer ones stand for. What is younger than
// [Grace] is left alone, and what goes needs two runs hours apart. It refuses when one backup of the list cannot be
// read, for what that uses would go too, while a backup is being written that began long ago, and when the clocks do not agree. One host at a time may do it; the vault
// should be opened for it alone.
func (v *Vault) Reclaim(ctx context.Context, o ReclaimOptions) (Freed, error) {
	ctx = store.LettingGo(ctx)
	g, ctx, done, err := v.watch(ctx, reclaimLanes, o.May)
	if err != nil {
		return Freed{}, fmt.Errorf("free space in vault %s: %w", v.name, err)
	}
	defer done()
	if err := v.MayLetGo(ctx); err != nil {
		return Freed{}, err
	}
	defer v.Insist()() // what only a copy that is away knows of may be what keeps a chunk
	if err := v.nobodyWritesLong(ctx); err != nil {
		return Freed{}, err
	}
	if err := v.readAll(ctx); err != nil {
		return Freed{}, err
	}
	safety := upkeep.Full()
	safety.MinContentAgeSubjectToGC, safety.PackDeleteMinAge = Grace, Grace
	safety.MarginBetweenSnapshotGC = Grace // a base backup may run for so long before what it found in the vault is listed
	if o.Alone {
		safety = upkeep.None()
	}
	err = v.repo.Write(ctx, repo.WriteOptions{Purpose: "holdfast-reclaim"}, func(ctx context.Context, w *repo.Writer) error {
		return upkeep.Run(ctx, v.repo, w, safety, upkeep.Options{May: g.may, Join: v.mayJoin, GivenUp: v.givenUp, Finish: v.guard.finish})
	})
	freed := g.freed()
	if err == nil && ctx.Err() == nil {
		freed.Ended, err = v.emptyTrash(ctx, g.may)
	}
	if ended := context.Cause(ctx); ended != nil {
		err = ended
	}
	if err = errors.Join(err, v.broken()); err == nil {
		err = v.condemn(ctx, packsPart, freed.locked)
	}
	if err != nil {
		return freed, fmt.Errorf("free space in vault %s: %w", v.name, err)
	}
	return freed, nil
}

// givenUp reports whether the catalog says of a pack, which is there and from which something cannot be read, that it is gone: nobody
// deleted it, so that it was given up.
func (v *Vault) givenUp(ctx context.Context, pack string) (bool, error) {
	cat, err := v.readCatalog(ctx)
	if err != nil {
		return false, err
	}
	return cat.gone(blobName(pack)), nil
}

// watch puts what is deleted from now on under a guard, see [guarded].
func (v *Vault) watch(ctx context.Context, lanes int, may func(context.Context) error) (*guard, context.Context, func(), error) {
	if v.guard == nil {
		return nil, nil, nil, errors.New("the vault is open for reading alone")
	}
	return v.guard.watch(ctx, v, lanes, may)
}

// readAll errs unless each listed backup's own entry can be read.
func (v *Vault) readAll(ctx context.Context) error {
	v.repoMu.Lock()
	defer v.repoMu.Unlock()
	if err := v.broken(); err != nil {
		return err
	}
	if err := v.repo.Refresh(ctx); err != nil {
		return fmt.Errorf("list backups in vault %s: %w", v.name, err)
	}
	found, err := v.repo.FindManifests(ctx, map[string]string{repo.TypeLabel: snapshot.ManifestType})
	if err != nil {
		return fmt.Errorf("list backups in vault %s: %w", v.name, err)
	}
	for _, m := range found {
		if _, err := snapshot.Load(ctx, v.repo, m.ID); err != nil {
			return &problem.Problem{Code: "vault.unreadable-backup", Subject: v.name, Severity: problem.Critical,
				Title:   fmt.Sprintf("the entry of backup %s cannot be read: %v", m.Labels["tag:backup"], err),
				Meaning: "Nothing is let go, for what that backup uses would go with it.",
				Remedy:  "see what is damaged: holdfast vault status; mend it from another copy of the vault"}
		}
	}
	return nil
}

// Systems lists the system identifiers of which the vault holds any log, lowest first.
func (v *Vault) Systems(ctx context.Context) ([]uint64, error) {
	names, err := v.files.Names(ctx, "wal")
	if err != nil {
		return nil, fmt.Errorf("list the logs in vault %s: %w", v.name, err)
	}
	var out []uint64
	for _, n := range names {
		if id, err := strconv.ParseUint(n, 10, 64); err == nil {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Drop lets go of pieces of log that were stored before a moment, by the clock of the vault's place; younger ones stay
// whatever the caller thinks of them. may is asked before each deletion.
func (l *Log) Drop(ctx context.Context, pieces []wal.Held, before time.Time, may func(context.Context) error) (Freed, error) {
	defer l.vault.Insist()()
	g, ctx, done, err := l.vault.watch(store.LettingGo(ctx), 1, may)
	if err != nil {
		return Freed{}, fmt.Errorf("let go of log in vault %s: %w", l.vault.name, err)
	}
	defer done()
	asked := map[string]bool{} // a bundle is named once for each segment in it
	free := freePlaces(pieces)
	for _, p := range pieces {
		if asked[p.Object] {
			continue
		}
		asked[p.Object] = true
		if !l.freeWhole(free, p) {
			continue
		}
		if path.Dir(p.Object) != l.dir(p.Timeline) {
			return g.freed(), fmt.Errorf("let go of log %s: it is none of system %d", p.Object, l.systemID)
		}
		info, err := l.vault.files.Stat(ctx, p.Object)
		if errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrUnseen) || err == nil && !info.ModTime.Before(before) {
			continue
		}
		if err == nil {
			err = l.vault.files.Delete(ctx, p.Object)
		}
		if err != nil {
			return g.freed(), fmt.Errorf("let go of log %s in vault %s: %w", p.Object, l.vault.name, err)
		}
	}
	if err := l.vault.guard.finish(ctx); err != nil {
		return g.freed(), fmt.Errorf("let go of log in vault %s: %w", l.vault.name, err)
	}
	freed := g.freed()
	return freed, l.vault.condemn(ctx, l.root(), freed.locked)
}

// logPlace is one segment's place in the log of a server.
type logPlace struct {
	timeline uint32
	start    wal.LSN
}

// freePlaces are the places of which whole segments may go.
func freePlaces(pieces []wal.Held) map[logPlace]bool {
	free := map[logPlace]bool{}
	for _, p := range pieces {
		if !p.Partial {
			free[logPlace{p.Timeline, p.Start}] = true
		}
	}
	return free
}

// freeWhole reports whether everything that a piece's object holds may go. What lies in a bundle and alone is listed as it lies
// alone, though that may be in one copy and the bundle in all: a bundle goes when each of its places may.
func (l *Log) freeWhole(free map[logPlace]bool, p wal.Held) bool {
	in, ok := l.heldIn(p.Timeline, p.Object)
	return !ok || !slices.ContainsFunc(in, func(h wal.Held) bool { return !free[logPlace{h.Timeline, h.Start}] })
}
