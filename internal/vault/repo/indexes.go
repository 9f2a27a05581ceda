package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault/repo/epoch"
	"holdfast/internal/vault/repo/index"
	"holdfast/internal/vault/store"
)

const (
	loadLanes  = 5         // indexes that are read at a time
	loadTries  = 6         // when an index goes while it is read, as after a compaction
	shardMax   = 1_000_000 // entries in one index blob, which are 50 MB in memory while it is written, and as many sealed (kopia's number is 16 times as much)
	hugeIndex  = 1 << 30   // bytes; no room is taken at once for larger ones, whatever a list says
	largeIndex = 8 << 20   // bytes; larger indexes are read one at a time, for each needs twice its room meanwhile
	smallIndex = 100       // entries; smaller indexes are joined in memory, so that a search need not ask each
	partsMax   = 64        // indexes that are searched one by one before all small ones are joined anew
	firstPause = 50 * time.Millisecond
)

// errNoIndexes is why a repository that had indexes is not believed to have none any more: what is known stays.
var errNoIndexes = errors.New("the place lists no index of the repository any more, and it had some: it may not be there itself")

// IndexError says which index blob could not be read.
type IndexError struct {
	Blob string // without the folder
	Err  error
}

func (e *IndexError) Error() string { return fmt.Sprintf("load index %s: %v", e.Blob, e.Err) }

// Unwrap gives the cause.
func (e *IndexError) Unwrap() error { return e.Err }

// place is a store as package epoch sees it.
type place struct{ store store.Store }

func (p place) List(ctx context.Context, prefix string, each func(epoch.Blob) error) error {
	return p.store.List(ctx, blobDir+prefix, func(i store.Info) error {
		return each(epoch.Blob{Name: strings.TrimPrefix(i.Name, blobDir), Size: i.Size, Time: i.ModTime})
	})
}

func (p place) Put(ctx context.Context, name string, content []byte) error {
	return p.store.Put(ctx, blobDir+name, store.Bytes(content))
}

func (p place) Delete(ctx context.Context, name string) error {
	return p.store.Delete(ctx, blobDir+name)
}

// knownIndexes are the indexes that count, in memory.
type knownIndexes struct {
	mu        sync.RWMutex // guards what follows
	open      map[string]*index.Index
	merged    index.Merged // what open holds
	watermark time.Time    // entries that were deleted up to then count as not there
	readAt    time.Time
	own       map[string]int64 // those that writers of this process added, with the revision of that moment
	revision  int64            // changes with everything above but readAt
}

func (k *knownIndexes) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open, k.merged, k.own = nil, nil, nil
	k.revision++
}

// mark is a moment; what is added after it is not forgotten by a use of what was listed after it.
func (k *knownIndexes) mark() (int64, map[string]*index.Index) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.revision, k.open
}

// add makes an index count that a writer of this process has just stored.
func (k *knownIndexes) add(name string, x *index.Index) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.revision++
	if k.own == nil {
		k.own = map[string]int64{}
	}
	k.own[name] = k.revision
	if _, ok := k.open[name]; ok {
		return
	}
	k.open = maps.Clone(k.open)
	if k.open == nil {
		k.open = map[string]*index.Index{}
	}
	k.open[name] = x
	k.merged = append(k.merged[:len(k.merged):len(k.merged)], x)
}

// use makes a set count that was listed after the moment since, and what was added after it.
func (k *knownIndexes) use(set map[string]*index.Index, watermark time.Time, since int64, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, at := range k.own {
		switch x, ok := k.open[name]; {
		case at > since && ok:
			set[name] = x
		case at <= since:
			delete(k.own, name)
		}
	}
	k.readAt = now
	if watermark.Equal(k.watermark) && sameKeys(set, k.open) && k.merged != nil {
		return
	}
	k.merged = k.join(set)
	k.open, k.watermark = set, watermark
	k.revision++
}

// join gives the indexes of a set, the small ones as few. Joining all takes a while where they are many, so that where nothing went
// only what came is joined, until the parts are too many.
func (k *knownIndexes) join(set map[string]*index.Index) index.Merged {
	var fresh index.Merged
	for name, x := range set {
		if _, ok := k.open[name]; !ok {
			fresh = append(fresh, x)
		}
	}
	if len(set) == len(k.open)+len(fresh) {
		if grown := slices.Concat(k.merged, fresh).Joined(smallIndex); len(grown) <= partsMax {
			return grown
		}
	}
	return slices.AppendSeq(index.Merged{}, maps.Values(set)).Joined(smallIndex)
}

func sameKeys(a, b map[string]*index.Index) bool {
	return maps.EqualFunc(a, b, func(*index.Index, *index.Index) bool { return true })
}

// find gives the entry of a content that counts. counts=false: it was deleted so long ago that it counts as not there.
func (k *knownIndexes) find(id ContentID) (i Info, counts, ok bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	i, ok = k.merged.Find(id)
	return i, ok && !expired(i, k.watermark), ok
}

func expired(i Info, watermark time.Time) bool {
	return i.Deleted && !time.Unix(i.Time, 0).After(watermark)
}

// Refresh learns what others have written.
func (r *Repository) Refresh(ctx context.Context) error {
	r.refreshing.Lock()
	defer r.refreshing.Unlock()
	return r.refresh(ctx)
}

func (r *Repository) refresh(ctx context.Context) error {
	pause := firstPause
	for try := 1; ; try++ {
		err := r.refreshOnce(ctx)
		if err == nil || !errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrUnseen) || try == loadTries {
			return err
		}
		// An index that was listed went before it was read: what stands for it is in the next list.
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(pause):
			pause *= 2
		}
	}
}

