package restore

import (
	"fmt"
	"path/filepath"

	"holdfast/internal/database/postgres/walscan"
	"holdfast/internal/problem"
)

// refuseTablespaces looks for tablespaces that the placed log makes. A server that replays such a record links its
// tablespace to the directory that the record names and writes there, though the directory may be the live server's.
// Those that a base backup holds have places of their own, but what the log makes cannot be led elsewhere.
func (r *run) refuseTablespaces() error {
	c := r.o.Choice
	made, err := r.madeTablespaces()
	if err != nil {
		return err
	}
	for _, m := range made {
		if c.Target.Kind == AtLSN && uint64(m.At) >= uint64(c.Target.LSN) {
			continue // recovery ends before it
		}
		return &problem.Problem{Code: "restore.tablespace", Subject: c.Backup.Database, Severity: problem.Critical,
			Title:   fmt.Sprintf("on the way to %s, at %s, the log makes a tablespace in %s", c.Target, m.At, m.Location),
			Meaning: "Replaying that writes into that directory, which may be the live server's. The directory was not finished and cannot start; the live one was not touched.",
			Remedy:  fmt.Sprintf("restore to just before it: --at before:%s; a base backup that is made now holds the tablespace, and moments from then on can be restored", m.At)}
	}
	return nil
}

// madeTablespaces are those that the placed log makes.
func (r *run) madeTablespaces() ([]walscan.NewTablespace, error) {
	c := r.o.Choice
	return walscan.Tablespaces(walscan.Input{
		Dir: filepath.Join(r.o.Dir, "pg_wal"), Start: walscan.LSN(c.Backup.Start), Timeline: c.Timeline, SegSize: c.Backup.SegmentSize, SystemID: c.Backup.SystemID,
	})
}
