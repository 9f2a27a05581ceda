package repo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"holdfast/internal/vault/repo/epoch"
	"holdfast/internal/vault/repo/index"
)

// flushAfter is after how long what was stored is made known without being asked: a writer that is killed loses no more.
const flushAfter = 10 * time.Minute

// sparePacks bounds how many buffers of stored packs wait to be filled again.
const sparePacks = 2

// contentMax bounds one content, in bytes: an index cannot say more than twice as much.
const contentMax = 128 << 20

var errClosed = errors.New("the writing session is closed")

// WriteOptions is how a writer works.
type WriteOptions struct {
	Purpose  string      // for the log
	OnUpload func(int64) // told of each blob that was stored, with its size in bytes; from many goroutines
	// Lost are packs that are not there, see [Repository.LostPacks]: what lies in them is stored again. It must not change.
	Lost map[string]bool
}

// Writer stores contents. Nothing of it counts until [Writer.Flush] has returned nil; where that errs, the next one tries again.
// It may be used by many goroutines, and each holds in memory at most one full pack beside those that are being filled.
type Writer struct {
	repo      *Repository
	options   WriteOptions
	manifests sessionManifests
	packSize  int // from how many bytes on a pack is full

	flushing sync.Mutex // held by whoever flushes; taken before mu

	mu      sync.Mutex // guards what follows, and the batches
	done    *sync.Cond // something that was being stored is, or is not
	open    *batch     // nil = nothing was stored since the last flush
	old     []*batch   // whose flush has begun, oldest first
	flushBy time.Time  // when open is flushed without being asked
	spare   [][]byte
	changes int64
	closed  bool
	broken  error // why nothing of this session can be made known any more
}

// NewWriter begins a session. It must be closed.
func (r *Repository) NewWriter(ctx context.Context, o WriteOptions) (*Writer, error) {
	if err := r.mayWrite(ctx); err != nil {
		return nil, fmt.Errorf("begin to write: %w", err)
	}
	if o.OnUpload == nil {
		o.OnUpload = func(int64) {}
	}
	w := &Writer{repo: r, options: o, packSize: r.MaxPackSize()}
	w.done = sync.NewCond(&w.mu)
	r.options.Log.DebugContext(ctx, "writing session begun", "purpose", o.Purpose)
	return w, nil
}

// Write runs f in a session of its own, and flushes that when f errs not.
func (r *Repository) Write(ctx context.Context, o WriteOptions, f func(ctx context.Context, w *Writer) error) error {
	w, err := r.NewWriter(ctx, o)
	if err != nil {
		return err
	}
	if err = f(ctx, w); err == nil {
		err = w.Flush(ctx)
	}
	return errors.Join(err, w.Close(ctx))
}

// Repository is what the session writes to.
func (w *Writer) Repository() *Repository { return w.repo }

// Indexes is how the indexes of the repository are joined.
func (w *Writer) Indexes() *epoch.Manager { return w.repo.epochs }

// Store stores one content, unless it is there. prefix is "" or a letter from g to z; contents that have one are compressed whatever
// compress says, as kopia has it. An error does not mean that the content is not part of what is flushed later.
func (w *Writer) Store(ctx context.Context, p []byte, prefix string, compress bool) (ContentID, error) {
	if len(p) > contentMax {
		return ContentID{}, fmt.Errorf("store a content: %d bytes: one has at most %d", len(p), contentMax)
	}
	id, err := index.MakeID(prefix, w.repo.seal.Hash(p))
	if err != nil {
		return id, fmt.Errorf("store a content: %w", err)
	}
	if err := w.ready(ctx); err != nil {
		return ContentID{}, fmt.Errorf("store %s: %w", id, err)
	}
	if i, ok := w.find(id); ok && !i.Deleted && !w.lost(i) {
		return id, nil
	}
	room := w.repo.room()
	defer w.repo.giveBack(room)
	sealed, header, err := w.repo.sealContent(p, id, compress || prefix != "", *room)
	if err != nil {
		return ContentID{}, fmt.Errorf("store %s: %w", id, err)
	}
	*room = sealed
	i := Info{ID: id, Original: uint32(len(p)), Compression: uint32(header), Version: writtenVersion}
	if err := w.add(ctx, i, sealed, false); err != nil {
		return ContentID{}, fmt.Errorf("store %s: %w", id, err)
	}
	return id, nil
}

