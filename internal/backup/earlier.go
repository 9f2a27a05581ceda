package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/pgdata"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// Mode says how a base backup learns what has changed since the one before. Whatever it is, what comes out is a
// whole backup that depends on no other: its files are lists of chunks, old and new.
type Mode string

// Modes. The zero value is a full backup: every byte is read and hashed, and pages that cannot have changed since
// the backup before are compared with it.
const (
	Proven Mode = "proven" // an incremental that reads and hashes everything too, and stores what the vault lacks
	Fast   Mode = "fast"   // an incremental that takes over chunks without a changed page
	Auto   Mode = "auto"   // fast from autoFrom on, else proven
)

const (
	// autoFrom is the size, in bytes, from which reading everything for each incremental is too much load: at the
	// gigabyte a second that one core hashes, two minutes.
	autoFrom = 128 << 30
	// rereadEvery bounds how long fast backups may go on from one another before everything is read again.
	rereadEvery = 7 * 24 * time.Hour
	// earlierTried is how many of this host's backups are opened to find one of the same directory.
	earlierTried = 3
	// settled is how much older than its listing a file's last change must be to be told by its times alone: the
	// kernel's clock for them stands still for milliseconds.
	settled = 2 * time.Second
	// factsFile lies in each backup, beside the data directory.
	factsFile = "holdfast-files.json"
)

// facts say what a backup found in the directory that it read, so that a later one from the same directory can tell
// what has not been touched since. Two hosts' directories are never the same, whatever is in them.
type facts struct {
	Host    string          `json:"host"`
	Dir     string          `json:"dir"`
	Inode   uint64          `json:"inode"` // of Dir
	Scanned time.Time       `json:"scanned"`
	Files   map[string]fact `json:"files"` // relations' main forks alone: the rest is always read
}

// fact is one file. Times are nanoseconds since 1970 by the file system.
type fact struct {
	Size     int64  `json:"size"`
	Inode    uint64 `json:"inode"`
	Modified int64  `json:"modified"`
	Changed  int64  `json:"changed"` // ctime, which nothing but the kernel sets
}

// untouched reports whether nothing was written to the file since it was listed at the time scanned, though its
// content may have been read later: a later write shows.
func (was fact) untouched(now fact, scanned time.Time) bool {
	quiet := scanned.Add(-settled).UnixNano()
	return was == now && was.Modified < quiet && was.Changed < quiet
}

// grown reports whether now is the same file as was, perhaps written to. A file whose times went back is not: its
// disk was set back.
func (was fact) grown(now fact) bool {
	return was.Inode == now.Inode && now.Modified >= was.Modified && now.Changed >= was.Changed
}

// mainFork reports whether f's pages change only together with their positions in the log. A visibility map's bits are
// cleared without, and a free space map is not logged.
func (f file) mainFork() bool {
	r, ok := pgdata.ParseRelation(f.path)
	return ok && r.Fork == "" && f.relation
}

func factsOf(host, dir string, scanned time.Time, files []file) (facts, error) {
	abs, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return facts{}, err
	}
	fi, err := os.Stat(abs)
	if err != nil {
		return facts{}, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return facts{}, fmt.Errorf("look at %s: the system tells no inode", dir)
	}
	out := facts{Host: host, Dir: abs, Inode: st.Ino, Scanned: scanned, Files: map[string]fact{}}
	for _, f := range files {
		if f.mainFork() {
			out.Files[f.path] = f.fact
		}
	}
	return out, nil
}

// sameDir reports whether both speak of one directory.
func (f facts) sameDir(g facts) bool {
	return f.Host == g.Host && f.Dir == g.Dir && f.Inode == g.Inode
}

// earlier is a backup that another one may take chunks from, or is compared with.
type earlier struct {
	backup  vault.Backup
	facts   facts
	reader  *vault.Reader
	entries map[string]vault.Entry // by path below the data directory
	doubted string                 // a later backup in which pages changed behind the log, and nobody has accepted that; "" = none
}

// findEarlier opens the newest backup of a cluster that was made from the directory that now tells of; nil when there is none. A
// database that was made anew has another identifier, and nothing in common with the backups of the former one. While a
// suspicion stands, that is one from before it: compared with what was made since, the change would seem to be none.
func findEarlier(ctx context.Context, v *vault.Vault, database string, systemID uint64, now facts) (*earlier, error) {
	all, err := v.Backups(ctx, database)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(b vault.Backup) bool { return b.SystemID != systemID })
	changed, err := StandingChangeIn(ctx, v, all)
	if err != nil {
		return nil, err
	}
	doubted := ""
	if changed != nil {
		doubted = changed.Backup
		all = all[:slices.IndexFunc(all, func(b vault.Backup) bool { return b.ID == doubted })]
	}
	tried := 0
	for _, b := range slices.Backward(all) {
		if tried == earlierTried {
			break
		}
		if b.Reread.IsZero() || b.Host != now.Host || b.Validation != nil && !b.Validation.Passed {
			continue
		}
		tried++
		e, err := openEarlier(ctx, v, b)
		if err != nil {
			return nil, err
		}
		if e.doubted = doubted; e.facts.sameDir(now) {
			return e, nil
		}
	}
	return nil, nil
}