func (r *Repository) refreshOnce(ctx context.Context) error {
	since, open := r.known.mark()
	now := r.now()
	if err := r.epochs.Refresh(ctx); err != nil {
		return fmt.Errorf("look which indexes count: %w", err)
	}
	what, err := r.epochs.Current(ctx)
	if err != nil {
		return fmt.Errorf("look which indexes count: %w", err)
	}
	if len(what.Blobs) == 0 && len(open) > 0 { // a folder that is not mounted lists nothing
		return errNoIndexes
	}
	set, err := r.load(ctx, what.Blobs, open)
	if err != nil {
		return err
	}
	r.known.use(set, what.Watermark, since, now)
	return nil
}

// load reads the indexes that are not open yet.
func (r *Repository) load(ctx context.Context, blobs []epoch.Blob, open map[string]*index.Index) (map[string]*index.Index, error) {
	set := make(map[string]*index.Index, len(blobs))
	var mu sync.Mutex // guards set
	g, lanes := errgroup.WithContext(ctx)
	g.SetLimit(loadLanes)
	read := func(ctx context.Context, b epoch.Blob) error {
		x, err := r.loadIndex(ctx, b.Name, b.Size)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		set[b.Name] = x
		return nil
	}
	var large []epoch.Blob
	for _, b := range blobs {
		x, ok := open[b.Name]
		switch {
		case ok:
			mu.Lock()
			set[b.Name] = x
			mu.Unlock()
		case b.Size > largeIndex:
			large = append(large, b)
		default:
			g.Go(func() error { return read(lanes, b) })
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, b := range large {
		if err := read(ctx, b); err != nil {
			return nil, err
		}
	}
	return set, nil
}

// loadIndex reads an index. size is how many bytes its blob seems to have: room is taken for so many at once; 0 = not known.
func (r *Repository) loadIndex(ctx context.Context, name string, size int64) (*index.Index, error) {
	var sealed bytes.Buffer
	sealed.Grow(int(min(max(size, 0), hugeIndex)) + bytes.MinRead)
	err := r.blobs.Get(ctx, blobDir+name, 0, -1, &sealed)
	var raw []byte
	if err == nil {
		raw, err = r.seal.OpenBlob(name, sealed.Bytes())
	}
	var x *index.Index
	if err == nil {
		x, err = index.Open(raw)
	}
	if err != nil {
		return nil, &IndexError{Blob: name, Err: err}
	}
	return x, nil
}

// keepFresh is [Repository.Refresh] when the last one was long ago: whoever relies on a content must not rely on one that was
// deleted meanwhile.
func (r *Repository) keepFresh(ctx context.Context) error { return r.refreshOlder(ctx, indexesKept) }

// refreshOlder is [Repository.Refresh] when the last one was longer ago than that.
func (r *Repository) refreshOlder(ctx context.Context, than time.Duration) error {
	if !r.older(than) {
		return nil
	}
	r.refreshing.Lock()
	defer r.refreshing.Unlock()
	if !r.older(than) { // somebody else was quicker
		return nil
	}
	return r.refresh(ctx)
}

func (r *Repository) older(than time.Duration) bool {
	r.known.mu.RLock()
	defer r.known.mu.RUnlock()
	return r.now().Sub(r.known.readAt).Abs() > than // negative: the clock was set back, and nobody knows
}

// joinIndexes writes one set of index blobs that says what blobs say; package epoch decides which. It holds no more in memory than
// the repository does anyway, and one of the new indexes.
func (r *Repository) joinIndexes(ctx context.Context, blobs []string, prefix string) error {
	all, err := r.openIndexes(ctx, blobs)
	if err != nil {
		return err
	}
	set := "s" + randomHex(8)
	return all.Compact(shardMax, func(raw []byte, of int) error {
		s, err := r.sealIndex(raw, prefix, set, of)
		if err != nil {
			return err
		}
		if err := r.blobs.Put(ctx, blobDir+s.name, store.Bytes(s.bytes)); err != nil {
			return fmt.Errorf("store index %s: %w", s.name, err)
		}
		return nil
	})
}

// openIndexes gives indexes as they are known, or reads them. One that is not there any more is an error though it is known: what it
// said may count no more, or may be part of what others say.
func (r *Repository) openIndexes(ctx context.Context, names []string) (all index.Merged, err error) {
	_, open := r.known.mark()
	for _, name := range names {
		x, ok := open[name]
		if ok {
			if _, err = r.blobs.Stat(ctx, blobDir+name); err != nil {
				err = &IndexError{Blob: name, Err: err}
			}
		} else {
			x, err = r.loadIndex(ctx, name, 0)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	return all, nil
}

// sealedIndex is an index blob.
type sealedIndex struct {
	name         string
	bytes, plain []byte
}

// sealIndexes gives the blobs of one set.
func (r *Repository) sealIndexes(shards [][]byte, prefix, set string) (out []sealedIndex, err error) {
	for _, raw := range shards {
		s, err := r.sealIndex(raw, prefix, set, len(shards))
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// sealIndex gives one blob of a set. Its name ends with the set and how many that has: a reader passes over a set that is not complete.
func (r *Repository) sealIndex(raw []byte, prefix, set string, of int) (sealedIndex, error) {
	name, sealed, err := r.seal.SealBlob(raw, prefix, fmt.Sprintf("%s-c%d", set, of))
	if err != nil {
		return sealedIndex{}, fmt.Errorf("seal an index: %w", err)
	}
	return sealedIndex{name, sealed, raw}, nil
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}
