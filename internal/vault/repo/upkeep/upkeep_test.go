package upkeep_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/vault/filestore"
	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/repotest"
	"holdfast/internal/vault/repo/snapshot"
	"holdfast/internal/vault/repo/upkeep"
	"holdfast/internal/vault/store"
)

// content is what a file holds that is known by its number.
func content(n int) []byte {
	sizes := []int{0, 1, 700, 40 << 10, 300 << 10, 2500 << 10}
	out := make([]byte, sizes[n%len(sizes)])
	_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), 5}).Read(out) // never fails
	return out
}

// tree is what a snapshot holds: numbers of contents by path, with at most one directory before the name.
type tree map[string]int

func trees(numbers ...int) tree {
	out := tree{}
	for i, n := range numbers {
		out[[]string{"", "a/", "b/"}[i%3]+fmt.Sprint(i)] = n
	}
	return out
}

// write stores a tree and lists it, with the next flush.
func write(ctx context.Context, w *repo.Writer, what tree) (repo.ManifestID, error) {
	dirs := map[string][]*snapshot.DirEntry{"": nil}
	for _, path := range slices.Sorted(maps.Keys(what)) {
		dir, name, ok := strings.Cut(path, "/")
		if !ok {
			dir, name = "", path
		}
		o := w.NewObject(ctx, repo.ObjectOptions{Splitter: "DYNAMIC-128K-BUZHASH", Compress: true})
		if _, err := o.Write(content(what[path])); err != nil {
			return "", err
		}
		id, err := o.Result()
		if err != nil {
			return "", err
		}
		dirs[dir] = append(dirs[dir], &snapshot.DirEntry{Name: name, Type: snapshot.TypeFile, ObjectID: id})
	}
	for _, dir := range slices.Backward(slices.Sorted(maps.Keys(dirs))) {
		slices.SortFunc(dirs[dir], func(a, b *snapshot.DirEntry) int { return strings.Compare(a.Name, b.Name) })
		id, err := snapshot.WriteDir(ctx, w, dir, &snapshot.DirManifest{Stream: snapshot.DirStream, Entries: dirs[dir], Summary: &snapshot.DirectorySummary{}})
		if err != nil {
			return "", err
		}
		entry := &snapshot.DirEntry{Name: dir, Type: snapshot.TypeDir, ObjectID: id}
		if dir != "" {
			dirs[""] = append(dirs[""], entry)
			continue
		}
		entry.Name = "root"
		return snapshot.Save(ctx, w, &snapshot.Manifest{Source: snapshot.SourceInfo{Host: "h1", UserName: "holdfast", Path: "/x"}, RootEntry: entry})
	}
	panic("a tree without a root")
}

// backup lists a snapshot.
func backup(ctx context.Context, r *repo.Repository, what tree) (id repo.ManifestID, err error) {
	err = r.Write(ctx, repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) (err error) {
		id, err = write(ctx, w, what)
		return err
	})
	return id, err
}

func forget(ctx context.Context, r *repo.Repository, id repo.ManifestID) error {
	return r.Write(ctx, repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) error { return w.DeleteManifest(ctx, id) })
}

func run(ctx context.Context, r *repo.Repository, s upkeep.Safety) error {
	return r.Write(ctx, repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) error { return upkeep.Run(ctx, r, w, s, upkeep.Options{}) })
}

// read gives what a snapshot holds.
func read(ctx context.Context, r *repo.Repository, id repo.ManifestID) (map[string][]byte, error) {
	s, err := snapshot.Load(ctx, r, id)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	err = snapshot.Each(ctx, r, s.RootEntry, func(path string, e *snapshot.DirEntry) error {
		if e.Type == snapshot.TypeDir {
			return nil
		}
		o, err := r.OpenObject(ctx, e.ObjectID)
		if err != nil {
			return err
		}
		out[path], err = io.ReadAll(o)
		return errors.Join(err, o.Close())
	})
	return out, err
}

