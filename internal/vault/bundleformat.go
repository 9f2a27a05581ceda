package vault

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"path"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/vault/wal"
)

// Layout of a bundle of segments, version 1 (docs/decisions/0029): an index of fixed size, sealed, then each segment's own
// object, byte for byte as it lay alone. So a segment is read with two requests, and proves itself as it did alone.
//
//	0  8   magic and version
//	8  12  nonce
//	20     index sealed with AES-256-GCM, with the 8 bytes before it:
//	       0  4  timeline
//	       4  4  number of segments
//	       8  8  system identifier
//	       16 8  first position
//	       24 8  segment size in bytes
//	       32    for each segment: length of its object 8, covers 8, hash of its content 16
//
// Its name is that of its first segment, then how many there are, then a keyed hash of what is in it:
// <24 digits>.bundle-<3 digits>-<hash>. They follow each other, so the name says which there are.
const (
	bundleMagic = "HFWALB\x00\x01"
	bundleNonce = 8
	bundleIndex = 20
	bundleHead  = 32
	bundleRow   = 32
	bundleSeal  = 16
	bundleMark  = ".bundle-"
	// bundleMost is how many segments one bundle may have.
	bundleMost = 256
)

// bundle is the index of one.
type bundle struct {
	object   string // its name in the store
	timeline uint32
	systemID uint64
	first    wal.LSN
	size     uint64 // of a segment, in bytes
	parts    []bundled
}

// bundled is one segment's place in a bundle.
type bundled struct {
	offset, length int64 // in the bundle
	covers         time.Time
	hash           string // of its content, as in the name that it had alone
}

// bundleName is what the name of a bundle says. Names of anything else give false.
type bundleName struct {
	dir, first string // folder; name of the first segment
	count      int
}

func parseBundleName(name string) (bundleName, bool) {
	dir, base := path.Split(name)
	if len(base) < 24+len(bundleMark)+3 || !strings.HasPrefix(base[24:], bundleMark) || !strings.HasSuffix(base, walSuffix) {
		return bundleName{}, false
	}
	b := bundleName{dir: dir, first: base[:24]}
	digits, _, ok := strings.Cut(base[24+len(bundleMark):], "-")
	n, err := strconv.ParseUint(digits, 16, 16)
	if _, bad := strconv.ParseUint(b.first[16:], 16, 32); !ok || err != nil || bad != nil || len(digits) != 3 || n < 2 || n > bundleMost {
		return bundleName{}, false
	}
	b.count = int(n)
	return b, true
}

// has reports whether the object of a segment, by its name in the store, is of the part of the log that b holds.
func (b bundleName) has(name string) bool { return b.index(name) >= 0 }

// index is which of b's segments an object of the log belongs to; -1 = none.
func (b bundleName) index(name string) int {
	dir, base := path.Split(name)
	if dir != b.dir || len(base) < 24 || base[:16] != b.first[:16] {
		return -1
	}
	n, err := strconv.ParseUint(base[16:24], 16, 32)
	from, bad := strconv.ParseUint(b.first[16:], 16, 32)
	if err != nil || bad != nil || n < from || n >= from+uint64(b.count) {
		return -1
	}
	return int(n - from)
}

// spans tells which segments bundles hold, by name alone.
type spans map[string][]bundleName // by folder and the first 16 digits

func spansOf(names iter.Seq[string]) spans {
	out := spans{}
	for n := range names {
		if b, ok := parseBundleName(n); ok {
			key := b.dir + b.first[:16]
			out[key] = append(out[key], b)
		}
	}
	return out
}

// covers reports whether an object of the log is one segment, or the beginning of one, that a bundle holds.
func (s spans) covers(name string) bool {
	dir, base := path.Split(name)
	if len(base) < 25 || strings.HasPrefix(base[24:], bundleMark) {
		return false
	}
	for _, b := range s[dir+base[:16]] {
		if b.has(name) {
			return true
		}
	}
	return false
}

// held are the segments of a bundle. False when its name is of no bundle of this log.
func (l *Log) heldIn(timeline uint32, object string) ([]wal.Held, bool) {
	b, ok := parseBundleName(object)
	if !ok {
		return nil, false
	}
	tl, start, err := wal.ParseSegmentName(b.first, l.segmentSize)
	size := wal.LSN(l.segmentSize)
	if err != nil || tl != timeline || start/wal.IDSize != (start+size*wal.LSN(b.count)-1)/wal.IDSize {
		return nil, false
	}
	out := make([]wal.Held, b.count)
	for i := range out {
		at := start + size*wal.LSN(i)
		out[i] = wal.Held{Timeline: tl, Start: at, End: at + size, Object: path.Join(l.dir(tl), path.Base(object))}
	}
	return out, true
}

// headSize is how long a bundle's beginning up to the first segment is, in bytes.
func headSize(count int) int64 { return bundleIndex + bundleHead + int64(count)*bundleRow + bundleSeal }

