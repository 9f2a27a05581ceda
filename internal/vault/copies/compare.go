package copies

import (
	"context"
	"maps"
	"slices"
	"time"

	"holdfast/internal/vault/store"
)

// Lack is what one copy lacks that others have.
type Lack struct {
	Copy    string
	Away    error        // the copy does not answer: what it lacks is not known
	Missing []store.Info // as another copy describes it
	Suspect []string     // there with another size than elsewhere: only reading says which is good
	changed []string     // blobs that may have to be replaced
}

// Bytes adds up what is missing.
func (l Lack) Bytes() int64 {
	var n int64
	for _, i := range l.Missing {
		n += i.Size
	}
	return n
}

// Oldest is when the first of what is missing was stored elsewhere; zero when nothing is missing.
func (l Lack) Oldest() time.Time {
	var at time.Time
	for _, i := range l.Missing {
		if at.IsZero() || i.ModTime.Before(at) {
			at = i.ModTime
		}
	}
	return at
}

func (l Lack) names() []string {
	out := slices.Clone(l.changed)
	for _, i := range l.Missing {
		out = append(out, i.Name)
	}
	return out
}

// Compare lists every copy and says what each lacks. Nothing is read or written.
func (s *Store) Compare(ctx context.Context) ([]Lack, error) {
	for _, m := range s.members {
		s.reach(ctx, m)
	}
	var out []Lack
	for _, m := range s.members {
		m.mu.Lock()
		open, err := m.store != nil, m.err
		m.mu.Unlock()
		if !open || err != nil {
			out = append(out, Lack{Copy: m.place.Name, Away: err})
			continue
		}
		l, err := s.lacking(ctx, m)
		if ctx.Err() != nil {
			return nil, err
		}
		if err != nil {
			l = Lack{Copy: m.place.Name, Away: err}
		}
		out = append(out, l)
	}
	return out, nil
}

// lacking holds one copy's list against all the others'.
func (s *Store) lacking(ctx context.Context, m *member) (Lack, error) {
	l := Lack{Copy: m.place.Name}
	if s.policy.Refresh != nil {
		if err := s.policy.Refresh(ctx); err != nil {
			return l, err
		}
	}
	own := map[string]int64{}
	mine, err := listAll(ctx, m.store, "", true)
	if err != nil {
		return l, m.named(err)
	}
	for _, i := range mine {
		own[i.Name] = i.Size
	}
	all, suspect := map[string]store.Info{}, map[string]bool{}
	use, _ := s.able(false)
	for _, o := range use {
		if o == m {
			continue
		}
		theirs, err := listAll(ctx, o.store, "", true)
		if err != nil {
			if ctx.Err() != nil {
				return l, err
			}
			s.note(o, err, false)
			continue
		}
		for _, i := range theirs {
			if _, ok := all[i.Name]; !ok && !s.policy.Passing(i.Name) {
				all[i.Name] = i
			}
			if size, ok := own[i.Name]; ok && size != i.Size {
				suspect[i.Name] = true
			}
		}
	}
	names := slices.Collect(maps.Keys(all))
	for n := range own { // what it has itself may make others needless
		if _, ok := all[n]; !ok {
			names = append(names, n)
		}
	}
	for _, n := range s.policy.Needed(names) {
		_, has := own[n]
		info, elsewhere := all[n]
		switch {
		case !elsewhere || s.policy.Passing(n):
		case s.policy.Changing(n):
			l.changed = append(l.changed, n)
			if !has {
				l.Missing = append(l.Missing, info)
			}
		case !has:
			l.Missing = append(l.Missing, info)
		case suspect[n]:
			l.Suspect = append(l.Suspect, n)
		}
	}
	slices.Sort(l.Suspect)
	return l, nil
}
