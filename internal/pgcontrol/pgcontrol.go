// Package pgcontrol reads pg_control, the file in which a PostgreSQL data directory says what it is, how its server
// ended and which settings its recovery needs. No program of PostgreSQL is asked, so it works where none is installed.
package pgcontrol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"

	"holdfast/internal/database"
)

// Control is what Holdfast reads of pg_control (src/include/catalog/pg_control.h; the layout of what is read is
// the same in every supported version, on machines with 64 bits and little-endian order).
type Control struct {
	SystemID   uint64
	State      State
	Checkpoint database.LSN // start of the last checkpoint record
	Redo       database.LSN // where recovery begins
	Timeline   uint32       // of the last checkpoint
	MinLSN     database.LSN // recovery must reach this before the data are consistent; 0 outside archive recovery
	MinTLI     uint32
	BlockSize  uint32 // of a data page, in bytes
	SegSize    uint64
	Limits     []Setting // below which recovery refuses to serve queries
}

// Setting is one setting as the server had it when it wrote pg_control.
type Setting struct {
	Name  string
	Value uint32
}

// State is how a server stands or ended.
type State uint32

// States of a server, as pg_control has them.
const (
	Starting        State = 0
	ShutDown        State = 1
	ShutDownStandby State = 2
	ShuttingDown    State = 3
	CrashRecovery   State = 4
	ArchiveRecovery State = 5
	Production      State = 6
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrTorn: the file was being written while it was read.
var ErrTorn = errors.New("its checksum is wrong")

// Read reads pg_control of a data directory. A torn read is tried again for a moment.
func Read(data string) (Control, error) {
	path := filepath.Join(data, "global", "pg_control")
	for try := 0; ; try++ {
		b, err := os.ReadFile(path)
		if err != nil {
			return Control{}, fmt.Errorf("read pg_control: %w", err)
		}
		c, err := Parse(b)
		if err == nil || !errors.Is(err, ErrTorn) || try == 9 {
			if err != nil {
				err = fmt.Errorf("read %s: %w", path, err)
			}
			return c, err
		}
		time.Sleep(time.Millisecond) // the writer needs microseconds
	}
}

// Parse reads the bytes of the file; [ErrTorn] when they were being written.
func Parse(b []byte) (Control, error) {
	le := binary.LittleEndian
	if len(b) < 300 {
		return Control{}, fmt.Errorf("it has %d bytes", len(b))
	}
	crcAt := 0
	switch version := le.Uint32(b[8:]); version {
	case 1300: // PostgreSQL 13 to 17
		crcAt = 288
	case 1800: // PostgreSQL 18
		crcAt = 292
	default:
		return Control{}, fmt.Errorf("its format %d is not known", version)
	}
	if crc32.Checksum(b[:crcAt], castagnoli) != le.Uint32(b[crcAt:]) {
		return Control{}, ErrTorn
	}
	return Control{
		SystemID:   le.Uint64(b[0:]),
		State:      State(le.Uint32(b[16:])),
		Checkpoint: database.LSN(le.Uint64(b[32:])),
		Redo:       database.LSN(le.Uint64(b[40:])),
		Timeline:   le.Uint32(b[48:]),
		MinLSN:     database.LSN(le.Uint64(b[136:])),
		MinTLI:     le.Uint32(b[144:]),
		BlockSize:  le.Uint32(b[216:]),
		SegSize:    uint64(le.Uint32(b[228:])),
		Limits: []Setting{
			{"max_connections", le.Uint32(b[180:])}, {"max_worker_processes", le.Uint32(b[184:])}, {"max_wal_senders", le.Uint32(b[188:])},
			{"max_prepared_transactions", le.Uint32(b[192:])}, {"max_locks_per_transaction", le.Uint32(b[196:])},
		},
	}, nil
}
