package databasetest

import (
	"context"
	"maps"
	"slices"

	"holdfast/internal/database"
)

const (
	keepSize = database.LSN(16 << 10)  // wal_keep_size of the model
	slotMax  = database.LSN(256 << 10) // max_slot_wal_keep_size
)

// KeepSlots implements [database.Server].
func (s *Server) KeepSlots(_ context.Context, o database.SlotOrder) error {
	p := s.p
	if p == nil || !p.ready {
		return errNoRole
	}
	for _, incarnation := range o.Drop {
		if !s.active(incarnation) {
			delete(s.d.slots, incarnation)
		}
	}
	for _, k := range o.Keep {
		s.reserve(k.Incarnation)
		if to := min(k.At, s.end()); !s.active(k.Incarnation) && to > s.d.slots[k.Incarnation] {
			s.d.slots[k.Incarnation] = to
		}
	}
	s.recycle()
	return nil
}

// ReadOnly implements [database.Server].
func (s *Server) ReadOnly(ctx context.Context, on bool) error {
	p := s.p
	if p == nil || p.role != database.Primary {
		return errNoRole
	}
	if err := s.fsync(ctx); err != nil {
		return err
	}
	if s.p != p {
		return errGone
	}
	s.d.readOnly = on
	return nil
}

// reserve makes a slot that keeps all the log that there is, where there is none yet.
func (s *Server) reserve(incarnation string) {
	if _, there := s.d.slots[incarnation]; there {
		return
	}
	if s.d.slots == nil {
		s.d.slots = map[string]database.LSN{}
	}
	s.d.slots[incarnation] = max(s.d.oldest, walStart)
}

func (s *Server) active(incarnation string) bool {
	return s.p != nil && slices.ContainsFunc(s.p.senders, func(x *stream) bool { return x.standby.d.incarnation == incarnation })
}

// recycle lets log go that nobody needs; a slot that keeps too much is given up.
func (s *Server) recycle() {
	from := s.end() - min(s.end(), keepSize)
	for incarnation, at := range s.d.slots {
		if at+slotMax < s.end() {
			delete(s.d.slots, incarnation)
			continue
		}
		from = min(from, at)
	}
	s.d.oldest = max(s.d.oldest, from)
}

func (s *Server) slots() []database.Slot {
	var out []database.Slot
	for _, incarnation := range slices.Sorted(maps.Keys(s.d.slots)) {
		at := s.d.slots[incarnation]
		out = append(out, database.Slot{Incarnation: incarnation, Active: s.active(incarnation), At: at, Kept: int64(s.end() - min(at, s.end()))})
	}
	return out
}

// KeptLog is how much log the server holds back for others, beyond what it keeps in any case.
func (s *Server) KeptLog() int64 { return int64(s.end() - min(s.end(), max(s.d.oldest, walStart))) }
