package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// spill is the second place for log that waits for the vault: a directory on another disk. It holds whole segments as the
// vault would, enciphered and each under the name that proves it, so whatever a crash leaves is either a segment or nothing.
// It is one for all Runs of a receiver, and taken over anew by each.
type spill struct {
	dir   string
	first string // where log waits otherwise
	vault *vault.Vault

	mu     sync.Mutex // guards what follows
	closed error      // why it is not in use; nil = it is
	held   []spilledSegment
	passed map[string]bool // of what lies there: what could not be taken away, and is not looked at again
	unread time.Time       // since when the oldest cannot be read; zero = it can
	failed error           // of the last look at the oldest
}

// spilledSegment is one that lies in the second place.
type spilledSegment struct {
	object string
	bytes  int64    // on its disk
	system uint64   // the cluster that it is of, as it says itself
	place  wal.Held // where in the log it lies, as it says itself; zero = it does not
}

const (
	// spillFree is the part of the second place's disk, in percent, that is left to others.
	spillFree = 10
	badSuffix = ".bad" // of what the vault can never take; it is left for a person
	// unreadFor is how long the oldest segment is tried that cannot be read. Then what follows goes on without it.
	unreadFor = 30 * time.Second
)

var errSpillNotOpen = errors.New("the second place was not looked at yet")

// SameDiskError says that a second place lies on the disk of the first: they would be full together.
type SameDiskError struct{ First, Second string }

func (e *SameDiskError) Error() string {
	return fmt.Sprintf("%s is on the same file system as %s: they would be full together", e.Second, e.First)
}

func newSpill(dir, first string, v *vault.Vault) *spill {
	return &spill{dir: dir, first: first, vault: v, closed: errSpillNotOpen}
}

// take takes the second place over, with what an earlier run left there. The directory around it must be there: one that
// is not mounted is never made on the disk below, which is that of the root more often than not.
func (p *spill) take() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.refuse()
	if err == nil {
		err = p.list()
	}
	if p.closed = err; err != nil {
		p.held, p.passed, p.failed, p.unread = nil, nil, nil, time.Time{}
	}
	return err
}

// refuse says why log must not lie there.
func (p *spill) refuse() error {
	if p.first == "" { // nothing new goes there
		return nil
	}
	around := filepath.Dir(p.dir)
	var there unix.Stat_t
	if err := unix.Stat(around, &there); err != nil {
		return fmt.Errorf("look at %s: %w", around, err)
	}
	for _, other := range []string{p.first, "/"} {
		var at unix.Stat_t
		if err := unix.Stat(other, &at); err != nil {
			return fmt.Errorf("look at %s: %w", other, err)
		}
		if at.Dev == there.Dev {
			return &SameDiskError{other, around}
		}
	}
	return nil
}

// list finds what lies there. The caller holds the lock.
func (p *spill) list() error {
	if err := os.Mkdir(p.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("open the second place: %w", err)
	}
	if err := durable.SyncDir(filepath.Dir(p.dir)); err != nil {
		return fmt.Errorf("open the second place: %w", err)
	}
	found, err := os.ReadDir(p.dir) // in the order of names, which is that of the log
	if err != nil {
		return fmt.Errorf("open the second place: %w", err)
	}
	var held []spilledSegment
	passed := map[string]bool{}
	for _, e := range found {
		if strings.HasPrefix(e.Name(), ".") { // it was being written
			if err := os.Remove(filepath.Join(p.dir, e.Name())); err != nil {
				return fmt.Errorf("open the second place: %w", err)
			}
		}
		switch {
		case !vault.IsSealed(e.Name()): // or it was set aside
		case p.passed[e.Name()]:
			passed[e.Name()] = true
		default:
			st, err := e.Info()
			if err != nil {
				return fmt.Errorf("open the second place: %w", err)
			}
			system, place := placeOf(filepath.Join(p.dir, e.Name()))
			held = append(held, spilledSegment{e.Name(), st.Size(), system, place})
		}
	}
	p.held, p.passed = held, passed
	return nil
}

// placeOf is where a segment says that it lies. One that cannot be read, or says nothing, has none: it counts for nothing,
// and whoever brings it to the vault hears why.
func placeOf(file string) (system uint64, at wal.Held) {
	f, err := os.Open(file)
	if err != nil {
		return 0, at
	}
	defer func() { _ = f.Close() }() // nothing was written
	system, at, err = vault.SealedPlace(f)
	if err != nil {
		return 0, wal.Held{}
	}
	return system, at
}

// holds is what lies there of a cluster's log.
func (p *spill) holds(system uint64) []wal.Held {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []wal.Held
	for _, s := range p.held {
		if s.system == system && s.place.End > 0 {
			out = append(out, s.place)
		}
	}
	return out
}

// trouble is why nothing can be kept there, or brought from there; again = it is worth another look. nil = nothing is wrong.
func (p *spill) trouble() (err error, again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed != nil {
		return p.closed, true
	}
	return p.failed, len(p.passed) > 0
}

