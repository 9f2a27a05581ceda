package vault

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault/store"
)

// The catalog says, beside the repository and the log, what was stored for ever: name, size and hash of each blob, and
// what was let go of again. Each writer adds a page of its own; nothing is replaced. A page that merges others names them,
// and they do not count any more.
const (
	catalogDir   = "catalog"
	catalogMagic = "HFCATLG\x01"
	catalogHead  = 20 // magic 8, nonce 12
	// pageRows and pageAge bound what a writer that is killed has not written down yet; a scrub finds and adds it.
	pageRows = 500
	pageAge  = 10 * time.Minute
	// pagesMax is how many pages may count before small ones are merged into one.
	pagesMax = 64
	// goneKept is how long it is remembered that a blob was let go of, so that a stale copy does not bring it back.
	goneKept = 400 * 24 * time.Hour
)

// row is one blob of the catalog.
type row struct {
	Name string `json:"n"`
	Size int64  `json:"s,omitempty"`
	Sum  string `json:"h,omitempty"` // SHA-256, hexadecimal
	At   int64  `json:"t"`           // seconds since 1970, by the writer's clock
	Gone bool   `json:"g,omitempty"` // it was let go of
	// Intent says nothing of what was stored, only of a deletion: it is about to happen, or did not.
	Intent string `json:"i,omitempty"`
}

// over reports whether r says more of a blob than old: what was stored again after it was let go of is there again, and in
// one second it was stored before it was let go of. Of two forms of one second (two hosts stored a segment) always the same one
// counts, in whichever order they are met.
func (r row) over(old row) bool {
	switch {
	case r.At != old.At:
		return r.At > old.At
	case r.Gone != old.Gone:
		return r.Gone
	case r.Intent != old.Intent:
		return r.Intent == stays
	}
	return cmp.Or(cmp.Compare(r.Sum, old.Sum), cmp.Compare(r.Size, old.Size)) > 0
}

// page is one object of the catalog.
type page struct {
	Covers []string `json:"covers,omitempty"` // pages that this one has merged, and those that they had
	// Times says since when Covers are merged, in their order. Earlier versions wrote none: then since this page was made at the latest.
	Times []coverTime `json:"times,omitempty"`
	rows  []row
}

// coverTime is when so many pages were merged.
type coverTime struct {
	At    int64 `json:"t"` // seconds since 1970
	Count int   `json:"n"`
}

// covered gives the pages that a page of that name covers, each with when it was merged at the latest.
func (p page) covered(name string) map[string]int64 {
	out := make(map[string]int64, len(p.Covers))
	next := 0
	for _, at := range p.Times {
		for range min(max(at.Count, 0), len(p.Covers)-next) {
			out[p.Covers[next]] = at.At
			next++
		}
	}
	for _, of := range p.Covers[next:] {
		out[of] = madeAt(name).Unix()
	}
	return out
}

// covering notes which pages are covered, and since when.
func (p *page) covering(since map[string]int64) {
	p.Covers = slices.SortedFunc(maps.Keys(since), func(a, b string) int { return cmp.Or(cmp.Compare(since[a], since[b]), cmp.Compare(a, b)) })
	p.Times = nil
	for _, of := range p.Covers {
		if n := len(p.Times); n > 0 && p.Times[n-1].At == since[of] {
			p.Times[n-1].Count++
			continue
		}
		p.Times = append(p.Times, coverTime{At: since[of], Count: 1})
	}
}

// madeAt is when a page was made, by its name; of a name that does not say so, now at the latest.
func madeAt(name string) time.Time {
	at, err := time.Parse(stateTime, strings.SplitN(path.Base(name), "-", 2)[0])
	if err != nil {
		return time.Now()
	}
	return at
}

// catalogued reports whether the catalog keeps a blob: what is stored once and for ever.
func catalogued(name string) bool {
	return !passing(name) && !changing(name) && !light(name)
}

// recorder is a place that writes down what was stored in it.
type recorder struct {
	store.Store

	mu    sync.Mutex // guards what follows
	rows  []row
	since time.Time // of the oldest row; zero = none
}

func (r *recorder) Put(ctx context.Context, name string, data store.Data) error {
	if !catalogued(name) {
		return r.Store.Put(ctx, name, data)
	}
	sum, size := "", int64(0)
	var summing errgroup.Group // while it is stored: a pack is many megabytes
	summing.Go(func() (err error) {
		sum, size, err = sumOf(data)
		return err
	})
	stored := r.Store.Put(ctx, name, data)
	if err := summing.Wait(); err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	if stored != nil {
		return stored
	}
	r.add(row{Name: name, Size: size, Sum: sum})
	return nil
}

