package etcd

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
	"holdfast/internal/problem"
)

// ErrDataLost means that a member lived here and its data is gone. Started again it would get its old id (etcd
// derives a founder's id from its URL and the cluster's token) with no memory of what it voted and accepted,
// and could help a minority to elect a second leader or undo a committed write.
var ErrDataLost = errors.New("the data of an earlier life is gone")

// ErrForeign means that the folder belongs to another application or host.
var ErrForeign = errors.New("the folder belongs to another member")

// life is one founding of a member. It is written twice: in the folder on the data volume, then in the marker
// outside it. A marker whose twin is gone, or that knows a member id while no log exists, means lost data.
type life struct {
	Application string `json:"application"`
	Name        string `json:"name"`
	Life        string `json:"life"`             // random
	Member      string `json:"member,omitempty"` // etcd's id, in the marker, once it took part
}

// seat is a member's right to start.
type seat struct {
	life   life
	marker string
}

// takeSeat decides whether the member may start, before etcd touches anything. dataDir is etcd's own folder.
func takeSeat(cfg MemberConfig, dataDir string) (*seat, error) {
	b, err := readBirth(cfg, dataDir)
	if err != nil {
		return nil, err
	}
	inner, innerPath := b.inner, filepath.Join(cfg.Dir, "life")
	switch {
	case b.lost():
		return nil, lostData(cfg)
	case b.hasLog && !b.hasInner:
		return nil, fmt.Errorf("%s holds an etcd log and no %s: %w", dataDir, innerPath, ErrForeign)
	}
	if !b.hasInner {
		inner = newLife(cfg)
		if err := writeLife(innerPath, inner); err != nil {
			return nil, err
		}
		if err := durable.SyncDir(filepath.Dir(cfg.Dir)); err != nil {
			return nil, err
		}
	}
	s := &seat{life: inner, marker: cfg.Marker}
	if !b.hasOuter {
		if err := os.MkdirAll(filepath.Dir(cfg.Marker), 0o700); err != nil {
			return nil, err
		}
		if err := writeLife(cfg.Marker, inner); err != nil {
			return nil, err
		}
	}
	s.life.Member = b.outer.Member
	return s, nil
}

// DataLost looks whether the data of an earlier life of the member are gone: an error that is both [ErrDataLost] and a
// problem to show then, and nil where they lie or where it was never born. It changes nothing. While the member runs the
// answer means nothing.
func DataLost(cfg MemberConfig) error {
	b, err := readBirth(cfg, filepath.Join(cfg.Dir, "data"))
	if err == nil && b.lost() {
		err = lostData(cfg)
	}
	return err
}

// birth is what the disks say of a member's earlier life.
type birth struct {
	inner, outer               life // in its folder, and in the marker outside it
	hasInner, hasOuter, hasLog bool
}

// readBirth reads it. [ErrForeign] when it is another member's.
func readBirth(cfg MemberConfig, dataDir string) (birth, error) {
	var b birth
	var err error
	innerPath := filepath.Join(cfg.Dir, "life")
	if b.inner, b.hasInner, err = readLife(innerPath); err != nil {
		return b, err
	}
	if b.outer, b.hasOuter, err = readLife(cfg.Marker); err != nil {
		return b, err
	}
	for _, l := range []struct {
		life
		there bool
		path  string
	}{{b.inner, b.hasInner, innerPath}, {b.outer, b.hasOuter, cfg.Marker}} {
		if l.there && (l.Application != cfg.Application || l.Name != cfg.Name) {
			return b, fmt.Errorf("%s is of member %s of %s: %w", l.path, l.Name, l.Application, ErrForeign)
		}
	}
	b.hasLog = wal.Exist(filepath.Join(dataDir, "member", "wal"))
	return b, nil
}

func (b birth) lost() bool {
	return b.hasOuter && (!b.hasInner || b.inner.Life != b.outer.Life || b.outer.Member != "" && !b.hasLog)
}

func newLife(cfg MemberConfig) life {
	return life{Application: cfg.Application, Name: cfg.Name, Life: rand.Text()}
}

// confirm notes that the member has a log now, so that from here on a missing one is a loss.
func (s *seat) confirm(member string) error {
	if s.life.Member == member {
		return nil
	}
	s.life.Member = member
	return writeLife(s.marker, s.life)
}

// lostData is both [ErrDataLost] and a problem that says what to do.
func lostData(cfg MemberConfig) error {
	return fmt.Errorf("%w: %w", ErrDataLost, &problem.Problem{
		Code:     "cluster.member-lost",
		Subject:  cfg.Name,
		Severity: problem.Degraded,
		Title:    "its etcd data is gone, so the member stays down",
		Meaning: "The other members go on while a majority of them runs. Started on an empty folder this one could " +
			"forget what it agreed to.",
		Remedy: fmt.Sprintf("bring %s back if it still exists; else give its place to an empty member: holdfast cluster replace %s", cfg.Dir, cfg.Name),
	})
}

func readLife(path string) (life, bool, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return life{}, false, nil
	}
	if err != nil {
		return life{}, false, err
	}
	var l life
	if err := json.Unmarshal(b, &l); err != nil {
		return life{}, false, fmt.Errorf("read %s: %w", path, err)
	}
	if l.Life == "" {
		return life{}, false, fmt.Errorf("read %s: it is no record of a member", path)
	}
	return l, true, nil
}

func writeLife(path string, l life) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(b, '\n'), 0o600)
}

// flock takes the file for this process, or says ErrInUse.
func flock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrInUse
	}
	return err
}
