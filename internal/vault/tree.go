package vault

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sync/atomic"
	"time"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/snapshot"
)

const (
	// tagFiles labels a snapshot of a file set with our description of it, as JSON.
	tagFiles = "tag:holdfast-files"
	// FilesDir is the directory inside a backup of a file set that holds the files.
	FilesDir = "files"
	// listFile holds a [Node] for each name, one a line: what kopia's directories cannot keep is there.
	listFile = "holdfast-entries.jsonl"
	// aboutFile says what is known of the backup.
	aboutFile = "holdfast-files.json"
	// fileSplitter cuts users' files by their content, so that what is put in front of something stored is all that is new.
	fileSplitter = "DYNAMIC-1M-BUZHASH"
	// listSplitter cuts the list small: each backup changes a few lines of it.
	listSplitter = "DYNAMIC-128K-BUZHASH"
)

// TreeWriter stores one backup of a file set. Contents may be stored by many goroutines; names are added by one, in
// order. It keeps no more in memory than the directories that are open. Nothing is listed until Commit.
type TreeWriter struct {
	vault  *Vault
	ctx    context.Context // bounds the whole session
	repo   *repo.Writer
	stored atomic.Int64
	work   *atWork
	list   *repo.ObjectWriter
	open   []*openDir
	last   string // path that was added last
	count  int
	listed int64 // bytes of list
	root   *snapshot.DirEntry
}

// openDir is a directory whose names are being added.
type openDir struct {
	node Node
	out  *repo.ObjectWriter
	any  bool
	sum  snapshot.DirectorySummary
}

// BeginTree opens a write session. It must end with Commit or Abort. ctx bounds the whole session.
func (v *Vault) BeginTree(ctx context.Context, purpose string) (*TreeWriter, error) {
	w := &TreeWriter{vault: v, ctx: ctx}
	var err error
	w.repo, w.work, err = v.newWriter(ctx, purpose, func(n int64) { w.stored.Add(n) })
	if err != nil {
		return nil, err
	}
	w.list = w.object(listFile, "", listSplitter)
	return w, nil
}

func (w *TreeWriter) object(what, prefix, split string) *repo.ObjectWriter {
	return w.repo.NewObject(w.ctx, repo.ObjectOptions{Prefix: prefix, Compress: true, Splitter: split})
}

// Content stores what r gives, by pieces of buf, and says under which name and how much it was.
func (w *TreeWriter) Content(what string, r io.Reader, buf []byte) (string, int64, error) {
	out := w.object(what, "", fileSplitter)
	n, err := io.CopyBuffer(living{w, out}, r, buf)
	var id repo.ObjectID
	if err == nil {
		id, err = out.Result()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return "", n, err
	}
	return id.String(), n, nil
}

// living passes on what is written while its backup may go on: one file may take days to read.
type living struct {
	w   *TreeWriter
	out io.Writer
}

func (l living) Write(p []byte) (int, error) {
	if err := l.w.mayGoOn(); err != nil {
		return 0, err
	}
	return l.out.Write(p)
}

// mayGoOn errs when what this backup relies on may be freed, or nothing may be written to the vault any more.
func (w *TreeWriter) mayGoOn() error { return errors.Join(w.vault.broken(), w.work.alive(w.ctx)) }

// Has reports whether the vault still holds a content that an earlier backup names.
func (w *TreeWriter) Has(name string) bool {
	id, err := repo.ParseObjectID(name)
	if err != nil {
		return false
	}
	has, err := w.repo.Has(w.ctx, id)
	return err == nil && has
}

// Checkpoint makes durable what has been stored so far, and lets go of what memory it took.
func (w *TreeWriter) Checkpoint() error {
	if err := w.repo.Flush(w.ctx); err != nil {
		return fmt.Errorf("flush the backup so far: %w", err)
	}
	return nil
}

// Stored is how many bytes this session has added to the vault so far.
func (w *TreeWriter) Stored() int64 { return w.stored.Load() }