// whole errs unless exactly these snapshots are listed, and hold what they should.
func whole(ctx context.Context, r *repo.Repository, want map[repo.ManifestID]tree) error {
	err := r.EachContent(ctx, false, func(i repo.Info) error { // whatever is remembered of some
		_, err := r.Content(ctx, i.ID)
		return err
	})
	if err != nil {
		return err
	}
	listed, err := r.FindManifests(ctx, map[string]string{repo.TypeLabel: snapshot.ManifestType})
	if err != nil {
		return err
	}
	if len(listed) != len(want) {
		return fmt.Errorf("%d snapshots are listed, want %d", len(listed), len(want))
	}
	for id, what := range want {
		got, err := read(ctx, r, id)
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", id, err)
		}
		if len(got) != len(what) {
			return fmt.Errorf("snapshot %s: %d files, want %d", id, len(got), len(what))
		}
		for path, n := range what {
			if !bytes.Equal(got[path], content(n)) {
				return fmt.Errorf("snapshot %s: %s holds something else", id, path)
			}
		}
	}
	return nil
}

// unused gives what is stored and not used by any listed snapshot: contents that the index knows, and packs that it does not.
func unused(ctx context.Context, t testing.TB, m *memory) (contents, packs []string) {
	t.Helper()
	r := m.as(t, "inspector").r
	used, known := map[repo.ContentID]bool{}, map[string]bool{}
	listed, err := r.FindManifests(ctx, map[string]string{repo.TypeLabel: snapshot.ManifestType})
	must(t, err)
	for _, e := range listed {
		s, err := snapshot.Load(ctx, r, e.ID)
		must(t, err)
		must(t, snapshot.Each(ctx, r, s.RootEntry, func(_ string, e *snapshot.DirEntry) error {
			all, err := r.VerifyObject(ctx, e.ObjectID)
			for _, id := range all {
				used[id] = true
			}
			return err
		}))
	}
	must(t, r.EachContent(ctx, true, func(i repo.Info) error {
		known["repository/"+i.Pack] = true
		if !used[i.ID] && (i.ID.Prefix() != "m" || i.Deleted) {
			contents = append(contents, fmt.Sprintf("%s (deleted: %v)", i.ID, i.Deleted))
		}
		return nil
	}))
	for _, name := range append(append(m.names("p"), m.names("q")...), m.names("s")...) {
		if !known[name] {
			packs = append(packs, name)
		}
	}
	return contents, packs
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// started is a place with a repository of its own.
func started(t testing.TB) *memory {
	t.Helper()
	m := newMemory()
	p := m.process()
	must(t, repo.Initialize(t.Context(), p, password, nil))
	r, err := p.open(t)
	must(t, err)
	must(t, r.Write(t.Context(), repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) error {
		return upkeep.Own(ctx, w, "holdfast@vault")
	}))
	return m
}

// opened is the repository as a process sees it that does one thing and ends.
func opened(t testing.TB, m *memory) *repo.Repository {
	t.Helper()
	return m.as(t, "one thing").r
}

// On a disk, with nobody else at work: what a snapshot alone used is gone, and the rest reads.
func TestWhatIsUnusedIsFreedOnADisk(t *testing.T) {
	ctx := t.Context()
	place, err := filestore.Open(t.TempDir())
	must(t, err)
	must(t, repo.Initialize(ctx, place, password, nil))
	open := func() *repo.Repository {
		t.Helper()
		r, err := repo.Open(ctx, place, password, repo.Options{})
		must(t, err)
		return r
	}
	size := func() (n int64) {
		t.Helper()
		must(t, place.List(ctx, "repository/", func(i store.Info) error { n += i.Size; return nil }))
		return n
	}
	r := open()
	kept := map[repo.ManifestID]tree{}
	for _, what := range []tree{trees(3, 4, 5), trees(5, 10, 0, 1)} {
		id, err := backup(ctx, r, what)
		must(t, err)
		kept[id] = what
	}
	before := size()
	gone, err := backup(ctx, r, trees(5, 11, 17, 23))
	must(t, err)
	must(t, forget(ctx, r, gone))
	for deadline := time.Now().Add(5 * time.Minute); size() > before+64<<10; time.Sleep(300 * time.Millisecond) {
		must(t, run(ctx, open(), upkeep.None()))
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes before what goes came, %d are left", before, size())
		}
	}
	must(t, whole(ctx, open(), kept))
}

