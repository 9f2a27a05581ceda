// Package restore makes a database out of a recovery point, with nothing but a vault and its key. Start at
// [Choose], which is pure: it picks the base backup and the log for a moment. [Run] puts them into an empty
// directory, [StartScratch] runs a server on it that nobody else can reach. [FindDeletes], [Diff] and
// [PutBack] undo a human mistake without touching what is right in the live database.
package restore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/durable"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// Options say what to restore and where to.
type Options struct {
	Vault  *vault.Vault
	Choice Choice // from Choose
	Dir    string // empty or absent, or left by an interrupted Run
	Delta  bool   // Dir may also hold an older or broken copy of the same database, stopped: it is written over
	Owner  Owner
	// Tablespaces say where tablespaces shall lie, by their names. One that is not named lies in Dir.tablespaces. Their old
	// places are never used unasked: the live server may have its files there.
	Tablespaces  map[string]string
	Workers      int                                        // files written at once; 0 = twice the cores
	Action       Action                                     // what the server does at the target
	LogMax       int64                                      // most bytes of log that are put beside the data; more needs FetchCommand. 0 = 8 GiB
	FetchCommand string                                     // a restore_command that fetches segments one by one, with %f and %p
	Throwaway    bool                                       // do not sync: the directory is for a scratch server alone
	Progress     func(Progress)                             // called a few times a second from one goroutine; nil = none
	Pace         func(ctx context.Context, bytes int) error // waits until so much more may be written; nil = no limit
	Log          *slog.Logger                               // nil = silent

	marked  bool     // the caller takes the marker away
	replica *filling // it becomes a standby's data; nil = a server of its own
}

// Action is what a restored server does when it reaches the target.
type Action string

// Actions. The zero value promotes.
const (
	Promote Action = "promote"
	Pause   Action = "pause" // read-only at the target, until told to go on
)

// Progress is how far a restore is.
type Progress struct {
	Phase string // files, log, finish
	Done  int64  // bytes
	Kept  int64  // of those, how many were right already
	Total int64
	Took  time.Duration
}

// Result is a directory that is ready to start.
type Result struct {
	Choice Choice
	Dir    string
	Bytes  int64 // of data files
	Kept   int64 // of those, how many were right already
	Log    int64 // bytes of log placed
	Took   time.Duration
	Times  Times // of [Database]
}

// markerFile stands in a directory while it is being restored and names the backup. It says whose leftovers
// these are; what keeps them from starting is that pg_control comes last.
const markerFile = "holdfast.restoring"

// marker is what the file says.
type marker struct {
	Backup   string `json:"backup"`
	Target   string `json:"target"`
	SystemID uint64 `json:"system_id,string,omitempty"`
}

const controlFile = "global/pg_control"

