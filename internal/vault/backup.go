package vault

import (
	"encoding/json"
	"time"

	"holdfast/internal/vault/wal"
)

// Backup is one base backup as the vault lists it. Times are the database server's.
type Backup struct {
	ID            string       `json:"id"` // database, time and a few random digits; stable for the backup's life
	Application   string       `json:"application"`
	Database      string       `json:"database"` // the plan's name for it
	Kind          string       `json:"kind"`     // full or incremental; whole and by itself either way
	Host          string       `json:"host,omitempty"`
	Earlier       string       `json:"earlier,omitempty"` // ID of the backup whose chunks were taken over or compared with; it may expire
	Took          bool         `json:"took,omitempty"`    // chunks were taken over from it unread
	Reread        time.Time    `json:"reread,omitzero"`   // when everything was last read: this backup's start unless Took
	Reused        int64        `json:"reused,omitempty"`  // bytes taken over from it
	SystemID      uint64       `json:"system_id,string"`
	Timeline      uint32       `json:"timeline"`
	Start         wal.LSN      `json:"start_lsn"` // replay begins here
	Stop          wal.LSN      `json:"stop_lsn"`  // consistent from here on
	Started       time.Time    `json:"started"`
	Stopped       time.Time    `json:"stopped"`        // the earliest moment that can be restored from it
	ServerVersion int          `json:"server_version"` // 150018
	SegmentSize   uint64       `json:"segment_size"`   // bytes
	Superuser     string       `json:"superuser"`      // name of the bootstrap superuser
	FromStandby   bool         `json:"from_standby"`
	Checksums     bool         `json:"checksums"` // the cluster's pages carry checksums, and they were verified
	BadPages      []string     `json:"bad_pages,omitempty"`
	Differs       []string     `json:"differs,omitempty"`     // stretches that are not what they were in Earlier, though no log changed them
	Tablespaces   []Tablespace `json:"tablespaces,omitempty"` // outside the data directory
	Files         int          `json:"files"`
	Bytes         int64        `json:"bytes"`                // as they stand in the data directory
	Stored        int64        `json:"stored"`               // bytes that this backup added to the vault
	Written       time.Time    `json:"written"`              // by the writing host's clock
	Validation    *Validation  `json:"validation,omitempty"` // nil = not tried yet
}

// Tablespace is a place outside the data directory that a backup holds too, below pg_tblspc/OID in it.
type Tablespace struct {
	OID      uint32 `json:"oid"`
	Name     string `json:"name"`
	Location string `json:"location"` // where it lay
	Bytes    int64  `json:"bytes"`
}

// Validated reports whether this backup has been restored and found good.
func (b Backup) Validated() bool { return b.Validation != nil && b.Validation.Passed }

// Validation is the outcome of restoring a backup to a scratch server and looking at it.
type Validation struct {
	Passed bool          `json:"passed"`
	At     time.Time     `json:"at"`
	Took   time.Duration `json:"took"`
	Checks []Check       `json:"checks"`
}

// MarshalJSON tells the time in seconds too, for who reads it; took, in nanoseconds, is what vaults hold and what is read again.
func (v Validation) MarshalJSON() ([]byte, error) {
	type bare Validation
	return json.Marshal(struct {
		bare
		Seconds float64 `json:"took_seconds"`
	}{bare(v), v.Took.Seconds()})
}

// Check is one thing that a validation looked at.
type Check struct {
	Name    string        `json:"name"`    // restore, recovery, indexes, heap, checksums, counts
	Outcome string        `json:"outcome"` // passed, failed, skipped
	Detail  string        `json:"detail,omitempty"`
	Objects []string      `json:"objects,omitempty"` // exactly what failed
	Took    time.Duration `json:"took"`
	// Figures tell how long a restore would take: replay_seconds, replayed_bytes. The unit ends the name.
	Figures map[string]float64 `json:"figures,omitempty"`
}

// MarshalJSON is that of a [Validation].
func (c Check) MarshalJSON() ([]byte, error) {
	type bare Check
	return json.Marshal(struct {
		bare
		Seconds float64 `json:"took_seconds"`
	}{bare(c), c.Took.Seconds()})
}

// Entry is a file or directory of a backup. Path is slash-separated and relative to the backup's root.
type Entry struct {
	Path    string
	Dir     bool
	Mode    uint32 // permission bits
	Size    int64
	ModTime time.Time
	object  string // kopia's name for the content; "" for a directory
}

// DataDir is the directory inside a backup that holds PostgreSQL's data directory.
const DataDir = "pgdata"
