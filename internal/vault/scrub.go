package vault

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/vault/store"
)

// The kinds of findings.
const (
	Lost       = "lost"       // the catalog has it, or another copy, and this copy does not
	Damaged    = "damaged"    // it is not what was stored, or cannot be read
	Unlisted   = "unlisted"   // it is there and whole as far as can be told, and the catalog does not have it yet
	ShouldBeGo = "forgotten"  // it was let go of, and this copy has it still: the copy is older than the others
	Unreadable = "unreadable" // the copy did not give it; whether it is good is not known
)

// Finding is one blob of one copy that is not as it should be.
type Finding struct {
	Copy   string `json:"copy,omitempty"` // "" = the vault has one copy
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Detail string `json:"detail,omitempty"`
	Size   int64  `json:"size,omitempty"` // as it should be, where that is known
	// GoodIn names the copies that have it whole.
	GoodIn []string `json:"good_in,omitempty"`
}

// Harmful reports whether the finding is damage, and not only something that is not written down.
func (f Finding) Harmful() bool { return f.Kind == Lost || f.Kind == Damaged || f.Kind == Unreadable }

// Scrubbed is how far a scrub is, and what it found.
type Scrubbed struct {
	Vault    string    `json:"vault"` // its identifier
	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended,omitzero"` // zero = it goes on behind After
	After    string    `json:"after,omitempty"`
	Blobs    int       `json:"blobs"` // read so far, in all copies
	Bytes    int64     `json:"bytes"`
	Of       int       `json:"of"`       // blobs to read in all copies
	OfBytes  int64     `json:"of_bytes"` // the same in bytes
	Findings []Finding `json:"findings,omitempty"`
	Copies   []string  `json:"copies,omitempty"` // those it reads; "" = the vault has one
	Away     []string  `json:"away,omitempty"`   // copies that did not answer, with the reason
	Trouble  []string  `json:"trouble,omitempty"`
	fresh    []row     // rows for what the catalog lacks
}

// Damage are the findings that are damage.
func (s Scrubbed) Damage() []Finding {
	return slices.DeleteFunc(slices.Clone(s.Findings), func(f Finding) bool { return !f.Harmful() })
}

// ScrubOptions say how a scrub goes.
type ScrubOptions struct {
	Rate     int64     // bytes a second at most; 0 = as fast as it goes
	Resume   *Scrubbed // an earlier scrub of this vault that was interrupted, see [Vault.Scrub]; nil = from the beginning
	Progress func(Scrubbed)
	Save     func(Scrubbed) error // keeps how far it is, about every ten seconds; nil = nobody does
	Clock    clock.Clock          // nil = the real one
}

// scrubYoung is the age below which a blob may be on its way to another copy, or into the catalog.
const scrubYoung = 2 * time.Minute

// saveEvery is how often a scrub's progress is kept.
const saveEvery = 10 * time.Second

// resumeMax is the age up to which an interrupted scrub is gone on with: what it has read by then may have rotted since.
const resumeMax = 3 * 24 * time.Hour

// Scrub reads every blob of every copy from its place, past all caches, and holds it against its seal and the catalog. It
// changes nothing, so that it can run with rights to read alone. What it found so far is returned with any error. An
// interrupted one is gone on with when it is young, no other has ended since it began, and the same copies answer now;
// else it begins anew, for then something would count as read that nobody has read.
func (v *Vault) Scrub(ctx context.Context, o ScrubOptions) (Scrubbed, error) {
	s := &scrubbing{vault: v, o: o, clock: o.Clock}
	if s.clock == nil {
		s.clock = clock.Real()
	}
	s.out = Scrubbed{Vault: v.identity.ID, Began: s.clock.Now().UTC()}
	err := s.run(ctx)
	if err != nil {
		return s.out, fmt.Errorf("scrub vault %s: %w", v.name, err)
	}
	return s.out, nil
}

