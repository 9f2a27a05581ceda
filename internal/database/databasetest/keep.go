package databasetest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/database"
)

// shelved is what was put aside of one incarnation, beside its data: it outlasts everything but the disk.
type shelved struct {
	kept database.Kept
	ids  []int // of the commits behind the parting, in their order
}

// Preserve implements [database.Server].
func (s *Server) Preserve(ctx context.Context, parted database.Parting) error {
	switch {
	case s.d.state != database.DataPresent:
		return errNoData
	case s.p != nil && s.p.role == database.Primary:
		return errNoRole
	}
	if err := s.Kill(ctx, "its history is put aside"); err != nil {
		return err
	}
	incarnation := s.d.incarnation
	if err := s.w.Wait(ctx, s.host, s.between(50*time.Millisecond, time.Second)); err != nil {
		return err
	}
	if err := s.fsync(ctx); err != nil {
		return err
	}
	if s.d.state != database.DataPresent || s.d.incarnation != incarnation || s.p != nil {
		return errGone
	}
	if k := s.keptOf(incarnation); k != nil && k.Covers(parted) {
		return nil
	}
	x := shelved{kept: database.Kept{
		ID: fmt.Sprintf("epoch-%d-%s", s.d.promise.Epoch, incarnation), Incarnation: incarnation, Parted: parted, End: s.end(),
	}}
	for _, e := range s.d.wal {
		if e.Kind != Commit || e.End <= parted.LSN || s.bugs.KeepsNothing {
			continue
		}
		x.ids = append(x.ids, e.ID)
		x.kept.Commits++
		if parted.Given && e.End <= parted.Acknowledged {
			x.kept.Acknowledged++
		}
	}
	s.shelf = append(s.shelf, x)
	return nil
}

// Salvage notes that what was put aside of the data that are here has been brought to safety; false = there is nothing.
func (s *Server) Salvage(how string) bool {
	for i := len(s.shelf) - 1; i >= 0; i-- {
		if s.d.state == database.DataPresent && s.shelf[i].kept.Incarnation == s.d.incarnation {
			s.shelf[i].kept.Salvaged = how
			return true
		}
	}
	return false
}

// Salvaged reports whether a commit is among what was brought to safety here.
func (s *Server) Salvaged(id int) bool {
	return slices.ContainsFunc(s.shelf, func(x shelved) bool { return x.kept.Salvaged != "" && slices.Contains(x.ids, id) })
}

func (s *Server) keptOf(incarnation string) *database.Kept {
	for _, x := range slices.Backward(s.shelf) {
		if x.kept.Incarnation == incarnation {
			k := x.kept
			return &k
		}
	}
	return nil
}

// Shelved reports whether a commit was ever put aside and listed here.
func (s *Server) Shelved(id int) bool {
	return slices.ContainsFunc(s.shelf, func(x shelved) bool { return slices.Contains(x.ids, id) })
}

// discards tells which commits a copy of another server's log takes from the disk.
func (s *Server) discards(of *Server) {
	theirs := make(map[int]bool, len(of.d.wal))
	for _, e := range of.d.wal {
		if e.Kind == Commit {
			theirs[e.ID] = true
		}
	}
	for _, e := range s.d.wal {
		if e.Kind == Commit && !theirs[e.ID] {
			s.o.Discarded(s.host, e, s.Shelved(e.ID))
		}
	}
}
