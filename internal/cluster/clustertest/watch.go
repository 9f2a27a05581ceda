package clustertest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/cluster"
)

// take reads n changes, or fails.
func take(t *testing.T, w <-chan cluster.Change, n int) []cluster.Change {
	t.Helper()
	var got []cluster.Change
	wait := time.After(patience)
	for len(got) < n {
		select {
		case c, open := <-w:
			if !open {
				t.Fatalf("the watch closed after %d of %d changes", len(got), n)
			}
			got = append(got, c)
		case <-wait:
			t.Fatalf("%d of %d changes came: %+v", len(got), n, got)
		}
	}
	return got
}

func put(key, value string, rev int64) cluster.Change {
	return cluster.Change{Entry: cluster.Entry{Key: key, Value: []byte(value), Revision: rev}}
}

func gone(key string, rev int64) cluster.Change {
	return cluster.Change{Entry: cluster.Entry{Key: key, Revision: rev}, Deleted: true}
}

// sameEmpty makes nil and empty values equal: a deleted key has neither.
var sameEmpty = cmp.Transformer("text", func(b []byte) string { return string(b) })

func testWatch(t *testing.T, sub Subject, at string) {
	s, writer := open(t, sub), open(t, sub)
	must[int64](t)(writer.Set(t.Context(), at+"in/before", []byte("0")))
	_, rev, err := s.List(t.Context(), at+"in/")
	if err != nil {
		t.Fatal(err)
	}
	w := s.Watch(t.Context(), at+"in/", rev)
	var want []cluster.Change
	for i := range 20 {
		k := fmt.Sprintf("%sin/%d", at, i%3)
		must[int64](t)(writer.Set(t.Context(), at+"outside", nil))
		if i%7 == 6 {
			e := must[cluster.Entry](t)(writer.Get(t.Context(), k))
			if err := writer.Delete(t.Context(), k, e.Revision); err != nil {
				t.Fatal(err)
			}
			want = append(want, gone(k, e.Revision)) // the delete's own revision is learnt below
			continue
		}
		v := fmt.Sprint(i)
		want = append(want, put(k, v, must[int64](t)(writer.Set(t.Context(), k, []byte(v)))))
	}
	got := take(t, w, len(want))
	last := rev
	for i := range got {
		if got[i].Revision <= last {
			t.Fatalf("change %d has revision %d after %d", i, got[i].Revision, last)
		}
		last = got[i].Revision
		if want[i].Deleted {
			want[i].Revision = got[i].Revision
		}
	}
	if diff := cmp.Diff(want, got, sameEmpty); diff != "" {
		t.Fatal(diff)
	}
}

func testWatchPast(t *testing.T, sub Subject, at string) {
	s := open(t, sub)
	first := must[int64](t)(s.Set(t.Context(), at+"a", []byte("1")))
	second := must[int64](t)(s.Set(t.Context(), at+"b", []byte("2")))
	third := must[int64](t)(s.Set(t.Context(), at+"a", []byte("3")))
	got := take(t, s.Watch(t.Context(), at, first), 2)
	if diff := cmp.Diff([]cluster.Change{put(at+"b", "2", second), put(at+"a", "3", third)}, got); diff != "" {
		t.Fatal(diff)
	}
}

func testWatchResume(t *testing.T, sub Subject, at string) {
	s, cut := sub.Flaky(t)
	defer func() { _ = s.Close() }() // closed on the way out; what matters was tested
	writer := open(t, sub)
	first := must[int64](t)(writer.Set(t.Context(), at+"k", []byte("0")))
	w := s.Watch(t.Context(), at, first-1)
	if diff := cmp.Diff([]cluster.Change{put(at+"k", "0", first)}, take(t, w, 1)); diff != "" {
		t.Fatal(diff)
	}
	var want []cluster.Change
	for round := range 2 {
		cut(true)
		for i := range 5 {
			v := fmt.Sprintf("%d.%d", round, i)
			want = append(want, put(at+"k", v, must[int64](t)(writer.Set(t.Context(), at+"k", []byte(v)))))
		}
		cut(false)
	}
	if diff := cmp.Diff(want, take(t, w, len(want))); diff != "" {
		t.Fatal(diff)
	}
}

func testWatchLost(t *testing.T, sub Subject, at string) {
	s := open(t, sub)
	first := must[int64](t)(s.Set(t.Context(), at+"k", []byte("1")))
	must[int64](t)(s.Set(t.Context(), at+"k", []byte("2")))
	third := must[int64](t)(s.Set(t.Context(), at+"k", []byte("3")))
	sub.Compact(t, third)
	w := s.Watch(t.Context(), at, first)
	lost := take(t, w, 1)[0]
	if !lost.Lost || lost.Revision < first {
		t.Fatalf("first change after compaction: %+v", lost)
	}
	_, rev, err := s.List(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	next := must[int64](t)(s.Set(t.Context(), at+"k", []byte("4")))
	for {
		c := take(t, w, 1)[0]
		if c.Revision <= rev {
			continue // known from the list, as the contract says
		}
		if diff := cmp.Diff(put(at+"k", "4", next), c); diff != "" {
			t.Fatal(diff)
		}
		return
	}
}
