package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"time"

	"holdfast/internal/vault/store"
	"holdfast/internal/vault/wal"
)

// BundleOptions say which segments are stored as one. Zero means the default.
type BundleOptions struct {
	// Old is the age from which a segment may be bundled, by the clock of the vault's place: 24 h. Below 0 = none.
	Old time.Duration
	// Late is the age from which a segment waits no longer for its bundle to be full: 7 days.
	Late time.Duration
	// Bytes is how long a bundle may be: 64 MiB. One is in memory as it is made.
	Bytes int64
	// Count is how many segments it may have: 256, which is the most.
	Count int
	// May is asked before anything is stored or deleted: an error says that another host has the duty now, and ends the work.
	May func(context.Context) error
}

func (o BundleOptions) withDefaults() BundleOptions {
	if o.Old == 0 {
		o.Old = 24 * time.Hour
	}
	if o.Late == 0 {
		o.Late = 7 * 24 * time.Hour
	}
	if o.Bytes <= 0 {
		o.Bytes = 64 << 20
	}
	if o.Count <= 0 || o.Count > bundleMost {
		o.Count = bundleMost
	}
	if o.May == nil {
		o.May = func(context.Context) error { return nil }
	}
	return o
}

// Bundled is what one run of bundling came to.
type Bundled struct {
	Bundles  int   `json:"bundles"`  // made
	Segments int   `json:"segments"` // that lie in them
	Freed    Freed `json:"freed"`    // objects that they took the place of
}

// bundlingLanes is how many segments are deleted at a time.
const bundlingLanes = 8

// Bundle stores old segments that follow each other as one object, so that a long window is few objects. A bundle is in each
// copy, and was read back there, before what it holds goes; what goes is what was put into it, by its hash. Broken off
// anywhere the log is whole, and the next run goes on: a segment may lie alone and in a bundle, and in two bundles. The
// caller has asked [Vault.MayLetGo].
func (l *Log) Bundle(ctx context.Context, o BundleOptions) (Bundled, error) {
	o = o.withDefaults()
	var out Bundled
	g, ctx, done, err := l.vault.watch(ctx, bundlingLanes, o.May)
	if err != nil {
		return out, fmt.Errorf("bundle the log in vault %s: %w", l.vault.name, err)
	}
	defer done()
	err = l.bundleAll(ctx, o, &out)
	if ended := context.Cause(ctx); ended != nil {
		err = ended
	}
	out.Freed = g.freed()
	if err == nil {
		err = l.vault.condemn(ctx, l.bundlesPart(), out.Freed.locked)
	}
	if err != nil {
		return out, fmt.Errorf("bundle the log in vault %s: %w", l.vault.name, err)
	}
	return out, nil
}

