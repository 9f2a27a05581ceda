package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/internal/vault/repo/epoch"
	"holdfast/internal/vault/repo/index"
	"holdfast/internal/vault/store"
)

const (
	// closeAfter bounds how long taking markers away may take, which is done whatever becomes of the caller's context.
	closeAfter = time.Minute
	// unknownMax is for how long packs may lie before their index is stored. Whoever cleans up frees those that no index knows after
	// three days: made known later, by a host that slept, they would be what others rely on.
	unknownMax = 12 * time.Hour
)

// batch is what one flush makes known: packs and one set of index blobs, under one session.
type batch struct {
	session string
	since   time.Time // by the wall clock: before its first pack
	marker  marker
	entries index.Builder    // what this session says of contents
	filling map[string]*pack // by kind
	packs   []*pack          // full or to be stored, and not known to be stored
	begun   bool             // storing a pack may have been tried

	index []sealedIndex // made once, when all packs are stored, so that it can be stored again; names without an epoch
}

func newBatch(now time.Time) *batch {
	return &batch{session: newSession(now), since: now, entries: index.Builder{}, filling: map[string]*pack{}}
}

// pack gives one that is in memory, by name, or nil.
func (b *batch) pack(name string) *pack {
	for _, p := range b.filling {
		if p.name == name {
			return p
		}
	}
	for _, p := range b.packs {
		if p.name == name {
			return p
		}
	}
	return nil
}

func sortedEntries(b index.Builder) []Info {
	return slices.SortedFunc(maps.Values(b), func(a, b Info) int { return a.ID.Compare(b.ID) })
}

// failedPack takes one that could not be stored, to be stored by the caller, who holds mu.
func (w *Writer) failedPack() (*batch, *pack) {
	for _, b := range w.batches() {
		for _, p := range b.packs {
			if p.state == failed {
				p.state = storing
				return b, p
			}
		}
	}
	return nil, nil
}

// storePack stores a pack that is the caller's to store, behind the marker of its session.
func (w *Writer) storePack(ctx context.Context, b *batch, p *pack) error {
	size, err := w.putPack(ctx, b, p)
	if err == nil {
		w.options.OnUpload(size)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.done.Broadcast()
	if err == nil {
		err = w.ended() // it is there, and will not count
	}
	if err != nil {
		p.state = failed
		return err
	}
	b.packs = slices.DeleteFunc(b.packs, func(q *pack) bool { return p == q })
	if len(w.spare) < sparePacks {
		w.spare = append(w.spare, p.data)
	}
	p.data = nil
	return nil
}

func (w *Writer) putPack(ctx context.Context, b *batch, p *pack) (int64, error) {
	r := w.repo
	if err := r.mayWrite(ctx); err != nil {
		return 0, err
	}
	if err := w.begin(b); err != nil {
		return 0, err
	}
	if err := b.marker.set(ctx, r, b.session, w.options.OnUpload); err != nil {
		return 0, err
	}
	if !p.whole {
		data, err := finished(r.seal, p.data, p.entries)
		if err != nil {
			return 0, err
		}
		w.mu.Lock() // others read p.data under it
		p.data, p.whole = data, true
		w.mu.Unlock()
	}
	if err := w.begin(b); err != nil {
		return 0, err
	}
	if err := r.blobs.Put(ctx, blobDir+p.name, store.Bytes(p.data)); err != nil {
		return 0, fmt.Errorf("store pack %s: %w", p.name, err)
	}
	return int64(len(p.data)), nil
}

// begin errs when nothing of the session counts any more. From now on Close leaves the marker of the batch alone.
func (w *Writer) begin(b *batch) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.ended(); err != nil {
		return err
	}
	b.begun = true
	return nil
}