// By the margins what is no longer used stays for days, and then goes, all of it.
func TestWhatIsUnusedIsFreedInItsTime(t *testing.T) {
	ctx, m := t.Context(), started(t)
	kept := map[repo.ManifestID]tree{}
	for i := range 4 {
		what := trees(i, 100+i, 200, 201)
		id, err := backup(ctx, opened(t, m), what)
		must(t, err)
		kept[id] = what
		m.pass(time.Hour)
	}
	gone, err := backup(ctx, opened(t, m), trees(1, 101, 301, 302))
	must(t, err)
	must(t, forget(ctx, opened(t, m), gone))
	m.pass(23 * time.Hour)
	must(t, run(ctx, opened(t, m), upkeep.Full()))
	if all, _ := unused(ctx, t, m); len(all) == 0 || strings.Contains(fmt.Sprint(all), "true") {
		t.Fatalf("within a day it is gone or marked: %v", all)
	}
	for range 8 {
		m.pass(25 * time.Hour)
		must(t, run(ctx, opened(t, m), upkeep.Full()))
		must(t, whole(ctx, opened(t, m), kept))
	}
	if contents, packs := unused(ctx, t, m); len(contents) > 0 || len(packs) > 0 {
		t.Errorf("left are contents %v and blobs %v", contents, packs)
	}
	if n := len(m.names("p")); n > 2 {
		t.Errorf("%d packs of data are not joined", n)
	}
}

// As a vault is looked after: every day a snapshot, of which few are kept, and a run. Joining packs every other day keeps nothing
// young that has to be three days old before it is marked.
func TestJoiningKeepsNothingYoung(t *testing.T) {
	ctx, m := t.Context(), started(t)
	safety := upkeep.Full()
	safety.MinContentAgeSubjectToGC, safety.MarginBetweenSnapshotGC, safety.PackDeleteMinAge = 72*time.Hour, 72*time.Hour, 72*time.Hour
	var listed []repo.ManifestID
	kept := map[repo.ManifestID]tree{}
	left := map[int]int{}
	for day := range 40 {
		what := trees(2, 8, 1000+6*day, 1000+6*day+2, 1000+6*day+3)
		id, err := backup(ctx, opened(t, m), what)
		must(t, err)
		kept[id], listed = what, append(listed, id)
		if len(listed) > 3 {
			must(t, forget(ctx, opened(t, m), listed[0]))
			delete(kept, listed[0])
			listed = listed[1:]
		}
		must(t, run(ctx, opened(t, m), safety))
		contents, _ := unused(ctx, t, m)
		left[day] = len(contents)
		m.pass(24 * time.Hour)
	}
	if left[39] > left[19]+5 {
		t.Errorf("after 20 days %d unused contents are left, and after 40 %d", left[19], left[39])
	}
	must(t, whole(ctx, opened(t, m), kept))
}

// A writer finds what nobody uses any more, and is listed after it was marked. The second look takes the mark away, whatever is due
// in the runs between.
func TestWhatIsUsedAgainIsUnmarked(t *testing.T) {
	empty := started(t)
	for before := range 4 {
		for n, pause := range []time.Duration{3 * time.Hour, 5 * time.Hour, 30 * time.Hour} {
			if n != before%3 && !repotest.Thorough() {
				continue
			}
			t.Run(fmt.Sprintf("%d runs before, then one every %s", before, pause), func(t *testing.T) { usedAgain(t, empty.clone(), before, pause) })
		}
	}
}

