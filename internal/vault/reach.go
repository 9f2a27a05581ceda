package vault

import (
	"context"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"holdfast/internal/vault/store"
	"holdfast/internal/vault/wal"
)

// Reach is how far the log can be read in one copy of the vault, as that copy itself says.
type Reach struct {
	Copy  string    `json:"copy,omitempty"` // "" = the vault has one
	Away  string    `json:"away,omitempty"` // why it was not asked; then nothing below is known
	End   wal.LSN   `json:"end"`            // the log is whole there up to this position
	Until time.Time `json:"until,omitzero"` // every commit up to this moment is in it, by the server's clock; zero = not known
}

// Reach asks each copy by itself how far its log goes without a hole from a position on, along a history. What is in another
// copy alone does not count: this is what is left when the others are lost.
func (l *Log) Reach(ctx context.Context, h wal.History, from wal.LSN) ([]Reach, error) {
	open := l.vault.rawPlaces()
	var out []Reach
	for _, c := range slices.Sorted(maps.Keys(open)) {
		r, err := l.reachIn(ctx, open[c], h, from)
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		if err != nil {
			r = Reach{Away: err.Error()}
		}
		r.Copy = c
		out = append(out, r)
	}
	for _, c := range l.vault.Copies() {
		if _, ok := open[c.Name]; !ok {
			away := "it is not open"
			if c.Away != nil {
				away = c.Away.Error()
			}
			out = append(out, Reach{Copy: c.Name, Away: away})
		}
	}
	return out, nil
}

func (l *Log) reachIn(ctx context.Context, place store.Store, h wal.History, from wal.LSN) (Reach, error) {
	var held []wal.Held
	covered := map[uint32]wal.Held{} // by timeline: how far the copy says that it is whole, and until when
	for _, s := range h {
		if s.End != 0 && s.End <= from {
			continue
		}
		at, err := l.coveredIn(ctx, place, s.Timeline) // before the pieces: it must not speak of what the list has not seen
		if err != nil {
			return Reach{}, err
		}
		covered[s.Timeline] = at
		pieces, err := l.heldFrom(ctx, place, s, from)
		if err != nil {
			return Reach{}, err
		}
		held = append(held, pieces...)
	}
	pieces, end := wal.Reach(h, held, from, l.segmentSize)
	r := Reach{End: end}
	for t, at := range covered {
		if on, ok := h.At(at.End); at.End <= end && ok && on == t && at.Covers.After(r.Until) {
			r.Until = at.Covers
		}
	}
	if n := len(pieces); n > 0 {
		at, err := l.coversIn(ctx, place, pieces[n-1])
		if err != nil && !errors.Is(err, store.ErrNotFound) { // a longer piece has taken its place: the next look sees it
			return Reach{}, err
		}
		if at.After(r.Until) {
			r.Until = at
		}
	}
	return r, nil
}

// heldFrom lists the pieces of one timeline from a position on: by the first digits of their names, for what is old is long.
func (l *Log) heldFrom(ctx context.Context, place store.Store, s wal.Stretch, from wal.LSN) ([]wal.Held, error) {
	var out []wal.Held
	dir := l.dir(s.Timeline) + "/"
	for id := max(from, s.Begin) / wal.IDSize; ; id++ {
		var names []string
		prefix := wal.SegmentName(s.Timeline, id*wal.IDSize, l.segmentSize)[:16]
		err := place.List(ctx, dir+prefix, func(i store.Info) error {
			names = append(names, strings.TrimPrefix(i.Name, dir))
			return nil
		})
		if err != nil {
			return nil, err
		}
		pieces := l.pieces(s.Timeline, names)
		if len(pieces) == 0 {
			return out, nil
		}
		out = append(out, pieces...)
	}
}

// coveredIn is the mark of one copy; zero when it has none.
func (l *Log) coveredIn(ctx context.Context, place store.Store, timeline uint32) (wal.Held, error) {
	raw, err := store.Read(ctx, place, path.Join(l.dir(timeline), coveredFile))
	if errors.Is(err, store.ErrNotFound) {
		return wal.Held{}, nil
	}
	if err != nil {
		return wal.Held{}, err
	}
	h, _, err := l.vault.openWAL(raw)
	if err == nil && (h.kind != walCovered || h.timeline != timeline || h.systemID != l.systemID) {
		err = errors.New("its mark is of another place in the log")
	}
	return wal.Held{Timeline: timeline, End: h.start, Covers: h.covers}, err
}

// coversIn is [Log.Covers] of a piece as one copy has it. The piece is opened: what is damaged there cannot be read there.
func (l *Log) coversIn(ctx context.Context, place store.Store, piece wal.Held) (time.Time, error) {
	if _, ok := parseBundleName(piece.Object); ok {
		return time.Time{}, nil // the newest log lies alone
	}
	raw, err := store.Read(ctx, place, piece.Object)
	if err != nil {
		return time.Time{}, err
	}
	h, _, err := l.vault.openLog(piece.Object, raw)
	return h.covers, err
}
