package vault

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/snapshot"
)

// ErrNoBackup is returned for a backup that the vault does not list.
var ErrNoBackup = errors.New("no such backup in the vault")

// typeValidation labels the manifests that hold a [Validation]; a clean-up leaves manifests alone.
const typeValidation = "holdfast-validation"

// manifests is where they are read: the repository, or as much of it as can be read.
type manifests interface {
	FindManifests(ctx context.Context, labels map[string]string) ([]*repo.ManifestEntry, error)
	Manifest(ctx context.Context, id repo.ManifestID, into any) (*repo.ManifestEntry, error)
}

// all are the repository's manifests: one that cannot be read is an error where they are listed.
func (v *Vault) all(context.Context) (manifests, error) { return v.repo, nil }

// readable are those that can be read; [Vault.Hides] tells of the others.
func (v *Vault) readable(ctx context.Context) (manifests, error) {
	return v.repo.ReadableManifests(ctx)
}

// Backups lists the base backups of one database ("" = of all), oldest first, with what other processes
// wrote meanwhile. An entry that cannot be read is an error: a list that hides a backup is worse than none.
func (v *Vault) Backups(ctx context.Context, database string) ([]Backup, error) {
	return v.backups(ctx, database, v.all)
}

// ReadableBackups is [Vault.Backups] for who shows them or restores one, and lets nothing go by them: entries that no copy has
// whole are left out. Whether there are such, [Vault.Hides] tells.
func (v *Vault) ReadableBackups(ctx context.Context, database string) ([]Backup, error) {
	return v.backups(ctx, database, v.readable)
}

