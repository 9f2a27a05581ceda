package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/internal/pgdata"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// need is the room that one directory of a restore takes, in bytes.
type need struct {
	dir   string
	bytes int64
	free  int64  // on its disk
	disk  uint64 // directories of one disk share its room
}

// needs are the room for the data directory with its log, and for each tablespace. Bytes that are there already, and will
// be written over, are taken off.
func needs(dir string, c Choice, spaces []*space, wanted []vault.Entry) ([]need, error) {
	data := c.Backup.Bytes + int64(len(c.Pieces))*int64(c.Backup.SegmentSize)
	for _, s := range spaces {
		data -= s.Bytes
	}
	out := []need{{dir: dir, bytes: data}}
	for _, s := range spaces {
		out = append(out, need{dir: s.dir, bytes: s.Bytes})
	}
	for i := range out {
		if len(wanted) == 0 {
			break
		}
		used, err := usedAt(dir, spaces, i) // what is not wanted goes before the rest comes, the log among it
		if err != nil {
			return nil, err
		}
		out[i].bytes -= used
	}
	for _, e := range wanted {
		rel, ok := strings.CutPrefix(e.Path, vault.DataDir+"/")
		if !ok || e.Dir {
			continue
		}
		at, below := 0, rel
		for i, s := range spaces {
			if _, rest, in := pgdata.InSpace(rel); in && strings.HasPrefix(rel, s.prefix()+"/") {
				at, below = i+1, rest
			}
		}
		has, kept := taken(filepath.Join(out[at].dir, filepath.FromSlash(below)), e.Size)
		out[at].bytes += has - kept // what it has too much goes last
	}
	for i := range out {
		out[i].bytes = max(out[i].bytes, 0)
		var err error
		if out[i].free, out[i].disk, err = roomAt(out[i].dir); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// usedAt is how much room the files take that a restore clears or writes over: in the data directory (0), or in the place
// of the i-th tablespace.
func usedAt(dir string, spaces []*space, i int) (int64, error) {
	if i == 0 {
		return usedBy(dir)
	}
	return spaces[i-1].used()
}

// taken is how much room a file has, and how much of it serves one of that size.
func taken(p string, size int64) (has, kept int64) {
	fi, err := os.Lstat(p)
	if err != nil || !fi.Mode().IsRegular() {
		return 0, 0
	}
	st, known := fi.Sys().(*syscall.Stat_t)
	if !known || st.Nlink > 1 {
		return 0, 0
	}
	return st.Blocks * 512, min(size, st.Blocks*512)
}

// roomAt is the free room on the disk on which a directory lies or will lie.
func roomAt(dir string) (free int64, disk uint64, err error) {
	above := dir
	var st unix.Stat_t
	for {
		err := unix.Stat(above, &st)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || above == filepath.Dir(above) {
			return 0, 0, fmt.Errorf("ask for free space on %s: %w", above, err)
		}
		above = filepath.Dir(above)
	}
	var f unix.Statfs_t
	if err := unix.Statfs(above, &f); err != nil {
		return 0, 0, fmt.Errorf("ask for free space on %s: %w", above, err)
	}
	return int64(f.Bavail) * f.Bsize, st.Dev, nil
}

// Spare is what must stay free, in bytes, on a disk of so many, beside what is written on trial and removed again: 256 MiB and the
// twentieth part, of that at most 20 GiB. A live database often lies there too.
func Spare(disk int64) int64 { return 256<<20 + min(disk/20, 20<<30) }

// TightError says that nothing was written on trial, for its disk would be left with too little room.
type TightError struct {
	Dir               string
	Free, Need, Spare int64 // bytes
}

func (e *TightError) Error() string {
	return fmt.Sprintf("the disk of %s has %d MB free, where %d MB and %d MB that must stay free are needed", e.Dir, e.Free>>20, e.Need>>20, e.Spare>>20)
}

// spared sees that the disk of a directory keeps its spare behind so many bytes; else a *TightError.
func spared(dir string, bytes int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("ask for free space on %s: %w", dir, err)
	}
	free, spare := int64(st.Bavail)*st.Bsize, Spare(int64(st.Blocks)*st.Bsize)
	if free-spare < bytes {
		return &TightError{Dir: dir, Free: free, Need: bytes, Spare: spare}
	}
	return nil
}

// lacks is the first disk on which all that goes there does not fit; nil when everything fits.
func lacks(all []need) *need {
	sum := map[uint64]int64{}
	for _, n := range all {
		sum[n.disk] += n.bytes
		if sum[n.disk] > n.free {
			n.bytes = 0
			for _, x := range all {
				if x.disk == n.disk {
					n.bytes += x.bytes
				}
			}
			return &n
		}
	}
	return nil
}

// room refuses a restore that does not fit. It changes nothing.
func (r *run) room(wanted []vault.Entry) error {
	if !r.again {
		wanted = nil
	}
	all, err := needs(r.o.Dir, r.o.Choice, r.spaces, wanted)
	if err != nil {
		return err
	}
	n := lacks(all)
	if n == nil {
		return nil
	}
	return tooSmall(r.o.Choice.Backup.Database, n.dir, n.free, n.bytes)
}

// tooSmall says that a restore does not fit; free and needed in bytes.
func tooSmall(database, dir string, free, needed int64) *problem.Problem {
	return &problem.Problem{Code: "restore.no-space", Subject: database, Severity: problem.Critical,
		Title: fmt.Sprintf("the disk of %s has %d MB free, %d MB are needed", dir, free>>20, needed>>20), Meaning: "Nothing was written.",
		Remedy: "name a directory on a larger disk with --to, for a tablespace with --tablespace"}
}