// ready errs unless something may be stored now. What could not be stored before is tried again first, so that nobody can go on
// filling the memory.
func (w *Writer) ready(ctx context.Context) error {
	if err := w.repo.keepFresh(ctx); err != nil {
		return err
	}
	w.mu.Lock()
	if err := w.ended(); err != nil {
		w.mu.Unlock()
		return err
	}
	late := w.late()
	b, again := w.failedPack()
	w.mu.Unlock()
	for again != nil {
		if err := w.storePack(ctx, b, again); err != nil {
			return err
		}
		w.mu.Lock()
		b, again = w.failedPack()
		w.mu.Unlock()
	}
	if late {
		return w.flushContents(ctx, w.late)
	}
	return nil
}

// ended is why nothing can be stored any more, or nil. The caller holds mu.
func (w *Writer) ended() error {
	if w.closed {
		return errClosed
	}
	return w.broken
}

// add puts a sealed content into a pack, and stores the pack when it is full. rewrite = even if it is there.
func (w *Writer) add(ctx context.Context, i Info, sealed []byte, rewrite bool) error {
	w.mu.Lock()
	if err := w.ended(); err != nil {
		w.mu.Unlock()
		return err
	}
	if before, known := w.latest(i.ID); known && !before.Deleted && !w.lost(before) && !rewrite { // somebody was quicker
		w.mu.Unlock()
		return nil
	}
	i.Time = w.timeAfter(i.ID)
	b := w.batch()
	p := b.filling[packKind(i.ID)]
	if p == nil {
		p = newPack(packKind(i.ID), b.session, w.takeSpare(), w.packSize)
		b.filling[p.kind] = p
	}
	i, err := p.add(i, sealed)
	if err != nil {
		w.mu.Unlock()
		return err
	}
	b.entries[i.ID] = i
	w.changes++
	full := len(p.data) >= w.packSize
	if full {
		delete(b.filling, p.kind)
		p.state = storing
		b.packs = append(b.packs, p)
	}
	w.mu.Unlock()
	if full {
		return w.storePack(ctx, b, p)
	}
	return nil
}

// batch is the one that is open. The caller holds mu.
func (w *Writer) batch() *batch {
	if w.open == nil {
		now := w.repo.now()
		w.open = newBatch(now)
		w.flushBy = now.Add(flushAfter)
	}
	return w.open
}

// overlay gives the entry of a content that this session made. The caller holds mu.
func (w *Writer) overlay(id ContentID) (Info, bool) {
	if w.open != nil {
		if i, ok := w.open.entries[id]; ok {
			return i, true
		}
	}
	for n := len(w.old) - 1; n >= 0; n-- {
		if i, ok := w.old[n].entries[id]; ok {
			return i, true
		}
	}
	return Info{}, false
}

// find gives the entry of a content that counts, as this session sees it; not one that was deleted so long ago that it does not.
func (w *Writer) find(id ContentID) (Info, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latest(id)
}

// latest is find for a caller who holds mu.
func (w *Writer) latest(id ContentID) (Info, bool) {
	if i, ok := w.overlay(id); ok {
		return i, true
	}
	i, counts, _ := w.repo.known.find(id)
	return i, counts
}

// timeAfter is the time of a new entry of a content: later than that of every other which is known, for the latest counts, and the
// clocks of hosts differ. The caller holds mu.
func (w *Writer) timeAfter(id ContentID) int64 {
	t := w.repo.now().Unix()
	if i, ok := w.overlay(id); ok {
		t = max(t, i.Time+1)
	}
	if i, _, ok := w.repo.known.find(id); ok {
		t = max(t, i.Time+1)
	}
	return t
}

// takeSpare gives room for a pack. The caller holds mu.
func (w *Writer) takeSpare() []byte {
	if len(w.spare) == 0 {
		return nil
	}
	b := w.spare[len(w.spare)-1]
	w.spare = w.spare[:len(w.spare)-1]
	return b
}

// Content is [Repository.Content], and sees what this session stored.
func (w *Writer) Content(ctx context.Context, id ContentID) ([]byte, error) {
	i, sealed, err := w.sealed(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case sealed != nil:
		return w.repo.open(i, sealed, nil)
	}
	return w.repo.Content(ctx, id)
}

// sealed gives the entry of a content and, where this session made that, its bytes as they lie in a pack.
func (w *Writer) sealed(ctx context.Context, id ContentID) (Info, []byte, error) {
	w.mu.Lock()
	i, ok := w.overlay(id)
	var sealed []byte
	if ok {
		sealed = w.inMemory(i)
	}
	w.mu.Unlock()
	if !ok {
		i, err := w.repo.ContentInfo(ctx, id)
		return i, nil, err
	}
	if sealed == nil {
		var err error
		if sealed, err = w.repo.readSealed(ctx, i, nil); err != nil {
			return i, nil, err
		}
	}
	return i, sealed, nil
}

