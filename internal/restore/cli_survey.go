package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Place is what a directory looks like to a restore that has not begun.
type Place struct {
	Dir   string `json:"dir"`
	State string `json:"state"` // absent, empty, interrupted (by a restore that never ended), occupied
	Found string `json:"found,omitempty"`
	Need  int64  `json:"need"` // bytes
	Free  int64  `json:"free"` // bytes on its disk
}

// Fits reports whether a restore would accept the place.
func (p Place) Fits() bool { return p.State != "occupied" && p.Free >= p.Need }

// Survey looks at a directory that a choice is to be restored to, and changes nothing.
func Survey(dir string, c Choice) (Place, error) {
	p := Place{Dir: dir, State: "empty", Need: c.Backup.Bytes + int64(len(c.Pieces))*int64(c.Backup.SegmentSize)}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.State = "absent"
	case err != nil:
		return p, fmt.Errorf("look at %s: %w", dir, err)
	case len(entries) > 0:
		p.State, p.Found = "occupied", entries[0].Name()
		if _, err := os.Stat(filepath.Join(dir, markerFile)); err == nil {
			p.State = "interrupted"
		}
	}
	above := dir
	for p.State == "absent" && above != filepath.Dir(above) { // the disk is that of the nearest folder that exists
		above = filepath.Dir(above)
		if _, err := os.Stat(above); err == nil {
			break
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(above, &st); err != nil {
		return p, fmt.Errorf("ask for free space on %s: %w", above, err)
	}
	p.Free = int64(st.Bavail) * st.Bsize
	return p, nil
}
