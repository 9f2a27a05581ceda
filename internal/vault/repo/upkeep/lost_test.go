package upkeep_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/snapshot"
	"holdfast/internal/vault/repo/upkeep"
	"holdfast/internal/vault/store"
)

// runAs is run with a say in it.
func runAs(ctx context.Context, r *repo.Repository, s upkeep.Safety, o upkeep.Options) error {
	return r.Write(ctx, repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) error { return upkeep.Run(ctx, r, w, s, o) })
}

// unjoined leaves packs as they are.
var unjoined = upkeep.Options{Join: func(context.Context) (bool, error) { return false, nil }}

// dataOf are the contents of a snapshot's files, and the pack of the first.
func dataOf(ctx context.Context, t *testing.T, r *repo.Repository, id repo.ManifestID) (all []repo.ContentID, pack string) {
	t.Helper()
	s, err := snapshot.Load(ctx, r, id)
	must(t, err)
	must(t, snapshot.Each(ctx, r, s.RootEntry, func(_ string, e *snapshot.DirEntry) error {
		ids, err := r.VerifyObject(ctx, e.ObjectID)
		if e.Type == snapshot.TypeFile {
			all = append(all, ids...)
		}
		return err
	}))
	all = slices.DeleteFunc(all, func(id repo.ContentID) bool { return id.Prefix() != "" })
	i, err := r.ContentInfo(ctx, all[0])
	must(t, err)
	return all, i.Pack
}

