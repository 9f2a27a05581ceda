package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/vault/store"
	"holdfast/internal/vault/wal"
)

// ErrNotHeld is returned for a segment or history that the vault does not hold.
var ErrNotHeld = errors.New("not in the vault")

// DuplicateError says that the vault holds other content for the same piece of log. Either two servers wrote
// on one timeline or a disk lies: a person must look. What was stored first stays.
type DuplicateError struct {
	Vault, Name string
	Stored      []string // objects
}

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("store log %s in vault %s: held already with other content (%s)", e.Name, e.Vault, strings.Join(e.Stored, ", "))
}

// Log is the write-ahead log of one PostgreSQL cluster in the vault.
type Log struct {
	vault       *Vault
	systemID    uint64
	segmentSize uint64
}

const walSuffix = ".zst.aes"

// Log gives access to the log of the cluster with this system identifier. segmentSize in bytes; 0 = PostgreSQL's default.
func (v *Vault) Log(systemID, segmentSize uint64) *Log {
	if segmentSize == 0 {
		segmentSize = wal.DefaultSegmentSize
	}
	return &Log{vault: v, systemID: systemID, segmentSize: segmentSize}
}

// SegmentSize in bytes.
func (l *Log) SegmentSize() uint64 { return l.segmentSize }

func (l *Log) root() string { return fmt.Sprintf("wal/%d", l.systemID) }

func (l *Log) dir(timeline uint32) string { return fmt.Sprintf("%s/%08X", l.root(), timeline) }

// PutSegment stores a whole segment. covers is the sender's clock when it sent the segment's end (zero =
// unknown). Storing the same content again is no error, other content is a *DuplicateError.
func (l *Log) PutSegment(ctx context.Context, timeline uint32, start wal.LSN, content []byte, covers time.Time) error {
	if uint64(len(content)) != l.segmentSize || start.SegmentStart(l.segmentSize) != start {
		return fmt.Errorf("store log segment at %s: %d bytes are not a whole segment of %d", start, len(content), l.segmentSize)
	}
	return l.putPiece(ctx, timeline, start, content, covers)
}

// PutPartial stores the beginning of a segment, and removes shorter beginnings of it.
func (l *Log) PutPartial(ctx context.Context, timeline uint32, start wal.LSN, content []byte, covers time.Time) error {
	if len(content) == 0 || uint64(len(content)) >= l.segmentSize || start.SegmentStart(l.segmentSize) != start {
		return fmt.Errorf("store partial log segment at %s: %d bytes are no beginning of a segment of %d", start, len(content), l.segmentSize)
	}
	return l.putPiece(ctx, timeline, start, content, covers)
}

func (l *Log) putPiece(ctx context.Context, timeline uint32, start wal.LSN, content []byte, covers time.Time) error {
	g, err := l.Grow(timeline, start)
	if err == nil {
		err = g.Add(content)
	}
	if err != nil {
		return err
	}
	drop, err := g.Store(ctx, covers)
	if err != nil {
		return err
	}
	return drop(ctx)
}

// PutHistory stores a timeline's history file.
func (l *Log) PutHistory(ctx context.Context, timeline uint32, content []byte) error {
	if _, err := wal.ParseHistory(timeline, content); err != nil {
		return err
	}
	name := wal.HistoryName(timeline)
	p, err := l.vault.packed(content)
	if err != nil {
		return fmt.Errorf("store log %s: %w", name, err)
	}
	_, _, err = l.put(ctx, name, name+"-", walHeader{kind: walHistory, timeline: timeline, systemID: l.systemID}, p)
	return err
}

// put stores content under prefix plus its hash, unless that is there, and gives the name of the object that holds it, with the
// list of its neighbours that shows it. The check for other content runs before, so that what is stored stays alone, and after, for
// two writers may come at the same moment: where lists lag, once a list shows what was stored, so that one of the two sees the other.
func (l *Log) put(ctx context.Context, name, prefix string, h walHeader, content *packing) (full string, names []string, err error) {
	object := prefix + content.name() + walSuffix
	full = path.Join(l.dir(h.timeline), object)
	held, names, err := l.others(ctx, h, name, prefix, object)
	if err != nil || held != "" {
		return held, names, err
	}
	raw, err := l.vault.sealWAL(h, content)
	if err != nil {
		return "", nil, fmt.Errorf("store log %s: %w", name, err)
	}
	err = l.vault.files.Put(ctx, full, store.Bytes(raw))
	// Another writer of the same content was quicker: equal content under a fresh nonce is never equal bytes.
	if err != nil && !errors.Is(err, store.ErrDiffers) {
		return "", nil, fmt.Errorf("store log %s: %w", name, err)
	}
	err = l.vault.untilListed(ctx, func(ctx context.Context) (bool, error) {
		held, names, err = l.others(ctx, h, name, prefix, object)
		return held != "" || l.outgrown(h, content.size, names), err
	})
	if twice, ok := errors.AsType[*DuplicateError](err); ok {
		return "", nil, twice
	}
	if err != nil {
		return "", nil, fmt.Errorf("store log %s: %w", name, err)
	}
	if err := l.vault.writeDown(ctx, true); err != nil { // the segment is stored; its row waits
		l.vault.log.WarnContext(ctx, "catalog not written", "err", err)
	}
	return full, names, nil
}

