package repo

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault/repo/format"
	"holdfast/internal/vault/store"
	"holdfast/internal/vault/tiers"
)

// TypeLabel is the label that every manifest has: what kind it is.
const TypeLabel = "type"

const (
	// manifestPrefix is before the names of the contents that hold manifests.
	manifestPrefix = "m"
	// manifestContentsMax is how many contents hold manifests before a flush of one more joins them, as with kopia: whoever lists
	// manifests has to fetch each. Kopia joins them all; here one is left alone that is larger than all that are smaller together,
	// or each of many flushes would write again what was deleted in the course of a year.
	manifestContentsMax = 16
	// manifestGrowth is by how much a content grows at least that is joined with others: so few are left alone that there is always
	// something to join.
	manifestGrowth = 2
	// tombstoneKept is how long a joined content still says that a manifest is deleted. A writer that joins what it read
	// before the deletion, and stores that after it, would else bring the manifest back; and so would one that moves a content
	// of manifests into another pack, or learns it from its pack, after others had joined it, however long after the deletion that
	// was: what is stored later counts. (kopia keeps none.) A year of deletions is some hundred kilobytes.
	tombstoneKept = 400 * 24 * time.Hour
	// manifestReaders is how many contents are fetched at once.
	manifestReaders = 8
	// manifestTries is how often the list is read again when a content of it went meanwhile, which joining does.
	manifestTries = 4
)

// ErrManifestNotFound is returned for a manifest that is not there, or is deleted.
var ErrManifestNotFound = errors.New("no such manifest")

// ManifestID names one manifest: 32 hexadecimal digits, which say nothing.
type ManifestID string

// ManifestEntry is what is known of a manifest without its payload.
type ManifestEntry struct {
	ID      ManifestID
	Length  int // of the payload, in bytes
	Labels  map[string]string
	ModTime time.Time // when it was put, by the writer's clock
}

// manifestRecord is a manifest as it is stored, with kopia's names. Once it is in a map it is never changed.
type manifestRecord struct {
	ID      ManifestID        `json:"id"`
	Labels  map[string]string `json:"labels"`
	ModTime time.Time         `json:"modified"`
	Deleted bool              `json:"deleted,omitempty"`
	Payload json.RawMessage   `json:"data,omitempty"`
	Content string            `json:"contentID,omitempty"` // kopia may once keep payloads there: refused, see decodeManifests
}

// manifestSet is what one content holds, as JSON under gzip.
type manifestSet struct {
	Entries []*manifestRecord `json:"entries"`
	Version int               `json:"version,omitempty"` // 0 = this one
}

// beats reports whether m counts and not n, which is of the same manifest: the later one; and of two of one moment the one that
// is not deleted, because a manifest too many is seen, and one too few is not.
func (m *manifestRecord) beats(n *manifestRecord) bool {
	if c := m.ModTime.Compare(n.ModTime); c != 0 {
		return c > 0
	}
	return n.Deleted && !m.Deleted
}

