package upkeep_test

import (
	"context"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/kepttest"
	"holdfast/internal/vault/repo/snapshot"
	"holdfast/internal/vault/repo/upkeep"
)

// keptVault is a place with what another program wrote, years ago by the clock that upkeep goes by.
func keptVault(t *testing.T) (*memory, func() *repo.Repository) {
	t.Helper()
	m := newMemory()
	for name, content := range kepttest.Blobs(t) {
		m.blobs["repository/"+name] = kept{content, m.clock.Add(-1000 * time.Hour)}
	}
	open := func() *repo.Repository {
		t.Helper()
		p := m.process()
		r, err := repo.Open(t.Context(), p, kepttest.Password, repo.Options{Now: func() time.Time { return p.now() }})
		must(t, err)
		return r
	}
	return m, open
}

// What says who cleans a repository up is, word for word, what kopia writes.
func TestTheOwnerIsWrittenAsKopiaDoes(t *testing.T) {
	ctx := t.Context()
	_, open := keptVault(t)
	r := open()
	owner := func() (out map[string]any) {
		t.Helper()
		found, err := r.FindManifests(ctx, map[string]string{repo.TypeLabel: "maintenance"})
		must(t, err)
		if len(found) != 1 {
			t.Fatalf("%d manifests say who cleans up", len(found))
		}
		var raw json.RawMessage
		_, err = r.Manifest(ctx, found[0].ID, &raw)
		must(t, err)
		must(t, json.Unmarshal(raw, &out))
		t.Logf("%s", raw)
		return out
	}
	theirs := owner()
	must(t, r.Write(ctx, repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) error { return upkeep.Own(ctx, w, "holdfast@vault") }))
	must(t, r.Refresh(ctx))
	if ours := owner(); !reflect.DeepEqual(theirs, ours) {
		t.Errorf("ours %v, theirs %v", ours, theirs)
	}
}

// A repository that kopia wrote is cleaned up as our own are, and what is listed in it stays whole.
func TestWhatKopiaWroteStaysWhole(t *testing.T) {
	ctx := t.Context()
	m, open := keptVault(t)
	r := open()
	listed := func(r *repo.Repository) map[repo.ManifestID]map[string][]byte {
		t.Helper()
		found, err := r.FindManifests(ctx, map[string]string{repo.TypeLabel: snapshot.ManifestType})
		must(t, err)
		out := map[repo.ManifestID]map[string][]byte{}
		for _, e := range found {
			out[e.ID], err = read(ctx, r, e.ID)
			must(t, err)
		}
		return out
	}
	want := listed(r)
	if len(want) < 2 {
		t.Fatalf("%d snapshots are listed", len(want))
	}
	for id := range want {
		must(t, forget(ctx, r, id))
		delete(want, id)
		break
	}
	for range 8 {
		m.pass(25 * time.Hour)
		must(t, r.Refresh(ctx))
		must(t, run(ctx, r, upkeep.Full()))
	}
	if got := listed(open()); !reflect.DeepEqual(got, want) {
		t.Errorf("%d snapshots are listed, want %d, or they hold something else", len(got), len(want))
	}
	m.hands["inspector"] = &hand{process: m.process(), r: r}
	if contents, packs := unused(ctx, t, m); len(contents) > 0 || len(packs) > 0 {
		t.Errorf("left are contents %v and blobs %v", contents, packs)
	}
}
