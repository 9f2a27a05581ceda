package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/redact"
	"holdfast/internal/vault/store"
	"holdfast/internal/vault/wal"
)

// folder is a catalog in memory, and everything that was ever written into it.
type folder struct {
	pages map[string]page
	ever  catalog
	names []string // of blobs
	now   time.Time
}

func newFolder() *folder {
	const bundle = "00000001" + "00000000" + "00000004" + bundleMark + "004-x" + walSuffix
	f := &folder{pages: map[string]page{}, ever: pages{}.catalog(), now: time.Unix(1_800_000_000, 0)}
	f.names = []string{"repository/p1", "repository/xn0_a", "wal/7/00000001/" + bundle}
	for n := range 6 { // two of them before the bundle
		f.names = append(f.names, "wal/7/00000001/"+wal.SegmentName(1, wal.LSN(n+2)<<24, 1<<24)+"-x"+walSuffix)
	}
	return f
}

// listed gives the pages as a reader finds them.
func (f *folder) listed() pages {
	p := pages{live: maps.Clone(f.pages), sizes: map[string]int64{}}
	for n, one := range f.pages {
		p.sizes[n] = int64(len(one.rows))
		for _, of := range one.Covers {
			delete(p.live, of)
		}
	}
	return p
}

func (f *folder) put(one page) {
	f.pages[path.Join(catalogDir, fmt.Sprintf("%s-%d%s", f.now.UTC().Format(stateTime), len(f.ever.rows)+len(f.pages), stateSuffix))] = one
	f.now = f.now.Add(time.Second)
}

// write adds a page of what happened to blobs.
func (f *folder) write(t *rapid.T) {
	var one page
	for range rapid.IntRange(1, 4).Draw(t, "rows") {
		r := row{Name: rapid.SampledFrom(f.names).Draw(t, "name"), At: f.now.Unix()}
		switch rapid.SampledFrom([]string{"stored", "stored", "gone", going, stays}).Draw(t, "what") {
		case "stored":
			r.Size, r.Sum = 1, fmt.Sprint(r.At) // what is stored again may differ
		case "gone":
			r.Gone = !strings.Contains(r.Name, bundleMark) // of which segments are not known when it is gone
		case going:
			r.Intent = going
		case stays:
			r.Intent = stays
		}
		one.rows = append(one.rows, r)
	}
	f.ever.add(one.rows)
	f.put(one)
}

// say compares what the pages say with what was ever written.
func (f *folder) say(t *rapid.T) {
	c, want := f.listed().catalog(), f.ever
	want.bundles = c.bundles
	for _, n := range f.names {
		r, there := c.has(n)
		old, thereEver := want.has(n)
		if there != thereEver || there && (r.Sum != old.Sum || r.At != old.At) {
			t.Fatalf("%s must be there: %v as of %d, and it was written: %v as of %d", n, there, r.At, thereEver, old.At)
		}
		if c.gone(n) != want.gone(n) || !c.gone(n) && c.mayBeGone(n) != want.mayBeGone(n) {
			t.Fatalf("%s: gone %v, perhaps %v, and it was written: %v, %v", n, c.gone(n), c.mayBeGone(n), want.gone(n), want.mayBeGone(n))
		}
	}
}