// Add makes a name part of the backup. Names come in the order of [ComparePaths], a directory before what is in it.
func (w *TreeWriter) Add(n Node) error {
	if err := errors.Join(n.valid(), w.work.alive(w.ctx)); err != nil {
		return fmt.Errorf("list %q: %w", n.Path, err)
	}
	if w.count > 0 && ComparePaths(w.last, n.Path) >= 0 {
		return fmt.Errorf("list %q: it does not come after %q", n.Path, w.last)
	}
	dir := path.Dir(n.Path)
	for len(w.open) > 0 && n.Path != "." && w.open[len(w.open)-1].node.Path != dir {
		if err := w.closeDir(); err != nil {
			return err
		}
	}
	if (n.Path == ".") != (len(w.open) == 0) {
		return fmt.Errorf("list %q: its directory was not named before it", n.Path)
	}
	line, err := n.line()
	if err == nil {
		_, err = w.list.Write(line)
		w.listed += int64(len(line))
	}
	if err != nil {
		return fmt.Errorf("list %q: %w", n.Path, err)
	}
	w.count, w.last = w.count+1, n.Path
	if n.Kind == KindDir {
		w.open = append(w.open, &openDir{node: n, out: w.object("DIR:"+n.Path, "k", "")})
		return nil
	}
	return w.put(n)
}

// put adds a name that is no directory to the one that is open. kopia's directories know files and symbolic links; of
// the others only the list tells.
func (w *TreeWriter) put(n Node) error {
	if n.Kind != KindFile && n.Kind != KindSymlink {
		return nil
	}
	id, err := repo.ParseObjectID(n.Object)
	if err != nil {
		return fmt.Errorf("list %q: %w", n.Path, err)
	}
	e := n.entry(id)
	d := w.open[len(w.open)-1]
	if n.Kind == KindFile {
		e.Type, e.FileSize = snapshot.TypeFile, n.Size
		d.sum.TotalFileCount++
		d.sum.TotalFileSize += n.Size
	} else {
		e.Type, e.FileSize = snapshot.TypeSymlink, int64(len(n.Target))
		d.sum.TotalSymlinkCount++
	}
	d.sum.MaxModTime = max(d.sum.MaxModTime, e.ModTime)
	return d.put(e)
}

func (n Node) entry(id repo.ObjectID) *snapshot.DirEntry {
	return &snapshot.DirEntry{
		Name: path.Base(n.Path), Permissions: snapshot.Permissions(goMode(n.Mode)), ModTime: snapshot.Time(n.ModNs),
		UserID: n.UID, GroupID: n.GID, ObjectID: id,
	}
}

// goMode turns mode bits as chmod takes them into those that Go and kopia use.
func goMode(m uint32) fs.FileMode {
	out := fs.FileMode(m & 0o777)
	if m&0o4000 != 0 {
		out |= fs.ModeSetuid
	}
	if m&0o2000 != 0 {
		out |= fs.ModeSetgid
	}
	if m&0o1000 != 0 {
		out |= fs.ModeSticky
	}
	return out
}

// put writes one entry of the directory's manifest, which is written as it comes: a directory may have a million names.
func (d *openDir) put(e *snapshot.DirEntry) error {
	raw, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("list %q: %w", e.Name, err)
	}
	before := ","
	if !d.any {
		before, d.any = `{"stream":"kopia:directory","entries":[`, true
	}
	if _, err := d.out.Write(append([]byte(before), raw...)); err != nil {
		return fmt.Errorf("list %q: %w", e.Name, err)
	}
	return nil
}

func (d *openDir) end() (*snapshot.DirEntry, error) {
	d.sum.TotalDirCount++
	sum, err := json.Marshal(&d.sum)
	if err == nil {
		after := `],"summary":`
		if !d.any {
			after = `{"stream":"kopia:directory","entries":[],"summary":`
		}
		_, err = d.out.Write(append(append([]byte(after), sum...), '}', '\n'))
	}
	var id repo.ObjectID
	if err == nil {
		id, err = d.out.Result()
	}
	if err = errors.Join(err, d.out.Close()); err != nil {
		return nil, fmt.Errorf("list directory %q: %w", d.node.Path, err)
	}
	e := d.node.entry(id)
	e.Type, e.DirSummary = snapshot.TypeDir, &d.sum
	return e, nil
}

// closeDir ends the innermost directory and adds it to the one around it.
func (w *TreeWriter) closeDir() error {
	d := w.open[len(w.open)-1]
	w.open = w.open[:len(w.open)-1]
	e, err := d.end()
	if err != nil {
		return err
	}
	if len(w.open) == 0 {
		e.Name, w.root = FilesDir, e
		return nil
	}
	above := w.open[len(w.open)-1]
	above.sum.TotalFileCount += d.sum.TotalFileCount
	above.sum.TotalFileSize += d.sum.TotalFileSize
	above.sum.TotalSymlinkCount += d.sum.TotalSymlinkCount
	above.sum.TotalDirCount += d.sum.TotalDirCount
	above.sum.MaxModTime = max(above.sum.MaxModTime, d.sum.MaxModTime)
	return above.put(e)
}

