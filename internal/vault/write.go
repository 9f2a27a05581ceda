package vault

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/snapshot"
)

// tagBackup labels a snapshot with our description of it, as JSON. kopia's list shows it.
const tagBackup = "tag:holdfast"

// pin keeps a stock kopia program from expiring what is ours.
const pin = "holdfast"

// Writer stores one backup. Nothing of it is listed until Commit; a writer that is never committed leaves
// only unreferenced chunks, which the next backup of the same data within a day finds and uses again; later they are freed.
type Writer struct {
	vault  *Vault
	ctx    context.Context // bounds the whole session
	repo   *repo.Writer
	stored atomic.Int64
	work   *atWork

	mu      sync.Mutex
	entries map[string]Entry
}

// Begin opens a write session. It must end with Commit or Abort. ctx bounds the whole session.
func (v *Vault) Begin(ctx context.Context, purpose string) (*Writer, error) {
	w := &Writer{vault: v, ctx: ctx, entries: map[string]Entry{}}
	var err error
	w.repo, w.work, err = v.newWriter(ctx, purpose, func(n int64) { w.stored.Add(n) })
	if err != nil {
		return nil, err
	}
	return w, nil
}

// FileWriter stores the content of one file. One goroutine writes one file; many files may be open.
type FileWriter struct {
	w     *Writer
	entry Entry
	obj   *repo.ObjectWriter
}

// File begins a file. e.Size is ignored: what is written counts.
func (w *Writer) File(e Entry) *FileWriter {
	return &FileWriter{w: w, entry: e, obj: w.repo.NewObject(w.ctx, repo.ObjectOptions{Compress: true, Splitter: splitter})}
}

// Write adds to the file.
func (f *FileWriter) Write(p []byte) (int, error) {
	if err := errors.Join(f.w.vault.broken(), f.w.work.alive(f.w.ctx)); err != nil {
		return 0, err
	}
	n, err := f.obj.Write(p)
	f.entry.Size += int64(n)
	if err != nil {
		return n, fmt.Errorf("store %s: %w", f.entry.Path, err)
	}
	return n, nil
}

// Keep ends the file and makes it part of the backup.
func (f *FileWriter) Keep() error {
	id, err := f.obj.Result()
	if err = errors.Join(err, f.obj.Close()); err != nil {
		return fmt.Errorf("store %s: %w", f.entry.Path, err)
	}
	f.entry.object = id.String()
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.entries[f.entry.Path] = f.entry
	return nil
}

// Discard ends the file without making it part of the backup, as for one that vanished while it was read.
func (f *FileWriter) Discard() error { return f.obj.Close() }

// Dir makes a directory part of the backup. Parents of files come by themselves, with mode 0700.
func (w *Writer) Dir(e Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.Dir = true
	w.entries[e.Path] = e
}

// Stored is how many bytes this session has added to the vault so far.
func (w *Writer) Stored() int64 { return w.stored.Load() }

// Abort ends the session without a backup.
func (w *Writer) Abort() error {
	defer w.work.end(w.ctx)
	if err := w.repo.Close(w.ctx); err != nil {
		return fmt.Errorf("abort backup: %w", err)
	}
	return nil
}

// Commit lists the backup. It fills in ID (unless given), Application, Files, Bytes, Stored and Written, and
// returns when everything is on the vault's disk. The session is over, whatever it returns.
func (w *Writer) Commit(b Backup) (Backup, error) {
	b, err := w.commit(b)
	err = errors.Join(err, w.repo.Close(w.ctx))
	var ending sync.WaitGroup // beside the catalog: neither needs the other
	ending.Go(func() { w.work.end(w.ctx) })
	defer ending.Wait()
	if err != nil {
		return Backup{}, fmt.Errorf("commit backup of %s: %w", b.Database, err)
	}
	// The backup is stored: what the catalog lacks is written with the next page, or found by a scrub.
	if err := errors.Join(w.vault.writeDown(w.ctx, false), w.vault.mergeCatalog(w.ctx)); err != nil {
		w.vault.log.WarnContext(w.ctx, "catalog not written", "backup", b.ID, "err", err)
	}
	return b, nil
}