// Whichever pages are merged, by two hosts at once too, and whether or not what is merged is deleted: the catalog says the same.
func TestMergedPagesSayWhatTheySaidBefore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFolder()
		var waiting []page  // merged, and not stored yet
		var since time.Time // the first of them was merged; nobody takes a day to store a page
		store := func() {
			for _, one := range waiting {
				f.put(one)
			}
			waiting = nil
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": f.write,
			"merge": func(t *rapid.T) {
				p := f.listed()
				names := slices.Sorted(maps.Keys(p.live))
				chosen := slices.DeleteFunc(slices.Clone(names), func(string) bool { return rapid.Bool().Draw(t, "left out") })
				if len(waiting) == 0 {
					since = f.now
				}
				waiting = append(waiting, p.merged(chosen, f.now))
			},
			"store": func(*rapid.T) { store() },
			"delete": func(t *rapid.T) {
				live := f.listed().live
				for _, n := range slices.Sorted(maps.Keys(f.pages)) {
					if _, ok := live[n]; !ok && rapid.Bool().Draw(t, "deleted") {
						delete(f.pages, n)
					}
				}
			},
			"wait": func(t *rapid.T) {
				pause := time.Duration(rapid.IntRange(0, 3600).Draw(t, "seconds")) * time.Second
				if rapid.Bool().Draw(t, "long") {
					pause = time.Duration(rapid.IntRange(0, 10).Draw(t, "days")) * 24 * time.Hour
				}
				if f.now.Add(pause).Sub(since) > 12*time.Hour {
					store()
				}
				f.now = f.now.Add(pause)
			},
			"": f.say,
		})
	})
}

// What was let go of is forgotten when no other page says that it is there: long after, or when a bundle has its place.
func TestWhatAMergeForgets(t *testing.T) {
	f := newFolder()
	pack, bundle, alone, in := f.names[0], f.names[2], f.names[3], f.names[6]
	now := f.now.Unix()
	ago := func(d time.Duration) int64 { return now - int64(d/time.Second) }
	day := 24 * time.Hour
	stored := func(n string) row { return row{Name: n, At: ago(500 * day), Sum: "x"} }
	for _, c := range []struct {
		name        string
		there, rows []row // of a page that is not merged, and of those that are
		want        []row
	}{
		{"what is there stays", nil, []row{stored(pack)}, []row{stored(pack)}},
		{"a deletion stays for long", nil, []row{stored(pack), {Name: pack, At: ago(399 * day), Gone: true}}, []row{{Name: pack, At: ago(399 * day), Gone: true}}},
		{"and not for ever", nil, []row{stored(pack), {Name: pack, At: ago(401 * day), Gone: true}}, nil},
		{"but for as long as another page says that it is there", []row{stored(pack)}, []row{{Name: pack, At: ago(401 * day), Gone: true}}, []row{{Name: pack, At: ago(401 * day), Gone: true}}},
		{"a segment in a bundle is forgotten soon", nil, []row{stored(bundle), stored(in), {Name: in, At: ago(2 * day), Gone: true}}, []row{stored(bundle)}},
		{"also where another page has the bundle", []row{stored(bundle)}, []row{stored(in), {Name: in, At: ago(2 * day), Gone: true}}, nil},
		{"not at once", []row{stored(bundle)}, []row{stored(in), {Name: in, At: ago(day / 2), Gone: true}}, []row{{Name: in, At: ago(day / 2), Gone: true}}},
		{"what another page outdoes", []row{{Name: pack, At: ago(day), Gone: true}}, []row{stored(pack), {Name: pack, At: ago(2 * day), Intent: going}}, nil},
		{"not while another page says that it is there", []row{stored(bundle), stored(in)}, []row{{Name: in, At: ago(2 * day), Gone: true}}, []row{{Name: in, At: ago(2 * day), Gone: true}}},
		{"one outside it as any other", []row{stored(bundle)}, []row{{Name: alone, At: ago(2 * day), Gone: true}}, []row{{Name: alone, At: ago(2 * day), Gone: true}}},
		{"an intent with its deletion", []row{stored(pack)}, []row{{Name: pack, At: ago(day), Intent: going}, {Name: pack, At: ago(day), Gone: true}}, []row{{Name: pack, At: ago(day), Gone: true}}},
		{"not one of which nobody knows what came", []row{stored(pack)}, []row{{Name: pack, At: ago(day), Intent: going}}, []row{{Name: pack, At: ago(day), Intent: going}}},
		{"that it stays, when the intent is merged too", nil, []row{stored(pack), {Name: pack, At: ago(day), Intent: going}, {Name: pack, At: ago(day), Intent: stays}}, []row{stored(pack)}},
		{"not at once either", nil, []row{stored(pack), {Name: pack, At: ago(0), Intent: going}, {Name: pack, At: ago(0), Intent: stays}}, []row{stored(pack), {Name: pack, At: ago(0), Intent: stays}}},
		{"not while another page has the intent", []row{{Name: pack, At: ago(day), Intent: going}}, []row{{Name: pack, At: ago(day), Intent: stays}}, []row{{Name: pack, At: ago(day), Intent: stays}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			chosen := pageNamed(f.now, 2*day, "b")
			p := pages{live: map[string]page{pageNamed(f.now, 2*day, "a"): {rows: c.there}, chosen: {rows: c.rows}}, sizes: map[string]int64{}}
			if got := p.merged([]string{chosen}, f.now); !slices.Equal(got.rows, c.want) {
				t.Errorf("merged into %+v, want %+v", got.rows, c.want)
			}
		})
	}
}

