package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/auth"
	"holdfast/internal/files"
	"holdfast/internal/host"
	"holdfast/internal/receipt"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// keptAt is when everything in a kept vault happened, but what the vault itself dates.
var keptAt = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const (
	keptKey     = "the key of every kept vault" // it protects nothing: all content is made up here
	keptFirst   = "the key before it was rotated"
	keptSystem  = 7_234_567_890_123_456_789
	keptSegment = 1 << 20
	keptSet     = "attachments"
)

// kept says what was stored in a vault that a version wrote, so that every later version can look for it.
type kept struct {
	Version  string                       `json:"version"` // of the program
	Backups  map[string]map[string]string `json:"backups"` // the SHA-256 of each file, by the backup's identifier and the file's path
	Proven   []string                     `json:"proven"`  // backups
	Pinned   []string                     `json:"pinned"`
	Log      map[string]string            `json:"log"` // by segment's name, padded to its size, and by history's
	End      wal.LSN                      `json:"end"` // of the log on timeline 2
	Covered  time.Time                    `json:"covered"`
	Files    map[string]string            `json:"files"` // of the one backup of the file set
	Receipts int                          `json:"receipts"`
	State    string                       `json:"state"`
}

// TestWriteAKeptVault makes the vault that versions to come must read, once for each release: see testdata/vaults/README.md.
func TestWriteAKeptVault(t *testing.T) {
	out := os.Getenv("HOLDFAST_KEEP_VAULT")
	if out == "" {
		t.Skip("HOLDFAST_KEEP_VAULT names the file that is written at a release")
	}
	if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%s is there: what a version wrote is never replaced (%v)", out, err)
	}
	root := t.TempDir()
	said := keepVault(t, root)
	k := keptVault{root: root, said: said}
	k.read(t, len(said.Backups), said.End) // this version reads what it keeps; the whole test runs on the file
	raw, err := json.MarshalIndent(said, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "kept.json"), raw, 0o600)
	}
	if err == nil {
		err = packKept(root, out, "vault", "ca.crt", "kept.json")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// keepVault writes a vault below root as hosts of a plan do, each kind of thing once, and says what it holds.
func keepVault(t *testing.T, root string) kept {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	conf := vault.Config{Name: "main", URL: "file://" + filepath.Join(root, "vault"), Key: redact.Secret(keptFirst), Application: "clinic", Host: "h1"}
	v, err := vault.Create(ctx, conf)
	must(err)
	must(v.Rotate(ctx, redact.Secret(keptFirst), redact.Secret(keptKey)))
	must(v.Close(ctx))
	conf.Key = redact.Secret(keptKey)
	v, err = vault.Open(ctx, conf)
	must(err)
	defer func() { must(v.Close(context.Background())) }()
	said := kept{Version: version, Backups: map[string]map[string]string{}, Log: map[string]string{}}
	for n := range 2 {
		id, sums := keepBackup(t, v, n)
		said.Backups[id] = sums
		must(v.Mark(ctx, id, vault.Validation{Passed: true, At: keptAt, Checks: []vault.Check{{Name: "restore", Outcome: "passed"}}}))
		said.Proven = append(said.Proven, id)
		if n == 0 {
			must(v.PutNote(ctx, vault.Note{Backup: id, Kind: vault.Pin, By: "ada", At: keptAt, Reason: "before the move"}))
			said.Pinned = append(said.Pinned, id)
		}
	}
	keepLog(t, v, &said)
	said.Files = keepFiles(t, v, filepath.Join(root, "set"))
	state := []byte(`{"agreed":"state"}`)
	_, err = v.PutState(ctx, keptAt, 41, state)
	must(err)
	said.State = sum(state)
	said.Receipts = keepReceipts(t, v, root)
	s, err := v.Scrub(ctx, vault.ScrubOptions{})
	must(err)
	must(v.RecordScrub(ctx, s))
	return said
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// keptFile is what the n-th backup has in a file: most of it in common with the others.
func keptFile(path string, n int) []byte {
	b := bytes.Repeat([]byte(path+"\n"), 600)
	copy(b[len(b)/2:], fmt.Sprintf("backup %d", n))
	return b
}

func keepBackup(t *testing.T, v *vault.Vault, n int) (id string, sums map[string]string) {
	t.Helper()
	w, err := v.Begin(t.Context(), "base backup")
	if err != nil {
		t.Fatal(err)
	}
	sums = map[string]string{}
	w.Dir(vault.Entry{Path: "pgdata/pg_wal", Mode: 0o700, ModTime: keptAt})
	for _, path := range []string{"pgdata/PG_VERSION", "pgdata/backup_label", "pgdata/base/5/1259", "pgdata/base/5/empty", "pgdata/global/pg_control"} {
		content := keptFile(path, n)
		switch path {
		case "pgdata/PG_VERSION":
			content = []byte("15\n")
		case "pgdata/base/5/empty":
			content = nil
		}
		f := w.File(vault.Entry{Path: path, Mode: 0o600, ModTime: keptAt})
		if _, err = f.Write(content); err == nil {
			err = f.Keep()
		}
		if err != nil {
			t.Fatal(err)
		}
		sums[path] = sum(content)
	}
	at := keptAt.Add(time.Duration(n) * time.Minute)
	start := wal.LSN(n+1)*keptSegment + 40
	b, err := w.Commit(vault.Backup{Database: "records", Kind: "full", Host: "h1", SystemID: keptSystem, Timeline: 1, Start: start, Stop: start + 216,
		Started: at, Stopped: at.Add(5 * time.Second), ServerVersion: 150018, SegmentSize: keptSegment, Superuser: "postgres", Checksums: true})
	if err != nil {
		t.Fatal(err)
	}
	return b.ID, sums
}

// keepLog stores segments one by one and in a bundle, a second timeline, and the beginning of a segment at its end.
func keepLog(t *testing.T, v *vault.Vault, said *kept) {
	t.Helper()
	ctx, l := t.Context(), v.Log(keptSystem, keptSegment)
	segment := func(n int) []byte { return bytes.Repeat([]byte(fmt.Sprintf("%08d", n)), keptSegment/8) }
	put := func(timeline uint32, n int) {
		t.Helper()
		at := wal.LSN(n * keptSegment)
		if err := l.PutSegment(ctx, timeline, at, segment(n), keptAt.Add(time.Duration(n)*time.Minute)); err != nil {
			t.Fatal(err)
		}
		said.Log[wal.SegmentName(timeline, at, keptSegment)] = sum(segment(n))
	}
	for n := 1; n <= 3; n++ {
		put(1, n)
	}
	done, err := l.Bundle(ctx, vault.BundleOptions{Old: -time.Hour, Late: -time.Hour, Count: 3})
	if err != nil || done.Bundles != 1 {
		t.Fatal(done, err)
	}
	put(1, 4)
	history := []byte("1\t0/580000\tno recovery target specified\n")
	if err := l.PutHistory(ctx, 2, history); err != nil {
		t.Fatal(err)
	}
	said.Log[wal.HistoryName(2)] = sum(history)
	put(2, 5)
	last, part := wal.LSN(6*keptSegment), segment(6)[:10_000]
	said.Covered = keptAt.Add(time.Hour)
	if err := l.PutPartial(ctx, 2, last, part, said.Covered); err != nil {
		t.Fatal(err)
	}
	said.End = last + wal.LSN(len(part))
	said.Log[wal.SegmentName(2, last, keptSegment)] = sum(append(bytes.Clone(part), make([]byte, keptSegment-len(part))...))
	if err := l.PutCovered(ctx, 2, said.End, said.Covered); err != nil {
		t.Fatal(err)
	}
}

// keepFiles backs a directory up as a file set: with a link, a hard link, a hole and a name that is no UTF-8.
func keepFiles(t *testing.T, v *vault.Vault, dir string) map[string]string {
	t.Helper()
	err := os.MkdirAll(filepath.Join(dir, "letters"), 0o750)
	for name, content := range map[string]string{"letters/a.txt": "a letter\n", "letters/\xff.txt": "no UTF-8\n", "empty": ""} {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), []byte(content), 0o640)
		}
	}
	if err == nil {
		err = errors.Join(os.Symlink("letters/a.txt", filepath.Join(dir, "newest")), os.Link(filepath.Join(dir, "letters", "a.txt"), filepath.Join(dir, "again.txt")))
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "holes"), []byte("x"), 0o600)
	}
	if err == nil {
		err = os.Truncate(filepath.Join(dir, "holes"), 1<<20)
	}
	if err == nil {
		_, err = files.Backup(t.Context(), files.Options{Vault: v, Set: keptSet, Host: "h1", Path: dir})
	}
	if err != nil {
		t.Fatal(err)
	}
	return sumsBelow(t, dir)
}

