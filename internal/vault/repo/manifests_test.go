package repo_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/repotest"
)

// hand is one of two hosts that write to one place, each by its own clock.
type hand struct {
	r    *repo.Repository
	w    *repo.Writer
	own  map[repo.ManifestID]int // put and not flushed: what it says, or gone = deleted
	sees map[repo.ManifestID]int // what was there when it looked last
}

const gone = -1

func (h *hand) all() map[repo.ManifestID]int {
	all := maps.Clone(h.sees)
	maps.Copy(all, h.own)
	maps.DeleteFunc(all, func(_ repo.ManifestID, n int) bool { return n == gone })
	return all
}

func said(t *rapid.T, from interface {
	FindManifests(context.Context, map[string]string) ([]*repo.ManifestEntry, error)
	Manifest(context.Context, repo.ManifestID, any) (*repo.ManifestEntry, error)
}, labels map[string]string) map[repo.ManifestID]int {
	t.Helper()
	ctx := context.Background()
	list, err := from.FindManifests(ctx, labels)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(list, func(a, b *repo.ManifestEntry) int { return a.ModTime.Compare(b.ModTime) }) {
		t.Error("the oldest is not first")
	}
	out := map[repo.ManifestID]int{}
	for _, m := range list {
		n := gone
		e, err := from.Manifest(ctx, m.ID, &n)
		if err != nil || !maps.Equal(e.Labels, m.Labels) || e.Length != m.Length {
			t.Fatal(e, err)
		}
		out[m.ID] = n
	}
	return out
}

// Two hosts put, replace, delete, flush and join manifests as they like, and their clocks differ by an hour: each sees what it
// wrote and what the other had flushed when it looked, and after both have flushed both see all that no one deleted.
func TestManifestsOfTwoWriters(t *testing.T) {
	heap := madeHeap(t)
	var at atomic.Int64 // so many times were the clocks asked
	begun := time.Now()
	clock := func(ahead time.Duration) func() time.Time {
		return func() time.Time { return begun.Add(time.Duration(at.Add(1))*time.Millisecond/10 + ahead) }
	}
	early, late := openHeap(t, heap, repo.Options{Now: clock(0)}), openHeap(t, heap, repo.Options{Now: clock(time.Hour)})
	run := 0
	repotest.FewChecks(t, 25)
	rapid.Check(t, func(t *rapid.T) {
		run++
		ctx := context.Background()
		label := map[string]string{repo.TypeLabel: "test", "run": fmt.Sprint(run)}
		there := map[repo.ManifestID]int{}
		hands := []*hand{{r: early}, {r: late}}
		for _, h := range hands {
			if err := h.r.Refresh(ctx); err != nil {
				t.Fatal(err)
			}
			w, err := h.r.NewWriter(ctx, repo.WriteOptions{})
			if err != nil {
				t.Fatal(err)
			}
			h.w, h.own, h.sees = w, map[repo.ManifestID]int{}, map[repo.ManifestID]int{}
		}
		n := 0
		flush := func(t *rapid.T, h *hand) {
			if err := h.w.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			maps.Copy(there, h.own)
			maps.Copy(h.sees, h.own)
			clear(h.own)
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				h := rapid.SampledFrom(hands).Draw(t, "hand")
				n++
				id, err := h.w.PutManifest(ctx, label, n)
				if err != nil {
					t.Fatal(err)
				}
				h.own[id] = n
			},
			"replace": func(t *rapid.T) {
				h := rapid.SampledFrom(hands).Draw(t, "hand")
				old := h.all()
				n++
				id, err := h.w.ReplaceManifests(ctx, label, n)
				if err != nil {
					t.Fatal(err)
				}
				for id := range old {
					h.own[id] = gone
				}
				h.own[id] = n
			},
			"delete": func(t *rapid.T) {
				h := rapid.SampledFrom(hands).Draw(t, "hand")
				all := slices.Sorted(maps.Keys(h.all()))
				if len(all) == 0 {
					return
				}
				id := rapid.SampledFrom(all).Draw(t, "which")
				if err := errors.Join(h.w.DeleteManifest(ctx, id), h.w.DeleteManifest(ctx, "of another world")); err != nil {
					t.Fatal(err)
				}
				h.own[id] = gone
			},
			"flush": func(t *rapid.T) { flush(t, rapid.SampledFrom(hands).Draw(t, "hand")) },
			"join": func(t *rapid.T) {
				h := rapid.SampledFrom(hands).Draw(t, "hand")
				if err := h.w.CompactManifests(ctx); err != nil {
					t.Fatal(err)
				}
			},
			"look": func(t *rapid.T) {
				h := rapid.SampledFrom(hands).Draw(t, "hand")
				if err := h.r.Refresh(ctx); err != nil {
					t.Fatal(err)
				}
				h.sees = maps.Clone(there)
			},
			"": func(t *rapid.T) {
				for i, h := range hands {
					if got, want := said(t, h.w, label), h.all(); !maps.Equal(got, want) {
						t.Fatalf("writer %d sees %v, and there is %v", i, got, want)
					}
				}
			},
		})
		for _, h := range hands {
			flush(t, h)
			if err := h.w.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
		maps.DeleteFunc(there, func(_ repo.ManifestID, n int) bool { return n == gone })
		for i, h := range hands {
			if err := h.r.Refresh(ctx); err != nil {
				t.Fatal(err)
			}
			if got := said(t, h.r, label); !maps.Equal(got, there) {
				t.Fatalf("in the end %d sees %v, and there is %v", i, got, there)
			}
		}
	})
}

