package walscan

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Numbers of the records that make tablespaces (src/include/access/rmgrlist.h, commands/tablespace.h).
const (
	rmgrTablespace   = 5
	opTablespaceMake = 0x00
)

// NewTablespace is a tablespace that the log makes. Its replay writes into the directory that it names, whoever else
// has files there.
type NewTablespace struct {
	At       LSN // where its record begins
	Location string
}

// Tablespaces walks the log from in.Start and lists the tablespaces that it makes outside the data directory.
func Tablespaces(in Input) ([]NewTablespace, error) {
	steps, err := History(in.Dir, in.Timeline)
	if err != nil {
		return nil, fmt.Errorf("list the log's tablespaces: %w", err)
	}
	s := &scanner{in: in, steps: steps}
	defer s.closeFile()
	var out []NewTablespace
	before := LSN(0)
	for at := in.Start; ; {
		r, err := s.record(at, before)
		if errors.Is(err, errEnd) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list the log's tablespaces at %s: %w", at, err)
		}
		before, at = r.start, r.end
		if r.body[17] != rmgrTablespace || r.body[16]&0xf0 != opTablespaceMake {
			continue
		}
		d, err := decode(r.body, binary.LittleEndian.Uint16(s.page[:]))
		if err != nil || len(d.data) < 5 {
			return nil, fmt.Errorf("read the tablespace that the log makes at %s: %w", r.start, errors.Join(err, errors.New("its record is too short")))
		}
		path, _, _ := bytes.Cut(d.data[4:], []byte{0}) // behind the number; empty = inside the data directory
		if len(path) > 0 {
			out = append(out, NewTablespace{At: r.start, Location: string(path)})
		}
	}
}