// pageNamed is the name of a page that was made so long before.
func pageNamed(now time.Time, ago time.Duration, id string) string {
	return path.Join(catalogDir, now.Add(-ago).UTC().Format(stateTime)+"-"+id+stateSuffix)
}

// A page names what the merged ones named, for as long as a copy may bring that back, and for as long as it lies there: what was
// merged by an earlier version since that page was made at the latest.
func TestAMergedPageNamesWhatWasMergedBefore(t *testing.T) {
	now := time.Unix(1_800_000_000, 0).UTC()
	day := 24 * time.Hour
	large, other := pageNamed(now, 450*day, "large"), pageNamed(now, 10*day, "other")
	var timed page
	timed.covering(map[string]int64{large: now.Add(-399 * day).Unix(), "catalog/old": now.Add(-401 * day).Unix(), "catalog/stuck": now.Add(-402 * day).Unix()})
	a, b := pageNamed(now, 20*day, "a"), pageNamed(now, 399*day, "b")
	p := pages{
		live:  map[string]page{a: timed, b: {Covers: []string{"catalog/before"}}, other: {Covers: []string{"catalog/of-other"}}},
		sizes: map[string]int64{"catalog/stuck": 1},
	}
	got := p.merged([]string{a, b}, now)
	if want := []string{"catalog/stuck", large, "catalog/before", b, a}; !slices.Equal(got.Covers, want) {
		t.Errorf("it names %v, want %v", got.Covers, want)
	}
	when := got.covered("catalog/c")
	if when["catalog/before"] != madeAt(b).Unix() || when[large] != now.Add(-399*day).Unix() || when[a] != now.Unix() || len(when) != 5 {
		t.Errorf("since %v", when)
	}
	// A day later it is merged again: what was merged yesterday is named still, however old it was.
	p = pages{live: map[string]page{pageNamed(now, 0, "c"): got}, sizes: map[string]int64{}}
	if got := p.merged([]string{pageNamed(now, 0, "c")}, now.Add(day)).Covers; !slices.Contains(got, a) || !slices.Contains(got, b) || slices.Contains(got, large) {
		t.Errorf("a day later it names %v", got)
	}
}

// Two hosts store a segment in one second, each in its own form: one of both counts, always the same, and merging loses neither it
// nor that it must be there.
func TestOfTwoFormsOfOneSecondOneCounts(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	one := row{Name: "wal/7/00000001/x", At: now.Add(-48 * time.Hour).Unix(), Size: 5, Sum: "aa"}
	two := one
	two.Sum, two.Size = "bb", 4
	for range 100 { // maps are walked in any order
		p := pages{live: map[string]page{pageNamed(now, 48*time.Hour, "a"): {rows: []row{one}}, pageNamed(now, 48*time.Hour, "b"): {rows: []row{two}}}}
		if got := p.merged(slices.Sorted(maps.Keys(p.live)), now).rows; !slices.Equal(got, []row{two}) {
			t.Fatalf("merged into %+v", got)
		}
	}
}