// goOn takes up the interrupted scrub, if that still tells what is read and what is not.
func (s *scrubbing) goOn(ctx context.Context) {
	old := s.o.Resume
	if old == nil || old.Vault != s.out.Vault || !old.Ended.IsZero() || !slices.Equal(old.Copies, s.out.Copies) {
		return
	}
	if age := s.out.Began.Sub(old.Began); age < 0 || age > resumeMax {
		return
	}
	last, err := s.vault.LastScrub(ctx)
	if err != nil || !last.At.Before(old.Began) { // what cannot be told is no reason to leave anything out
		return
	}
	now := s.out
	s.out = *old
	s.out.Away = now.Away
	s.out.Findings, s.out.Trouble = slices.Clone(old.Findings), slices.Clone(old.Trouble)
	for _, t := range now.Trouble {
		if !slices.Contains(s.out.Trouble, t) {
			s.out.Trouble = append(s.out.Trouble, t)
		}
	}
}

// copiesAlone are the copies by themselves, and why others do not answer.
func (v *Vault) copiesAlone() (open map[string]store.Store, away []string) {
	if v.members == nil {
		return map[string]store.Store{"": v.files}, nil
	}
	open = map[string]store.Store{}
	for _, m := range v.members.Members() {
		open[m.Name] = m.Store
	}
	for _, c := range v.members.Status() {
		if open[c.Name] == nil {
			away = append(away, fmt.Sprintf("%s: %v", c.Name, c.Away))
		}
	}
	return open, away
}

type scrubbing struct {
	vault *Vault
	o     ScrubOptions
	clock clock.Clock
	out   Scrubbed

	open   map[string]store.Store
	lists  map[string]map[string]store.Info // copy -> name
	cat    catalog
	saved  time.Time
	began  time.Time // of this run, for the rate
	passed int64     // bytes of this run
}

func (s *scrubbing) run(ctx context.Context) error {
	names, err := s.prepare(ctx)
	if err != nil {
		return err
	}
	s.began, s.saved = s.clock.Now(), s.clock.Now()
	for _, n := range names {
		if n <= s.out.After {
			continue
		}
		if err := s.blob(ctx, n); err != nil {
			return err
		}
		s.out.After = n
		if s.o.Progress != nil {
			s.o.Progress(s.out)
		}
		if s.o.Save != nil && s.clock.Now().Sub(s.saved) >= saveEvery {
			if err := s.o.Save(s.out); err != nil {
				return err
			}
			s.saved = s.clock.Now()
		}
	}
	s.out.Ended = s.clock.Now().UTC()
	s.out.After = ""
	if s.o.Save != nil {
		return s.o.Save(s.out)
	}
	return nil
}

// prepare lists all copies, then reads the catalog: what is stored meanwhile is then in neither or in the catalog alone,
// where its age tells.
func (s *scrubbing) prepare(ctx context.Context) ([]string, error) {
	s.open, s.out.Away = s.vault.copiesAlone()
	s.lists = map[string]map[string]store.Info{}
	all := map[string]bool{}
	for _, c := range slices.Sorted(maps.Keys(s.open)) {
		list := map[string]store.Info{}
		err := s.open[c].List(ctx, "", func(i store.Info) error {
			if !passing(i.Name) {
				list[i.Name] = i
			}
			return nil
		})
		if err != nil {
			if ctx.Err() != nil || len(s.open) == 1 {
				return nil, err
			}
			s.out.Away = append(s.out.Away, fmt.Sprintf("%s: %v", c, err))
			delete(s.open, c)
			continue
		}
		s.lists[c] = list
		for n := range list {
			all[n] = true
		}
	}
	s.vault.pages.keepOnly(nil) // what is remembered may have rotted where it lies
	var err error
	if s.cat, err = s.vault.readCatalog(ctx); err != nil {
		return nil, err
	}
	for _, e := range s.cat.damaged {
		s.out.Trouble = append(s.out.Trouble, e.Error())
	}
	for n, r := range s.cat.rows {
		if !r.Gone {
			all[n] = true
		}
	}
	names := slices.Sorted(maps.Keys(all))
	s.out.Copies = sortedKeys(s.open)
	s.goOn(ctx)
	s.out.Of, s.out.OfBytes = 0, 0
	for _, list := range s.lists {
		s.out.Of += len(list)
		for _, i := range list {
			s.out.OfBytes += i.Size
		}
	}
	return names, nil
}