func sumOf(data store.Data) (sum string, size int64, err error) {
	h := sha256.New()
	in := data.Reader()
	size, err = io.Copy(h, in)
	return hex.EncodeToString(h.Sum(nil)), size, errors.Join(err, in.Close())
}

func (r *recorder) Delete(ctx context.Context, name string) error {
	if err := r.Store.Delete(ctx, name); err != nil {
		return err
	}
	if catalogued(name) {
		r.add(row{Name: name, Gone: true})
	}
	return nil
}

// Close lets go of the place.
func (r *recorder) Close() { closeStore(r.Store) }

func (r *recorder) add(x row) {
	now := time.Now()
	x.At = now.Unix()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, x)
	if r.since.IsZero() {
		r.since = now
	}
}

// take gives what has not been written down: all of it, or only when that is due.
func (r *recorder) take(due bool) []row {
	r.mu.Lock()
	defer r.mu.Unlock()
	if due && len(r.rows) < pageRows && (r.since.IsZero() || time.Since(r.since) < pageAge) {
		return nil
	}
	rows := r.rows
	r.rows, r.since = nil, time.Time{}
	return rows
}

func (r *recorder) giveBack(rows []row) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(rows, r.rows...)
	r.since = time.Now()
}

// writeDown adds a page with what was stored since the last one. due = only when that is much or long ago.
func (v *Vault) writeDown(ctx context.Context, due bool) error {
	if v.recorder == nil {
		return nil
	}
	rows := v.recorder.take(due)
	if len(rows) == 0 {
		return nil
	}
	if _, err := v.putPage(ctx, page{rows: rows}); err != nil {
		v.recorder.giveBack(rows)
		return fmt.Errorf("write down what was stored in vault %s: %w", v.name, err)
	}
	return nil
}

func (v *Vault) putPage(ctx context.Context, p page) (string, error) {
	name := path.Join(catalogDir, time.Now().UTC().Format(stateTime)+"-"+rand.Text()+stateSuffix)
	raw, err := v.sealPage(name, p)
	if err != nil {
		return "", err
	}
	return name, v.files.Put(ctx, name, store.Bytes(raw))
}

// catalog is what all pages together say.
type catalog struct {
	rows    map[string]row
	intents map[string]row  // the last word on deletions of each blob
	live    map[string]bool // pages that count
	damaged []error         // pages that cannot be read in any copy
	bundles spans           // of log, of bundles that must be there
}

// row is what is known of a blob. A segment that a bundle took the place of needs no row of its own to be gone, as long as that
// bundle is not gone itself: a segment of which nothing is known but that is log as any other.
func (c catalog) row(name string) (row, bool) {
	r, ok := c.rows[name]
	if !ok && c.bundles.covers(name) {
		return row{Name: name, Gone: true}, true
	}
	return r, ok
}

// gone reports whether a blob was let go of.
func (c catalog) gone(name string) bool {
	r, _ := c.row(name)
	return r.Gone
}

// has is the row of a blob that must be there.
func (c catalog) has(name string) (row, bool) {
	r, ok := c.rows[name]
	return r, ok && !r.Gone
}

// pages are the catalog as it lies in its folder.
type pages struct {
	live    map[string]page  // those that count
	sizes   map[string]int64 // of all that are listed, in bytes, by name
	damaged []error          // of those that cannot be read in any copy
}

// readCatalog reads all pages. One that is damaged in one copy is read from another.
func (v *Vault) readCatalog(ctx context.Context) (catalog, error) {
	p, err := v.readPages(ctx)
	return p.catalog(), err
}