// What a scrub writes of long ago is as new to other hosts as anything else in its page.
func TestWhatWasWrittenJustNowIsNotForgottenThoughItIsOfLongAgo(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	ago := now.Add(-30 * time.Hour).Unix()
	rows := []row{{Name: "repository/p1", At: ago, Size: 1, Sum: "x"}, {Name: "repository/p1", At: ago, Intent: going}, {Name: "repository/p1", At: ago, Intent: stays}}
	for name, c := range map[string]struct {
		age  time.Duration
		want int
	}{"an hour ago": {time.Hour, 2}, "the day before": {25 * time.Hour, 1}} {
		of := pageNamed(now, c.age, "a")
		if got := (pages{live: map[string]page{of: {rows: rows}}}).merged([]string{of}, now).rows; len(got) != c.want {
			t.Errorf("written %s: merged into %+v", name, got)
		}
	}
}

// reading is a place that counts what is read of the catalog, and stored.
type reading struct {
	store.Store
	read, stored []string
}

func (r *reading) Get(ctx context.Context, name string, offset, length int64, to io.Writer) error {
	if strings.HasPrefix(name, catalogDir+"/") {
		r.read = append(r.read, name)
	}
	return r.Store.Get(ctx, name, offset, length, to)
}

func (r *reading) Put(ctx context.Context, name string, data store.Data) error {
	if strings.HasPrefix(name, catalogDir+"/") {
		r.stored = append(r.stored, name)
	}
	return r.Store.Put(ctx, name, data)
}

