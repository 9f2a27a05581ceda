package snapshot_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/kepttest"
	"holdfast/internal/vault/repo/repotest"
	"holdfast/internal/vault/repo/snapshot"
)

func openKept(t *testing.T) *repo.Repository {
	t.Helper()
	r, err := repo.Open(t.Context(), repotest.Kept(t), kepttest.Password, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return r
}

func keptSnapshots(t *testing.T, r *repo.Repository, labels map[string]string, want int) []*snapshot.Manifest {
	t.Helper()
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[repo.TypeLabel] = snapshot.ManifestType
	list, err := r.FindManifests(t.Context(), labels)
	if err != nil || len(list) != want {
		t.Fatalf("%d snapshots have the labels %v: %v", len(list), labels, err)
	}
	var out []*snapshot.Manifest
	for _, e := range list {
		m, err := snapshot.Load(t.Context(), r, e.ID)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

func allOf(t *testing.T, r *repo.Repository, id repo.ObjectID) []byte {
	t.Helper()
	in, err := r.OpenObject(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(in)
	if err = errors.Join(err, in.Close()); err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestManifestsOfAKeptVaultAreFound(t *testing.T) {
	r := openKept(t)
	keptSnapshots(t, r, nil, 3)
	databases := keptSnapshots(t, r, map[string]string{"tag:database": "records", snapshot.HostLabel: "clinic", snapshot.PathLabel: "/databases/records"}, 2)
	sets := keptSnapshots(t, r, map[string]string{"tag:files": "attachments"}, 1)
	keptSnapshots(t, r, map[string]string{"tag:database": "of others"}, 0)
	for _, m := range append(databases, sets...) {
		keptSnapshots(t, r, map[string]string{"tag:backup": m.Tags["tag:backup"]}, 1)
		if !slices.Equal(m.Pins, []string{"holdfast"}) || m.RootObjectID() == (repo.ObjectID{}) {
			t.Errorf("%+v", m)
		}
	}
	for kind, want := range map[string]int{"holdfast-validation": 2, "holdfast-note": 1} {
		list, err := r.FindManifests(t.Context(), map[string]string{repo.TypeLabel: kind})
		if err != nil || len(list) != want {
			t.Errorf("%d of type %s: %v", len(list), kind, err)
		}
		for _, e := range list {
			if _, err := snapshot.Load(t.Context(), r, e.ID); err == nil {
				t.Errorf("a %s is loaded as a snapshot", kind)
			}
			var said struct{ Backup, By string }
			if _, err := r.Manifest(t.Context(), e.ID, &said); err != nil || kind == "holdfast-note" && said.By != "ada" {
				t.Errorf("%s says %+v: %v", kind, said, err)
			}
		}
	}
}

// Whatever of a snapshot is read and written again has the bytes that it had.
func TestAKeptSnapshotIsWrittenAgainToTheByte(t *testing.T) {
	r := openKept(t)
	w, err := r.NewWriter(t.Context(), repo.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	dirs := 0
	for _, m := range keptSnapshots(t, r, nil, 3) {
		var stored json.RawMessage
		if _, err := r.Manifest(t.Context(), m.ID, &stored); err != nil {
			t.Fatal(err)
		}
		m.ID = ""
		if again, err := json.Marshal(m); err != nil || !bytes.Equal(again, stored) {
			t.Errorf("the manifest\n%s\nis written again as\n%s, %v", stored, again, err)
		}
		err := snapshot.Each(t.Context(), r, m.RootEntry, func(at string, e *snapshot.DirEntry) error {
			raw := allOf(t, r, e.ObjectID)
			if e.Type != snapshot.TypeDir {
				return writtenAgain(t, w, at, e, raw)
			}
			d, err := snapshot.ReadDir(t.Context(), r, e.ObjectID)
			if err != nil {
				return err
			}
			dirs++
			var again bytes.Buffer
			if err := json.NewEncoder(&again).Encode(d); err != nil || !bytes.Equal(again.Bytes(), raw) {
				t.Errorf("directory %s\n%s\nis written again as\n%s, %v", at, raw, again.Bytes(), err)
			}
			id, err := snapshot.WriteDir(t.Context(), w, at, d)
			if err != nil || id != e.ObjectID {
				t.Errorf("directory %s was %s and is %s: %v", at, e.ObjectID, id, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if dirs < 10 {
		t.Errorf("only %d directories were there", dirs)
	}
}

// writtenAgain stores a file's bytes as the vault does, by where the file lies.
func writtenAgain(t *testing.T, w *repo.Writer, at string, e *snapshot.DirEntry, raw []byte) error {
	o := repo.ObjectOptions{Splitter: "FIXED-1M", Compress: true}
	switch {
	case at == "holdfast-entries.jsonl":
		o.Splitter = "DYNAMIC-128K-BUZHASH"
	case strings.HasPrefix(at, "files/") || at == "holdfast-files.json":
		o.Splitter = "DYNAMIC-1M-BUZHASH"
	}
	if e.FileSize != int64(len(raw)) {
		t.Errorf("%s has %d bytes, and its entry says %d", at, len(raw), e.FileSize)
	}
	out := w.NewObject(t.Context(), o)
	if _, err := out.Write(raw); err != nil {
		return err
	}
	id, err := out.Result()
	if err != nil || id != e.ObjectID {
		t.Errorf("%s was %s and is %s: %v", at, e.ObjectID, id, err)
	}
	return out.Close()
}

// The content of the databases' files is what the test that wrote the vault says it is.
func TestFilesOfAKeptVaultAreWhole(t *testing.T) {
	r := openKept(t)
	for n, m := range keptSnapshots(t, r, map[string]string{"tag:database": "records"}, 2) {
		files := map[string][]byte{}
		err := snapshot.Each(t.Context(), r, m.RootEntry, func(at string, e *snapshot.DirEntry) error {
			if e.Type == snapshot.TypeFile {
				files[at] = allOf(t, r, e.ObjectID)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []string{"pgdata/backup_label", "pgdata/base/5/1259", "pgdata/global/pg_control"} {
			want := bytes.Repeat([]byte(at+"\n"), 600)
			copy(want[len(want)/2:], fmt.Sprintf("backup %d", n))
			if !bytes.Equal(files[at], want) {
				t.Errorf("%s has %d bytes, other ones than were stored", at, len(files[at]))
			}
		}
		if string(files["pgdata/PG_VERSION"]) != "15\n" || len(files["pgdata/base/5/empty"]) != 0 || len(files) != 6 {
			t.Errorf("the files are %v", slices.Sorted(maps.Keys(files)))
		}
	}
}

// Every content that a kept snapshot is made of is known, and of the rest there is nothing but manifests.
func TestContentsOfAKeptVaultAreNamed(t *testing.T) {
	r := openKept(t)
	used := map[repo.ContentID]bool{}
	for _, m := range keptSnapshots(t, r, nil, 3) {
		err := snapshot.Each(t.Context(), r, m.RootEntry, func(_ string, e *snapshot.DirEntry) error {
			all, err := r.VerifyObject(t.Context(), e.ObjectID)
			for _, c := range all {
				used[c] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err := r.EachContent(t.Context(), false, func(i repo.Info) error {
		if !used[i.ID] && i.ID.Prefix() != "m" {
			t.Errorf("%s is of no snapshot", i.ID)
		}
		delete(used, i.ID)
		return nil
	})
	if err != nil || len(used) > 0 {
		t.Errorf("%d contents are used and not there, %v", len(used), err)
	}
}

func TestWhatASnapshotNeeds(t *testing.T) {
	r := openKept(t)
	m := keptSnapshots(t, r, nil, 3)[0]
	err := r.Write(t.Context(), repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) error {
		for name, spoil := range map[string]func(*snapshot.Manifest){
			"no host":              func(m *snapshot.Manifest) { m.Source.Host = "" },
			"no user":              func(m *snapshot.Manifest) { m.Source.UserName = "" },
			"no path":              func(m *snapshot.Manifest) { m.Source.Path = "" },
			"a tag that is a name": func(m *snapshot.Manifest) { m.Tags = map[string]string{"type": "other"} },
		} {
			bad := *m
			spoil(&bad)
			if id, err := snapshot.Save(ctx, w, &bad); err == nil {
				t.Errorf("one with %s is saved as %s", name, id)
			}
		}
		old := m.ID
		id, err := snapshot.Save(ctx, w, m)
		if id == old || m.ID != id {
			t.Errorf("saved again it is %s, and was %s", id, old)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	again, err := snapshot.Load(t.Context(), r, m.ID)
	if err != nil || !reflect.DeepEqual(again, m) {
		t.Errorf("%+v comes back as %+v, %v", m, again, err)
	}
	keptSnapshots(t, r, nil, 4)
}

func TestAWalkPassesOverWhatItIsTold(t *testing.T) {
	r := openKept(t)
	m := keptSnapshots(t, r, map[string]string{"tag:files": "attachments"}, 1)[0]
	walk := func(each func(string) error) (seen []string, err error) {
		err = snapshot.Each(t.Context(), r, m.RootEntry, func(at string, e *snapshot.DirEntry) error {
			seen = append(seen, at)
			return each(at)
		})
		return seen, err
	}
	all, err := walk(func(string) error { return nil })
	if err != nil || all[0] != "." || !slices.Contains(all, "files/letters/a.txt") {
		t.Fatal(all, err)
	}
	for i, at := range all[1:] {
		if dir := path.Dir(at); !slices.Contains(all[:i+1], dir) {
			t.Errorf("%s comes before its directory", at)
		}
	}
	some, err := walk(func(at string) error {
		if at == "files" {
			return fs.SkipDir
		}
		return nil
	})
	want := slices.DeleteFunc(slices.Clone(all), func(at string) bool { return strings.HasPrefix(at, "files/") })
	if err != nil || !slices.Equal(some, want) {
		t.Errorf("without the files there are %v, %v", some, err)
	}
	enough := errors.New("enough")
	if some, err = walk(func(at string) error {
		if at == "files" {
			return enough
		}
		return nil
	}); !errors.Is(err, enough) || some[len(some)-1] != "files" {
		t.Errorf("ended it saw %v, %v", some, err)
	}
	if err := snapshot.Each(t.Context(), r, nil, nil); err == nil {
		t.Error("no root is walked")
	}
	notDir := *m.RootEntry
	list, err := snapshot.ReadDir(t.Context(), r, m.RootObjectID())
	if err != nil {
		t.Fatal(err)
	}
	notDir.ObjectID = list.Entries[len(list.Entries)-1].ObjectID
	if err := snapshot.Each(t.Context(), r, &notDir, func(string, *snapshot.DirEntry) error { return nil }); err == nil {
		t.Error("a file is walked as a directory")
	}
}

func TestDirectoriesWithImproperNamesAreRefused(t *testing.T) {
	r := openKept(t)
	err := r.Write(t.Context(), repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) error {
		for name, want := range map[string]bool{"a": true, "...": true, "a b\\c": true, "": false, ".": false, "..": false, "a/b": false, "/": false, "/a": false, "a/": false} {
			id, err := snapshot.WriteDir(ctx, w, "d", &snapshot.DirManifest{Stream: snapshot.DirStream, Entries: []*snapshot.DirEntry{{Name: name}}})
			if err != nil {
				return err
			}
			if _, err := snapshot.ReadDir(ctx, w, id); (err == nil) != want {
				t.Errorf("%q: %v", name, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestJSONOfEntries(t *testing.T) {
	hash := strings.Repeat("0f", 32)
	id, err := repo.ParseObjectID(hash)
	if err != nil {
		t.Fatal(err)
	}
	born := snapshot.Time(1)
	for want, e := range map[string]snapshot.DirEntry{
		`{"obj":""}`: {},
		`{"name":"\u003ca\u003e","type":"f","mode":"0644","size":3,"mtime":"2020-01-02T03:04:05.000000006Z","uid":1000,"gid":1001,"obj":"` + hash + `"}`: {
			Name: "<a>", Type: snapshot.TypeFile, Permissions: 0o644, FileSize: 3, UserID: 1000, GroupID: 1001, ObjectID: id,
			ModTime: snapshot.TimeOf(time.Date(2020, 1, 2, 3, 4, 5, 6, time.FixedZone("", 0)))},
		// No moment at all becomes this one, as it does in vaults that exist: the time is no number that fits.
		`{"name":"d","type":"d","mode":"04000700","mtime":"1754-08-30T22:43:41.128654848Z","btime":"1970-01-01T00:00:00.000000001Z","obj":"","summ":{"size":1,"files":2,"symlinks":3,"dirs":4,"maxTime":"1970-01-01T00:00:00Z","numFailed":0,"numIgnoredErrors":1,"errors":[{"path":"p","error":"e"}]}}`: {
			Name: "d", Type: snapshot.TypeDir, Permissions: snapshot.Permissions(fs.ModeSticky | 0o700), ModTime: snapshot.TimeOf(time.Time{}), BirthTime: &born,
			DirSummary: &snapshot.DirectorySummary{TotalFileSize: 1, TotalFileCount: 2, TotalSymlinkCount: 3, TotalDirCount: 4, IgnoredErrorCount: 1,
				FailedEntries: []*snapshot.EntryError{{Path: "p", Error: "e"}}}},
	} {
		raw, err := json.Marshal(&e)
		if err != nil || string(raw) != want {
			t.Errorf("%s, %v\nshould be\n%s", raw, err, want)
		}
		var back snapshot.DirEntry
		if err := json.Unmarshal(raw, &back); err != nil || !reflect.DeepEqual(back, e) {
			t.Errorf("%+v comes back as %+v, %v", e, back, err)
		}
	}
	for _, bad := range []string{`{"mode":644}`, `{"mode":"rwx"}`, `{"mode":"-01"}`, `{"mtime":"yesterday"}`, `{"mtime":5}`, `{"obj":"x"}`} {
		var e snapshot.DirEntry
		if err := json.Unmarshal([]byte(bad), &e); err == nil {
			t.Errorf("%s is read as %+v", bad, e)
		}
	}
}

func TestTimesComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := snapshot.Time(rapid.Int64().Draw(t, "nanoseconds"))
		raw, err := json.Marshal(at)
		if err != nil {
			t.Fatal(err)
		}
		var back snapshot.Time
		if err := json.Unmarshal(raw, &back); err != nil || back != at || snapshot.TimeOf(at.Time()) != at {
			t.Errorf("%d is %s and comes back as %d, %v", at, raw, back, err)
		}
	})
}