func (v *Vault) backups(ctx context.Context, database string, from func(context.Context) (manifests, error)) ([]Backup, error) {
	labels := map[string]string{repo.TypeLabel: snapshot.ManifestType}
	if database != "" {
		labels["tag:database"] = database
	}
	v.repoMu.Lock()
	defer v.repoMu.Unlock()
	listed, found, err := v.find(ctx, labels, from)
	if err != nil {
		return nil, fmt.Errorf("list backups in vault %s: %w", v.name, err)
	}
	marks, err := v.validations(ctx, listed)
	if err != nil {
		return nil, err
	}
	var out []Backup
	for _, m := range found {
		about, ok := m.Labels[tagBackup]
		if !ok {
			continue // a snapshot that somebody made with the stock program
		}
		var b Backup
		if err := json.Unmarshal([]byte(about), &b); err != nil {
			return nil, fmt.Errorf("read backup %s in vault %s: %w", m.ID, v.name, err)
		}
		if mark, ok := marks[b.ID]; ok {
			b.Validation = &mark
		}
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b Backup) int {
		return cmp.Or(a.Stopped.Compare(b.Stopped), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// find looks for manifests with these labels, with what other processes wrote meanwhile. v.repoMu is held.
func (v *Vault) find(ctx context.Context, labels map[string]string, from func(context.Context) (manifests, error)) (manifests, []*repo.ManifestEntry, error) {
	if err := v.broken(); err != nil {
		return nil, nil, err
	}
	if err := v.repo.Refresh(ctx); err != nil {
		return nil, nil, err
	}
	listed, err := from(ctx)
	if err != nil {
		return nil, nil, err
	}
	found, err := listed.FindManifests(ctx, labels)
	return listed, found, err
}

// validations gives the latest mark of each backup.
func (v *Vault) validations(ctx context.Context, listed manifests) (map[string]Validation, error) {
	found, err := listed.FindManifests(ctx, map[string]string{repo.TypeLabel: typeValidation})
	if err != nil {
		return nil, fmt.Errorf("list validations in vault %s: %w", v.name, err)
	}
	out := map[string]Validation{}
	at := map[string]time.Time{}
	for _, m := range found {
		id := m.Labels["backup"]
		if !m.ModTime.After(at[id]) {
			continue
		}
		var mark Validation
		if _, err := listed.Manifest(ctx, m.ID, &mark); err != nil {
			return nil, fmt.Errorf("read validation of %s in vault %s: %w", id, v.name, err)
		}
		out[id], at[id] = mark, m.ModTime
	}
	return out, nil
}

// Mark records the outcome of a validation. The latest one counts.
func (v *Vault) Mark(ctx context.Context, backup string, mark Validation) error {
	v.repoMu.Lock()
	defer v.repoMu.Unlock()
	if err := v.broken(); err != nil {
		return err
	}
	err := v.repo.Write(ctx, repo.WriteOptions{Purpose: "holdfast-validation"}, func(ctx context.Context, w *repo.Writer) error {
		_, err := w.PutManifest(ctx, map[string]string{repo.TypeLabel: typeValidation, "backup": backup}, mark)
		return err
	})
	if err != nil {
		return fmt.Errorf("record validation of %s in vault %s: %w", backup, v.name, err)
	}
	return nil
}

// Reader reads one backup.
type Reader struct {
	vault   *Vault
	entries []Entry
}

// OpenBackup reads a backup's directories. Whatever is damaged among them is an error here; the entries of other backups may be.
func (v *Vault) OpenBackup(ctx context.Context, id string) (*Reader, error) {
	v.repoMu.Lock()
	defer v.repoMu.Unlock()
	listed, found, err := v.find(ctx, map[string]string{repo.TypeLabel: snapshot.ManifestType, "tag:backup": id}, v.readable)
	if err != nil {
		return nil, fmt.Errorf("open backup %s: %w", id, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("open backup %s: %w %s", id, ErrNoBackup, v.name)
	}
	m, err := snapshot.Load(ctx, listed, found[0].ID)
	if err != nil {
		return nil, fmt.Errorf("open backup %s: %w", id, err)
	}
	r := &Reader{vault: v}
	if r.entries, err = r.walk(ctx, "", m.RootEntry.ObjectID, make(chan struct{}, walkLanes)); err != nil {
		return nil, fmt.Errorf("open backup %s: %w", id, err)
	}
	return r, nil
}

// walkLanes is how many directories are read at once: each is a request where the vault is far away.
const walkLanes = 8

// walk gives what is in a directory and below it, each directory before what is in it. lanes bounds how many are read at once.
func (r *Reader) walk(ctx context.Context, dir string, id repo.ObjectID, lanes chan struct{}) ([]Entry, error) {
	lanes <- struct{}{}
	list, err := r.list(ctx, id)
	if err != nil && r.vault.doubt(ctx, id) {
		list, err = r.list(ctx, id)
	}
	<-lanes
	if err != nil {
		return nil, fmt.Errorf("read directory %q: %w", dir, err)
	}
	below := make([][]Entry, len(list.Entries)) // each entry, and what is below it
	g, ctx := errgroup.WithContext(ctx)
	for i, e := range list.Entries {
		entry := Entry{Path: path.Join(dir, e.Name), Mode: uint32(e.Permissions), Size: e.FileSize, ModTime: e.ModTime.Time()}
		switch e.Type {
		case snapshot.TypeDir:
			entry.Dir = true
			g.Go(func() error {
				in, err := r.walk(ctx, entry.Path, e.ObjectID, lanes)
				below[i] = append([]Entry{entry}, in...)
				return err
			})
		case snapshot.TypeFile:
			entry.object = e.ObjectID.String()
			below[i] = []Entry{entry}
		default:
			g.Go(func() error {
				return fmt.Errorf("read directory %q: %s is of type %q, which no backup of ours holds", dir, e.Name, e.Type)
			})
		}
	}
	err = g.Wait()
	return slices.Concat(below...), err
}

// list reads one directory.
func (r *Reader) list(ctx context.Context, id repo.ObjectID) (list snapshot.DirManifest, err error) {
	f, err := r.vault.repo.OpenObject(ctx, id)
	if err != nil {
		return list, err
	}
	defer func() { _ = f.Close() }() // opened for reading alone
	return list, json.NewDecoder(f).Decode(&list)
}

// Entries are the backup's files and directories, each directory before what is in it.
func (r *Reader) Entries() []Entry { return slices.Clone(r.entries) }

// Copy writes one file's content. A chunk that is missing, damaged or too short is an error; every byte that
// was written before it is authentic.
func (r *Reader) Copy(ctx context.Context, e Entry, to io.Writer) error {
	list, err := r.parts(ctx, e)
	if err != nil && r.doubted(ctx, e) { // another copy has it whole
		list, err = r.parts(ctx, e)
	}
	if err != nil {
		return fmt.Errorf("read %s from the vault: %w", e.Path, err)
	}
	n := int64(0)
	for _, k := range list {
		content, err := r.Fetch(ctx, k)
		if err == nil {
			_, err = to.Write(content)
		}
		if err != nil {
			return fmt.Errorf("read %s from the vault: %w", e.Path, err)
		}
		n += k.Length
	}
	if n != e.Size {
		return fmt.Errorf("read %s from the vault: %d bytes, %d were stored", e.Path, n, e.Size)
	}
	return nil
}

// doubted is [Vault.doubt] of a file.
func (r *Reader) doubted(ctx context.Context, e Entry) bool {
	id, err := repo.ParseObjectID(e.object)
	return err == nil && r.vault.doubt(ctx, id)
}