// withCatalog makes a vault of which only the catalog is looked at.
func withCatalog(t *testing.T) (v *Vault, place *reading, write func(n int), dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "v")
	v, err := Create(t.Context(), Config{URL: "file://" + dir, Key: redact.Secret("pass"), Application: "clinic"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := v.writeDown(t.Context(), false); err != nil { // what making it has stored
		t.Fatal(err)
	}
	place = &reading{Store: v.files}
	v.files = place
	pages := 0
	write = func(n int) {
		t.Helper()
		var one page
		for i := range n {
			one.rows = append(one.rows, row{Name: fmt.Sprintf("repository/p%d-%d", pages, i), At: time.Now().Unix(), Size: 1, Sum: fmt.Sprint(i * 7919)})
		}
		pages++
		if _, err := v.putPage(t.Context(), one); err != nil {
			t.Fatal(err)
		}
	}
	return v, place, write, dir
}

func TestPagesOfTheCatalogAreReadOnce(t *testing.T) {
	v, place, write, dir := withCatalog(t)
	read := func(rows, pages int) {
		t.Helper()
		place.read = nil
		c, err := v.readCatalog(t.Context())
		named := 0
		for n := range c.rows {
			if strings.Contains(n, "-") && !strings.Contains(n, "-s") {
				named++
			}
		}
		if err != nil || len(c.damaged) > 0 || named != rows || len(place.read) != pages {
			t.Fatalf("%d rows from %d pages, want %d from %d: %v, %v", named, len(place.read), rows, pages, c.damaged, err)
		}
	}
	write(5)
	write(5)
	read(10, 3)
	read(10, 0)
	write(5)
	read(15, 1)
	// One that rots is found by a scrub, whatever is remembered.
	last := place.stored[len(place.stored)-1]
	if err := os.WriteFile(filepath.Join(dir, last), []byte("rotten"), 0o600); err != nil {
		t.Fatal(err)
	}
	read(15, 0)
	s, err := v.Scrub(t.Context(), ScrubOptions{})
	if err != nil || len(s.Trouble) != 1 || !strings.Contains(s.Trouble[0], last) {
		t.Errorf("the scrub tells of %v, %v", s.Trouble, err)
	}
}

func TestOnlySoMuchOfTheCatalogIsRemembered(t *testing.T) {
	var k knownPages
	half := make([]byte, knownPagesMax/2)
	for _, name := range []string{"a", "b", "a", "c"} {
		k.put(name, half)
	}
	for name, want := range map[string]bool{"a": true, "b": true, "c": false} {
		if _, ok := k.get(name); ok != want {
			t.Errorf("%s is remembered: %v", name, ok)
		}
	}
	k.keepOnly(map[string]int64{"b": 1})
	k.put("c", half)
	if _, ok := k.get("c"); !ok || k.bytes != knownPagesMax {
		t.Errorf("there is no room for a page in the place of one that went: %d bytes", k.bytes)
	}
}

// Many small pages become one, again and again, and a large one is left alone until they are as large.
func TestALargePageIsNotWrittenAgainForSmallOnes(t *testing.T) {
	v, place, write, _ := withCatalog(t)
	const many = 1000 // rows: larger than a third of the small pages together by far, and four such together are large enough
	write(many)
	large := place.stored[0]
	for n := range 3 * pagesMax {
		write(1)
		if err := v.mergeCatalog(t.Context()); err != nil {
			t.Fatal(err)
		}
		p, err := v.readPages(t.Context())
		if err != nil || len(p.live) > pagesMax || len(p.sizes) > pagesMax || len(p.damaged) > 0 {
			t.Fatalf("%d pages count of %d: %v", len(p.live), len(p.sizes), err)
		}
		if _, ok := p.live[large]; !ok {
			t.Fatalf("the large page was merged with %d small ones", n)
		}
	}
	for range 4 {
		write(many)
	}
	for range pagesMax {
		write(1)
	}
	if err := v.mergeCatalog(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err := v.readPages(t.Context())
	if _, ok := p.live[large]; ok || err != nil || len(p.live) != 1 {
		t.Errorf("%d pages are left, the large one among them: %v, %v", len(p.live), ok, err)
	}
	if got, want := len(p.catalog().rows), 5*many+4*pagesMax; got < want {
		t.Errorf("%d rows are left of %d", got, want)
	}
}

// deaf is a place that deletes nothing.
type deaf struct{ store.Store }

func (deaf) Delete(context.Context, string) error { return store.ErrDenied }

// Where nothing may be deleted, pages that were merged stay, and are not merged again with every backup.
func TestPagesThatMayNotBeDeletedAreMergedOnce(t *testing.T) {
	v, place, write, _ := withCatalog(t)
	place.Store = deaf{place.Store}
	for range 3 * pagesMax {
		write(1)
		if err := v.mergeCatalog(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if merged := len(place.stored) - 3*pagesMax; merged < 2 || merged > 4 {
		t.Errorf("%d pages were made of others", merged)
	}
	p, err := v.readPages(t.Context())
	if err != nil || len(p.live) > pagesMax || len(p.sizes) < 3*pagesMax {
		t.Errorf("%d pages count of %d: %v", len(p.live), len(p.sizes), err)
	}
}

// forgetful is a place that fails to delete while it is told to.
type forgetful struct {
	store.Store
	fails bool
}

func (f *forgetful) Delete(ctx context.Context, name string) error {
	if f.fails {
		return errors.New("the connection was lost")
	}
	return f.Store.Delete(ctx, name)
}

// A merge that is cut off before it has deleted anything leaves pages that are covered; the next one lets go of them, though it
// leaves the large page alone that covers them.
func TestWhatAMergeThatWasCutOffCoversGoesWithTheNext(t *testing.T) {
	v, place, write, _ := withCatalog(t)
	for range pagesMax + 1 {
		write(100)
	}
	line := &forgetful{Store: place.Store, fails: true}
	place.Store = line
	if err := v.mergeCatalog(t.Context()); err == nil {
		t.Fatal("the merge was not cut off")
	}
	line.fails = false
	for range pagesMax {
		write(1)
	}
	if err := v.mergeCatalog(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err := v.readPages(t.Context())
	if err != nil || len(p.live) != 2 || len(p.sizes) != 2 {
		t.Errorf("%d pages count of %d: %v", len(p.live), len(p.sizes), err)
	}
}