// giveUp has the repository forget contents, as the vault does when their packs are lost.
func giveUp(ctx context.Context, r *repo.Repository, ids []repo.ContentID) error {
	return r.Write(ctx, repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) error {
		for _, id := range ids {
			if err := w.Delete(ctx, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// Where a pack is missing in which something counts, whatever took it may have taken an index too: then no other pack goes.
func TestWhereAPackIsLostNoOtherGoes(t *testing.T) {
	ctx, full := t.Context(), started(t)
	kept, err := backup(ctx, opened(t, full), trees(3, 4))
	must(t, err)
	gone, err := backup(ctx, opened(t, full), trees(5, 9))
	must(t, err)
	_, pack := dataOf(ctx, t, opened(t, full), kept)
	must(t, forget(ctx, opened(t, full), gone))
	full.pass(time.Hour)
	packs := len(full.names("p"))
	for name, c := range map[string]struct {
		lost bool
		told error // by the place, when it is asked for the pack
		left int
	}{
		"nothing is lost":           {false, nil, packs - 1}, // the one that is not used
		"it is gone":                {true, nil, packs - 1},  // by itself
		"a copy that is away":       {true, errors.Join(store.ErrNotFound, store.ErrUnseen), packs - 1},
		"the place does not answer": {true, errors.New("broken disk"), packs - 1},
	} {
		m := full.clone()
		if c.lost {
			must(t, m.process().Delete(ctx, "repository/"+pack))
		}
		p := m.as(t, "upkeep")
		p.refuse = func(op, name string) error {
			if op == "stat" && strings.HasSuffix(name, pack) {
				return c.told
			}
			return nil
		}
		err := runAs(ctx, p.r, upkeep.None(), unjoined)
		if c.lost == (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
		if n := len(m.names("p")); n != c.left {
			t.Errorf("%s: of %d packs %d are left", name, packs, n)
		}
	}
}

// A listed snapshot uses what was given up: the rest is freed all the same, before and after that counts as never there; whoever
// stores it again makes the snapshot whole. What is lost and was not given up stops it still.
func TestWhatWasGivenUpDoesNotStopIt(t *testing.T) {
	for name, safety := range map[string]upkeep.Safety{"at once": upkeep.None(), "in its time": upkeep.Full()} {
		t.Run(name, func(t *testing.T) {
			ctx, m := t.Context(), started(t)
			broken, err := backup(ctx, opened(t, m), trees(3, 4))
			must(t, err)
			kept, err := backup(ctx, opened(t, m), trees(9, 10))
			must(t, err)
			gone, err := backup(ctx, opened(t, m), trees(5, 15))
			must(t, err)
			must(t, forget(ctx, opened(t, m), gone))
			lost, pack := dataOf(ctx, t, opened(t, m), broken)
			must(t, m.process().Delete(ctx, "repository/"+pack))
			must(t, giveUp(ctx, opened(t, m), lost))
			for range 8 {
				m.pass(25 * time.Hour)
				mayBeElsewhere(ctx, t, m.clone(), pack, safety)
				must(t, runAs(ctx, opened(t, m), safety, unjoined))
			}
			if n := len(m.names("p")); n != 1 {
				t.Errorf("%d packs are left of the one that is used", n)
			}
			if _, err := opened(t, m).ContentInfo(ctx, lost[0]); !errors.Is(err, repo.ErrContentNotFound) {
				t.Errorf("what was given up still counts: %v", err)
			}
			again, err := backup(ctx, opened(t, m), trees(3, 4))
			must(t, err)
			must(t, runAs(ctx, opened(t, m), safety, unjoined))
			must(t, whole(ctx, opened(t, m), map[repo.ManifestID]tree{broken: trees(3, 4), kept: trees(9, 10), again: trees(3, 4)}))
			_, other := dataOf(ctx, t, opened(t, m), kept)
			must(t, m.process().Delete(ctx, "repository/"+other))
			m.pass(25 * time.Hour)
			if err := runAs(ctx, opened(t, m), safety, unjoined); err == nil {
				t.Error("another pack is lost, and it went on")
			}
		})
	}
}

// mayBeElsewhere errs unless a run ends where a copy that is away may have a pack from which something is used.
func mayBeElsewhere(ctx context.Context, t *testing.T, m *memory, pack string, safety upkeep.Safety) {
	t.Helper()
	p := m.as(t, "elsewhere")
	p.refuse = func(op, name string) error {
		if op == "stat" && strings.HasSuffix(name, pack) {
			return errors.Join(store.ErrNotFound, store.ErrUnseen)
		}
		return nil
	}
	if err := runAs(ctx, p.r, safety, unjoined); !errors.Is(err, store.ErrUnseen) {
		t.Errorf("a copy that is away may have what counts as given up: %v", err)
	}
}

// What a listed snapshot uses counts as never there, and lies in a pack that is: nobody gave that up, and the pack must not go.
func TestWhatWasDroppedAndIsThereStopsIt(t *testing.T) {
	ctx, m := t.Context(), started(t)
	id, err := backup(ctx, opened(t, m), trees(3, 4))
	must(t, err)
	all, _ := dataOf(ctx, t, opened(t, m), id)
	must(t, giveUp(ctx, opened(t, m), all))
	m.pass(time.Hour)
	r := opened(t, m)
	must(t, r.Write(ctx, repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) error {
		return w.Indexes().AdvanceWatermark(ctx, m.now())
	}))
	before := len(m.names("p"))
	if err := run(ctx, opened(t, m), upkeep.None()); !errors.Is(err, repo.ErrContentNotFound) {
		t.Errorf("it went on: %v", err)
	}
	if n := len(m.names("p")); n != before {
		t.Errorf("of %d packs %d are left", before, n)
	}
}

// A schedule that is damaged is as good as none: what was marked waits for two looks anew, and then goes.
func TestADamagedScheduleBeginsAnew(t *testing.T) {
	const name = "repository/kopia.maintenance"
	for how, damage := range map[string]func([]byte) []byte{
		"a flipped bit": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut short":     func(b []byte) []byte { return b[:5] },
		"emptied":       func([]byte) []byte { return nil },
	} {
		ctx, m := t.Context(), started(t)
		id, err := backup(ctx, opened(t, m), trees(3, 4))
		must(t, err)
		gone, err := backup(ctx, opened(t, m), trees(5, 9))
		must(t, err)
		must(t, forget(ctx, opened(t, m), gone))
		for range 2 {
			m.pass(25 * time.Hour)
			must(t, runAs(ctx, opened(t, m), upkeep.Full(), unjoined))
		}
		before := len(m.names("p"))
		b := m.blobs[name]
		b.data = damage(slices.Clone(b.data))
		m.blobs[name] = b
		m.pass(25 * time.Hour)
		must(t, runAs(ctx, opened(t, m), upkeep.Full(), unjoined))
		if n := len(m.names("p")); n != before {
			t.Errorf("%s: of %d packs %d are left after one look", how, before, n)
		}
		if s, err := upkeep.GetSchedule(ctx, opened(t, m)); err != nil || len(s.Runs[upkeep.TaskRewrite]) != 1 || len(s.Runs[upkeep.TaskDelete]) != 0 {
			t.Errorf("%s: packs that may just have been joined are not waited for: %+v, %v", how, s, err)
		}
		for range 4 {
			m.pass(25 * time.Hour)
			must(t, runAs(ctx, opened(t, m), upkeep.Full(), unjoined))
		}
		must(t, whole(ctx, opened(t, m), map[repo.ManifestID]tree{id: trees(3, 4)}))
		if n := len(m.names("p")); n != before-1 {
			t.Errorf("%s: of %d packs %d are left", how, before, n)
		}
	}
}