// Run fills Dir from the vault. Every byte is authenticated on the way. Until it returns nil no server starts
// on the directory: pg_control is written last. A directory with anything else in it is refused untouched. One that an
// interrupted Run left is gone on with: what is right there is not read again.
func Run(ctx context.Context, o Options) (Result, error) {
	if o.Workers <= 0 {
		o.Workers = 2 * runtime.GOMAXPROCS(0)
	}
	if o.LogMax == 0 {
		o.LogMax = 8 << 30
	}
	if o.Action == "" {
		o.Action = Promote
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &run{o: o, began: time.Now(), marked: o.marked}
	if err := r.run(ctx); err != nil {
		return Result{}, fmt.Errorf("restore %s to %s: %w", o.Choice.Backup.ID, o.Dir, o.Vault.Unreadable(o.Choice.Backup.ID, err))
	}
	res := Result{Choice: o.Choice, Dir: o.Dir, Bytes: o.Choice.Backup.Bytes, Kept: r.kept.Load(), Log: r.logBytes, Took: time.Since(r.began)}
	o.Log.InfoContext(ctx, "restored", "backup", o.Choice.Backup.ID, "target", o.Choice.Target.String(), "dir", o.Dir, "bytes", res.Bytes, "kept", res.Kept, "took", res.Took)
	return res, nil
}

type run struct {
	o        Options
	began    time.Time
	root     *os.Root
	spaces   []*space
	folders  folders
	done     atomic.Int64
	kept     atomic.Int64
	again    bool // there are files to go on with
	marked   bool // the marker stays, for what follows
	logBytes int64

	unsyncedMu sync.Mutex
	unsynced   []string // files whose content a power cut might take
}

func (r *run) run(ctx context.Context) error {
	reader, err := r.o.Vault.OpenBackup(ctx, r.o.Choice.Backup.ID)
	if err != nil {
		return err
	}
	entries := reader.Entries()
	if err := r.claim(ctx, entries); err != nil {
		return err
	}
	if r.again {
		if err := r.clear(entries); err != nil {
			return err
		}
	}
	if r.root, err = os.OpenRoot(r.o.Dir); err != nil {
		return err
	}
	defer func() { _ = r.root.Close() }() // each file was closed with its own error
	defer r.closeSpaces()
	if err := r.openSpaces(); err != nil {
		return err
	}
	stop := r.reporter("files", r.o.Choice.Backup.Bytes)
	control, err := r.files(ctx, reader)
	stop()
	if err != nil {
		return err
	}
	if r.o.replica != nil {
		return r.finishReplica(ctx, reader, control)
	}
	total := int64(len(r.o.Choice.Pieces)) * int64(r.o.Choice.Backup.SegmentSize)
	stop = r.reporter("log", total)
	err = r.placeLog(ctx, total)
	stop()
	if err != nil {
		return err
	}
	if r.logBytes > 0 {
		if err := r.refuseTablespaces(); err != nil {
			return err
		}
	}
	if err := r.linkSpaces(); err != nil {
		return err
	}
	if err := r.settings(); err != nil {
		return err
	}
	return r.finish(ctx, reader, control)
}

// claim makes sure that the directory is ours to fill, and that it can hold the restore.
func (r *run) claim(ctx context.Context, wanted []vault.Entry) error {
	c := r.o.Choice
	if !filepath.IsAbs(r.o.Dir) {
		return fmt.Errorf("%s is not an absolute path", r.o.Dir)
	}
	r.again = r.o.replica != nil // it may have tablespaces yet without the data directory
	entries, err := os.ReadDir(r.o.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case len(entries) > 0:
		if err := r.claimOver(ctx, entries[0].Name()); err != nil {
			return err
		}
	}
	if err := r.placeSpaces(); err != nil { // before anything is made
		return err
	}
	if err := r.room(wanted); err != nil {
		return err
	}
	if err := os.MkdirAll(r.o.Dir, 0o700); err != nil {
		return err
	}
	// A walk does not go through a link: nothing would be cleared, and no directory synced.
	if r.o.Dir, err = filepath.EvalSymlinks(r.o.Dir); err != nil {
		return err
	}
	if err := os.Chmod(r.o.Dir, 0o700); err != nil {
		return err
	}
	about, err := json.Marshal(marker{Backup: c.Backup.ID, Target: c.Target.String(), SystemID: c.Backup.SystemID})
	if err != nil {
		return err
	}
	if err := errors.Join(durable.WriteFile(filepath.Join(r.o.Dir, markerFile), append(about, '\n'), 0o600), r.o.Owner.take(r.o.Dir)); err != nil {
		return err
	}
	if err := r.makeSpaces(about); err != nil {
		return err
	}
	return disarm(r.o.Dir)
}

// claimOver accepts files to go on with: an interrupted restore's, or with Delta a copy of the same database. found is
// one of them.
func (r *run) claimOver(ctx context.Context, found string) error {
	c := r.o.Choice
	r.again = true
	interrupted := false
	if r.o.replica == nil { // else whose files they are has been proven
		var err error
		if interrupted, err = leftBehind(r.o.Dir, c); err != nil {
			return err
		}
	}
	if interrupted {
		if err := endOrphan(ctx, r.o.Dir); err != nil {
			return err
		}
	}
	if err := stopped(r.o.Dir, c.Backup.Database); err != nil {
		return err
	}
	if interrupted || r.o.replica != nil {
		return nil
	}
	if r.o.Delta {
		return samePlace(r.o.Dir, c)
	}
	return notEmpty(c.Backup.Database, r.o.Dir, found)
}

func notEmpty(database, dir, found string) *problem.Problem {
	return &problem.Problem{Code: "restore.not-empty", Subject: database, Severity: problem.Critical,
		Title: dir + " is not empty", Meaning: fmt.Sprintf("It holds %s. Nothing was touched: a restore never writes over what is there.", found),
		Remedy: "name an empty directory with --to"}
}

// files writes everything but pg_control, largest first. It returns pg_control's entry.
func (r *run) files(ctx context.Context, reader *vault.Reader) (control vault.Entry, err error) {
	var files []vault.Entry
	for _, e := range reader.Entries() {
		rel, ok := strings.CutPrefix(e.Path, vault.DataDir+"/")
		switch {
		case !ok || r.isSpace(rel): // a link, made at the end
		case e.Dir:
			if err := r.mkdir(rel, e.Mode); err != nil {
				return control, err
			}
		case rel == controlFile:
			control = e
		default:
			files = append(files, e)
		}
	}
	if control.Path == "" {
		return control, errors.New("the backup holds no pg_control")
	}
	slices.SortStableFunc(files, func(a, b vault.Entry) int { return int(min(max(b.Size-a.Size, -1), 1)) })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.o.Workers)
	for _, e := range files {
		if ctx.Err() != nil {
			break
		}
		rel := strings.TrimPrefix(e.Path, vault.DataDir+"/")
		var l *large
		if e.Size > stretchSize {
			if l, err = r.begin(ctx, reader, e, rel); err != nil {
				return control, errors.Join(err, g.Wait())
			}
		}
		if l == nil {
			g.Go(func() error { return r.file(ctx, reader, e, rel) })
			continue
		}
		for _, p := range l.parts {
			g.Go(func() error { return l.write(ctx, p) })
		}
	}
	return control, g.Wait()
}