// Abort ends the session without a backup.
func (w *TreeWriter) Abort() error {
	defer w.work.end(w.ctx)
	var errs []error
	if w.list != nil {
		errs = append(errs, w.list.Close())
	}
	for _, d := range w.open {
		errs = append(errs, d.out.Close())
	}
	if err := errors.Join(append(errs, w.repo.Close(w.ctx))...); err != nil {
		return fmt.Errorf("abort backup: %w", err)
	}
	return nil
}

// Commit lists the backup. It fills in ID (unless given), Application, Stored, Entries, List and Written, and returns when
// everything is on the vault's disk. The session is over, whatever it returns.
func (w *TreeWriter) Commit(b FileBackup) (FileBackup, error) {
	defer w.work.end(w.ctx)
	b, err := w.commit(b)
	if err != nil {
		return FileBackup{}, errors.Join(fmt.Errorf("commit backup of %s: %w", b.Set, err), w.Abort())
	}
	if err := w.repo.Close(w.ctx); err != nil {
		return FileBackup{}, fmt.Errorf("commit backup of %s: %w", b.Set, err)
	}
	// The backup is stored: what the catalog lacks is written with the next page, or found by a scrub.
	if err := errors.Join(w.vault.writeDown(w.ctx, false), w.vault.mergeCatalog(w.ctx)); err != nil {
		w.vault.log.WarnContext(w.ctx, "catalog not written", "backup", b.ID, "err", err)
	}
	return b, nil
}

func (w *TreeWriter) commit(b FileBackup) (FileBackup, error) {
	for len(w.open) > 0 {
		if err := w.closeDir(); err != nil {
			return b, err
		}
	}
	if w.root == nil {
		return b, errors.New("it has no root")
	}
	listID, err := w.list.Result()
	err = errors.Join(err, w.list.Close())
	w.list = nil
	if err != nil {
		return b, err
	}
	now := time.Now().UTC()
	if b.ID == "" {
		var salt [3]byte
		_, _ = rand.Read(salt[:]) // never fails (crypto/rand)
		b.ID = fmt.Sprintf("%s-%s-%s", b.Set, now.Format("20060102T150405Z"), hex.EncodeToString(salt[:]))
	}
	b.Application, b.Written, b.Entries, b.List = w.vault.identity.Application, now, w.count, listID.String()
	root, err := w.superRoot(b, listID)
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
		Source:      snapshot.SourceInfo{Host: b.Application, UserName: userName, Path: "/files/" + b.Set + "/" + b.Host},
		Description: fmt.Sprintf("files %s of %s on %s: %s", b.Set, b.Path, b.Host, b.ID),
		StartTime:   snapshot.TimeOf(b.Started), EndTime: snapshot.TimeOf(b.Ended),
		Stats:     snapshot.Stats{TotalFileSize: b.Bytes, TotalFileCount: int32(min(b.Files, 1<<31-1)), TotalDirectoryCount: int32(min(b.Dirs, 1<<31-1))},
		RootEntry: root,
		Tags:      map[string]string{tagFiles: string(about), "tag:backup": b.ID, "tag:files": b.Set},
		Pins:      []string{pin},
	}
	return b, w.work.list(w.ctx, w.repo, m)
}

// superRoot is the backup's own root: the files, the list of them and what is known of the backup, each by itself, so that
// nothing of ours lies among the user's files.
func (w *TreeWriter) superRoot(b FileBackup, list repo.ObjectID) (*snapshot.DirEntry, error) {
	raw, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return nil, err
	}
	aboutID, size, err := w.Content(aboutFile, bytes.NewReader(append(raw, '\n')), make([]byte, 32<<10))
	if err != nil {
		return nil, err
	}
	about, err := repo.ParseObjectID(aboutID)
	if err != nil {
		return nil, err
	}
	at := snapshot.TimeOf(b.Ended)
	top := &openDir{node: Node{Path: ".", Mode: 0o700, ModNs: b.Ended.UnixNano()}, out: w.object("DIR:/", "k", "")}
	top.sum = *w.root.DirSummary
	top.sum.TotalFileCount += 2
	top.sum.TotalFileSize += w.listed + size
	for _, e := range []*snapshot.DirEntry{
		w.root,
		{Name: listFile, Type: snapshot.TypeFile, Permissions: 0o600, ModTime: at, FileSize: w.listed, ObjectID: list},
		{Name: aboutFile, Type: snapshot.TypeFile, Permissions: 0o600, ModTime: at, FileSize: size, ObjectID: about},
	} {
		if err := top.put(e); err != nil {
			return nil, err
		}
	}
	e, err := top.end()
	if err != nil {
		return nil, err
	}
	e.Name = "root"
	return e, nil
}
