package repo

import (
	"bytes"
	"compress/gzip"
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

	"pgregory.net/rapid"

	"holdfast/internal/vault/repo/index"
)

func genRecord(t *rapid.T) *manifestRecord {
	m := &manifestRecord{
		ID:      ManifestID(rapid.SampledFrom([]string{"aa", "bb", "cc", "dd"}).Draw(t, "id")),
		ModTime: time.Unix(1_700_000_000, int64(rapid.IntRange(0, 3).Draw(t, "modified"))).UTC(),
		Deleted: rapid.Bool().Draw(t, "deleted"),
	}
	if !m.Deleted {
		m.Labels = map[string]string{TypeLabel: "t", "colour": rapid.SampledFrom([]string{"red", "<blue>"}).Draw(t, "colour")}
		m.Payload = json.RawMessage(fmt.Sprintf(`{"n":%d}`, m.ModTime.Nanosecond()))
	}
	return m
}

// Whatever contents the manifests lie in, and in whatever order those are read, the same ones count.
func TestWhichManifestCountsIsNoMatterOfOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOf(rapid.Custom(genRecord)).Draw(t, "records")
		a, b := records{}, records{}
		a.add(all...)
		for _, m := range rapid.Permutation(all).Draw(t, "other order") {
			b.add(m)
		}
		for id, m := range a {
			n := b[id]
			if n == nil || !m.ModTime.Equal(n.ModTime) || m.Deleted != n.Deleted {
				t.Errorf("%s is %+v in one order and %+v in the other", id, m, n)
			}
		}
		for _, m := range all { // the latest wins
			if won := a[m.ID]; won.ModTime.Before(m.ModTime) {
				t.Errorf("of %s the one of %s counts, and there is one of %s", m.ID, won.ModTime, m.ModTime)
			}
		}
	})
}

func TestManifestsAreReadBackAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := records{}
		all.add(rapid.SliceOf(rapid.Custom(genRecord)).Draw(t, "records")...)
		raw, err := all.encode()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := maps.Clone(all).encode(); err != nil || !bytes.Equal(raw, again) {
			t.Errorf("the same manifests are written differently: %v", err)
		}
		list, err := decodeManifests(raw)
		if err != nil {
			t.Fatal(err)
		}
		got := records{}
		got.add(list...)
		if len(got) != len(all) {
			t.Fatalf("%d manifests come back of %d", len(got), len(all))
		}
		for id, m := range all {
			n := got[id]
			if !n.ModTime.Equal(m.ModTime) || n.Deleted != m.Deleted || !maps.Equal(n.Labels, m.Labels) || !bytes.Equal(n.Payload, m.Payload) {
				t.Errorf("%+v comes back as %+v", m, n)
			}
		}
	})
}

func TestDamagedManifestsAreAnError(t *testing.T) {
	whole, err := records{"aa": {ID: "aa", Labels: map[string]string{TypeLabel: "t"}, Payload: json.RawMessage(`"p"`)}}.encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"nothing": nil, "cut off": whole[:len(whole)-4], "no gzip": []byte(`{"entries":[]}`)} {
		if got, err := decodeManifests(raw); err == nil {
			t.Errorf("%s is read as %d manifests", name, len(got))
		}
	}
}

// What says where a payload lies that we do not read is not taken for a manifest without one.
func TestManifestsOfALaterFormatAreAnError(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`{"entries":[{"id":"aa","labels":{"type":"t"}}],"version":1}`, "version 1"},
		{`{"entries":[{"id":"aa","labels":{"type":"t"},"contentID":"m0123"}]}`, "m0123"},
		{`{"entries":[{"id":"aa","labels":{"type":"t"}}],"version":0}`, ""},
	} {
		var raw bytes.Buffer
		z := gzip.NewWriter(&raw)
		if _, err := z.Write([]byte(c.text)); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := decodeManifests(raw.Bytes())
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %d manifests, %v", c.text, len(got), err)
		}
	}
}

// oneByOne is a place whose contents are made up.
type oneByOne struct {
	contents map[ContentID][]byte
	rev      int64
	fetched  atomic.Int64 // several are fetched at once
	gone     ContentID    // listed, and not there
}

func (p *oneByOne) revision() int64 { return p.rev }

func (p *oneByOne) Content(_ context.Context, id ContentID) ([]byte, error) {
	p.fetched.Add(1)
	if raw, ok := p.contents[id]; ok && id != p.gone {
		return raw, nil
	}
	return nil, ErrContentNotFound
}

func (p *oneByOne) EachContentOf(_ context.Context, prefix string, _ bool, each func(Info) error) error {
	for _, id := range slices.SortedFunc(maps.Keys(p.contents), ContentID.Compare) {
		if id.Prefix() != prefix {
			continue
		}
		if err := each(Info{ID: id}); err != nil {
			return err
		}
	}
	return nil
}

func (p *oneByOne) put(t *testing.T, name byte, r records) ContentID {
	t.Helper()
	raw, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	id, err := index.MakeID(manifestPrefix, bytes.Repeat([]byte{name}, 32))
	if err != nil {
		t.Fatal(err)
	}
	if p.contents == nil {
		p.contents = map[ContentID][]byte{}
	}
	p.contents[id] = raw
	p.rev++
	return id
}

// Every content is fetched once, however often manifests are asked for; and what cannot be fetched is never left out.
func TestAContentOfManifestsIsFetchedOnce(t *testing.T) {
	ctx, p, c := t.Context(), &oneByOne{}, &committedManifests{}
	one := p.put(t, 1, records{"aa": {ID: "aa", ModTime: time.Unix(1, 0)}})
	p.put(t, 2, records{"bb": {ID: "bb", ModTime: time.Unix(1, 0)}})
	for range 3 {
		if err := c.look(ctx, p, &c.view); err != nil || len(c.view.records) != 2 {
			t.Fatal(c.view.records, err)
		}
	}
	p.put(t, 3, records{"aa": {ID: "aa", ModTime: time.Unix(2, 0), Deleted: true}})
	if err := c.look(ctx, p, &c.view); err != nil || !c.view.records["aa"].Deleted {
		t.Fatal(c.view.records, err)
	}
	if n := p.fetched.Load(); n != 3 {
		t.Errorf("3 contents were fetched %d times", n)
	}
	delete(p.contents, one)
	p.rev++
	if err := c.look(ctx, p, &c.view); err != nil || len(c.view.contents) != 2 {
		t.Fatal(c.view.contents, err)
	}
	c.keepOnly(c.view.contents)
	if len(c.decoded) != 2 {
		t.Errorf("%d contents are remembered of 2", len(c.decoded))
	}
	p.gone = p.put(t, 4, records{})
	if err := c.look(ctx, p, &c.view); !errors.Is(err, ErrContentNotFound) || !wentMeanwhile(err) {
		t.Errorf("a content that is gone: %v", err)
	}
}
