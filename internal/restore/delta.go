package restore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"holdfast/internal/durable"
	"holdfast/internal/pgcontrol"
	"holdfast/internal/pgdata"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// A restore onto files that are there reads from the vault only what is not right already: each chunk is recognised by
// its keyed hash. So an interrupted restore goes on, and an old copy of the database becomes the one that is wanted.
// Before the first byte is changed pg_control is taken away, and it comes back last: nothing between can start.

// samePlace refuses a directory whose content is not an older or broken copy of the same database, stopped.
func samePlace(dir string, c Choice) error {
	refuse := func(code, title, remedy string) error {
		return &problem.Problem{Code: code, Subject: c.Backup.Database, Severity: problem.Critical, Title: title,
			Meaning: "Nothing was touched.", Remedy: remedy}
	}
	version, err := os.ReadFile(filepath.Join(dir, "PG_VERSION"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if got, want := strings.TrimSpace(string(version)), strconv.Itoa(c.Backup.ServerVersion/10000); got != want {
		return refuse("restore.other-data", fmt.Sprintf("%s is not a data directory of PostgreSQL %s", dir, want), "name an empty directory with --to")
	}
	control, err := pgcontrol.Read(dir)
	if err != nil {
		return refuse("restore.other-data", fmt.Sprintf("what %s holds cannot be told: %v", dir, err), "name an empty directory with --to")
	}
	if control.SystemID != c.Backup.SystemID {
		return refuse("restore.other-data", fmt.Sprintf("%s holds another database: system %d, the backup is of %d", dir, control.SystemID, c.Backup.SystemID), "name an empty directory with --to")
	}
	return nil
}

// leftBehind reports whether an interrupted restore of the same database left the directory. One of another database is
// refused: it may still be wanted.
func leftBehind(dir string, c Choice) (bool, error) {
	m, marked, err := readMarker(dir)
	if !marked || err != nil {
		return false, err
	}
	if m.SystemID != 0 && m.SystemID != c.Backup.SystemID {
		return false, &problem.Problem{Code: "restore.not-empty", Subject: c.Backup.Database, Severity: problem.Critical,
			Title: fmt.Sprintf("%s holds an unfinished restore of another database, from backup %s", dir, m.Backup), Meaning: "Nothing was touched.",
			Remedy: "name an empty directory with --to, or remove that one if it is not wanted any more"}
	}
	return true, nil
}

// readMarker reads what an interrupted restore left in a directory; false = none did.
func readMarker(dir string) (m marker, marked bool, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, markerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err != nil {
		return m, false, fmt.Errorf("read what was being restored to %s: %w", dir, err)
	}
	return m, true, nil
}

// disarm takes pg_control away, so that nothing starts on the directory from here on.
func disarm(dir string) error {
	p := filepath.Join(dir, filepath.FromSlash(controlFile))
	if err := os.Remove(p); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return durable.SyncDir(filepath.Dir(p))
}

// clear removes what the backup does not have, links and the log among it. Of a tablespace's place that is what lies in
// the folder of its own PostgreSQL version.
func (r *run) clear(entries []vault.Entry) error {
	wanted := map[string]bool{} // true = a directory
	for _, e := range entries {
		if rel, ok := strings.CutPrefix(e.Path, vault.DataDir+"/"); ok && !r.isSpace(rel) {
			wanted[rel] = e.Dir
		}
	}
	if err := clearBelow(r.o.Dir, "", wanted); err != nil {
		return err
	}
	for _, x := range r.spaces {
		if err := x.clear(wanted); err != nil {
			return err
		}
	}
	return nil
}

func (s *space) clear(wanted map[string]bool) error {
	folders, err := s.folders()
	for _, f := range folders {
		at, p := path.Join(s.prefix(), f.Name()), filepath.Join(s.dir, f.Name())
		switch {
		case !wanted[at]: // another catalog's: somebody else's
		case f.IsDir():
			err = clearBelow(p, at, wanted)
		default:
			err = os.Remove(p)
		}
		if err != nil {
			return fmt.Errorf("clear the place of tablespace %s: %w", s.Name, err)
		}
	}
	return err
}

// clearBelow removes from a directory, which stands at prefix in the backup, what is not wanted.
func clearBelow(top, prefix string, wanted map[string]bool) error {
	return filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == top {
			return err
		}
		rel, err := filepath.Rel(top, p)
		if err != nil {
			return err
		}
		if rel == markerFile {
			return nil
		}
		dir, keep := wanted[path.Join(prefix, filepath.ToSlash(rel))]
		if keep && (dir && d.IsDir() || !dir && d.Type().IsRegular()) {
			return nil
		}
		if err := os.RemoveAll(p); err != nil {
			return fmt.Errorf("clear what the backup does not have: %w", err)
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

// mend makes a file that is there the one of the backup; false when it must be written anew.
func (r *run) mend(ctx context.Context, reader *vault.Reader, e vault.Entry, rel string) (done bool, err error) {
	root, below := r.at(rel)
	fi, err := root.Lstat(below)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	chunks, ok, err := reader.Chunks(ctx, e)
	if err != nil {
		return false, err
	}
	st, known := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.Mode().IsRegular() || !known || st.Nlink > 1 { // under another name it is somebody else's
		return false, root.Remove(below)
	}
	f, err := root.OpenFile(below, os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	err = r.mendChunks(ctx, reader, f, chunks)
	if err == nil {
		err = f.Truncate(e.Size)
	}
	if err == nil {
		err = f.Chmod(os.FileMode(e.Mode) | 0o600)
	}
	if err == nil {
		r.later(rel, f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return false, fmt.Errorf("mend %s: %w", rel, err)
	}
	return true, r.own(rel)
}

func (r *run) mendChunks(ctx context.Context, reader *vault.Reader, f *os.File, chunks []vault.Chunk) error {
	buf := make([]byte, vault.ChunkSize)
	at := int64(0)
	for _, k := range chunks {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.ReadAt(buf[:k.Length], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if reader.Same(k, buf[:n]) {
			r.kept.Add(k.Length)
		} else {
			if r.o.Pace != nil {
				if err := r.o.Pace(ctx, int(k.Length)); err != nil {
					return err
				}
			}
			content, err := reader.Fetch(ctx, k)
			if err != nil {
				return err
			}
			if err := writeDiffering(f, content, buf[:n], at); err != nil {
				return err
			}
		}
		r.done.Add(k.Length)
		at += k.Length
	}
	return nil
}

// writeDiffering makes what lies at a place of a file the content, and writes only the pages that are not what is there.
func writeDiffering(f io.WriterAt, content, there []byte, at int64) error {
	for from := 0; from < len(content); {
		to := from
		for to < len(content) && !samePage(content, there, to) {
			to = min(to+pgdata.PageSize, len(content))
		}
		if to > from {
			if _, err := f.WriteAt(content[from:to], at+int64(from)); err != nil {
				return err
			}
		}
		from = to + pgdata.PageSize // which is the same, or behind the end
	}
	return nil
}

// samePage reports whether the page at a position of the content, or what is left of one, is there already.
func samePage(content, there []byte, at int) bool {
	to := min(at+pgdata.PageSize, len(content))
	return to <= len(there) && bytes.Equal(content[at:to], there[at:to])
}