func usedAgain(t *testing.T, m *memory, before int, pause time.Duration) {
	ctx, what := t.Context(), trees(5, 11, 3)
	other, err := backup(ctx, opened(t, m), trees(4))
	must(t, err)
	first, err := backup(ctx, opened(t, m), what)
	must(t, err)
	for range before {
		m.pass(25 * time.Hour)
		must(t, run(ctx, opened(t, m), upkeep.Full()))
	}
	must(t, forget(ctx, opened(t, m), first))
	m.pass(25 * time.Hour)
	w, err := m.as(t, "writer").r.NewWriter(ctx, repo.WriteOptions{})
	must(t, err)
	packs := len(m.names("p"))
	id, err := write(ctx, w, what)
	must(t, err)
	for range 3 { // in less than the margin
		must(t, run(ctx, opened(t, m), upkeep.Full()))
		m.pass(70 * time.Minute)
	}
	found := len(m.names("p"))
	must(t, w.Flush(ctx))
	must(t, w.Close(ctx))
	if len(m.names("p")) != found || found > packs+1 { // a run may have joined some
		t.Fatal("the writer did not use what was there")
	}
	kept := map[repo.ManifestID]tree{id: what, other: trees(4)}
	must(t, whole(ctx, opened(t, m), kept)) // marked, it can be read
	for range 8 {
		m.pass(pause)
		must(t, run(ctx, opened(t, m), upkeep.Full()))
		must(t, whole(ctx, opened(t, m), kept))
	}
	must(t, opened(t, m).EachContent(ctx, true, func(i repo.Info) error {
		if i.Deleted && i.ID.Prefix() != "m" {
			return fmt.Errorf("%s is still marked", i.ID)
		}
		return nil
	}))
}

// What is stored and not known yet stays while its writer's marker does, and for a day without one.
func TestWhatAWriterHasStoredStays(t *testing.T) {
	m := started(t)
	_, err := backup(t.Context(), opened(t, m), trees(1))
	must(t, err)
	p := m.as(t, "writer")
	p.refuse = func(op, name string) error {
		if op == "put" && strings.HasPrefix(name, "repository/x") {
			return errors.New("no index is taken")
		}
		return nil
	}
	if _, err := backup(t.Context(), p.r, trees(3, 4, 5)); err == nil {
		t.Fatal("it was listed without an index")
	}
	_, left := unused(t.Context(), t, m)
	markers := m.names("s")
	if len(left) < 3 || len(markers) != 1 {
		t.Fatalf("the writer left %v", left)
	}
	staysFor(t, m.clone(), left, 96)
	must(t, m.process().Delete(t.Context(), markers[0]))
	staysFor(t, m, slices.DeleteFunc(left, func(name string) bool { return name == markers[0] }), 24)
}

// A writer that was held up for more than a day gets its index stored in the very run that could free its packs, at whichever operation
// of that. Its machine was paused, and by its clock that was not so long: it would give up else.
func TestAWriterThatEndsMeanwhileLosesNothing(t *testing.T) {
	ctx, m := t.Context(), started(t)
	_, err := backup(ctx, opened(t, m), trees(1))
	must(t, err)
	must(t, run(ctx, opened(t, m), upkeep.Full())) // joins; the next one deletes
	for n := 1; ; n++ {
		there := m.clone()
		p := there.as(t, "writer")
		p.behind = 0
		p.refuse = failing("put", "repository/x")
		w, err := p.r.NewWriter(ctx, repo.WriteOptions{})
		must(t, err)
		what := trees(3, 4)
		id, err := write(ctx, w, what)
		must(t, err)
		if w.Flush(ctx) == nil {
			t.Fatal("an index was stored")
		}
		there.pass(30 * time.Hour)
		p.behind, p.refuse = 20*time.Hour, nil
		u := there.as(t, "upkeep")
		u.between = map[int]func(){u.ran + n: func() {
			if err := errors.Join(w.Flush(ctx), w.Close(ctx)); err != nil {
				t.Error(err)
			}
		}}
		must(t, run(ctx, u.r, upkeep.Full()))
		if len(u.between) > 0 {
			if n < 20 {
				t.Fatalf("a run has only %d operations", n)
			}
			return
		}
		r := opened(t, there)
		if got, err := read(ctx, r, id); err != nil || len(got) != len(what) {
			t.Fatalf("at operation %d: %d files, %v", n, len(got), err)
		}
	}
}

// staysFor runs upkeep until blobs are gone, which must be together and soon after so many hours.
func staysFor(t *testing.T, m *memory, left []string, hours int) {
	t.Helper()
	for passed := 0; ; passed += 7 {
		must(t, run(t.Context(), opened(t, m), upkeep.Full()))
		now := slices.DeleteFunc(slices.Clone(left), func(name string) bool { return !slices.Contains(m.names(""), name) })
		switch {
		case len(now) == 0 && passed >= hours:
			return
		case len(now) != len(left), passed > hours+14:
			t.Fatalf("after %d hours %v of %v is left", passed, now, left)
		}
		m.pass(7 * time.Hour)
	}
}