func (w *Writer) commit(b Backup) (Backup, error) {
	now := time.Now().UTC()
	var salt [3]byte
	_, _ = rand.Read(salt[:]) // never fails (crypto/rand)
	if b.ID == "" {
		b.ID = fmt.Sprintf("%s-%s-%s", b.Database, now.Format("20060102T150405Z"), hex.EncodeToString(salt[:]))
	}
	b.Application, b.Written, b.Files, b.Bytes = w.vault.identity.Application, now, 0, 0
	for _, e := range w.entries {
		if !e.Dir {
			b.Files++
			b.Bytes += e.Size
		}
	}
	if err := w.describe(b); err != nil {
		return b, err
	}
	root, err := w.tree()
	if err != nil {
		return b, err
	}
	// The chunks must be there before the list entry that names them: two flushes, and the size is known.
	if err := w.repo.Flush(w.ctx); err != nil {
		return b, err
	}
	if err := w.work.alive(w.ctx); err != nil { // what was found, not stored, may have been freed meanwhile
		return b, err
	}
	b.Stored = w.stored.Load()
	about, err := json.Marshal(b)
	if err != nil {
		return b, err
	}
	m := &snapshot.Manifest{
		Source:      snapshot.SourceInfo{Host: b.Application, UserName: userName, Path: "/databases/" + b.Database},
		Description: fmt.Sprintf("%s backup %s, log %s to %s on timeline %d", b.Kind, b.ID, b.Start, b.Stop, b.Timeline),
		StartTime:   snapshot.TimeOf(b.Started), EndTime: snapshot.TimeOf(b.Stopped),
		Stats:     snapshot.Stats{TotalFileSize: b.Bytes, TotalFileCount: int32(min(b.Files, 1<<31-1)), TotalDirectoryCount: int32(min(root.DirSummary.TotalDirCount, 1<<31-1))},
		RootEntry: root,
		Tags:      map[string]string{tagBackup: string(about), "tag:backup": b.ID, "tag:database": b.Database},
		Pins:      []string{pin},
	}
	return b, w.work.list(w.ctx, w.repo, m)
}

// describe puts what is known of the backup into the backup, so that whatever restores it finds it there.
func (w *Writer) describe(b Backup) error {
	raw, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	f := w.File(Entry{Path: "holdfast-backup.json", Mode: 0o600, ModTime: b.Written})
	if _, err := bytes.NewReader(append(raw, '\n')).WriteTo(f); err != nil {
		return errors.Join(err, f.Discard())
	}
	return f.Keep()
}

// tree writes a directory manifest for each directory, deepest first, and gives the root's entry.
func (w *Writer) tree() (*snapshot.DirEntry, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p := range maps.Clone(w.entries) { // parents that nobody named
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			if _, ok := w.entries[d]; !ok {
				w.entries[d] = Entry{Path: d, Dir: true, Mode: 0o700}
			}
		}
	}
	children := map[string][]Entry{}
	for p, e := range w.entries {
		children[path.Dir(p)] = append(children[path.Dir(p)], e)
	}
	return w.dir(Entry{Path: ".", Dir: true, Mode: 0o700}, children)
}

func (w *Writer) dir(e Entry, children map[string][]Entry) (*snapshot.DirEntry, error) {
	list := children[e.Path]
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })
	sum := &snapshot.DirectorySummary{TotalDirCount: 1}
	out := make([]*snapshot.DirEntry, 0, len(list))
	for _, c := range list {
		if c.Dir {
			d, err := w.dir(c, children)
			if err != nil {
				return nil, err
			}
			sum.TotalFileSize += d.DirSummary.TotalFileSize
			sum.TotalFileCount += d.DirSummary.TotalFileCount
			sum.TotalDirCount += d.DirSummary.TotalDirCount
			out = append(out, d)
			continue
		}
		id, err := repo.ParseObjectID(c.object)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", c.Path, err)
		}
		sum.TotalFileCount++
		sum.TotalFileSize += c.Size
		if t := snapshot.TimeOf(c.ModTime); t > sum.MaxModTime {
			sum.MaxModTime = t
		}
		out = append(out, &snapshot.DirEntry{
			Name: path.Base(c.Path), Type: snapshot.TypeFile, Permissions: snapshot.Permissions(c.Mode),
			FileSize: c.Size, ModTime: snapshot.TimeOf(c.ModTime), ObjectID: id,
		})
	}
	id, err := snapshot.WriteDir(w.ctx, w.repo, e.Path, &snapshot.DirManifest{Stream: snapshot.DirStream, Entries: out, Summary: sum})
	if err != nil {
		return nil, fmt.Errorf("list directory %s: %w", e.Path, err)
	}
	name := path.Base(e.Path)
	if e.Path == "." {
		name = "root"
	}
	return &snapshot.DirEntry{
		Name: strings.TrimPrefix(name, "/"), Type: snapshot.TypeDir, Permissions: snapshot.Permissions(e.Mode),
		ModTime: snapshot.TimeOf(e.ModTime), ObjectID: id, DirSummary: sum,
	}, nil
}