func (r *run) mkdir(rel string, mode uint32) error {
	root, below := r.at(rel)
	err := root.Mkdir(below, os.FileMode(mode)|0o700)
	if r.again && errors.Is(err, fs.ErrExist) {
		err = root.Chmod(below, os.FileMode(mode)|0o700)
	}
	if err != nil {
		return err
	}
	return r.own(rel)
}

func (r *run) own(rel string) error {
	if !r.o.Owner.Set {
		return nil
	}
	root, below := r.at(rel)
	return root.Chown(below, int(r.o.Owner.UID), int(r.o.Owner.GID))
}

func (r *run) file(ctx context.Context, reader *vault.Reader, e vault.Entry, rel string) error {
	if r.again {
		if done, err := r.mend(ctx, reader, e, rel); err != nil || done {
			return err
		}
	}
	if e.Size > smallMax {
		if l, err := r.begin(ctx, reader, e, rel); err != nil {
			return err
		} else if l != nil {
			return l.writeAll(ctx)
		}
	}
	return r.write(rel, os.FileMode(e.Mode)|0o600, func(f *os.File) error {
		return reader.Copy(ctx, e, r.counted(ctx, f))
	})
}

// write makes one new file of the owner's.
func (r *run) write(rel string, mode os.FileMode, fill func(*os.File) error) error {
	root, below := r.at(rel)
	f, err := root.OpenFile(below, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		r.later(rel, f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", rel, err)
	}
	return r.own(rel)
}

type counted struct {
	f    *os.File
	n    *atomic.Int64
	pace func(bytes int) error // nil = no limit
}

func (r *run) counted(ctx context.Context, f *os.File) *counted {
	c := &counted{f: f, n: &r.done}
	if r.o.Pace != nil {
		c.pace = func(bytes int) error { return r.o.Pace(ctx, bytes) }
	}
	return c
}

func (c *counted) Write(p []byte) (int, error) {
	if c.pace != nil {
		if err := c.pace(len(p)); err != nil {
			return 0, err
		}
	}
	n, err := c.f.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// placeLog puts the log and the timeline's histories into pg_wal, unless it is too much for that.
func (r *run) placeLog(ctx context.Context, total int64) error {
	c := r.o.Choice
	log := r.o.Vault.Log(c.Backup.SystemID, c.Backup.SegmentSize)
	if err := r.placeHistories(ctx, log); err != nil {
		return err
	}
	if total > r.o.LogMax {
		if r.o.FetchCommand != "" {
			return nil
		}
		return &problem.Problem{Code: "restore.much-log", Subject: c.Backup.Database, Severity: problem.Critical,
			Title: fmt.Sprintf("%d MB of log lead to %s, more than %d MB", total>>20, c.Target, r.o.LogMax>>20), Meaning: "The directory was not finished and cannot start.",
			Remedy: "restore with a fetch command, or allow more log beside the data"}
	}
	return r.placePieces(ctx, log, total)
}

func (r *run) placePieces(ctx context.Context, log *vault.Log, total int64) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.o.Workers)
	for _, p := range r.o.Choice.Pieces {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			content, err := log.Fetch(ctx, p)
			if err != nil {
				return err
			}
			name := wal.SegmentName(p.Timeline, p.Start, log.SegmentSize())
			return r.write(path.Join("pg_wal", name), 0o600, func(f *os.File) error {
				// What a parent timeline wrote behind the point where its child begins is not part of this history.
				if _, err := r.counted(ctx, f).Write(content[:min(int(p.End-p.Start), len(content))]); err != nil {
					return err
				}
				return f.Truncate(int64(log.SegmentSize())) // zeros end the log
			})
		})
	}
	r.logBytes = total
	return g.Wait()
}

