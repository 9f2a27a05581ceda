package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Place is what a directory looks like to a restore that has not begun.
type Place struct {
	Dir   string `json:"dir"`
	State string `json:"state"` // absent, empty, interrupted (by a restore that never ended), same (an older or broken copy, with delta), occupied
	Found string `json:"found,omitempty"`
	Need  int64  `json:"need"` // bytes
	Free  int64  `json:"free"` // bytes on its disk
}

// Fits reports whether a restore would accept the place.
func (p Place) Fits() bool { return p.State != "occupied" && p.Free >= p.Need }

// Survey looks at a directory that a choice is to be restored to, and changes nothing. What it says of room counts files
// that are there and will be written over.
func Survey(dir string, c Choice, delta bool) (Place, error) {
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
		} else if delta {
			if err := samePlace(dir, c); err != nil {
				return p, err
			}
			p.State = "same"
		}
	}
	if p.State == "interrupted" || p.State == "same" {
		if err := stopped(dir, c.Backup.Database); err != nil {
			return p, err
		}
		used, err := usedBy(dir)
		if err != nil {
			return p, err
		}
		p.Need -= min(used, c.Backup.Bytes)
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

// usedBy is how much room the files of a directory take.
func usedBy(dir string) (int64, error) {
	sum := int64(0)
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("look at %s: %w", dir, err)
	}
	return sum, nil
}