// inMemory gives the bytes of a content whose pack is not stored yet, or nil. They are the caller's own. The caller holds mu.
func (w *Writer) inMemory(i Info) []byte {
	for _, b := range w.batches() {
		if p := b.pack(i.Pack); p != nil {
			return append([]byte{}, p.data[i.Offset:i.Offset+i.Packed]...)
		}
	}
	return nil
}

// batches are all that are not stored. The caller holds mu.
func (w *Writer) batches() []*batch {
	all := append([]*batch{}, w.old...)
	if w.open != nil {
		all = append(all, w.open)
	}
	return all
}

// ContentInfo is [Repository.ContentInfo], and sees what this session stored.
func (w *Writer) ContentInfo(ctx context.Context, id ContentID) (Info, error) {
	w.mu.Lock()
	i, ok := w.overlay(id)
	w.mu.Unlock()
	if ok {
		return i, nil
	}
	return w.repo.ContentInfo(ctx, id)
}

// EachContentOf is [Repository.EachContentOf], and sees what this session stored. The order is that of the names.
func (w *Writer) EachContentOf(ctx context.Context, prefix string, deletedToo bool, each func(Info) error) error {
	w.mu.Lock()
	own := index.Builder{}
	for _, b := range w.batches() {
		for id, i := range b.entries {
			if id.Prefix() == prefix {
				own[id] = i // a later batch has the later entry
			}
		}
	}
	w.mu.Unlock()
	give := func(i Info) error {
		if i.Deleted && !deletedToo {
			return nil
		}
		return each(i)
	}
	waiting := sortedEntries(own)
	err := w.repo.EachContentOf(ctx, prefix, deletedToo, func(i Info) error {
		for len(waiting) > 0 && waiting[0].ID.Compare(i.ID) < 0 {
			first := waiting[0]
			waiting = waiting[1:]
			if err := give(first); err != nil {
				return err
			}
		}
		if len(waiting) > 0 && waiting[0].ID == i.ID {
			return nil // ours counts, and comes next
		}
		return each(i)
	})
	for len(waiting) > 0 && err == nil {
		err = give(waiting[0])
		waiting = waiting[1:]
	}
	return err
}

// Delete says that a content counts no more. [ErrContentNotFound]: there is none of that name. One that is deleted stays so.
func (w *Writer) Delete(ctx context.Context, id ContentID) error {
	if err := w.ready(ctx); err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	i, ok := w.find(id)
	switch {
	case !ok:
		return fmt.Errorf("delete %s: %w", id, ErrContentNotFound)
	case i.Deleted:
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.ended(); err != nil {
		return err
	}
	if now, ok := w.overlay(id); ok {
		i = now
	}
	i.Deleted, i.Time = true, w.timeAfter(id)
	b := w.batch()
	b.entries[id] = i
	if p := b.filling[packKind(id)]; p != nil {
		p.entries.Add(i)
	}
	w.changes++
	return nil
}

// Undelete makes a deleted content count again, by storing it anew: its pack may be about to go. One that is not deleted stays as it is.
func (w *Writer) Undelete(ctx context.Context, id ContentID) error {
	i, err := w.ContentInfo(ctx, id)
	if err == nil && i.Deleted {
		err = w.again(ctx, id, true)
	}
	if err != nil {
		return fmt.Errorf("undelete %s: %w", id, err)
	}
	return nil
}

// Rewrite stores a content again in a new pack. A deleted one stays deleted.
func (w *Writer) Rewrite(ctx context.Context, id ContentID) error {
	if err := w.again(ctx, id, false); err != nil {
		return fmt.Errorf("rewrite %s: %w", id, err)
	}
	return nil
}

// again stores a content anew, with the bytes that lie in its pack, once it is known that they are the content. undelete = one that
// is deleted counts again; else it stays deleted.
func (w *Writer) again(ctx context.Context, id ContentID, undelete bool) error {
	if err := w.ready(ctx); err != nil {
		return err
	}
	i, sealed, err := w.sealed(ctx, id)
	if err == nil && sealed == nil {
		err = w.repo.whereItLies(ctx, i, func(there Info) (err error) {
			i = there
			sealed, err = w.repo.readSealed(ctx, i, nil)
			return err
		})
	}
	if err != nil {
		return err
	}
	if _, err := w.repo.open(i, sealed, nil); err != nil {
		return err
	}
	i.Deleted, i.Version = i.Deleted && !undelete, writtenVersion
	return w.add(ctx, i, sealed, true)
}

// revision changes with whatever this session stores, flushes or learns.
func (w *Writer) revision() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changes + w.repo.revision()
}