func (r *run) placeHistories(ctx context.Context, log *vault.Log) error {
	timelines, err := log.Timelines(ctx)
	if err != nil {
		return err
	}
	for _, t := range timelines {
		if t == 1 || t > r.o.Choice.Timeline {
			continue
		}
		content, err := log.HistoryFile(ctx, t)
		if errors.Is(err, vault.ErrNotHeld) && t != r.o.Choice.Timeline {
			continue
		}
		if err != nil {
			return err
		}
		err = r.write(path.Join("pg_wal", wal.HistoryName(t)), 0o600, func(f *os.File) error {
			_, err := bytes.NewReader(content).WriteTo(f)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// finish makes everything else durable, then writes pg_control, then takes the marker away.
func (r *run) finish(ctx context.Context, reader *vault.Reader, control vault.Entry) error {
	const temp = controlFile + ".holdfast"
	if err := r.file(ctx, reader, control, temp); err != nil {
		return err
	}
	if err := r.sync(ctx); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil { // what is cut off does not become whole
		return err
	}
	if err := r.root.Rename(temp, controlFile); err != nil {
		return err
	}
	if err := durable.SyncDir(filepath.Join(r.o.Dir, "global")); err != nil {
		return err
	}
	if err := r.unmarkSpaces(); err != nil { // theirs say nothing without the one of Dir
		return err
	}
	if r.marked {
		return nil
	}
	if err := r.root.Remove(markerFile); err != nil {
		return err
	}
	return durable.SyncDir(r.o.Dir)
}

// reporter tells of progress until the returned function is called.
func (r *run) reporter(phase string, total int64) (stop func()) {
	if r.o.Progress == nil {
		return func() {}
	}
	r.done.Store(0)
	tell := func() {
		r.o.Progress(Progress{Phase: phase, Done: r.done.Load(), Kept: r.kept.Load(), Total: total, Took: time.Since(r.began)})
	}
	quit, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		t := time.NewTicker(200 * time.Millisecond)
		defer t.Stop()
		for {
			tell()
			select {
			case <-quit:
				tell()
				return
			case <-t.C:
			}
		}
	}()
	return func() { close(quit); <-gone }
}