// readPages reads the pages that count, the largest first: those that are merged are not read where the page is whole that names them.
func (v *Vault) readPages(ctx context.Context) (pages, error) {
	p := pages{live: map[string]page{}, sizes: map[string]int64{}}
	err := v.files.List(ctx, catalogDir+"/", func(i store.Info) error { p.sizes[i.Name] = i.Size; return nil })
	if err != nil {
		return p, fmt.Errorf("list the catalog of vault %s: %w", v.name, err)
	}
	v.pages.keepOnly(p.sizes)
	merged, damaged := map[string]bool{}, map[string]error{}
	for _, n := range slices.SortedFunc(maps.Keys(p.sizes), func(a, b string) int { return cmp.Or(cmp.Compare(p.sizes[b], p.sizes[a]), cmp.Compare(a, b)) }) {
		if merged[n] {
			continue
		}
		one, err := v.readPage(ctx, n)
		if errors.Is(err, store.ErrNotFound) {
			continue // merged meanwhile
		}
		if ctx.Err() != nil {
			return p, err
		}
		if err != nil {
			damaged[n] = fmt.Errorf("read %s: %w", n, err)
			continue
		}
		p.live[n] = one
		for _, of := range one.Covers {
			merged[of] = true
		}
	}
	maps.DeleteFunc(p.live, func(n string, _ page) bool { return merged[n] })
	for _, n := range slices.Sorted(maps.Keys(damaged)) {
		if !merged[n] {
			p.damaged = append(p.damaged, damaged[n])
		}
	}
	return p, nil
}

// catalog is what the pages say together.
func (p pages) catalog() catalog {
	c := catalog{rows: map[string]row{}, intents: map[string]row{}, live: map[string]bool{}, damaged: p.damaged}
	for n, one := range p.live {
		c.live[n] = true
		c.add(one.rows)
	}
	c.bundles = spansOf(func(yield func(string) bool) {
		for n, r := range c.rows {
			if !r.Gone && !yield(n) {
				return
			}
		}
	})
	return c
}

// add learns rows. The order does not matter.
func (c catalog) add(rows []row) {
	for _, r := range rows {
		of := c.rows
		if r.Intent != "" {
			of = c.intents
		}
		if old, ok := of[r.Name]; !ok || r.over(old) {
			of[r.Name] = r
		}
	}
}

// readPage reads one page, from the places only when it is not remembered.
func (v *Vault) readPage(ctx context.Context, name string) (page, error) {
	if raw, ok := v.pages.get(name); ok {
		if p, err := v.openPage(name, raw); err == nil {
			return p, nil
		}
	}
	var first error
	places := []store.Store{v.files}
	if v.members != nil {
		places = nil
		for _, m := range v.members.Members() {
			places = append(places, m.Store)
		}
	}
	for _, s := range places {
		raw, err := store.Read(ctx, s, name)
		if err == nil {
			var p page
			if p, err = v.openPage(name, raw); err == nil {
				v.pages.put(name, raw)
				return p, nil
			}
		}
		if first == nil || errors.Is(first, store.ErrNotFound) {
			first = err
		}
	}
	return page{}, first
}

func (v *Vault) catalogCipher() (cipher.AEAD, error) { return v.cipherFor("holdfast-catalog-v1") }

func (v *Vault) sealPage(name string, p page) ([]byte, error) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	if err := enc.Encode(p); err != nil {
		return nil, err
	}
	for _, r := range p.rows {
		if err := enc.Encode(r); err != nil {
			return nil, err
		}
	}
	pack, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	packed := pack.EncodeAll(text.Bytes(), nil)
	if err := pack.Close(); err != nil {
		return nil, err
	}
	gcm, err := v.catalogCipher()
	if err != nil {
		return nil, err
	}
	head := make([]byte, catalogHead)
	copy(head, catalogMagic)
	_, _ = rand.Read(head[len(catalogMagic):]) // never fails (crypto/rand)
	return gcm.Seal(slices.Clone(head), head[len(catalogMagic):], packed, []byte(name)), nil
}

// openPage authenticates a page under its own name.
func (v *Vault) openPage(name string, raw []byte) (page, error) {
	if len(raw) < catalogHead || string(raw[:len(catalogMagic)]) != catalogMagic {
		return page{}, errors.New("it is no page of the catalog, or one of another version")
	}
	gcm, err := v.catalogCipher()
	if err != nil {
		return page{}, err
	}
	packed, err := gcm.Open(nil, raw[len(catalogMagic):catalogHead], raw[catalogHead:], []byte(name))
	if err != nil {
		return page{}, errors.New("damaged: its seal does not fit")
	}
	dec, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return page{}, err
	}
	defer dec.Close()
	var p page
	lines := json.NewDecoder(bufio.NewReader(dec))
	if err := lines.Decode(&p); err != nil {
		return page{}, fmt.Errorf("read its head: %w", err)
	}
	for {
		var r row
		err := lines.Decode(&r)
		if errors.Is(err, io.EOF) {
			return p, nil
		}
		if err != nil {
			return page{}, fmt.Errorf("read its rows: %w", err)
		}
		p.rows = append(p.rows, r)
	}
}
