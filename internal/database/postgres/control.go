package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"holdfast/internal/database"
)

// control is what Holdfast reads of pg_control (src/include/catalog/pg_control.h; the layout of what is read is
// the same in every supported version, on machines with 64 bits and little-endian order).
type control struct {
	SystemID   uint64
	State      controlState
	Checkpoint database.LSN // start of the last checkpoint record
	Redo       database.LSN // where recovery begins
	Timeline   uint32       // of the last checkpoint
	MinLSN     database.LSN // recovery must reach this before the data are consistent; 0 outside archive recovery
	MinTLI     uint32
	SegSize    uint64
}

type controlState uint32

// States of a server, as pg_control has them.
const (
	stateStarting        controlState = 0
	stateShutDown        controlState = 1
	stateShutDownStandby controlState = 2
	stateShuttingDown    controlState = 3
	stateCrashRecovery   controlState = 4
	stateArchiveRecovery controlState = 5
	stateProduction      controlState = 6
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTorn: the file was being written while it was read.
var errTorn = errors.New("its checksum is wrong")

// readControl reads pg_control of a data directory. A torn read is tried again for a moment.
func readControl(data string) (control, error) {
	path := filepath.Join(data, "global", "pg_control")
	for try := 0; ; try++ {
		b, err := os.ReadFile(path)
		if err != nil {
			return control{}, fmt.Errorf("read pg_control: %w", err)
		}
		c, err := parseControl(b)
		if err == nil || !errors.Is(err, errTorn) || try == 9 {
			if err != nil {
				err = fmt.Errorf("read %s: %w", path, err)
			}
			return c, err
		}
		time.Sleep(time.Millisecond) // the writer needs microseconds
	}
}

func parseControl(b []byte) (control, error) {
	le := binary.LittleEndian
	if len(b) < 300 {
		return control{}, fmt.Errorf("it has %d bytes", len(b))
	}
	crcAt := 0
	switch version := le.Uint32(b[8:]); version {
	case 1300: // PostgreSQL 13 to 17
		crcAt = 288
	case 1800: // PostgreSQL 18
		crcAt = 292
	default:
		return control{}, fmt.Errorf("its format %d is not known", version)
	}
	if crc32.Checksum(b[:crcAt], castagnoli) != le.Uint32(b[crcAt:]) {
		return control{}, errTorn
	}
	return control{
		SystemID:   le.Uint64(b[0:]),
		State:      controlState(le.Uint32(b[16:])),
		Checkpoint: database.LSN(le.Uint64(b[32:])),
		Redo:       database.LSN(le.Uint64(b[40:])),
		Timeline:   le.Uint32(b[48:]),
		MinLSN:     database.LSN(le.Uint64(b[136:])),
		MinTLI:     le.Uint32(b[144:]),
		SegSize:    uint64(le.Uint32(b[228:])),
	}, nil
}

// exists reports whether a path is there; an unreadable one is an error, never "absent".
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
