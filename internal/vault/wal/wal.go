// Package wal is the arithmetic of PostgreSQL's write-ahead log as the vault stores it: positions, segment
// names, timeline histories, and which stretch of the log is missing. It is pure; files live elsewhere.
package wal

import (
	"fmt"
	"strconv"
	"strings"
)

// LSN is a position in the write-ahead log, in bytes (PostgreSQL manual, "WAL Internals"). 0 = none.
type LSN uint64

// String is PostgreSQL's own notation, two hexadecimal halves.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint64(l)>>32, uint32(l)) }

// MarshalText gives PostgreSQL's notation.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads PostgreSQL's notation.
func (l *LSN) UnmarshalText(b []byte) error {
	v, err := ParseLSN(string(b))
	*l = v
	return err
}

// ParseLSN reads "16/B374D848".
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("read log position %q: no slash", s)
	}
	h, err := strconv.ParseUint(hi, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("read log position %q: %w", s, err)
	}
	l, err := strconv.ParseUint(lo, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("read log position %q: %w", s, err)
	}
	return LSN(h<<32 | l), nil
}

// DefaultSegmentSize is PostgreSQL's unless initdb was told otherwise, in bytes.
const DefaultSegmentSize = 16 << 20

// SegmentStart is the first position of the segment that holds l. size is the segment size in bytes.
func (l LSN) SegmentStart(size uint64) LSN { return l - LSN(uint64(l)%size) }

// SegmentName is the 24-digit file name of the segment that starts at or holds l.
func SegmentName(timeline uint32, l LSN, size uint64) string {
	perID := uint64(1<<32) / size
	n := uint64(l) / size
	return fmt.Sprintf("%08X%08X%08X", timeline, n/perID, n%perID)
}

// ParseSegmentName gives the timeline and first position of a 24-digit segment name.
func ParseSegmentName(name string, size uint64) (timeline uint32, start LSN, err error) {
	if len(name) != 24 || strings.ToUpper(name) != name {
		return 0, 0, fmt.Errorf("read segment name %q: not 24 upper-case hexadecimal digits", name)
	}
	var part [3]uint64
	for i := range part {
		if part[i], err = strconv.ParseUint(name[8*i:8*i+8], 16, 32); err != nil {
			return 0, 0, fmt.Errorf("read segment name %q: %w", name, err)
		}
	}
	perID := uint64(1<<32) / size
	if part[2] >= perID {
		return 0, 0, fmt.Errorf("read segment name %q: segments of %d bytes go up to %08X", name, size, perID-1)
	}
	return uint32(part[0]), LSN((part[1]*perID + part[2]) * size), nil
}

// HistoryName is the file name of a timeline's history.
func HistoryName(timeline uint32) string { return fmt.Sprintf("%08X.history", timeline) }