func (m *manifestRecord) has(labels map[string]string) bool {
	for k, v := range labels {
		if got, ok := m.Labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func (m *manifestRecord) entry() *ManifestEntry {
	return &ManifestEntry{ID: m.ID, Length: len(m.Payload), Labels: maps.Clone(m.Labels), ModTime: m.ModTime}
}

// records is manifests by name, those that are deleted too.
type records map[ManifestID]*manifestRecord

func (r records) add(all ...*manifestRecord) {
	for _, m := range all {
		if old, ok := r[m.ID]; !ok || m.beats(old) {
			r[m.ID] = m
		}
	}
}

// find gives what is not deleted and has these labels, the oldest first.
func (r records) find(labels map[string]string) []*ManifestEntry {
	var out []*ManifestEntry
	for _, m := range r {
		if !m.Deleted && m.has(labels) {
			out = append(out, m.entry())
		}
	}
	slices.SortFunc(out, func(a, b *ManifestEntry) int {
		return cmp.Or(a.ModTime.Compare(b.ModTime), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// get reads a payload into what into points to; nil = only the entry is wanted.
func (r records) get(id ManifestID, into any) (*ManifestEntry, error) {
	m, ok := r[id]
	if !ok || m.Deleted {
		return nil, fmt.Errorf("%w: %s", ErrManifestNotFound, id)
	}
	if into != nil {
		if err := json.Unmarshal(m.Payload, into); err != nil {
			return nil, fmt.Errorf("read manifest %s: %w", id, err)
		}
	}
	return m.entry(), nil
}

// without leaves out what was deleted before a moment.
func (r records) without(deletedBefore time.Time) records {
	out := maps.Clone(r)
	maps.DeleteFunc(out, func(_ ManifestID, m *manifestRecord) bool { return m.Deleted && m.ModTime.Before(deletedBefore) })
	return out
}

// encode gives the bytes of a content that holds them: equal records are equal bytes.
func (r records) encode() ([]byte, error) {
	set := manifestSet{Entries: slices.SortedFunc(maps.Values(r), func(a, b *manifestRecord) int { return cmp.Compare(a.ID, b.ID) })}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if err := errors.Join(json.NewEncoder(z).Encode(set), z.Close()); err != nil {
		return nil, fmt.Errorf("write %d manifests: %w", len(r), err)
	}
	return out.Bytes(), nil
}

// decodeManifests is the inverse of [records.encode]. Manifests of another version are an error, as are those whose payload lies
// elsewhere (kopia repo/manifest/serialized.go has both, and writes neither): joined with others they would lose it.
func decodeManifests(raw []byte) ([]*manifestRecord, error) {
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}
	var set manifestSet
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, err
	}
	if set.Version != 0 {
		return nil, fmt.Errorf("manifests of version %d, which this program does not know", set.Version)
	}
	for _, m := range set.Entries {
		switch {
		case m == nil || m.ID == "":
			return nil, errors.New("a manifest without a name")
		case m.Content != "":
			return nil, fmt.Errorf("manifest %s lies in content %s, where this program does not look", m.ID, m.Content)
		}
	}
	return set.Entries, nil
}

// manifestPlace is where manifests are read: a repository, or a writer.
type manifestPlace interface {
	Content(ctx context.Context, id ContentID) ([]byte, error)
	EachContentOf(ctx context.Context, prefix string, deletedToo bool, each func(Info) error) error
	revision() int64
}

// manifestView is what one place holds, as far as it was read.
type manifestView struct {
	read     bool
	revision int64 // of the place, before it was read
	contents []manifestContent
	records  records // of them all
}

// manifestContent is one content that holds manifests.
type manifestContent struct {
	id      ContentID
	size    int64 // bytes, as it lies in its pack
	records []*manifestRecord
}

// committedManifests is what a repository remembers of the manifests that are stored.
type committedManifests struct {
	mu   sync.Mutex // above view; held while it is read, so that two who ask fetch once
	view manifestView

	decodedMu sync.Mutex                      // above decoded; taken after mu
	decoded   map[ContentID][]*manifestRecord // contents never change
}

// sessionManifests is what a writer keeps of manifests until they are flushed.
type sessionManifests struct {
	joining sync.Mutex // held while manifests are stored; taken before the others

	viewMu sync.Mutex // above view; taken before mu
	view   manifestView

	mu      sync.Mutex // above what follows
	pending records    // not in a content yet
	join    bool       // the next flush makes one content of all
}

// one gives what a content holds, fetching it at most once.
func (c *committedManifests) one(ctx context.Context, from manifestPlace, id ContentID) ([]*manifestRecord, error) {
	c.decodedMu.Lock()
	got, ok := c.decoded[id]
	c.decodedMu.Unlock()
	if ok {
		return got, nil
	}
	raw, err := from.Content(ctx, id)
	if err == nil {
		got, err = decodeManifests(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("read the manifests in content %s: %w", id, err)
	}
	c.decodedMu.Lock()
	defer c.decodedMu.Unlock()
	if c.decoded == nil {
		c.decoded = map[ContentID][]*manifestRecord{}
	}
	c.decoded[id] = got
	return got, nil
}

// keepOnly forgets every content but these.
func (c *committedManifests) keepOnly(contents []manifestContent) {
	keep := make(map[ContentID]bool, len(contents))
	for _, held := range contents {
		keep[held.id] = true
	}
	c.decodedMu.Lock()
	defer c.decodedMu.Unlock()
	maps.DeleteFunc(c.decoded, func(id ContentID, _ []*manifestRecord) bool { return !keep[id] })
}

// look brings a view up to date with its place.
func (c *committedManifests) look(ctx context.Context, from manifestPlace, v *manifestView) error {
	now := from.revision()
	if v.read && v.revision == now {
		return nil
	}
	var found []manifestContent
	err := from.EachContentOf(ctx, manifestPrefix, false, func(i Info) error {
		found = append(found, manifestContent{id: i.ID, size: int64(i.Packed)})
		return nil
	})
	if err != nil {
		return fmt.Errorf("list manifests: %w", err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(manifestReaders)
	for i := range found {
		g.Go(func() (err error) {
			found[i].records, err = c.one(gctx, from, found[i].id)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	all := records{}
	for _, held := range found {
		all.add(held.records...)
	}
	*v = manifestView{read: true, revision: now, contents: found, records: all}
	return nil
}

// wentMeanwhile reports whether an error of reading manifests may be that another writer joined them, and cleaned up behind.
func wentMeanwhile(err error) bool {
	return (errors.Is(err, ErrContentNotFound) || errors.Is(err, store.ErrNotFound)) && !errors.Is(err, store.ErrUnseen)
}

// committed gives what is stored. The records must not be changed.
func (r *Repository) committed(ctx context.Context) (records, error) {
	c := &r.manifests
	c.mu.Lock()
	defer c.mu.Unlock()
	for try := 1; ; try++ {
		err := c.look(ctx, r, &c.view)
		if err == nil {
			c.keepOnly(c.view.contents)
			return c.view.records, nil
		}
		if try == manifestTries || !wentMeanwhile(err) {
			return nil, err
		}
		if err := r.Refresh(ctx); err != nil {
			return nil, err
		}
	}
}

// FindManifests lists the manifests that have all these labels, the oldest first. What others wrote since the last
// [Repository.Refresh] is not seen. A content that cannot be read is an error: nothing is left out.
func (r *Repository) FindManifests(ctx context.Context, labels map[string]string) ([]*ManifestEntry, error) {
	all, err := r.committed(ctx)
	if err != nil {
		return nil, err
	}
	return all.find(labels), nil
}

// Manifest reads a manifest's payload into what into points to, as JSON; nil = it is not wanted. [ErrManifestNotFound].
func (r *Repository) Manifest(ctx context.Context, id ManifestID, into any) (*ManifestEntry, error) {
	all, err := r.committed(ctx)
	if err != nil {
		return nil, err
	}
	return all.get(id, into)
}

// Manifests are those of a repository that can be read.
type Manifests struct {
	all records
	// Unread says which contents of manifests no place has whole; nil = all were read. What only those hold is missing, and what
	// they say is deleted may be there.
	Unread error
}

// ReadableManifests reads past contents of manifests that are lost or damaged, for lists that are shown and for restores. Who
// deletes anything goes by [Repository.FindManifests].
func (r *Repository) ReadableManifests(ctx context.Context) (*Manifests, error) {
	all, err := r.committed(ctx)
	if err == nil {
		return &Manifests{all: all}, nil
	}
	if !isUnreadable(err) {
		return nil, err
	}
	var ids []ContentID
	err = r.EachContentOf(ctx, manifestPrefix, false, func(i Info) error { ids = append(ids, i.ID); return nil })
	if err != nil {
		return nil, fmt.Errorf("list manifests: %w", err)
	}
	out := &Manifests{all: records{}}
	for _, id := range ids {
		held, err := r.manifests.one(ctx, r, id)
		if err != nil && !isUnreadable(err) {
			return nil, err
		}
		out.Unread = errors.Join(out.Unread, err)
		out.all.add(held...)
	}
	return out, nil
}

// isUnreadable reports whether an error says that a content is lost or damaged, and not that its place does not answer.
func isUnreadable(err error) bool {
	_, lost := errors.AsType[*LostPackError](err)
	return lost || errors.Is(err, store.ErrShort) || errors.Is(err, format.ErrDamaged)
}

// FindManifests is [Repository.FindManifests] among these.
func (m *Manifests) FindManifests(_ context.Context, labels map[string]string) ([]*ManifestEntry, error) {
	return m.all.find(labels), nil
}

// Manifest is [Repository.Manifest] of one of these.
func (m *Manifests) Manifest(_ context.Context, id ManifestID, into any) (*ManifestEntry, error) {
	return m.all.get(id, into)
}

// stored gives what is stored, what this session stored too. The view must not be changed.
func (w *Writer) stored(ctx context.Context) (manifestView, error) {
	s := &w.manifests
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	err := w.repo.manifests.look(ctx, w, &s.view)
	return s.view, err
}

// seen gives what is stored, and what this session will store.
func (w *Writer) seen(ctx context.Context) (records, error) {
	// A flush moves records from here to there, so here is looked first.
	w.manifests.mu.Lock()
	pending := maps.Clone(w.manifests.pending)
	w.manifests.mu.Unlock()
	for try := 1; ; try++ {
		v, err := w.stored(ctx)
		if err == nil && len(pending) == 0 {
			return v.records, nil
		}
		if err == nil {
			all := maps.Clone(v.records)
			all.add(slices.Collect(maps.Values(pending))...)
			return all, nil
		}
		if try == manifestTries || !wentMeanwhile(err) {
			return nil, err
		}
		if err := w.repo.Refresh(ctx); err != nil {
			return nil, err
		}
	}
}

// FindManifests is [Repository.FindManifests], and sees what this session put and deleted.
func (w *Writer) FindManifests(ctx context.Context, labels map[string]string) ([]*ManifestEntry, error) {
	all, err := w.seen(ctx)
	if err != nil {
		return nil, err
	}
	return all.find(labels), nil
}

// Manifest is [Repository.Manifest], and sees what this session put and deleted.
func (w *Writer) Manifest(ctx context.Context, id ManifestID, into any) (*ManifestEntry, error) {
	all, err := w.seen(ctx)
	if err != nil {
		return nil, err
	}
	return all.get(id, into)
}

// PutManifest adds a manifest with these labels, of which [TypeLabel] must be one. It is there for others after the next
// [Writer.Flush].
func (w *Writer) PutManifest(_ context.Context, labels map[string]string, payload any) (ManifestID, error) {
	if labels[TypeLabel] == "" {
		return "", errors.New("put a manifest: it must say of which type it is")
	}
	raw, err := json.Marshal(payload)
	if err != nil {
		return "", fmt.Errorf("put a manifest of type %s: %w", labels[TypeLabel], err)
	}
	var name [16]byte
	_, _ = rand.Read(name[:]) // never fails (crypto/rand)
	m := &manifestRecord{ID: ManifestID(hex.EncodeToString(name[:])), Labels: maps.Clone(labels), ModTime: w.repo.Now().UTC(), Payload: raw}
	w.manifests.put(m)
	return m.ID, nil
}

func (s *sessionManifests) put(m *manifestRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending == nil {
		s.pending = records{}
	}
	s.pending[m.ID] = m
}

// ReplaceManifests puts a manifest and deletes every other one that has all these labels. Two that do so at one moment may
// both be seen afterwards.
func (w *Writer) ReplaceManifests(ctx context.Context, labels map[string]string, payload any) (ManifestID, error) {
	old, err := w.FindManifests(ctx, labels)
	if err != nil {
		return "", err
	}
	id, err := w.PutManifest(ctx, labels, payload)
	if err != nil {
		return "", err
	}
	for _, m := range old {
		w.manifests.put(w.tombstone(m))
	}
	return id, nil
}

// DeleteManifest deletes a manifest; one that is not there is no error. It is gone for others after the next [Writer.Flush].
func (w *Writer) DeleteManifest(ctx context.Context, id ManifestID) error {
	m, err := w.Manifest(ctx, id, nil)
	if errors.Is(err, ErrManifestNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	w.manifests.put(w.tombstone(m))
	return nil
}

// tombstone is what deletes a manifest. It is later than that, whatever the clocks of the two writers say.
func (w *Writer) tombstone(m *ManifestEntry) *manifestRecord {
	at := w.repo.Now().UTC()
	if !at.After(m.ModTime) {
		at = m.ModTime.UTC().Add(1)
	}
	return &manifestRecord{ID: m.ID, ModTime: at, Deleted: true}
}

// CompactManifests has the next [Writer.Flush] make one content of all that hold manifests. A content that cannot be read is
// an error, and then nothing is joined.
func (w *Writer) CompactManifests(ctx context.Context) error {
	if _, err := w.seen(ctx); err != nil {
		return err
	}
	w.manifests.mu.Lock()
	defer w.manifests.mu.Unlock()
	w.manifests.join = true
	return nil
}

// flushManifests stores what the session has of manifests as contents. Flush calls it before anything else. What contents are
// joined into is stored before they are deleted, so that no index can say the second without the first.
func (w *Writer) flushManifests(ctx context.Context) error {
	s := &w.manifests
	s.joining.Lock()
	defer s.joining.Unlock()
	s.mu.Lock()
	put, join := maps.Clone(s.pending), s.join
	s.mu.Unlock()
	if len(put) == 0 && !join {
		return nil
	}
	instead, all := w.joinable(ctx, put, join)
	if len(all) > 0 {
		raw, err := all.encode()
		if err != nil {
			return err
		}
		id, err := w.Store(ctx, raw, manifestPrefix, true)
		if err != nil {
			return fmt.Errorf("store %d manifests: %w", len(all), err)
		}
		for _, old := range instead {
			if old == id {
				continue
			}
			if err := w.Delete(ctx, old); err != nil && !errors.Is(err, ErrContentNotFound) { // others joined it long ago
				return fmt.Errorf("delete the manifests that were joined with others: %w", err)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.join = false
	maps.DeleteFunc(s.pending, func(id ManifestID, m *manifestRecord) bool { return put[id] == m })
	return nil
}

// joinable says what a flush stores, and the contents in whose place. What is stored may be damaged: then what is put is
// stored by itself, for a backup must not fail because of an older one.
func (w *Writer) joinable(ctx context.Context, put records, join bool) (instead []ContentID, all records) {
	v, err := w.stored(ctx)
	if err != nil {
		w.repo.Log().WarnContext(ctx, "manifests not joined", "err", err)
		return nil, put
	}
	n := len(v.contents)
	if len(put) > 0 {
		n++
	}
	if n < 2 || !join && n <= manifestContentsMax {
		return nil, put
	}
	chosen := v.contents
	if !join {
		chosen = v.joined()
	}
	all = records{}
	for _, held := range chosen {
		instead = append(instead, held.id)
		all.add(held.records...)
	}
	all.add(slices.Collect(maps.Values(put))...)
	if len(chosen) < len(v.contents) { // what is left alone may hold what is deleted here
		return instead, all
	}
	return instead, all.without(w.repo.Now().Add(-tombstoneKept))
}

// joined gives the contents that are joined with one of what is put now, which is taken to be the smallest; all where none is to be,
// so that they stay few.
func (v manifestView) joined() []manifestContent {
	sizes := make([]int64, len(v.contents))
	for i, held := range v.contents {
		sizes[i] = held.size
	}
	chosen := tiers.Joined(sizes, manifestGrowth)
	if len(chosen) == 0 {
		return v.contents
	}
	out := make([]manifestContent, 0, len(chosen))
	for _, i := range chosen {
		out = append(out, v.contents[i])
	}
	return out
}