func contentsOfManifests(t *testing.T, r *repo.Repository) int {
	t.Helper()
	n := 0
	if err := r.EachContentOf(t.Context(), "m", false, func(repo.Info) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// However often a host flushes, few contents hold all manifests.
func TestManifestsAreJoinedByThemselves(t *testing.T) {
	ctx := t.Context()
	r := openHeap(t, madeHeap(t), repo.Options{})
	const count = 50
	for n := range count {
		err := r.Write(ctx, repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) error {
			_, err := w.PutManifest(ctx, map[string]string{repo.TypeLabel: "test"}, n)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := contentsOfManifests(t, r); got > 17 {
			t.Fatalf("%d contents hold manifests", got)
		}
	}
	list, err := r.FindManifests(ctx, map[string]string{repo.TypeLabel: "test"})
	if err != nil || len(list) != count {
		t.Fatalf("%d manifests of %d, %v", len(list), count, err)
	}
	err = r.Write(ctx, repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) error { return w.CompactManifests(ctx) })
	if err != nil {
		t.Fatal(err)
	}
	if got := contentsOfManifests(t, r); got != 1 {
		t.Errorf("joined there are %d contents", got)
	}
	if list, err := r.FindManifests(ctx, nil); err != nil || len(list) != count {
		t.Errorf("%d manifests of %d, %v", len(list), count, err)
	}
}

// A content of many manifests is left alone while small ones are joined, so that what is deleted in it stays so, however long that
// takes; and is joined with them when they are as large.
func TestALargeContentOfManifestsIsNotWrittenAgainForSmallOnes(t *testing.T) {
	ctx, now := t.Context(), time.Now()
	r := openHeap(t, madeHeap(t), repo.Options{Now: func() time.Time { return now }})
	label := map[string]string{repo.TypeLabel: "test"}
	write := func(f func(w *repo.Writer) error) {
		t.Helper()
		if err := r.Write(ctx, repo.WriteOptions{}, func(_ context.Context, w *repo.Writer) error { return f(w) }); err != nil {
			t.Fatal(err)
		}
	}
	put := func(w *repo.Writer, n int) (id repo.ManifestID, err error) {
		for range n {
			if id, err = w.PutManifest(ctx, label, strings.Repeat("x", 20)); err != nil {
				return id, err
			}
		}
		return id, nil
	}
	var first repo.ManifestID
	write(func(w *repo.Writer) (err error) { first, err = put(w, 500); return err })
	var large repo.ContentID
	if err := r.EachContentOf(ctx, "m", false, func(i repo.Info) error { large = i.ID; return nil }); err != nil {
		t.Fatal(err)
	}
	there := 500
	write(func(w *repo.Writer) error { return w.DeleteManifest(ctx, first) })
	counts := func() bool {
		i, err := r.ContentInfo(ctx, large)
		return err == nil && !i.Deleted
	}
	flushes := 0
	for ; counts() && flushes < 500; flushes++ {
		if flushes == 20 { // the deletion is forgotten in no content by itself
			now = now.Add(500 * 24 * time.Hour)
		}
		write(func(w *repo.Writer) error { _, err := put(w, 3); return err })
		there += 3
		if got := contentsOfManifests(t, r); got > 17 {
			t.Fatalf("%d contents hold manifests", got)
		}
		if list, err := r.FindManifests(ctx, label); err != nil || len(list) != there-1 {
			t.Fatalf("%d manifests are there after %d flushes, want %d: %v", len(list), flushes, there-1, err)
		}
	}
	if flushes < 100 || flushes == 500 {
		t.Errorf("500 manifests were written again with the %dth flush of 3", flushes)
	}
}

// Whoever joins manifests after another one deleted some, without having looked, does not bring them back; even when the
// deletion was joined meanwhile.
func TestADeletedManifestDoesNotComeBack(t *testing.T) {
	ctx := t.Context()
	heap := madeHeap(t)
	slow, quick := openHeap(t, heap, repo.Options{}), openHeap(t, heap, repo.Options{})
	label := map[string]string{repo.TypeLabel: "test"}
	var id repo.ManifestID
	put := func(r *repo.Repository, n int) {
		t.Helper()
		err := r.Write(ctx, repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) (err error) {
			id, err = w.PutManifest(ctx, label, n)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	put(slow, 1)
	put(slow, 2)
	w := openWriter(t, slow)
	if err := errors.Join(w.CompactManifests(ctx), quick.Refresh(ctx)); err != nil {
		t.Fatal(err)
	}
	for _, do := range []func(context.Context, *repo.Writer) error{
		func(ctx context.Context, w *repo.Writer) error { return w.DeleteManifest(ctx, id) },
		func(ctx context.Context, w *repo.Writer) error { return w.CompactManifests(ctx) },
	} {
		if err := quick.Write(ctx, repo.WriteOptions{}, do); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Flush(ctx), slow.Refresh(ctx), quick.Refresh(ctx)); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*repo.Repository{slow, quick} {
		list, err := r.FindManifests(ctx, label)
		if err != nil || len(list) != 1 || list[0].ID == id {
			t.Errorf("%d manifests are there: %v", len(list), err)
		}
		if _, err := r.Manifest(ctx, id, nil); !errors.Is(err, repo.ErrManifestNotFound) {
			t.Errorf("the deleted one: %v", err)
		}
	}
}

func TestManifestsHaveATypeAndLabelsOfTheirOwn(t *testing.T) {
	ctx := t.Context()
	r := openHeap(t, madeHeap(t), repo.Options{})
	w := openWriter(t, r)
	if _, err := w.PutManifest(ctx, map[string]string{"colour": "red"}, 1); err == nil {
		t.Error("one without a type is put")
	}
	if _, err := w.PutManifest(ctx, map[string]string{repo.TypeLabel: "t"}, func() {}); err == nil {
		t.Error("one that is no JSON is put")
	}
	labels := map[string]string{repo.TypeLabel: "t", "colour": "red"}
	id, err := w.PutManifest(ctx, labels, json.RawMessage(`{"a":"<1>"}`))
	if err != nil {
		t.Fatal(err)
	}
	labels["colour"] = "blue" // the caller's map is the caller's
	before := time.Now()
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		labels map[string]string
		want   int
	}{{nil, 1}, {map[string]string{"colour": "red"}, 1}, {map[string]string{"colour": "blue"}, 0}, {map[string]string{repo.TypeLabel: "t", "size": ""}, 0}} {
		list, err := r.FindManifests(ctx, c.labels)
		if err != nil || len(list) != c.want {
			t.Errorf("%d have %v: %v", len(list), c.labels, err)
		}
		for _, m := range list {
			m.Labels["colour"] = "green"
			if m.ModTime.After(before) || before.Sub(m.ModTime) > time.Minute {
				t.Errorf("it was put at %s", m.ModTime)
			}
		}
	}
	var got struct{ A string }
	e, err := r.Manifest(ctx, id, &got)
	if err != nil || got.A != "<1>" || e.Labels["colour"] != "red" {
		t.Errorf("%+v, %+v, %v", e, got, err)
	}
	var number int
	if _, err := r.Manifest(ctx, id, &number); err == nil {
		t.Error("a payload of another kind is read")
	}
}

// A content that cannot be read hides nothing: there is an error, and what is put meanwhile is stored all the same.
func TestADamagedContentOfManifestsIsAnError(t *testing.T) {
	ctx := t.Context()
	heap := madeHeap(t)
	put := func(r *repo.Repository) error {
		return r.Write(ctx, repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) error {
			_, err := w.PutManifest(ctx, map[string]string{repo.TypeLabel: "test"}, 1)
			return err
		})
	}
	if err := put(openHeap(t, heap, repo.Options{})); err != nil {
		t.Fatal(err)
	}
	if n := heap.Spoil("repository/q"); n == 0 {
		t.Fatal("no pack of metadata is there")
	}
	r := openHeap(t, heap, repo.Options{})
	if err := put(r); err != nil {
		t.Fatal(err)
	}
	if list, err := r.FindManifests(ctx, nil); err == nil {
		t.Errorf("%d manifests are listed, and one cannot be read", len(list))
	}
	err := r.Write(ctx, repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) error { return w.CompactManifests(ctx) })
	if err == nil {
		t.Error("what cannot be read is joined")
	}
	if got := contentsOfManifests(t, r); got != 2 {
		t.Errorf("%d contents are left of 2", got)
	}
}

// Manifests that are put while others are flushed are stored too.
func TestManifestsOfManyGoroutines(t *testing.T) {
	ctx := t.Context()
	r := openHeap(t, madeHeap(t), repo.Options{})
	w := openWriter(t, r)
	const lanes, each = 8, 40
	g, ctx := errgroup.WithContext(ctx)
	for lane := range lanes {
		g.Go(func() error {
			for n := range each {
				if _, err := w.PutManifest(ctx, map[string]string{repo.TypeLabel: "test", "lane": fmt.Sprint(lane)}, n); err != nil {
					return err
				}
				if n%5 == lane%5 {
					if err := w.Flush(ctx); err != nil {
						return err
					}
				}
				if list, err := w.FindManifests(ctx, map[string]string{"lane": fmt.Sprint(lane)}); err != nil || len(list) != n+1 {
					return fmt.Errorf("lane %d sees %d manifests of %d: %w", lane, len(list), n+1, err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := r.FindManifests(t.Context(), map[string]string{repo.TypeLabel: "test"})
	if err != nil || len(list) != lanes*each {
		t.Errorf("%d manifests of %d: %v", len(list), lanes*each, err)
	}
	if n := contentsOfManifests(t, r); n > 17 {
		t.Errorf("%d contents hold them", n)
	}
}

// One host deletes a manifest; long afterwards it joins all, while another moves the content that holds it into another pack, as a
// clean-up does, and does not know of that yet. The moved content counts again, and the manifest stays deleted.
func TestAContentOfManifestsThatIsMovedWhileOthersJoinBringsNothingBack(t *testing.T) {
	ctx, heap := t.Context(), madeHeap(t)
	now := time.Now()
	o := repo.Options{Now: func() time.Time { return now }}
	joiner, mover := openHeap(t, heap, o), openHeap(t, heap, o)
	write := func(r *repo.Repository, f func(ctx context.Context, w *repo.Writer) error) {
		t.Helper()
		if err := r.Write(ctx, repo.WriteOptions{}, f); err != nil {
			t.Fatal(err)
		}
	}
	label := map[string]string{repo.TypeLabel: "test"}
	var deleted repo.ManifestID
	write(joiner, func(ctx context.Context, w *repo.Writer) (err error) {
		deleted, err = w.PutManifest(ctx, label, 1)
		return err
	})
	var holds repo.ContentID
	if err := joiner.EachContentOf(ctx, "m", false, func(i repo.Info) error { holds = i.ID; return nil }); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour)
	write(joiner, func(ctx context.Context, w *repo.Writer) error {
		_, err := w.PutManifest(ctx, label, 2)
		return errors.Join(err, w.DeleteManifest(ctx, deleted))
	})
	now = now.Add(100 * 24 * time.Hour)
	if err := errors.Join(joiner.Refresh(ctx), mover.Refresh(ctx)); err != nil {
		t.Fatal(err)
	}
	write(joiner, func(ctx context.Context, w *repo.Writer) error { return w.CompactManifests(ctx) })
	now = now.Add(time.Minute)
	write(mover, func(ctx context.Context, w *repo.Writer) error { return w.Rewrite(ctx, holds) })
	last := openHeap(t, heap, o)
	if i, err := last.ContentInfo(ctx, holds); err != nil || i.Deleted {
		t.Fatalf("the content that was moved does not count: %+v, %v", i, err)
	}
	list, err := last.FindManifests(ctx, label)
	if err != nil || len(list) != 1 || list[0].ID == deleted {
		t.Errorf("%d manifests are listed, of which the first is deleted (%v): %v", len(list), len(list) > 0 && list[0].ID == deleted, err)
	}
}
