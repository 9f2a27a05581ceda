package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Place is what a directory looks like to a restore that has not begun.
type Place struct {
	Dir   string `json:"dir"`
	State string `json:"state"` // absent, empty, interrupted (by a restore that never ended), same (an older or broken copy, with delta), occupied
	Found string `json:"found,omitempty"`
	Need  int64  `json:"need"` // bytes, with those of tablespaces on the same disk
	Free  int64  `json:"free"` // bytes on its disk
	// Tablespaces are the places of tablespaces; what they need counts on their own disk.
	Tablespaces []SpacePlace `json:"tablespaces,omitempty"`
}

// SpacePlace is where a tablespace would lie.
type SpacePlace struct {
	Name string `json:"name"`
	Was  string `json:"was"` // where the original has it
	Place
}

// Fits reports whether a restore would accept the place.
func (p Place) Fits() bool {
	for _, s := range p.Tablespaces {
		if !s.Fits() {
			return false
		}
	}
	return p.State != "occupied" && p.Free >= p.Need
}

// Refusal is why a restore of a database would not accept the place, as [Run] would say it; nil = nothing is known that speaks
// against it. How much room files take that are gone on with is told by Run alone.
func (p Place) Refusal(database string) error {
	if p.State == "occupied" {
		if err := stopped(p.Dir, database); err != nil {
			return err
		}
		return notEmpty(database, p.Dir, p.Found)
	}
	if p.State == "interrupted" || p.State == "same" {
		return nil
	}
	if p.Free < p.Need {
		return tooSmall(database, p.Dir, p.Free, p.Need)
	}
	for _, s := range p.Tablespaces {
		if s.Free < s.Need {
			return tooSmall(database, s.Dir, s.Free, s.Need)
		}
	}
	return nil
}

// Survey looks at a directory that a choice is to be restored to, and at the places of its tablespaces, and changes
// nothing. What it says of room counts files that are there and will be written over.
func Survey(dir string, c Choice, delta bool, tablespaces map[string]string) (Place, error) {
	p := Place{Dir: dir, State: "empty"}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.State = "absent"
	case err != nil:
		return p, fmt.Errorf("look at %s: %w", dir, err)
	case len(entries) > 0:
		p.State, p.Found = "occupied", entries[0].Name()
		interrupted, err := leftBehind(dir, c)
		if err != nil {
			return p, err
		}
		if interrupted {
			p.State = "interrupted"
		} else if delta {
			if err := samePlace(dir, c); err != nil {
				return p, err
			}
			p.State = "same"
		}
	}
	again := p.State == "interrupted" || p.State == "same"
	if _, orphan := orphaned(dir); again && (p.State != "interrupted" || !orphan) { // that one [Run] ends
		if err := stopped(dir, c.Backup.Database); err != nil {
			return p, err
		}
	}
	spaces, err := planSpaces(dir, c.Backup, tablespaces)
	if err != nil {
		return p, err
	}
	all, err := needs(dir, c, spaces, nil)
	if err != nil {
		return p, err
	}
	for i, s := range spaces {
		ours, err := s.look(dir, c.Backup.SystemID, again)
		if err != nil {
			return p, err
		}
		x := SpacePlace{Name: s.Name, Was: s.Location, Place: Place{Dir: s.dir, State: "empty", Free: all[i+1].free}}
		if ours {
			x.State = p.State
		}
		p.Tablespaces = append(p.Tablespaces, x)
	}
	for i := range all {
		if again {
			used, err := usedAt(dir, spaces, i)
			if err != nil {
				return p, err
			}
			all[i].bytes -= min(used, all[i].bytes)
		}
		for k := range i + 1 { // the first place on a disk carries what goes there
			if all[k].disk != all[i].disk {
				continue
			}
			if k == 0 {
				p.Need += all[i].bytes
			} else {
				p.Tablespaces[k-1].Need += all[i].bytes
			}
			break
		}
	}
	p.Free = all[0].free
	return p, nil
}

// usedBy is how much room the files of a directory take.
func usedBy(dir string) (int64, error) {
	sum := int64(0)
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Nlink == 1 { // under another name it stays
			sum += st.Blocks * 512
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("look at %s: %w", dir, err)
	}
	return sum, nil
}
