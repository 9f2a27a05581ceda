package backup

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redact"
	"holdfast/internal/vault"
)

func ids(points []vault.Point) string {
	var out []string
	for _, p := range points {
		out = append(out, p.ID)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestPointsOfVaultsThatSayNothingStay(t *testing.T) {
	at := func(db string, names ...string) (out []vault.Point) {
		for _, n := range names {
			out = append(out, vault.Point{ID: n, Database: db})
		}
		return out
	}
	noted := []vault.NotedPoints{
		{ID: "v1", Name: "old", Points: append(at("records", "p1", "p2"), at("orders", "q1")...)},
		{ID: "v2", Name: "files", Points: append(at("records", "p3", "p4"), at("orders", "q2")...)},
	}
	for name, c := range map[string]struct {
		said   []vault.NotedPoints
		own    []vault.Point
		points string
		note   map[string]string // by vault
	}{
		"nobody says anything":           {nil, nil, "p1 p2 p3 p4", map[string]string{"v1": "p1 p2 q1", "v2": "p3 p4 q2"}},
		"one lets a point go":            {[]vault.NotedPoints{{ID: "v2", Name: "files", Points: at("records", "p4")}}, nil, "p1 p2 p4", map[string]string{"v1": "p1 p2 q1", "v2": "p4 q2"}},
		"one has none any more":          {[]vault.NotedPoints{{ID: "v2", Name: "files"}}, nil, "p1 p2", map[string]string{"v1": "p1 p2 q1", "v2": "q2"}},
		"one has another name now":       {[]vault.NotedPoints{{ID: "v1", Name: "new"}}, nil, "p3 p4", map[string]string{"v1": "q1", "v2": "p3 p4 q2"}},
		"the points were moved":          {[]vault.NotedPoints{{ID: "v3", Name: "new", Points: at("records", "p1", "p5")}}, nil, "p1 p2 p3 p4 p5", map[string]string{"v1": "p2 q1", "v2": "p3 p4 q2", "v3": "p1 p5"}},
		"the vault itself has them":      {nil, at("records", "p1", "p6"), "p1 p2 p3 p4 p6", map[string]string{"v1": "p2 q1", "v2": "p3 p4 q2"}},
		"another one of the same name":   {[]vault.NotedPoints{{ID: "v9", Name: "old"}}, nil, "p1 p2 p3 p4", map[string]string{"v1": "p1 p2 q1", "v2": "p3 p4 q2", "v9": ""}},
		"one that was never asked is in": {[]vault.NotedPoints{{ID: "v9", Name: "third", Points: at("records", "p9")}}, nil, "p1 p2 p3 p4 p9", map[string]string{"v1": "p1 p2 q1", "v2": "p3 p4 q2", "v9": "p9"}},
	} {
		note, points := mergePoints(noted, c.said, "self", c.own, "records")
		if got := ids(points); got != c.points {
			t.Errorf("%s: points %q, want %q", name, got, c.points)
		}
		for _, n := range note {
			if want, ok := c.note[n.ID]; !ok || ids(n.Points) != want {
				t.Errorf("%s: of %s is noted %q, want %q", name, n.ID, ids(n.Points), want)
			}
		}
		if len(note) != len(c.note) {
			t.Errorf("%s: noted %+v", name, note)
		}
	}
	if len(noted[0].Points) != 3 || noted[0].Points[0].ID != "p1" {
		t.Error("what was noted was changed in place")
	}
	for name, want := range map[string]bool{"old": true, "files": true, "never": true} {
		if mayHave(noted, name, "records") != want {
			t.Errorf("vault %s may have points of records: %v", name, !want)
		}
	}
	if mayHave(noted, "old", "letters") {
		t.Error("a vault that had none of it when it was asked keeps the database's backups")
	}
}

// A file set moves to another vault, the plan names its first one no more, and what leads to its points is known all the same.
func TestPointsInAVaultThatNoPlanNamesAreKnown(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	conf := func(name string) vault.Config {
		return vault.Config{Name: name, URL: "file://" + filepath.Join(dir, name), Key: redact.Secret("k"), Keys: &vaultKeys, Application: "clinic", Host: "h1"}
	}
	for _, name := range []string{"main", "files"} {
		v, err := vault.Create(ctx, conf(name))
		if err == nil && name == "files" {
			for _, id := range []string{"p1", "p2"} {
				var w *vault.TreeWriter
				if w, err = v.BeginTree(ctx, "test"); err != nil {
					break
				}
				if err = w.Add(vault.Node{Path: ".", Kind: vault.KindDir, Mode: 0o755}); err != nil {
					break
				}
				_, err = w.Commit(vault.FileBackup{ID: id, Set: "letters", Host: "a", Started: time.Now(), Ended: time.Now(), Point: &vault.Point{ID: id, Database: "records", LSN: 7, At: time.Now().UTC()}})
			}
		}
		if err == nil {
			err = v.Close(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	open := func(ctx context.Context, name string) (*vault.Vault, error) { return vault.Open(ctx, conf(name)) }
	away := func(context.Context, string) (*vault.Vault, error) { return nil, errors.New("it does not answer") }
	look := func(o Elsewhere) (string, error) {
		t.Helper()
		v, err := open(ctx, "main") // each time anew, as another host would
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := v.Close(ctx); err != nil {
				t.Error(err)
			}
		}()
		points, note, err := PointsOf(ctx, v, "records", o)
		if err != nil {
			return "", err
		}
		return ids(points), v.NotePoints(ctx, note)
	}
	if _, err := look(Elsewhere{Vaults: []string{"main", "files"}, Joined: []string{"files"}, Open: away}); err == nil {
		t.Error("a vault that is joined did not answer, and something may go")
	}
	if _, err := look(Elsewhere{Vaults: []string{"files"}, Open: away}); err == nil {
		t.Error("a vault that was never asked did not answer, and something may go")
	}
	for step, o := range []Elsewhere{
		{Vaults: []string{"main", "files"}, Joined: []string{"files"}, Open: open},
		{Vaults: []string{"main", "files"}, Open: open}, // joined no longer
		{Vaults: []string{"main"}, Open: open},          // and in the plan no more
		{},
	} {
		if got, err := look(o); err != nil || got != "p1 p2" {
			t.Errorf("step %d: points %q, %v", step, got, err)
		}
	}
	if _, err := look(Elsewhere{Vaults: []string{"files"}, Open: away}); err == nil {
		t.Error("a vault that had points does not answer, and something may go")
	}
}
