package vault

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"holdfast/internal/vault/wal"
)

// ErrBadSeal is returned for a sealed segment that is damaged, or was sealed by another vault or for another cluster.
var ErrBadSeal = errors.New("not a segment that this vault sealed")

// Seal gives a whole segment as the vault would hold it, enciphered under the name that proves it, for who must keep it
// elsewhere until the vault takes it. The vault itself is not asked.
func (l *Log) Seal(timeline uint32, start wal.LSN, content []byte, covers time.Time) (object string, raw []byte, err error) {
	name := wal.SegmentName(timeline, start, l.segmentSize)
	if uint64(len(content)) != l.segmentSize || start.SegmentStart(l.segmentSize) != start {
		return "", nil, fmt.Errorf("seal log segment at %s: %d bytes are not a whole segment of %d", start, len(content), l.segmentSize)
	}
	p, err := l.vault.packed(content)
	if err == nil {
		raw, err = l.vault.sealWAL(walHeader{kind: walSegment, timeline: timeline, systemID: l.systemID, start: start, segmentSize: l.segmentSize, covers: covers}, p)
	}
	if err != nil {
		return "", nil, fmt.Errorf("seal log %s: %w", name, err)
	}
	return name + "-" + p.name() + walSuffix, raw, nil
}

// IsSealed reports whether a name is one that [Log.Seal] gives.
func IsSealed(object string) bool {
	if len(object) < 26 || object[24] != '-' || !strings.HasSuffix(object, walSuffix) {
		return false
	}
	_, err := hex.DecodeString(object[:24])
	return err == nil
}

// PutSealed stores what [Log.Seal] gave, in the log of the cluster that it is of. [ErrBadSeal] says that it can never be stored.
func (v *Vault) PutSealed(ctx context.Context, object string, raw []byte) (wal.Held, error) {
	h, content, err := v.openLog(object, raw)
	if err == nil && h.kind != walSegment {
		err = errors.New("it is no whole segment")
	}
	var held wal.Held
	if err == nil {
		held = wal.Held{Timeline: h.timeline, Start: h.start, End: h.start + wal.LSN(h.segmentSize)}
		if object[:24] != wal.SegmentName(h.timeline, h.start, h.segmentSize) {
			err = errors.New("its content is of another place in the log")
		}
	}
	if err != nil {
		return held, fmt.Errorf("store log %s: %w: %w", object, ErrBadSeal, err)
	}
	return held, v.Log(h.systemID, h.segmentSize).PutSegment(ctx, h.timeline, h.start, content, h.covers)
}

// SealedPlace is where in the log of which cluster something that [Log.Seal] gave says that it lies. Only its beginning is read,
// which nothing proves before the whole is stored.
func SealedPlace(r io.Reader) (systemID uint64, at wal.Held, err error) {
	var head [walHeaderSize]byte
	if _, err = io.ReadFull(r, head[:]); err != nil {
		return 0, at, fmt.Errorf("read where a segment of log lies: %w", err)
	}
	h, err := parseWALHeader(head[:])
	if err != nil {
		return 0, at, fmt.Errorf("read where a segment of log lies: %w", err)
	}
	if h.kind != walSegment {
		return 0, at, errors.New("read where a segment of log lies: it is no whole segment")
	}
	return h.systemID, wal.Held{Timeline: h.timeline, Start: h.start, End: h.start + wal.LSN(h.segmentSize)}, nil
}