// outgrown reports whether a list shows more of a segment than the beginning that was stored: another writer has let go of that.
func (l *Log) outgrown(h walHeader, size uint64, names []string) bool {
	return h.kind == walPartial && slices.ContainsFunc(l.pieces(h.timeline, names), func(p wal.Held) bool {
		return p.Start == h.start && p.End > h.start+wal.LSN(size)
	})
}

// others gives what holds object already, alone or in a bundle ("" = nothing does), and errs when another one claims to be
// the same piece of log. names are the list that it has looked at.
func (l *Log) others(ctx context.Context, h walHeader, name, prefix, object string) (held string, names []string, err error) {
	names, err = l.begin(ctx, h.timeline, name[:16])
	if err != nil {
		return "", nil, err
	}
	var others []string
	for _, n := range names {
		full := path.Join(l.dir(h.timeline), n)
		if b, ok := parseBundleName(full); ok && h.kind == walSegment && b.has(path.Join(l.dir(h.timeline), object)) {
			same, err := l.bundleHolds(ctx, full, object)
			switch {
			case err != nil: // its content is not known; a scrub tells, and the log goes on
				l.vault.log.WarnContext(ctx, "bundle not compared with a segment", "object", full, "err", err)
			case same:
				held = full
			default:
				others = append(others, n)
			}
			continue
		}
		switch {
		case n == object:
			held = full
		case strings.HasPrefix(n, prefix):
			others = append(others, n)
		}
	}
	if len(others) > 0 {
		return held, names, &DuplicateError{Vault: l.vault.name, Name: name, Stored: others}
	}
	return held, names, nil
}