func openEarlier(ctx context.Context, v *vault.Vault, b vault.Backup) (*earlier, error) {
	r, err := v.OpenBackup(ctx, b.ID)
	if err != nil {
		return nil, err
	}
	e := &earlier{backup: b, reader: r, entries: map[string]vault.Entry{}}
	var raw bytes.Buffer
	for _, x := range r.Entries() {
		if rel, ok := strings.CutPrefix(x.Path, vault.DataDir+"/"); ok && !x.Dir {
			e.entries[rel] = x
		}
		if x.Path == factsFile {
			if err := r.Copy(ctx, x, &raw); err != nil {
				return nil, err
			}
		}
	}
	if err := json.Unmarshal(raw.Bytes(), &e.facts); err != nil {
		return nil, fmt.Errorf("read what backup %s was made from: %w", b.ID, err)
	}
	return e, nil
}

// chunks lists what the earlier backup stored of f; none when it cannot be used for f.
func (e *earlier) chunks(ctx context.Context, f file) ([]vault.Chunk, error) {
	if e == nil || !f.mainFork() {
		return nil, nil
	}
	was, known := e.facts.Files[f.path]
	entry, stored := e.entries[f.path]
	if !known || !stored || !was.grown(f.fact) {
		return nil, nil
	}
	list, ok, err := e.reader.Chunks(ctx, entry)
	if err != nil || !ok {
		return nil, err
	}
	return list, nil
}

// mayTake judges whether a fast backup b of a directory of size bytes may take chunks over from an earlier one, and says
// why not. Pure.
func mayTake(mode Mode, b vault.Backup, from *earlier, size int64, now time.Time) (bool, string) {
	switch {
	case mode != Fast && mode != Auto:
		return false, "everything was asked to be read"
	case from == nil:
		return false, "no earlier backup was made from this directory"
	}
	e := from.backup
	switch {
	case e.SystemID != b.SystemID || e.Timeline != b.Timeline:
		return false, e.ID + " is of another timeline"
	case e.ServerVersion != b.ServerVersion:
		return false, fmt.Sprintf("%s was made with another version of the server", e.ID)
	case e.Checksums != b.Checksums:
		return false, "page checksums were switched since " + e.ID
	case !b.Checksums: // then a page is marked all-visible without a new position, and the map, copied whole, would say more than its pages
		return false, "without page checksums pages change and their positions in the log do not"
	case b.Start < e.Stop:
		return false, "the server's log stands before the end of " + e.ID + ": its disk was set back"
	case from.doubted != "":
		return false, "pages changed behind the log since " + e.ID + ", as " + from.doubted + " found"
	case len(e.BadPages) > 0 || len(e.Differs) > 0:
		return false, e.ID + " holds pages that are doubtful"
	case now.Sub(e.Reread) > rereadEvery || now.Before(e.Reread):
		return false, fmt.Sprintf("everything was last read on %s", e.Reread.Format(time.DateOnly))
	case mode == Auto && size < autoFrom:
		return false, "reading everything costs little at this size"
	}
	return true, "chunks without a changed page are taken over from " + e.ID
}

// comparable reports whether pages that b reads can be compared with an earlier backup: with page checksums on, whatever
// changes a page moves its position in the log.
func comparable(b vault.Backup, from *earlier) bool {
	return from != nil && from.backup.SystemID == b.SystemID && from.backup.Timeline == b.Timeline &&
		from.backup.Checksums && b.Checksums && b.Start >= from.backup.Stop
}

// olderThan reports whether no page of a piece was changed by log from since on. Pages that were never filled have no
// position, and count as changed.
func olderThan(piece []byte, since wal.LSN) bool {
	if len(piece) == 0 || len(piece)%pgdata.PageSize != 0 {
		return false
	}
	for p := range slices.Chunk(piece, pgdata.PageSize) {
		if pgdata.Unfilled(p) || wal.LSN(pgdata.PageLSN(p)) >= since {
			return false
		}
	}
	return true
}

// headerSize is how many bytes of a page say what [olderThan] asks for.
const headerSize = 24

// headersOlder is [olderThan] of a stretch of a file: only the headers of its pages are copied out of the kernel's memory,
// which is told to have all of it, for a disk is read in large pieces or slowly. A stretch that the file ends within
// is not older.
func headersOlder(in *os.File, at, length int64, since wal.LSN) (bool, error) {
	if length == 0 || length%pgdata.PageSize != 0 {
		return false, nil
	}
	_ = unix.Fadvise(int(in.Fd()), at, 2*length, unix.FADV_WILLNEED) // a kernel that does not listen costs time alone
	var head [headerSize]byte
	for end := at + length; at < end; at += pgdata.PageSize {
		_, err := in.ReadAt(head[:], at)
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if pgdata.Unfilled(head[:]) || wal.LSN(pgdata.PageLSN(head[:])) >= since {
			return false, nil
		}
	}
	return true, nil
}

// firstLSN is the least position that a record of the log can have: the first segment is never written, and none is smaller
// than a mebibyte.
const firstLSN = 1 << 20

// logged reports whether each page of a piece carries the position of a record. While an index is built, GiST and GIN fill
// pages that carry 0 or 1 and write them to the log when all of it is done: until then they change without a new position.
// Taking such a page over is harmless, for replay writes it whole; to call it changed behind the log's back would be false.
func logged(piece []byte) bool {
	for p := range slices.Chunk(piece, pgdata.PageSize) {
		if len(p) == pgdata.PageSize && pgdata.PageLSN(p) < firstLSN {
			return false
		}
	}
	return true
}

func storeFacts(w *vault.Writer, f facts) error {
	raw, err := json.Marshal(f)
	if err != nil {
		return err
	}
	out := w.File(vault.Entry{Path: factsFile, Mode: 0o600, ModTime: f.Scanned})
	if _, err := bytes.NewReader(raw).WriteTo(out); err != nil {
		return errors.Join(err, out.Discard())
	}
	return out.Keep()
}