// Flush makes known what was stored before it was called: the packs, then the index that says what they hold. When it returns nil,
// whoever opens the repository finds all of it. When it errs, what is not known stays part of the session, and the next Flush tries
// again; what this process sees as stored in the repository is.
func (w *Writer) Flush(ctx context.Context) error {
	if err := w.flushManifests(ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return w.flushContents(ctx, func() bool { return true })
}

// late reports whether what was stored waits too long for a flush, or was before the clock was set back. The caller holds mu.
func (w *Writer) late() bool {
	if w.open == nil {
		return false
	}
	left := w.flushBy.Sub(w.repo.now())
	return left < 0 || left > flushAfter
}

// flushContents is [Writer.Flush] of contents, if that is still wanted when nobody else flushes.
func (w *Writer) flushContents(ctx context.Context, wanted func() bool) error {
	w.flushing.Lock()
	defer w.flushing.Unlock()
	w.mu.Lock()
	switch {
	case w.ended() != nil:
		defer w.mu.Unlock()
		return fmt.Errorf("flush: %w", w.ended())
	case !wanted():
		w.mu.Unlock()
		return nil
	}
	if w.open != nil {
		w.open.seal()
		w.old, w.open = append(w.old, w.open), nil
	}
	waiting := slices.Clone(w.old)
	w.mu.Unlock()
	for _, b := range waiting {
		if err := w.commit(ctx, b); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
	}
	return nil
}

// seal ends the filling of packs. One of nothing but what was deleted is not stored: the index alone says that.
func (b *batch) seal() {
	for _, kind := range slices.Sorted(maps.Keys(b.filling)) {
		p := b.filling[kind]
		p.state = failed // it waits for whoever stores it
		b.packs = append(b.packs, p)
	}
	clear(b.filling)
}

// commit stores what is left of a batch, and makes it known.
func (w *Writer) commit(ctx context.Context, b *batch) error {
	if err := w.storePacks(ctx, b); err != nil {
		return err
	}
	if len(b.entries) > 0 {
		if err := w.storeIndex(ctx, b); err != nil {
			return err
		}
	}
	w.mu.Lock()
	w.old = slices.DeleteFunc(w.old, func(o *batch) bool { return o == b })
	w.changes++
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeAfter)
	defer cancel()
	b.marker.clear(ctx, w.repo)
	return nil
}

// storePacks returns when all packs of a batch are stored, also those that others store, or when its context ends.
func (w *Writer) storePacks(ctx context.Context, b *batch) error {
	defer context.AfterFunc(ctx, func() {
		w.mu.Lock() // or a goroutine that is about to wait is not woken
		defer w.mu.Unlock()
		w.done.Broadcast()
	})()
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(b.packs) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n := slices.IndexFunc(b.packs, func(p *pack) bool { return p.state == failed })
		if n < 0 {
			w.done.Wait()
			continue
		}
		p := b.packs[n]
		p.state = storing
		w.mu.Unlock()
		err := w.storePack(ctx, b, p)
		w.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// storeIndex stores the index of a batch whose packs are stored, and lets this process see it.
func (w *Writer) storeIndex(ctx context.Context, b *batch) (err error) {
	r := w.repo
	if err := r.mayWrite(ctx); err != nil {
		return err
	}
	if b.index == nil {
		if b.index, err = r.indexOf(b.entries, b.session); err != nil {
			return err
		}
	}
	shards := map[string][]byte{}
	for _, s := range b.index {
		shards[s.name] = s.bytes
	}
	var names []string
	if age := r.now().Sub(b.since); age.Abs() > unknownMax { // negative: the clock was set back, and nobody knows
		err = epoch.ErrTooSlow
	} else {
		names, err = r.epochs.WriteIndexes(ctx, shards, b.since.Add(unknownMax))
	}
	if errors.Is(err, epoch.ErrTooSlow) { // the packs may have been freed meanwhile
		w.mu.Lock()
		w.broken = err
		w.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("store the index: %w", err)
	}
	for _, name := range names {
		if err := w.addIndex(b, name); err != nil {
			return err
		}
	}
	return nil
}

// addIndex lets this process see an index that was stored.
func (w *Writer) addIndex(b *batch, name string) error {
	n := slices.IndexFunc(b.index, func(s sealedIndex) bool { return strings.HasSuffix(name, s.name) })
	if n < 0 {
		return fmt.Errorf("store the index: no part of it is named %s", name)
	}
	x, err := index.Open(b.index[n].plain)
	if err != nil {
		return &IndexError{Blob: name, Err: err}
	}
	w.options.OnUpload(int64(len(b.index[n].bytes)))
	w.repo.known.add(name, x)
	return nil
}

// indexOf makes the index blobs of entries.
func (r *Repository) indexOf(entries index.Builder, session string) ([]sealedIndex, error) {
	var shards [][]byte
	for _, s := range entries.Shards(shardMax) {
		raw, err := s.Encode(nil)
		if err != nil {
			return nil, fmt.Errorf("make the index: %w", err)
		}
		shards = append(shards, raw)
	}
	return r.sealIndexes(shards, "", session)
}

// Close ends the session without a flush. What was stored since the last one counts not; where packs were stored, the marker stays,
// by which the next writer finds them.
func (w *Writer) Close(ctx context.Context) error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	unused := slices.DeleteFunc(w.batches(), func(b *batch) bool { return b.begun })
	w.open, w.old, w.spare = nil, nil, nil
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeAfter)
	defer cancel()
	for _, b := range unused {
		b.marker.clear(ctx, w.repo)
	}
	return nil
}
