package postgres

import "slices"

// written are the values of synchronous_standby_names that this process wrote, the newest last, to tell when a hand changed
// them. While one is being written a session shows it or the one before, and the answer of a session may be looked at when
// another one has been written already.
type written struct {
	values []string
	first  int // number of the oldest that is kept
	stands int // number of the oldest that a session which is asked now may show
}

// writtenMax is how many are kept: an answer that is older than so many changes counts for a hand's.
const writtenMax = 32

// only notes a value that every session shows.
func (w *written) only(value string) {
	w.add(value)
	w.stands = w.first + len(w.values) - 1
}

func (w *written) add(value string) (number int) {
	w.values = append(slices.Clone(w.values), value)
	if over := len(w.values) - writtenMax; over > 0 {
		w.values, w.first = w.values[over:], w.first+over
		w.stands = max(w.stands, w.first)
	}
	return w.first + len(w.values) - 1
}

// has reports whether a value is one of those from number since on; nothing is known to be wrong while nothing was written.
func (w *written) has(since int, value string) bool {
	return len(w.values) == 0 || slices.Contains(w.values[max(0, since-w.first):], value)
}

// writing notes a value that sessions may show from now on, beside the one that stands; settled that each does.
func (s *Server) writing(value string) (settled func()) {
	before, err := readDynamic(s.at.data)
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &s.now.written
	if len(w.values) == 0 && err == nil { // of a process before this one
		w.only(before.names)
	}
	number := w.add(value)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		w.stands = max(w.stands, number)
	}
}

// wroteSince reports whether a session that was asked when value number since was the oldest that could be shown shows what
// this process wrote.
func (s *Server) wroteSince(since int, value string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.written.has(since, value)
}