// room is what the second place holds and could hold altogether, in bytes on its disk.
func (p *spill) room() (held, most int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(p.dir, &st); err != nil {
		return 0, 0, fmt.Errorf("look how much room %s has: %w", p.dir, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.held {
		held += s.bytes
	}
	free := int64(st.Bavail)*st.Bsize - int64(st.Blocks)*st.Bsize/100*spillFree
	return held, held + max(free, 0), nil
}

// errSpillFull says that the second place has no room either.
var errSpillFull = errors.New("the second place is full")

// put keeps a whole segment; it is durable when this returns.
func (p *spill) put(log *vault.Log, part part, content []byte, covers time.Time) error {
	p.mu.Lock()
	err := p.closed
	p.mu.Unlock()
	if err != nil {
		return err
	}
	object, raw, err := log.Seal(part.seg.timeline, part.seg.start, content, covers)
	if err != nil {
		return err
	}
	system, place, err := vault.SealedPlace(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	held, most, err := p.room()
	if err == nil && held+int64(len(raw)) > most {
		err = errSpillFull
	}
	if err == nil {
		err = durable.WriteFile(filepath.Join(p.dir, object), raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep log at %s in the second place: %w", part.seg.start, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = append(p.held, spilledSegment{object, int64(len(raw)), system, place})
	return nil
}

// waiting is how many segments are there.
func (p *spill) waiting() int {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.held)
}

// empty reports whether nothing waits there.
func (p *spill) empty() bool { return p.waiting() == 0 }

// draining says how the second place is brought into the vault.
type draining struct {
	more   func() bool // false ends it before the next
	stored func(wal.Held)
	lost   func(object string, err error) // of one that the vault can never take
	now    func() time.Time               // nil = what cannot be read is passed over at once, and stays where it is
}

// drain brings what is there into the vault, the oldest first, and lets go of each when the vault has it. One that the vault
// can never take, since it is damaged, cannot be read or is not what the vault holds there, is told and set aside.
func (p *spill) drain(ctx context.Context, d draining) error {
	var passed error
	for p != nil && d.more() {
		p.mu.Lock()
		if len(p.held) == 0 {
			p.mu.Unlock()
			return passed
		}
		oldest := p.held[0]
		p.mu.Unlock()
		held, err := p.bring(ctx, oldest.object)
		unread, isUnread := errors.AsType[*unreadError](err)
		_, isTwice := errors.AsType[*vault.DuplicateError](err)
		switch {
		case err == nil:
			d.stored(held)
			p.drop(oldest.object, os.Remove)
		case isUnread && d.now == nil:
			passed = errors.Join(passed, err)
			p.drop(oldest.object, func(string) error { return unread })
		case isUnread && !p.givesUp(unread, d.now()):
			return err
		case isUnread, isTwice, errors.Is(err, vault.ErrBadSeal):
			d.lost(oldest.object, err)
			p.drop(oldest.object, func(at string) error { return os.Rename(at, at+badSuffix) })
		default:
			return err
		}
	}
	return passed
}

// unreadError says that the second place does not give back what was put there.
type unreadError struct{ err error }

func (e *unreadError) Error() string { return "read the second place: " + e.err.Error() }
func (e *unreadError) Unwrap() error { return e.err }

func (p *spill) bring(ctx context.Context, object string) (wal.Held, error) {
	raw, err := os.ReadFile(filepath.Join(p.dir, object))
	if err != nil {
		return wal.Held{}, &unreadError{err}
	}
	p.mu.Lock()
	p.unread, p.failed = time.Time{}, nil
	p.mu.Unlock()
	return p.vault.PutSealed(ctx, object, raw)
}

// givesUp reports whether nothing could be read for so long that it is passed over.
func (p *spill) givesUp(err error, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed = err; p.unread.IsZero() {
		p.unread = now
	}
	return now.Sub(p.unread) >= unreadFor
}

// drop lets go of one. What cannot be taken away is passed over from now on: a disk that gives nothing holds nothing up.
func (p *spill) drop(object string, away func(at string) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := away(filepath.Join(p.dir, object)); err != nil {
		p.failed = fmt.Errorf("let go of log in the second place: %w", err)
		if p.passed == nil {
			p.passed = map[string]bool{}
		}
		p.passed[object] = true
	}
	p.held = slices.DeleteFunc(p.held, func(s spilledSegment) bool { return s.object == object })
}

// DrainSpill brings into the vault what lies in a second place whose host does not archive any more, and reports how many
// segments that were. A place that is not there holds nothing that can be brought. What the vault can never take is set aside,
// and told by lost.
func DrainSpill(ctx context.Context, v *vault.Vault, dir string, lost func(object string, err error)) (int, error) {
	if n, err := SpillWaits(dir); n == 0 || err != nil {
		return 0, err
	}
	p := newSpill(dir, "", v)
	if err := p.take(); err != nil {
		return 0, err
	}
	n := 0
	err := p.drain(ctx, draining{more: func() bool { return true }, stored: func(wal.Held) { n++ }, lost: lost})
	return n, err
}

// SpillWaits is how many segments lie in a second place.
func SpillWaits(dir string) (int, error) {
	found, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	n := 0
	for _, e := range found {
		if vault.IsSealed(e.Name()) {
			n++
		}
	}
	return n, err
}