// sumsBelow describes what lies in a directory, by names as [files.Spelled] writes them.
func sumsBelow(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		what := info.Mode().String()
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			what = "to " + to
		case info.Mode().IsRegular():
			raw, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			what += " " + sum(raw)
		}
		rel, err := filepath.Rel(dir, p)
		out[files.Spelled(rel)] = what
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// keepReceipts writes receipts as a host does, and leaves the certificate of who vouches for it in root.
func keepReceipts(t *testing.T, v *vault.Vault, root string) int {
	t.Helper()
	certs := filepath.Join(root, "certs")
	ca, err := auth.CreateAuthority(filepath.Join(root, "ca"), "clinic")
	if err == nil {
		err = ca.WriteHost(certs, auth.HostCert{Name: "h1"})
	}
	if err != nil {
		t.Fatal(err)
	}
	book, err := host.ReceiptBook(filepath.Join(root, "receipts"), certs, "clinic", "h1", version)
	if err != nil {
		t.Fatal(err)
	}
	kinds := []string{receipt.Validation, receipt.Restore}
	for _, kind := range kinds {
		_, err := book.Append(t.Context(), v.Identity().ID, v, receipt.Event{Kind: kind, Subject: "records", Outcome: receipt.Passed, Says: "looked at"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(certs, auth.CACertFile))
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "ca.crt"), raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	names, err := v.ReceiptNames(t.Context())
	if err != nil || len(names) < len(kinds) {
		t.Fatal(names, err)
	}
	return len(names)
}

// packKept writes what lies below root under these names as one tar file. Times stay: a vault's place dates what it holds.
func packKept(root, out string, names ...string) error {
	f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	for _, name := range names {
		err = errors.Join(err, filepath.WalkDir(filepath.Join(root, name), func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			rel, err := filepath.Rel(root, p)
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			raw, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			h := &tar.Header{Name: rel, Mode: 0o600, Size: int64(len(raw)), ModTime: info.ModTime(), Format: tar.FormatPAX}
			if err := w.WriteHeader(h); err != nil {
				return err
			}
			_, err = w.Write(raw)
			return err
		}))
	}
	return errors.Join(err, w.Close(), f.Close())
}
