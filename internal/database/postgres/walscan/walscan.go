// Package walscan reads PostgreSQL's write-ahead log from its files and finds where it ends: the end of the last
// complete, valid record. It trusts nothing but the bytes: every page header, every record's checksum and
// every record's link to the one before it is verified, as PostgreSQL's own recovery does (xlogreader.c), so
// that what it counts is what a recovery of these files would replay.
package walscan

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// LSN is a position in the log, in bytes.
type LSN uint64

// String is PostgreSQL's own notation.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// Switch is one step of a timeline's history: timeline Parent ended at LSN and Timeline went on from there.
type Switch struct {
	Timeline uint32
	Parent   uint32
	LSN      LSN
}

// History reads how timeline came to be, oldest step first, from its history file in dir. Timeline 1 has none.
// A file without any step (such as one that only holds a number so that nobody takes it) gives no steps.
func History(dir string, timeline uint32) ([]Switch, error) {
	if timeline == 1 {
		return nil, nil
	}
	b, err := os.ReadFile(filepath.Join(dir, HistoryName(timeline)))
	if err != nil {
		return nil, fmt.Errorf("read the history of timeline %d: %w", timeline, err)
	}
	return ParseHistory(string(b), timeline)
}

// ParseHistory reads the text of a history file.
func ParseHistory(text string, timeline uint32) ([]Switch, error) {
	var steps []Switch
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 2 {
			return nil, fmt.Errorf("read the history of timeline %d: line %q is cut short", timeline, lines.Text())
		}
		parent, err := strconv.ParseUint(fields[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read the history of timeline %d: %w", timeline, err)
		}
		at, err := ParseLSN(fields[1])
		if err != nil {
			return nil, fmt.Errorf("read the history of timeline %d: %w", timeline, err)
		}
		steps = append(steps, Switch{Parent: uint32(parent), LSN: at})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the history of timeline %d: %w", timeline, err)
	}
	for i := range steps {
		steps[i].Timeline = timeline
		if i+1 < len(steps) {
			steps[i].Timeline = steps[i+1].Parent
		}
		if steps[i].Timeline <= steps[i].Parent {
			return nil, fmt.Errorf("read the history of timeline %d: %d does not come after %d", timeline, steps[i].Timeline, steps[i].Parent)
		}
		if i > 0 && steps[i].LSN < steps[i-1].LSN {
			return nil, fmt.Errorf("read the history of timeline %d: it goes back at %s", timeline, steps[i].LSN)
		}
	}
	return steps, nil
}

// ParseLSN reads PostgreSQL's own notation.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	h, errHi := strconv.ParseUint(hi, 16, 32)
	l, errLo := strconv.ParseUint(lo, 16, 32)
	if !ok || errHi != nil || errLo != nil {
		return 0, fmt.Errorf("%q is no position in the log", s)
	}
	return LSN(h<<32 | l), nil
}

// HistoryName is the file name of a timeline's history.
func HistoryName(timeline uint32) string { return fmt.Sprintf("%08X.history", timeline) }

// Segment is one log file.
type Segment struct {
	Timeline uint32
	Number   uint64 // counted from position 0
}

// Name is its file name, which depends on the segment size.
func (s Segment) Name(size uint64) string {
	per := uint64(1<<32) / size
	return fmt.Sprintf("%08X%08X%08X", s.Timeline, s.Number/per, s.Number%per)
}

// ParseName reads a segment's file name; ok is false for any other file.
func ParseName(name string, size uint64) (s Segment, ok bool) {
	if len(name) != 24 || strings.Trim(name, "0123456789ABCDEF") != "" {
		return Segment{}, false
	}
	tli, errT := strconv.ParseUint(name[:8], 16, 32)
	hi, errH := strconv.ParseUint(name[8:16], 16, 32)
	lo, errL := strconv.ParseUint(name[16:], 16, 32)
	per := uint64(1<<32) / size
	if errors.Join(errT, errH, errL) != nil || lo >= per || tli == 0 {
		return Segment{}, false
	}
	return Segment{Timeline: uint32(tli), Number: hi*per + lo}, true
}

// Segments lists the log files of a folder, by timeline and number.
func Segments(dir string, size uint64) ([]Segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the log files: %w", err)
	}
	var found []Segment
	for _, e := range entries {
		if s, ok := ParseName(e.Name(), size); ok {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b Segment) int {
		if a.Timeline != b.Timeline {
			return int(int64(a.Timeline) - int64(b.Timeline))
		}
		return int(int64(a.Number) - int64(b.Number))
	})
	return found, nil
}

// Newest is the highest timeline of which dir holds a log file and that is timeline itself or descends from it.
// A number whose history is missing or says nothing descends from nobody.
func Newest(dir string, timeline uint32, size uint64) (uint32, error) {
	segments, err := Segments(dir, size)
	if err != nil {
		return 0, err
	}
	newest := timeline
	for _, s := range segments {
		if s.Timeline <= newest {
			continue
		}
		steps, err := History(dir, s.Timeline)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if slices.ContainsFunc(steps, func(x Switch) bool { return x.Parent == timeline }) {
			newest = s.Timeline
		}
	}
	return newest, nil
}
