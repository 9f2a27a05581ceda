package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"holdfast/internal/database/postgres/walscan"
)

// logWhole proves that a rewound data directory holds the log from where its recovery begins: the last checkpoint that both
// sides share. pg_rewind removes log here that the source does not have (PostgreSQL 15), and the source has none from before
// its own newest checkpoint but for chance: then the server would ask for it for ever without ever answering.
func logWhole(data string, size uint64) error {
	text, err := os.ReadFile(filepath.Join(data, labelFile))
	if err != nil {
		return fmt.Errorf("read where recovery begins: %w", err)
	}
	from, err := labelStart(string(text))
	if err != nil {
		return err
	}
	segments, err := walscan.Segments(filepath.Join(data, "pg_wal"), size)
	if err != nil {
		return err
	}
	var there []uint64
	for _, s := range segments {
		there = append(there, s.Number)
	}
	slices.Sort(there)
	next := from / size
	for _, n := range slices.Compact(there) {
		if n == next {
			next++
		}
	}
	if len(there) == 0 || next <= there[len(there)-1] || next == from/size {
		return fmt.Errorf("recovery begins at %X/%X, and the log of segment %d is gone here and at the source", from>>32, uint32(from), next)
	}
	return nil
}

const labelFile = "backup_label"

// labelStart is the position in the first line of a backup label.
func labelStart(text string) (uint64, error) {
	line, _, _ := strings.Cut(text, "\n")
	rest, found := strings.CutPrefix(line, "START WAL LOCATION: ")
	position, _, _ := strings.Cut(rest, " ")
	high, low, both := strings.Cut(position, "/")
	h, herr := strconv.ParseUint(high, 16, 32)
	l, lerr := strconv.ParseUint(low, 16, 32)
	if !found || !both || herr != nil || lerr != nil {
		return 0, fmt.Errorf("read where recovery begins: %q is no first line of a %s", line, labelFile)
	}
	return h<<32 | l, nil
}