// index gives the plain index.
func (b bundle) index() ([]byte, error) {
	raw := make([]byte, bundleHead, bundleHead+len(b.parts)*bundleRow)
	be := binary.BigEndian
	be.PutUint32(raw, b.timeline)
	be.PutUint32(raw[4:], uint32(len(b.parts)))
	be.PutUint64(raw[8:], b.systemID)
	be.PutUint64(raw[16:], uint64(b.first))
	be.PutUint64(raw[24:], b.size)
	for _, p := range b.parts {
		covers := uint64(0)
		if !p.covers.IsZero() {
			covers = uint64(p.covers.UnixMicro())
		}
		raw = be.AppendUint64(raw, uint64(p.length))
		raw = be.AppendUint64(raw, covers)
		hash, err := hex.DecodeString(p.hash)
		if err != nil || len(hash) != 16 {
			return nil, fmt.Errorf("bundle log: %q is no hash", p.hash)
		}
		raw = append(raw, hash...)
	}
	return raw, nil
}

// bundleHash is the part of a bundle's name that tells contents apart: equal segments give an equal name, however each
// was sealed.
func (v *Vault) bundleHash(b bundle) (string, error) {
	said := fmt.Appendf(nil, "bundle\x00%d\x00%d\x00%d\x00%d", b.systemID, b.timeline, b.first, b.size)
	for _, p := range b.parts {
		said = fmt.Appendf(said, "\x00%s", p.hash)
	}
	return v.walHash(said)
}

// sealBundle gives the beginning of a bundle.
func (v *Vault) sealBundle(b bundle) ([]byte, error) {
	index, err := b.index()
	if err != nil {
		return nil, err
	}
	gcm, err := v.walCipher()
	if err != nil {
		return nil, err
	}
	head := make([]byte, bundleIndex, headSize(len(b.parts)))
	copy(head, bundleMagic)
	_, _ = rand.Read(head[bundleNonce:]) // never fails (crypto/rand)
	return gcm.Seal(head, head[bundleNonce:], index, head[:bundleNonce]), nil
}

// openBundle authenticates the beginning of a bundle under its name.
func (v *Vault) openBundle(object string, raw []byte) (bundle, error) {
	name, ok := parseBundleName(object)
	if !ok || int64(len(raw)) < headSize(name.count) || string(raw[:bundleNonce]) != bundleMagic {
		return bundle{}, errors.New("not a bundle of this log, or of another version")
	}
	gcm, err := v.walCipher()
	if err != nil {
		return bundle{}, err
	}
	index, err := gcm.Open(nil, raw[bundleNonce:bundleIndex], raw[bundleIndex:headSize(name.count)], raw[:bundleNonce])
	if err != nil {
		return bundle{}, errors.New("damaged: its seal does not fit")
	}
	be := binary.BigEndian
	b := bundle{object: object, timeline: be.Uint32(index), systemID: be.Uint64(index[8:]), first: wal.LSN(be.Uint64(index[16:])), size: be.Uint64(index[24:])}
	if int(be.Uint32(index[4:])) != name.count || b.size == 0 || name.first != wal.SegmentName(b.timeline, b.first, b.size) {
		return bundle{}, errors.New("its content does not fit its name")
	}
	at := headSize(name.count)
	for row := index[bundleHead:]; len(row) > 0; row = row[bundleRow:] {
		p := bundled{offset: at, length: int64(be.Uint64(row)), hash: hex.EncodeToString(row[16:32])}
		if p.length < walHeaderSize || p.length > 2*walContentMax {
			return bundle{}, fmt.Errorf("states %d bytes for a segment", p.length)
		}
		if us := int64(be.Uint64(row[8:])); us != 0 {
			p.covers = time.UnixMicro(us).UTC()
		}
		b.parts, at = append(b.parts, p), at+p.length
	}
	hash, err := v.bundleHash(b)
	if err == nil && !strings.HasSuffix(object, "-"+hash+walSuffix) {
		err = errors.New("its content does not fit its name")
	}
	return b, err
}

// checkBundle says whether raw is a whole bundle of this name: its index, and each segment in it.
func (v *Vault) checkBundle(object string, raw []byte) error {
	b, err := v.openBundle(object, raw)
	if err != nil {
		return err
	}
	end := headSize(len(b.parts))
	for i, p := range b.parts {
		if p.offset+p.length > int64(len(raw)) {
			return fmt.Errorf("it ends before its segment %d of %d", i+1, len(b.parts))
		}
		if _, err := v.openPart(b, i, raw[p.offset:p.offset+p.length]); err != nil {
			return fmt.Errorf("segment %d of %d: %w", i+1, len(b.parts), err)
		}
		end = p.offset + p.length
	}
	if end != int64(len(raw)) {
		return fmt.Errorf("it has %d bytes behind its last segment", int64(len(raw))-end)
	}
	return nil
}

// openPart opens one segment of a bundle, and proves that it is the one that the index names.
func (v *Vault) openPart(b bundle, i int, raw []byte) ([]byte, error) {
	h, content, err := v.openWAL(raw)
	if err != nil {
		return nil, err
	}
	if h.kind != walSegment || h.timeline != b.timeline || h.systemID != b.systemID || h.start != b.first+wal.LSN(b.size)*wal.LSN(i) {
		return nil, errors.New("its content is of another place in the log")
	}
	hash, err := v.walHash(content)
	if err == nil && hash != b.parts[i].hash {
		err = errors.New("its content does not fit the index")
	}
	return content, err
}