// Whatever cannot be read stops it before anything is marked or deleted.
func TestWhatCannotBeReadStopsIt(t *testing.T) {
	ctx, m := t.Context(), started(t)
	for i := range 3 {
		_, err := backup(ctx, opened(t, m), trees(3, 4, 50+i))
		must(t, err)
	}
	id, err := backup(ctx, opened(t, m), trees(3, 5))
	must(t, err)
	must(t, forget(ctx, opened(t, m), id))
	m.pass(100 * time.Hour)
	for name, refuse := range map[string]func(op, name string) error{
		"metadata":           failing("get", "repository/q"),
		"a new index":        failing("get", "repository/x"),
		"the schedule":       failing("get", "repository/kopia.maintenance"),
		"the list of packs":  failing("list", "repository/p"),
		"the list of marks":  failing("list", "repository/s"),
		"the schedule's age": failing("stat", "repository/kopia.maintenance"),
		"the schedule again": failing("replace", "repository/kopia.maintenance"),
	} {
		there := m.clone()
		p := there.as(t, "upkeep")
		_, err := backup(ctx, there.as(t, "writer").r, trees(7))
		must(t, err)
		before := len(there.names("p")) + len(there.names("q"))
		p.refuse = refuse
		if err := run(ctx, p.r, upkeep.None()); err == nil || !strings.Contains(err.Error(), "broken disk") {
			t.Errorf("%s: %v", name, err)
		}
		if n := len(there.names("p")) + len(there.names("q")); n < before {
			t.Errorf("%s: of %d packs %d are left", name, before, n)
		}
	}
	// The entry of one snapshot is damaged where it lies.
	r := opened(t, m)
	var entries []string
	must(t, r.EachContent(ctx, false, func(i repo.Info) error {
		if i.ID.Prefix() == "m" {
			entries = append(entries, "repository/"+i.Pack)
		}
		return nil
	}))
	if m.spoil("q", func(name string) bool { return name == entries[len(entries)-1] }) != 1 {
		t.Fatal("nothing was spoiled")
	}
	before := len(m.names("p"))
	for range 3 {
		if err := run(ctx, opened(t, m), upkeep.None()); err == nil {
			t.Fatal("an entry cannot be read, and it went on")
		}
		m.pass(100 * time.Hour)
	}
	if n := len(m.names("p")); n != before {
		t.Errorf("of %d packs %d are left", before, n)
	}
}

func failing(op, prefix string) func(op, name string) error {
	return func(now, name string) error {
		if now == op && strings.HasPrefix(name, prefix) {
			return errors.New("broken disk")
		}
		return nil
	}
}

func TestClocksThatDifferStopIt(t *testing.T) {
	empty := started(t)
	for skew, ok := range map[time.Duration]bool{0: true, 4 * time.Minute: true, -4 * time.Minute: true, 6 * time.Minute: false, -6 * time.Minute: false} {
		m := empty.clone()
		m.skew = skew
		if err := run(t.Context(), opened(t, m), upkeep.Full()); errors.Is(err, upkeep.ErrClock) == ok || ok && err != nil {
			t.Errorf("%s: %v", skew, err)
		}
	}
}

// Where no index is left every pack looks unused.
func TestWithoutAnyIndexNothingIsDeleted(t *testing.T) {
	ctx, m := t.Context(), started(t)
	_, err := backup(ctx, opened(t, m), trees(3, 4, 5))
	must(t, err)
	for _, name := range m.names("x") {
		must(t, m.process().Delete(ctx, name))
	}
	m.pass(1000 * time.Hour)
	before := len(m.names("p")) + len(m.names("q"))
	r, err := m.process().open(t) // one that had read an index would say so already
	must(t, err)
	for range 3 {
		if err := run(ctx, r, upkeep.None()); err == nil {
			t.Error("it went on")
		}
		m.pass(100 * time.Hour)
	}
	if n := len(m.names("p")) + len(m.names("q")); n != before {
		t.Errorf("of %d packs %d are left", before, n)
	}
}