// dropPartials removes the beginnings of a segment among names that are shorter than below, in each copy that has the object by,
// which holds more of it.
func (l *Log) dropPartials(ctx context.Context, timeline uint32, names []string, segment string, below uint64, by string) error {
	for _, n := range names {
		p, ok := l.parse(timeline, n)
		if ok && p.Partial && strings.HasPrefix(n, segment) && uint64(p.End-p.Start) < below {
			if err := l.vault.supersede(ctx, p.Object, by); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin lists the objects of a timeline whose names begin so: one request to a bucket, however many segments it holds.
func (l *Log) begin(ctx context.Context, timeline uint32, prefix string) ([]string, error) {
	var names []string
	dir := l.dir(timeline) + "/"
	err := l.vault.files.List(ctx, dir+prefix, func(i store.Info) error {
		names = append(names, strings.TrimPrefix(i.Name, dir))
		return nil
	})
	return names, err
}

// parse reads an object's name. Names that are not of a segment give false.
func (l *Log) parse(timeline uint32, object string) (wal.Held, bool) {
	base, ok := strings.CutSuffix(object, walSuffix)
	if !ok || len(base) < 25 {
		return wal.Held{}, false
	}
	tl, start, err := wal.ParseSegmentName(base[:24], l.segmentSize)
	if err != nil || tl != timeline {
		return wal.Held{}, false
	}
	h := wal.Held{Timeline: tl, Start: start, End: start + wal.LSN(l.segmentSize), Object: path.Join(l.dir(tl), object)}
	if rest, ok := strings.CutPrefix(base[24:], ".partial-"); ok {
		digits, _, _ := strings.Cut(rest, "-")
		n, err := strconv.ParseUint(digits, 16, 64)
		if err != nil || n >= l.segmentSize {
			return wal.Held{}, false
		}
		h.Partial, h.End = true, start+wal.LSN(n)
	} else if base[24] != '-' {
		return wal.Held{}, false
	}
	return h, true
}

// Timelines lists the timelines of which the vault holds anything, lowest first.
func (l *Log) Timelines(ctx context.Context) ([]uint32, error) {
	names, err := l.vault.files.Names(ctx, fmt.Sprintf("wal/%d", l.systemID))
	if err != nil {
		return nil, err
	}
	var out []uint32
	for _, n := range names {
		if t, err := strconv.ParseUint(n, 16, 32); err == nil && len(n) == 8 {
			out = append(out, uint32(t))
		}
	}
	slices.Sort(out)
	return out, nil
}

// Held lists the segments and partial segments, by timeline and position.
func (l *Log) Held(ctx context.Context) ([]wal.Held, error) {
	timelines, err := l.Timelines(ctx)
	if err != nil {
		return nil, err
	}
	var out []wal.Held
	for _, t := range timelines {
		names, err := l.vault.files.Names(ctx, l.dir(t))
		if err != nil {
			return nil, err
		}
		out = append(out, l.pieces(t, names)...)
	}
	return wal.Sorted(out), nil
}

// pieces are what objects of a timeline hold, by their names. What lies alone and in a bundle is given as it lies alone.
func (l *Log) pieces(timeline uint32, names []string) []wal.Held {
	var out []wal.Held
	var bundles [][]wal.Held
	alone := map[wal.LSN]bool{}
	for _, n := range names {
		if h, ok := l.parse(timeline, n); ok {
			out = append(out, h)
			alone[h.Start] = alone[h.Start] || !h.Partial
		} else if in, ok := l.heldIn(timeline, path.Join(l.dir(timeline), n)); ok {
			bundles = append(bundles, in)
		}
	}
	for _, in := range bundles {
		for _, h := range in {
			if !alone[h.Start] {
				alone[h.Start] = true
				out = append(out, h)
			}
		}
	}
	return out
}

// Fetch reads one held piece and proves that it is what its name says. Since it was listed a beginning of a segment may have
// been replaced by a longer one, and a segment by a bundle: then the same bytes are read from that.
func (l *Log) Fetch(ctx context.Context, piece wal.Held) ([]byte, error) {
	h, content, err := l.readPiece(ctx, piece)
	for try := 0; errors.Is(err, store.ErrNotFound) && try < 5; try++ {
		now, findErr := l.longest(ctx, piece.Timeline, piece.Start)
		if findErr != nil {
			return nil, findErr
		}
		if h, content, err = l.readPiece(ctx, now); err == nil && uint64(len(content)) < uint64(piece.End-piece.Start) {
			return nil, fmt.Errorf("read log %s: what replaced it is shorter", piece.Object)
		}
	}
	if err != nil {
		return nil, err
	}
	if piece.Partial {
		content = content[:min(len(content), int(piece.End-piece.Start))]
	}
	if h.systemID != l.systemID || h.timeline != piece.Timeline || h.start != piece.Start || h.kind == walHistory {
		return nil, fmt.Errorf("read log %s: its content is of another place in the log", piece.Object)
	}
	return content, nil
}

// longest is the piece that holds most of one segment.
func (l *Log) longest(ctx context.Context, timeline uint32, start wal.LSN) (wal.Held, error) {
	segment := wal.SegmentName(timeline, start, l.segmentSize)
	names, err := l.begin(ctx, timeline, segment[:16])
	if err != nil {
		return wal.Held{}, err
	}
	var best wal.Held
	for _, h := range l.pieces(timeline, names) {
		if h.Start == start && h.End > best.End {
			best = h
		}
	}
	if best.Object == "" {
		return best, fmt.Errorf("read log segment %s: %w", segment, ErrNotHeld)
	}
	return best, nil
}

// Covers is the sender's clock when it sent the end of this piece: what was committed up to then is held.
// Zero when that is not known, or the piece is damaged, which a scrub tells; [ErrReplaced] when it is not there any more.
func (l *Log) Covers(ctx context.Context, piece wal.Held) (time.Time, error) {
	if _, ok := parseBundleName(piece.Object); ok {
		return l.bundledCovers(ctx, piece)
	}
	var b bytes.Buffer
	err := l.vault.files.Get(ctx, piece.Object, 0, walHeaderSize, &b)
	if errors.Is(err, store.ErrNotFound) {
		now, err := l.longest(ctx, piece.Timeline, piece.Start)
		if _, ok := parseBundleName(now.Object); err == nil && ok && !piece.Partial {
			return l.bundledCovers(ctx, now)
		}
		if err == nil || errors.Is(err, ErrNotHeld) {
			err = ErrReplaced
		}
		return time.Time{}, err
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read log %s: %w", piece.Object, err)
	}
	h, err := parseWALHeader(b.Bytes())
	if err != nil {
		return time.Time{}, nil //nolint:nilerr // what it holds is found out by whoever reads it
	}
	return h.covers, nil
}

// ErrReplaced is the answer of a piece of log that is not there any more: a longer one has taken its place, or it was let go of.
var ErrReplaced = errors.New("the piece of log is not there any more")

// History reads the way to a timeline. Timeline 1 has no file.
func (l *Log) History(ctx context.Context, timeline uint32) (wal.History, error) {
	if timeline == 1 {
		return wal.ParseHistory(1, nil)
	}
	content, err := l.HistoryFile(ctx, timeline)
	if err != nil {
		return nil, err
	}
	return wal.ParseHistory(timeline, content)
}

// HistoryFile reads a timeline's history as PostgreSQL wrote it; ErrNotHeld when there is none.
func (l *Log) HistoryFile(ctx context.Context, timeline uint32) ([]byte, error) {
	names, err := l.vault.files.Names(ctx, l.dir(timeline))
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if strings.HasPrefix(n, wal.HistoryName(timeline)+"-") && strings.HasSuffix(n, walSuffix) {
			h, content, err := l.read(ctx, path.Join(l.dir(timeline), n))
			if err == nil && (h.kind != walHistory || h.timeline != timeline || h.systemID != l.systemID) {
				err = fmt.Errorf("read log %s: its content is another file", n)
			}
			return content, err
		}
	}
	return nil, fmt.Errorf("read history of timeline %d: %w", timeline, ErrNotHeld)
}

// File reads a segment or history file by PostgreSQL's name for it, for a restore_command. A partial segment
// is padded with zeros to its full size, which PostgreSQL takes for the end of the log.
func (l *Log) File(ctx context.Context, name string) ([]byte, error) {
	if digits, ok := strings.CutSuffix(name, ".history"); ok {
		t, err := strconv.ParseUint(digits, 16, 32)
		if err != nil || len(digits) != 8 {
			return nil, fmt.Errorf("read log file %q: no such name", name)
		}
		return l.HistoryFile(ctx, uint32(t))
	}
	timeline, start, err := wal.ParseSegmentName(name, l.segmentSize)
	if err != nil {
		return nil, err
	}
	best, err := l.longest(ctx, timeline, start)
	if err != nil {
		return nil, err
	}
	content, err := l.Fetch(ctx, best)
	if err != nil {
		return nil, err
	}
	return append(content, make([]byte, int(l.segmentSize)-len(content))...), nil
}

func (l *Log) read(ctx context.Context, object string) (walHeader, []byte, error) {
	var raw bytes.Buffer
	if err := l.vault.files.Get(ctx, object, 0, -1, &raw); err != nil {
		return walHeader{}, nil, fmt.Errorf("read log %s: %w", object, err)
	}
	h, content, err := l.vault.openLog(object, raw.Bytes())
	if err != nil {
		return h, nil, fmt.Errorf("read log %s: %w", object, err)
	}
	return h, content, nil
}

// openLog opens an object of the log, and proves that its content is what its name says.
func (v *Vault) openLog(object string, raw []byte) (walHeader, []byte, error) {
	h, content, err := v.openWAL(raw)
	if err != nil {
		return h, nil, err
	}
	hash, err := v.walHash(content)
	if err == nil && !strings.HasSuffix(object, "-"+hash+walSuffix) {
		err = errors.New("its content does not fit its name")
	}
	return h, content, err
}

// checkLog says whether raw can lie under this name in the log.
func (v *Vault) checkLog(object string, raw []byte) error {
	if _, ok := parseBundleName(object); ok {
		return v.checkBundle(object, raw)
	}
	if path.Base(object) != coveredFile {
		_, _, err := v.openLog(object, raw)
		return err
	}
	h, _, err := v.openWAL(raw)
	if err == nil && h.kind != walCovered {
		err = errors.New("it is no mark of how far the log is held")
	}
	return err
}

// coveredFile is the one object of a log that is replaced: how far in time the log is held. On a server where
// nothing happens no log is written, and only this tells that nothing is missing.
const coveredFile = "covered" + walSuffix

// PutCovered records that everything the server had written when its clock showed at, up to position end on
// timeline, is held.
func (l *Log) PutCovered(ctx context.Context, timeline uint32, end wal.LSN, at time.Time) error {
	var raw []byte
	nothing, err := l.vault.newPacking()
	if err == nil {
		raw, err = l.vault.sealWAL(walHeader{kind: walCovered, timeline: timeline, systemID: l.systemID, start: end, covers: at}, nothing)
	}
	if err == nil {
		err = l.vault.files.Replace(ctx, path.Join(l.dir(timeline), coveredFile), store.Bytes(raw))
	}
	if err != nil {
		return fmt.Errorf("record how far the log of timeline %d is held: %w", timeline, err)
	}
	return nil
}

// Covered reads what PutCovered recorded last; zero when nothing was.
func (l *Log) Covered(ctx context.Context, timeline uint32) (end wal.LSN, at time.Time, err error) {
	var raw bytes.Buffer
	err = l.vault.files.Get(ctx, path.Join(l.dir(timeline), coveredFile), 0, -1, &raw)
	if errors.Is(err, store.ErrNotFound) {
		return 0, time.Time{}, nil
	}
	if err != nil {
		return 0, time.Time{}, err
	}
	h, _, err := l.vault.openWAL(raw.Bytes())
	if err == nil && (h.kind != walCovered || h.timeline != timeline || h.systemID != l.systemID) {
		err = errors.New("its content is of another place")
	}
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("read how far the log of timeline %d is held: %w", timeline, err)
	}
	return h.start, h.covers, nil
}
