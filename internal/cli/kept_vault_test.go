package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/redact"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// Scenario 48: a vault that an earlier version wrote is listed, read, proven and restored from, and gone on with; afterwards
// all that was in it is there as it was.
func TestAVaultOfEachEarlierVersionIsReadAndGoneOnWith(t *testing.T) {
	all, err := filepath.Glob(filepath.Join("testdata", "vaults", "*.tar"))
	if err != nil || len(all) == 0 {
		t.Fatalf("no vault is kept: %v", err)
	}
	for _, file := range all {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".tar"), func(t *testing.T) {
			t.Parallel()
			k := unpackKept(t, file)
			k.read(t, len(k.said.Backups), k.said.End)
			k.proves(t)
			k.goesOn(t)
		})
	}
}

// keptVault is one that a version wrote, on this machine's disk.
type keptVault struct {
	root string
	said kept
}

func unpackKept(t *testing.T, file string) keptVault {
	t.Helper()
	k := keptVault{root: t.TempDir()}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	in := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		p := filepath.Join(k.root, filepath.FromSlash(h.Name))
		content, err := io.ReadAll(in)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(p), 0o700)
		}
		if err == nil {
			err = os.WriteFile(p, content, 0o600)
		}
		if err == nil {
			err = os.Chtimes(p, h.ModTime, h.ModTime)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(k.root, "kept.json"))
	if err == nil {
		err = json.Unmarshal(text, &k.said)
	}
	if err != nil || len(k.said.Backups) == 0 || len(k.said.Log) == 0 || len(k.said.Files) == 0 {
		t.Fatalf("kept.json says nothing: %v", err)
	}
	return k
}

func (k keptVault) open(t *testing.T, readOnly bool) *vault.Vault {
	t.Helper()
	v, err := vault.Open(t.Context(), vault.Config{Name: "main", URL: "file://" + filepath.Join(k.root, "vault"), Key: redact.Secret(keptKey),
		Application: "clinic", Host: "h1", ReadOnly: readOnly})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return v
}

// read holds what the vault gives against what was stored. backups and end are how much of it there must be.
func (k keptVault) read(t *testing.T, backups int, end wal.LSN) {
	t.Helper()
	v := k.open(t, true)
	list, err := v.Backups(t.Context(), "records")
	if err != nil || len(list) != backups {
		t.Fatalf("%d backups are listed, want %d: %v", len(list), backups, err)
	}
	for id, want := range k.said.Backups {
		i := slices.IndexFunc(list, func(b vault.Backup) bool { return b.ID == id })
		if i < 0 {
			t.Fatalf("backup %s is not listed", id)
		}
		if b := list[i]; b.Validated() != slices.Contains(k.said.Proven, id) || b.SystemID != keptSystem || b.ServerVersion != 150018 || !b.Checksums {
			t.Errorf("backup %s is listed as %+v", id, b)
		}
		if diff := cmp.Diff(want, backupSums(t, v, id)); diff != "" {
			t.Errorf("backup %s:\n%s", id, diff)
		}
	}
	notes, err := v.Notes(t.Context())
	if err != nil || len(notes) != len(k.said.Pinned) || notes[0].Backup != k.said.Pinned[0] || notes[0].By != "ada" || !notes[0].At.Equal(keptAt) {
		t.Errorf("notes %+v, %v", notes, err)
	}
	k.readLog(t, v, end)
	var state []byte
	bad, err := v.EachState(t.Context(), func(_ vault.SavedState, content []byte) error { state = content; return nil })
	if err != nil || len(bad) > 0 || sum(state) != k.said.State {
		t.Errorf("the saved state: %q, %v, %v", state, bad, err)
	}
}

