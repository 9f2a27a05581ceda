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
	// pagesMax is how many pages may lie there before they are merged into one.
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
// one second it was stored before it was let go of.
func (r row) over(old row) bool {
	if r.At != old.At {
		return r.At > old.At
	}
	return r.Gone && !old.Gone || r.Intent == stays && old.Intent == going
}

// page is one object of the catalog.
type page struct {
	Covers []string `json:"covers,omitempty"` // pages that this one has merged
	rows   []row
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
	sum := sha256.New()
	in := data.Reader()
	size, err := io.Copy(sum, in)
	if err = errors.Join(err, in.Close()); err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	if err := r.Store.Put(ctx, name, data); err != nil {
		return err
	}
	r.add(row{Name: name, Size: size, Sum: hex.EncodeToString(sum.Sum(nil))})
	return nil
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
	covers  []string        // of all pages
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

// readCatalog reads all pages. One that is damaged in one copy is read from another.
func (v *Vault) readCatalog(ctx context.Context) (catalog, error) {
	c := catalog{rows: map[string]row{}, intents: map[string]row{}, live: map[string]bool{}}
	var names []string
	err := v.files.List(ctx, catalogDir+"/", func(i store.Info) error { names = append(names, i.Name); return nil })
	if err != nil {
		return c, fmt.Errorf("list the catalog of vault %s: %w", v.name, err)
	}
	slices.Sort(names)
	pages := map[string]page{}
	for _, n := range names {
		p, err := v.readPage(ctx, n)
		if errors.Is(err, store.ErrNotFound) {
			continue // merged meanwhile
		}
		if ctx.Err() != nil {
			return c, err
		}
		if err != nil {
			c.damaged = append(c.damaged, fmt.Errorf("read %s: %w", n, err))
			continue
		}
		pages[n], c.live[n] = p, true
		c.covers = append(c.covers, p.Covers...)
	}
	for _, n := range c.covers {
		delete(c.live, n)
	}
	for n := range c.live {
		for _, r := range pages[n].rows {
			of := c.rows
			if r.Intent != "" {
				of = c.intents
			}
			if old, ok := of[r.Name]; !ok || r.over(old) {
				of[r.Name] = r
			}
		}
	}
	c.bundles = spansOf(func(yield func(string) bool) {
		for n, r := range c.rows {
			if !r.Gone && !yield(n) {
				return
			}
		}
	})
	return c, nil
}

func (v *Vault) readPage(ctx context.Context, name string) (page, error) {
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
				return p, nil
			}
		}
		if first == nil || errors.Is(first, store.ErrNotFound) {
			first = err
		}
	}
	return page{}, first
}

// mergeCatalog puts many pages into one, and lets go of them.
func (v *Vault) mergeCatalog(ctx context.Context) error {
	names, err := v.files.Names(ctx, catalogDir)
	if err != nil || len(names) <= pagesMax {
		return err
	}
	c, err := v.readCatalog(ctx)
	if err != nil {
		return err
	}
	if len(c.damaged) > 0 {
		return errors.Join(c.damaged...) // they may come back from another copy
	}
	old := time.Now().Add(-goneKept)
	merged := page{Covers: slices.Sorted(maps.Keys(c.live))}
	for _, n := range c.covers {
		if at, err := time.Parse(stateTime, strings.SplitN(path.Base(n), "-", 2)[0]); err == nil && at.After(old) {
			merged.Covers = append(merged.Covers, n)
		}
	}
	for _, r := range c.rows {
		if !r.Gone || time.Unix(r.At, 0).After(old) && !c.bundles.covers(r.Name) {
			merged.rows = append(merged.rows, r)
		}
	}
	for n, r := range c.intents {
		if c.mayBeGone(n) {
			merged.rows = append(merged.rows, r)
		}
	}
	slices.SortFunc(merged.rows, func(a, b row) int { return cmp.Compare(a.Name, b.Name) })
	name, err := v.putPage(ctx, merged)
	if err != nil {
		return err
	}
	raw, err := store.Read(ctx, v.files, name)
	if err == nil {
		_, err = v.openPage(name, raw)
	}
	if err != nil { // what cannot be read back stands for nothing
		return err
	}
	if err := v.isListed(ctx, v.files, name); err != nil {
		return err
	}
	if v.members != nil { // each copy that answers has it before it loses what it stands for
		for _, m := range v.members.Members() {
			if m.Away != nil {
				continue
			}
			if err := m.Store.Put(ctx, name, store.Bytes(raw)); err != nil {
				return fmt.Errorf("copy %s: %w", m.Name, err)
			}
			if err := v.isListed(ctx, m.Store, name); err != nil {
				return fmt.Errorf("copy %s: %w", m.Name, err)
			}
		}
	}
	for _, n := range merged.Covers {
		if !slices.Contains(names, path.Base(n)) {
			continue // an earlier merge has let go of it
		}
		if err := v.letGo(ctx, n); err != nil {
			return err
		}
	}
	return nil
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
