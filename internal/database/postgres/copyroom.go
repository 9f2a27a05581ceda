package postgres

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/database/postgres/replica"
	"holdfast/internal/problem"
)

// growth is how many bytes more than there are now a copy of these files takes in the data directory.
func (s *Server) growth(files []replica.File) (int64, error) {
	there, err := exists(s.at.data)
	if err != nil {
		return 0, err
	}
	if there {
		return replica.Growth(s.at.data, files, spared)
	}
	var more int64
	for _, f := range files {
		more += f.Size
	}
	return more, nil
}

// hasRoom refuses a copy that the disks cannot hold: so many bytes more of data, with the log that is written meanwhile, and of
// tablespaces, by directory.
func (s *Server) hasRoom(more int64, spaces map[string]int64) error {
	need := map[string]int64{s.at.dir: more + copyLogRoom}
	for dir, n := range spaces {
		need[dir] += max(n, 0) // what it gives free comes late
	}
	disks, err := byDisk(need, diskOf)
	if err != nil {
		return err
	}
	for _, d := range disks {
		if err := s.diskHolds(d); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) diskHolds(d diskNeed) error {
	free, err := s.cfg.Free(d.dirs[0])
	if err != nil {
		return err
	}
	need := d.bytes + copyMargin
	if free >= need {
		return nil
	}
	return &problem.Problem{
		Code: "database.no-space-for-copy", Subject: s.cfg.Database, Severity: problem.Degraded,
		Title:   fmt.Sprintf("a copy needs %s on %s, and %s are free", bytesText(need), s.cfg.Host, bytesText(free)),
		Meaning: "The database has one copy less than the plan asks for. Nothing was touched; Holdfast looks again by itself.",
		Remedy:  "free or add space where " + strings.Join(d.dirs, " and ") + " lies",
	}
}

// diskNeed is what goes to the directories of one disk, in bytes.
type diskNeed struct {
	dirs  []string // sorted
	bytes int64
}

// byDisk adds up what goes to each disk.
func byDisk(need map[string]int64, disk func(dir string) (uint64, error)) ([]diskNeed, error) {
	sum := map[uint64]diskNeed{}
	for _, dir := range slices.Sorted(maps.Keys(need)) {
		number, err := disk(dir)
		if err != nil {
			return nil, err
		}
		d := sum[number]
		sum[number] = diskNeed{append(d.dirs, dir), d.bytes + need[dir]}
	}
	return slices.SortedFunc(maps.Values(sum), func(a, b diskNeed) int { return cmp.Compare(a.dirs[0], b.dirs[0]) }), nil
}

// diskOf is the number of the disk on which a directory, or its nearest parent, lies.
func diskOf(dir string) (uint64, error) {
	var st unix.Stat_t
	err := nearest(dir, func(at string) error { return unix.Stat(at, &st) })
	if err != nil {
		return 0, fmt.Errorf("ask for the disk of %s: %w", dir, err)
	}
	return st.Dev, nil
}

// freeBytes is what an unprivileged process may still write where path, or its nearest parent, lies.
func freeBytes(path string) (int64, error) {
	var fs unix.Statfs_t
	if err := nearest(path, func(at string) error { return unix.Statfs(at, &fs) }); err != nil {
		return 0, fmt.Errorf("ask for the free space of %s: %w", path, err)
	}
	return int64(fs.Bavail) * fs.Bsize, nil
}

// nearest asks about a path, or the nearest one above it that is there.
func nearest(path string, ask func(at string) error) error {
	for {
		err := ask(path)
		parent := filepath.Dir(path)
		if err == nil || parent == path || !errors.Is(err, unix.ENOENT) {
			return err
		}
		path = parent
	}
}