// BundleLogs is [Log.Bundle] of every server of which a base backup is listed, behind [Vault.MayLetGo].
func (v *Vault) BundleLogs(ctx context.Context, o BundleOptions) (Bundled, error) {
	var all Bundled
	if err := v.MayLetGo(ctx); err != nil {
		return all, err
	}
	backups, err := v.Backups(ctx, "")
	if err != nil {
		return all, err
	}
	done := map[uint64]bool{}
	for _, b := range backups {
		if done[b.SystemID] {
			continue
		}
		done[b.SystemID] = true
		one, err := v.Log(b.SystemID, b.SegmentSize).Bundle(ctx, o)
		all.Bundles, all.Segments = all.Bundles+one.Bundles, all.Segments+one.Segments
		all.Freed.Objects, all.Freed.Locked = all.Freed.Objects+one.Freed.Objects, all.Freed.Locked+one.Freed.Locked
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// bundlesPart is what bundles have taken the place of among what a lock keeps.
func (l *Log) bundlesPart() string { return l.root() + "/bundled" }

func (l *Log) bundleAll(ctx context.Context, o BundleOptions, out *Bundled) error {
	timelines, err := l.Timelines(ctx)
	if err != nil {
		return err
	}
	var all []wal.Stored
	for _, t := range timelines {
		list, err := l.stored(ctx, t)
		if err != nil {
			return err
		}
		all = append(all, list...)
	}
	if err := l.clearBundled(ctx, all); err != nil {
		return err
	}
	now := time.Now()
	for _, run := range wal.Bundles(all, l.segmentSize, wal.BundleLimits{Before: now.Add(-o.Old), Late: now.Add(-o.Late), Bytes: o.Bytes, Count: o.Count}) {
		if err := o.May(ctx); err != nil {
			return err
		}
		b, raw, err := l.makeBundle(ctx, run)
		if err != nil {
			return err
		}
		if raw == nil {
			continue // what keeps them apart is damaged: a scrub says so
		}
		if err := l.replaceBy(ctx, b.object, raw); err != nil {
			return err
		}
		out.Bundles++
		out.Segments += len(b.parts)
		l.vault.log.DebugContext(ctx, "log bundled", "object", b.object, "segments", len(b.parts))
	}
	return nil
}

// stored lists what lies on a timeline, those in bundles one by one.
func (l *Log) stored(ctx context.Context, timeline uint32) ([]wal.Stored, error) {
	var out []wal.Stored
	err := l.vault.files.List(ctx, l.dir(timeline)+"/", func(i store.Info) error {
		if h, ok := l.parse(timeline, path.Base(i.Name)); ok {
			out = append(out, wal.Stored{Held: h, Bytes: i.Size, At: i.ModTime})
		} else if in, ok := l.heldIn(timeline, i.Name); ok {
			for _, h := range in {
				out = append(out, wal.Stored{Held: h, Bytes: i.Size, At: i.ModTime, Bundled: true})
			}
		}
		return nil
	})
	return out, err
}

// makeBundle reads segments and stores them as one, in each copy of the vault. It has those up to the first that cannot be
// read as it should be. raw is what was stored.
func (l *Log) makeBundle(ctx context.Context, run []wal.Stored) (b bundle, raw []byte, err error) {
	b = bundle{timeline: run[0].Timeline, systemID: l.systemID, first: run[0].Start, size: l.segmentSize}
	room := headSize(len(run)) // the beginning comes when it is known how many there are
	length := room
	for _, s := range run {
		length += s.Bytes
	}
	raw = make([]byte, room, length)
	for _, s := range run {
		one, h, err := l.readWhole(ctx, s)
		if ctx.Err() != nil {
			return b, nil, ctx.Err()
		}
		if err != nil {
			l.vault.log.WarnContext(ctx, "segment cannot be bundled", "object", s.Object, "err", err)
			break
		}
		hash, _ := segmentHash(s.Object) // it was compared with the content
		b.parts = append(b.parts, bundled{length: int64(len(one)), covers: h.covers, hash: hash})
		raw = append(raw, one...)
	}
	if len(b.parts) < 2 {
		return b, nil, nil
	}
	hash, err := l.vault.bundleHash(b)
	if err != nil {
		return b, nil, err
	}
	b.object = path.Join(l.dir(b.timeline), fmt.Sprintf("%s%s%03x-%s%s", wal.SegmentName(b.timeline, b.first, b.size), bundleMark, len(b.parts), hash, walSuffix))
	head, err := l.vault.sealBundle(b)
	if err != nil {
		return b, nil, err
	}
	raw = raw[room-int64(len(head)):]
	copy(raw, head)
	return b, raw, l.vault.putEverywhere(ctx, b.object, raw)
}

// readWhole reads a segment's object, and proves that it is what its name says.
func (l *Log) readWhole(ctx context.Context, s wal.Stored) ([]byte, walHeader, error) {
	raw, err := store.Read(ctx, l.vault.files, s.Object)
	if err != nil {
		return nil, walHeader{}, err
	}
	h, _, err := l.vault.openLog(s.Object, raw)
	if err == nil && (h.kind != walSegment || h.timeline != s.Timeline || h.start != s.Start || h.systemID != l.systemID) {
		err = errors.New("its content is of another place in the log")
	}
	return raw, h, err
}

// segmentHash is the part of a segment's name that tells contents apart; false for the name of anything else.
func segmentHash(object string) (string, bool) {
	base := path.Base(object)
	if len(base) != 24+1+32+len(walSuffix) || base[24] != '-' {
		return "", false
	}
	return base[25:57], true
}

// putEverywhere stores a blob in each copy. One that has the same content under another seal keeps it.
func (v *Vault) putEverywhere(ctx context.Context, name string, raw []byte) error {
	if err := v.files.Put(ctx, name, store.Bytes(raw)); err != nil && !errors.Is(err, store.ErrDiffers) {
		return err
	}
	if v.members == nil {
		return nil
	}
	for _, m := range v.members.Members() {
		if err := m.Store.Put(ctx, name, store.Bytes(raw)); err != nil && !errors.Is(err, store.ErrDiffers) {
			return fmt.Errorf("copy %s: %w", m.Name, err)
		}
	}
	return nil
}

// readBack errs unless every copy lists a bundle and gives it, and it is whole: it is what was just stored (raw; nil = not known), or
// proves itself.
func (v *Vault) readBack(ctx context.Context, object string, raw []byte) (bundle, error) {
	open, away := v.copiesAlone()
	if len(away) > 0 {
		return bundle{}, fmt.Errorf("read back %s: a copy does not answer: %s", object, away[0])
	}
	var b bundle
	for _, c := range slices.Sorted(maps.Keys(open)) {
		now := raw
		same := &comparing{want: raw}
		err := errDamaged
		if raw != nil {
			err = open[c].Get(ctx, object, 0, -1, same)
		}
		if raw == nil || err != nil || !same.whole() {
			if now, err = store.Read(ctx, open[c], object); err == nil {
				err = v.checkBundle(object, now)
			}
		}
		if err == nil {
			b, err = v.openBundle(object, now)
		}
		if err == nil {
			err = v.isListed(ctx, open[c], object)
		}
		if err != nil {
			return bundle{}, fmt.Errorf("read back %s from copy %q: %w", object, c, err)
		}
	}
	return b, nil
}

// comparing takes bytes and holds them against those that are expected.
type comparing struct {
	want    []byte
	at      int
	differs bool
}

func (c *comparing) Write(p []byte) (int, error) {
	if c.differs = c.differs || c.at+len(p) > len(c.want) || !bytes.Equal(p, c.want[c.at:c.at+len(p)]); !c.differs {
		c.at += len(p)
	}
	return len(p), nil
}

func (c *comparing) whole() bool { return !c.differs && c.at == len(c.want) }

// replaceBy lets go of the segments that a bundle holds, once that is written down and whole in each copy.
func (l *Log) replaceBy(ctx context.Context, object string, raw []byte) error {
	if err := l.vault.writeDown(ctx, false); err != nil {
		return err
	}
	b, err := l.vault.readBack(ctx, object, raw)
	if err != nil {
		return err
	}
	for i, p := range b.parts {
		name := wal.SegmentName(b.timeline, b.first+wal.LSN(b.size)*wal.LSN(i), b.size) + "-" + p.hash + walSuffix
		if err := l.vault.files.Delete(ctx, path.Join(l.dir(b.timeline), name)); err != nil {
			return err
		}
	}
	return l.vault.guard.finish(ctx)
}

// clearBundled goes on with what an earlier run left: segments that lie alone and in a bundle. What a lock keeps still, as a
// run of this work has found, is left; once that is over the bundle is read again from each copy before it goes, for it may
// have rotted since. What retention would have let go of was never held against a bundle, and is none of this work's.
func (l *Log) clearBundled(ctx context.Context, all []wal.Stored) error {
	condemned, err := l.vault.condemnedIn(ctx, l.bundlesPart())
	if err != nil {
		return err
	}
	type place struct {
		timeline uint32
		start    wal.LSN
	}
	in := map[place]string{}
	for _, s := range all {
		if s.Bundled {
			in[place{s.Timeline, s.Start}] = s.Object
		}
	}
	again := map[string]bool{} // bundles that have to be read
	for _, s := range all {
		object, ok := in[place{s.Timeline, s.Start}]
		switch {
		case !ok || s.Bundled || s.Partial:
		case condemned[s.Object]:
			locked, err := l.vault.underLock(ctx, s.Object)
			if err != nil {
				return err
			}
			if locked {
				l.vault.guard.guard.Load().leave(s.Object)
			} else {
				again[object] = true
			}
		default:
			again[object] = true
		}
	}
	for _, object := range slices.Sorted(maps.Keys(again)) {
		err := l.replaceBy(ctx, object, nil)
		if err != nil && ctx.Err() == nil {
			l.vault.log.WarnContext(ctx, "segments stay beside their bundle", "object", object, "err", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	return l.vault.guard.finish(ctx)
}