// blob reads one name in every copy.
func (s *scrubbing) blob(ctx context.Context, name string) error {
	r, listed := s.cat.row(name)
	var found []Finding
	var good []string
	sums := map[string]row{}
	for _, c := range slices.Sorted(maps.Keys(s.open)) {
		info, there := s.lists[c][name]
		switch {
		case !there && r.Gone:
		case !there:
			if f, ok := s.missing(ctx, c, name, r, listed); ok {
				found = append(found, f)
			}
		default:
			f, sum, err := s.read(ctx, c, name, info, r, listed)
			if err != nil {
				return err
			}
			if f != nil {
				found = append(found, *f)
			}
			if f == nil || !f.Harmful() {
				good = append(good, c)
				sums[c] = sum
			}
		}
	}
	if !listed && catalogued(name) && len(good) > 0 {
		found = append(found, s.unlisted(name, good, sums)...)
	}
	s.settle(name)
	for i := range found {
		found[i].GoodIn = slices.DeleteFunc(slices.Clone(good), func(c string) bool { return c == found[i].Copy })
	}
	s.out.Findings = append(s.out.Findings, found...)
	return nil
}

// missing judges a blob that a copy does not list. What is young may be on its way, what is superseded needs not come.
func (s *scrubbing) missing(ctx context.Context, c, name string, r row, listed bool) (Finding, bool) {
	f := Finding{Copy: c, Name: name, Kind: Lost, Size: r.Size}
	if listed && s.clock.Now().Sub(time.Unix(r.At, 0)) < scrubYoung || s.cat.mayBeGone(name) {
		return f, false
	}
	var all []string
	for _, list := range s.lists {
		if i, ok := list[name]; ok {
			if s.clock.Now().Sub(i.ModTime) < scrubYoung {
				return f, false
			}
			f.Size = i.Size
		}
		if !light(name) {
			continue // a copy may lack a million: their neighbours say nothing
		}
		for n := range list {
			if strings.HasPrefix(n, name[:strings.LastIndexByte(name, '/')+1]) {
				all = append(all, n)
			}
		}
	}
	if light(name) && (strings.HasPrefix(name, catalogDir+"/") && !s.cat.live[name] || !slices.Contains(needed(all), name)) {
		return f, false
	}
	if _, err := s.open[c].Stat(ctx, name); err == nil { // it came meanwhile
		return f, false
	}
	f.Detail = "it is not there"
	return f, true
}

// read reads one blob of one copy and judges it.
func (s *scrubbing) read(ctx context.Context, c, name string, info store.Info, r row, listed bool) (*Finding, row, error) {
	content, err := store.Read(ctx, s.open[c], name)
	if ctx.Err() != nil {
		return nil, row{}, context.Cause(ctx)
	}
	s.out.Blobs++
	s.out.Bytes += info.Size
	s.passed += info.Size
	if err := s.slow(ctx); err != nil {
		return nil, row{}, err
	}
	f := &Finding{Copy: c, Name: name, Size: info.Size}
	if errors.Is(err, store.ErrNotFound) {
		gone, err := s.goneMeanwhile(ctx, name)
		if gone || err != nil {
			return nil, row{}, err
		}
		f.Kind, f.Detail = Lost, "it was there when the scrub began"
		return f, row{}, nil
	}
	if err != nil {
		f.Kind, f.Detail = Unreadable, err.Error()
		return f, row{}, nil
	}
	sum := sha256.Sum256(content)
	own := row{Name: name, Size: int64(len(content)), Sum: hex.EncodeToString(sum[:]), At: info.ModTime.Unix()}
	if r.Gone {
		f.Kind, f.Detail = ShouldBeGo, "it was let go of at "+time.Unix(r.At, 0).UTC().Format(time.RFC3339)
		if r.At == 0 {
			f.Detail = "a bundle has taken its place"
		}
		return f, own, nil
	}
	f.Kind = Damaged
	switch {
	case sealed(name), isRecord(name), name == formatBlob, name == formatBlobCopy:
		if err := s.vault.whole(name, content); err != nil {
			f.Detail = err.Error()
			return f, own, nil
		}
	case listed && r.Size != own.Size:
		f.Detail, f.Size = fmt.Sprintf("it has %d bytes, and %d were stored", own.Size, r.Size), r.Size
		return f, own, nil
	case listed && r.Sum != own.Sum:
		f.Detail = "its bytes are not those that were stored"
		return f, own, nil
	case !listed && s.vault.isUnread(name):
		f.Detail = errUnread.Error()
		return f, own, nil
	}
	return nil, own, nil
}