func (k keptVault) readLog(t *testing.T, v *vault.Vault, end wal.LSN) {
	t.Helper()
	l := v.Log(keptSystem, keptSegment)
	for name, want := range k.said.Log {
		raw, err := l.File(t.Context(), name)
		if err == nil && end > k.said.End && name == wal.SegmentName(2, k.said.End.SegmentStart(keptSegment), keptSegment) {
			n := int(k.said.End - k.said.End.SegmentStart(keptSegment)) // it grew: what was there is its beginning
			raw = append(raw[:n:n], make([]byte, keptSegment-n)...)
		}
		if err != nil || sum(raw) != want {
			t.Errorf("log %s: %d bytes that are not those that were stored, %v", name, len(raw), err)
		}
	}
	h, err := l.History(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	held, err := l.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, got := wal.Reach(h, held, keptSegment, keptSegment); got != end {
		t.Errorf("the log is held up to %s, want %s", got, end)
	}
	at, covered, err := l.Covered(t.Context(), 2)
	if err != nil || at != k.said.End || !covered.Equal(k.said.Covered) {
		t.Errorf("held up to %s at %s, %v", at, covered, err)
	}
}

func backupSums(t *testing.T, v *vault.Vault, id string) map[string]string {
	t.Helper()
	r, err := v.OpenBackup(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{}
	for _, e := range r.Entries() {
		if e.Dir || e.Path == "holdfast-backup.json" {
			continue
		}
		var b bytes.Buffer
		if err := r.Copy(t.Context(), e, &b); err != nil {
			t.Fatal(err)
		}
		sums[e.Path] = sum(b.Bytes())
	}
	return sums
}

// proves asks as an operator does: what is there, is it whole, who signed, and give it back.
func (k keptVault) proves(t *testing.T) {
	t.Helper()
	key := filepath.Join(t.TempDir(), "vault.key")
	if err := os.WriteFile(key, []byte(keptKey), 0o600); err != nil {
		t.Fatal(err)
	}
	alone := func(args ...string) []string {
		return append(args, "--vault", filepath.Join(k.root, "vault"), "--key", key)
	}
	says(t, words(t, 0, alone("vault", "status")...), "of clinic, made", fmt.Sprintf("backups    %d", len(k.said.Backups)))
	says(t, words(t, 0, alone("backup", "list")...), slices.Sorted(maps.Keys(k.said.Backups))...)
	says(t, words(t, 0, alone("vault", "scrub")...), "everything is what was stored")
	says(t, words(t, 0, alone("receipt", "verify", "--public", filepath.Join(k.root, "ca.crt"))...), fmt.Sprintf("%d receipts", k.said.Receipts), "proven. Each was signed")
	back := filepath.Join(t.TempDir(), "back")
	words(t, 0, alone("restore", "files", keptSet, "--to", back)...)
	if diff := cmp.Diff(k.said.Files, sumsBelow(t, back)); diff != "" {
		t.Errorf("the file set came back differently:\n%s", diff)
	}
	k.restores(t)
}

// restores writes a database's files and log to an empty directory, as before a server is started on them.
func (k keptVault) restores(t *testing.T) {
	t.Helper()
	v := k.open(t, true)
	catalogue, err := restore.Load(t.Context(), v, "records")
	if err != nil {
		t.Fatal(err)
	}
	choice, err := restore.Choose(catalogue, restore.Target{Kind: restore.Latest})
	if err != nil || choice.Timeline != 2 || choice.End != k.said.End {
		t.Fatalf("the latest moment is %s on timeline %d: %v", choice.End, choice.Timeline, err)
	}
	owner, err := restore.DefaultOwner()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "records")
	if _, err := restore.Run(t.Context(), restore.Options{Vault: v, Choice: choice, Dir: dir, Owner: owner, Throwaway: true}); err != nil {
		t.Fatal(err)
	}
	for path, want := range k.said.Backups[choice.Backup.ID] {
		raw, err := os.ReadFile(filepath.Join(dir, strings.TrimPrefix(path, vault.DataDir+"/")))
		if err != nil || sum(raw) != want {
			t.Errorf("%s was restored as %d other bytes, %v", path, len(raw), err)
		}
	}
}

// goesOn writes as this version does into what another one wrote: what was there stays, and fits to what comes.
func (k keptVault) goesOn(t *testing.T) {
	t.Helper()
	ctx, v := t.Context(), k.open(t, false)
	l := v.Log(keptSystem, keptSegment)
	last := k.said.End.SegmentStart(keptSegment)
	whole, err := l.File(ctx, wal.SegmentName(2, last, keptSegment))
	if err != nil {
		t.Fatal(err)
	}
	for i := int(k.said.End - last); i < len(whole); i++ {
		whole[i] = byte(i)
	}
	if err := l.PutSegment(ctx, 2, last, whole, keptAt.Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	for name := range k.said.Log { // a server that goes on from an earlier position brings the same again
		tl, at, err := wal.ParseSegmentName(name, keptSegment)
		if err != nil || at == last {
			continue
		}
		raw, err := l.File(ctx, name)
		if err == nil {
			err = l.PutSegment(ctx, tl, at, raw, keptAt)
		}
		if err != nil {
			t.Errorf("segment %s once more: %v", name, err)
		}
		raw[0] ^= 1
		if err := l.PutSegment(ctx, tl, at, raw, keptAt); !isTwice(err) {
			t.Errorf("other content for segment %s: %v", name, err)
		}
	}
	id, _ := keepBackup(t, v, 1)
	list, err := v.Backups(ctx, "records")
	i := slices.IndexFunc(list, func(b vault.Backup) bool { return b.ID == id })
	if err != nil || i < 0 {
		t.Fatalf("the backup that was just made is not listed: %v", err)
	}
	if b := list[i]; b.Stored > b.Bytes/2+8<<10 {
		t.Errorf("of %d bytes that an earlier version had stored %d are stored again", b.Bytes, b.Stored)
	}
	if _, err := l.Bundle(ctx, vault.BundleOptions{Old: -time.Hour, Late: -time.Hour, Count: 2}); err != nil {
		t.Error(err)
	}
	if _, err := v.Compact(ctx, func(context.Context) error { return nil }); err != nil {
		t.Error(err)
	}
	if _, err := v.Reclaim(ctx, vault.ReclaimOptions{}); err != nil {
		t.Error(err)
	}
	k.read(t, len(k.said.Backups)+1, last+keptSegment)
	s, err := k.open(t, true).Scrub(ctx, vault.ScrubOptions{})
	if err != nil || len(s.Damage()) > 0 {
		t.Errorf("behind it: %+v, %v", s.Damage(), err)
	}
}

func isTwice(err error) bool {
	_, ok := errors.AsType[*vault.DuplicateError](err)
	return ok
}