// goneMeanwhile reports whether a blob that the scrub has listed was let go of since: what is let go of is written down
// before.
func (s *scrubbing) goneMeanwhile(ctx context.Context, name string) (bool, error) {
	known := func() bool { return light(name) || changing(name) || s.cat.gone(name) || s.cat.mayBeGone(name) }
	if known() {
		return true, nil
	}
	now, err := s.vault.readCatalog(ctx)
	if err == nil {
		s.cat = now
	}
	return known(), err
}

// unlisted judges blobs that the catalog does not have: their copies must agree.
func (s *scrubbing) unlisted(name string, good []string, sums map[string]row) []Finding {
	first := sums[good[0]]
	for _, c := range good[1:] {
		if sums[c].Sum != first.Sum && !sealed(name) {
			return []Finding{{Copy: c, Name: name, Kind: Unreadable, Detail: "copies differ, and nothing says which is good", Size: first.Size}}
		}
	}
	if s.clock.Now().Sub(time.Unix(first.At, 0)) < pageAge+scrubYoung {
		return nil // its writer may not have written it down yet
	}
	s.out.fresh = append(s.out.fresh, first)
	return []Finding{{Copy: good[0], Name: name, Kind: Unlisted, Size: first.Size, Detail: "its writer ended before it wrote it down"}}
}

// slow keeps to the rate.
func (s *scrubbing) slow(ctx context.Context) error {
	if s.o.Rate <= 0 {
		return nil
	}
	due := time.Duration(float64(s.passed) / float64(s.o.Rate) * float64(time.Second))
	ahead := due - s.clock.Now().Sub(s.began)
	if ahead <= 0 {
		return nil
	}
	t := s.clock.NewTimer(ahead)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C():
		return nil
	}
}

// sealed names what carries its own proof: log, savings, pages of the catalog.
func sealed(name string) bool {
	dir, _, _ := strings.Cut(name, "/")
	return dir == "wal" && strings.HasSuffix(name, walSuffix) || dir == stateDir || dir == catalogDir || dir == receiptDir || dir == deletionDir
}

// recordFile holds the outcome of the last scrub, for whoever may let something go only after a clean one.
const recordFile = "scrub.json"

// ScrubRecord is the outcome of the last whole scrub.
type ScrubRecord struct {
	At     time.Time `json:"at"`
	Blobs  int       `json:"blobs"`
	Bytes  int64     `json:"bytes"`
	Damage int       `json:"damage"` // findings that no repair has mended
	Away   int       `json:"away"`   // copies that were not read
}

// RecordScrub notes a whole scrub's outcome in the vault, and writes what the catalog lacked into it.
func (v *Vault) RecordScrub(ctx context.Context, s Scrubbed) error {
	if s.Ended.IsZero() || s.Vault != v.identity.ID {
		return fmt.Errorf("note the scrub of vault %s: it has not ended, or is of another", v.name)
	}
	if len(s.fresh) > 0 {
		if _, err := v.putPage(ctx, page{rows: s.fresh}); err != nil {
			return fmt.Errorf("write down what was found in vault %s: %w", v.name, err)
		}
	}
	return v.putRecord(ctx, recordFile, ScrubRecord{At: s.Ended, Blobs: s.Blobs, Bytes: s.Bytes, Damage: len(s.Damage()), Away: len(s.Away)})
}

// RecordRepair notes how much of what the last scrub found is not mended.
func (v *Vault) RecordRepair(ctx context.Context, left int) error {
	r, err := v.LastScrub(ctx)
	if err != nil || r.At.IsZero() || r.Damage == left {
		return err
	}
	r.Damage = left
	return v.putRecord(ctx, recordFile, r)
}

// LastScrub is the outcome of the last whole scrub; zero when there was none.
func (v *Vault) LastScrub(ctx context.Context) (ScrubRecord, error) {
	var r ScrubRecord
	_, err := v.getRecord(ctx, recordFile, &r)
	return r, err
}

// Affected is a file of a backup that needs a blob which no copy has whole.
type Affected struct {
	Backup string `json:"backup"`
	Path   string `json:"path"`
	Blob   string `json:"blob"`
}

// Lost are the names of which no copy that was read has a whole one.
func (s Scrubbed) Lost() []string {
	lost := map[string]bool{}
	for _, f := range s.Damage() {
		if len(f.GoodIn) == 0 {
			lost[f.Name] = true
		}
	}
	return slices.SortedFunc(maps.Keys(lost), cmp.Compare[string])
}
