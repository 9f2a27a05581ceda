package vault_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/problem"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/s3store/s3test"
	"holdfast/internal/vault/wal"
)

// place is somewhere for a vault.
type place struct {
	dir  string // where its blobs lie; "" = not in a directory
	conf vault.Config
}

// held is what lies in the place, for whoever goes past the vault.
func (p place) held(t *testing.T) holding {
	t.Helper()
	if p.dir != "" {
		return folder(p.dir)
	}
	conf := p.conf.S3
	conf.URL = p.conf.URL
	return s3test.Reach(t, conf)
}

// keys are those of all tests: stretching one took a third of their time.
var keys vault.Keyring

func config(dir string) vault.Config {
	return vault.Config{Name: "home", URL: "file://" + dir, Key: redact.Secret("a long enough key"), Keys: &keys, Application: "clinic", Host: "h1"}
}

// onEachKind runs a test in each kind of place; at gives an empty one each time.
func onEachKind(t *testing.T, f func(t *testing.T, at func() place)) {
	t.Run("a directory", func(t *testing.T) {
		f(t, func() place {
			dir := filepath.Join(t.TempDir(), "vault")
			return place{dir, config(dir)}
		})
	})
	t.Run("an S3 bucket", func(t *testing.T) {
		server := s3test.Start(t)
		server.Bucket(t, "vaults", false)
		n := 0
		f(t, func() place {
			n++
			conf := config("")
			conf.S3 = server.Config("", "")
			conf.URL = fmt.Sprintf("s3://vaults/clinic/%d", n)
			return place{conf: conf}
		})
	})
}

// emptied makes the folder, where it is one, and gives the address.
func (p place) emptied(t *testing.T) string {
	t.Helper()
	if p.dir == "" {
		return p.conf.URL
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return p.conf.URL
}

func create(t *testing.T) (*vault.Vault, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "vault")
	return createIn(t, place{dir, config(dir)}), dir
}

func createIn(t *testing.T, p place) *vault.Vault {
	t.Helper()
	v, err := vault.Create(t.Context(), p.conf)
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

// differ names the files that are not alike. Comparing megabytes by reflection takes minutes under the race detector.
func differ(want, got map[string][]byte) string {
	var odd []string
	for name := range want {
		if content, ok := got[name]; !ok || !bytes.Equal(content, want[name]) {
			odd = append(odd, fmt.Sprintf("%s: %d bytes, not the %d that were stored", name, len(content), len(want[name])))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			odd = append(odd, name+": nobody stored it")
		}
	}
	slices.Sort(odd)
	return strings.Join(odd, "\n")
}

// fingerprint says what is on the disk: names, sizes, contents. The file that holds room back is 32 MB of nothing; its size is enough.
func fingerprint(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if d.Name() == "room" {
			i, err := d.Info()
			if err == nil {
				out[p] = fmt.Sprintf("%d bytes", i.Size())
			}
			return err
		}
		raw, err := os.ReadFile(p)
		out[p] = fmt.Sprintf("%x", sha256.Sum256(raw))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func wantProblem(t *testing.T, err error, code string) {
	t.Helper()
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok || p.Code != code {
		t.Errorf("got %v, want problem %s", err, code)
	}
}

func TestOpenRefusesWithoutTouchingAnything(t *testing.T) {
	onEachKind(t, openRefusesWithoutTouchingAnything)
}

func openRefusesWithoutTouchingAnything(t *testing.T, at func() place) {
	here := at()
	createIn(t, here)
	held := here.held(t)
	before := sums(t, held)
	cases := []struct {
		name, code string
		change     func(*vault.Config)
	}{
		{"a wrong key", "vault.wrong-key", func(c *vault.Config) { c.Key = redact.Secret("another") }},
		{"no key", "vault.no-key", func(c *vault.Config) { c.Key = redact.Secret("") }},
		{"another application's vault", "vault.foreign", func(c *vault.Config) { c.Application = "bakery" }},
		{"a directory without a vault", "vault.absent", func(c *vault.Config) { c.URL = at().emptied(t) }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg := here.conf
			c.change(&cfg)
			start := time.Now()
			v, err := vault.Open(t.Context(), cfg)
			if err == nil {
				t.Fatal("opened", v.Close(t.Context()))
			}
			wantProblem(t, err, c.code)
			if took := time.Since(start); took > time.Minute { // its patience with a store is longer than that
				t.Errorf("took %s", took)
			}
			if strings.Contains(err.Error(), "another") && c.code == "vault.wrong-key" {
				t.Error("the key is in the message")
			}
			if d := cmp.Diff(before, sums(t, held)); d != "" {
				t.Error(d)
			}
		})
	}
	t.Run("creating where a vault is", func(t *testing.T) {
		_, err := vault.Create(t.Context(), here.conf)
		wantProblem(t, err, "vault.exists")
		if d := cmp.Diff(before, sums(t, held)); d != "" {
			t.Error(d)
		}
	})
	t.Run("creating where something else is", func(t *testing.T) {
		other := at()
		other.emptied(t)
		if err := other.held(t).Write(t.Context(), "letters.txt", []byte("dear")); err != nil {
			t.Fatal(err)
		}
		_, err := vault.Create(t.Context(), other.conf)
		wantProblem(t, err, "vault.not-empty")
	})
	t.Run("an owner forged in vault.json", func(t *testing.T) {
		raw, err := held.Read(t.Context(), "vault.json")
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := held.Write(t.Context(), "vault.json", raw); err != nil {
				t.Error(err)
			}
		}()
		if err := held.Write(t.Context(), "vault.json", bytes.ReplaceAll(raw, []byte("clinic"), []byte("bakery"))); err != nil {
			t.Fatal(err)
		}
		cfg := here.conf
		cfg.Application = "bakery"
		_, err = vault.Open(t.Context(), cfg)
		wantProblem(t, err, "vault.damaged-identity")
	})
}

// sample is a backup's worth of files: empty, small, of many chunks, and two directories.
func sample() map[string][]byte {
	r := rand.NewChaCha8([32]byte{1})
	big := make([]byte, 5<<20+137)
	_, _ = r.Read(big) // never fails
	return map[string][]byte{
		"pgdata/PG_VERSION": []byte("15\n"), "pgdata/base/5/1": big, "pgdata/base/5/2": {},
		"pgdata/global/pg_control": bytes.Repeat([]byte{7}, 8192),
	}
}

func store(t *testing.T, v *vault.Vault, files map[string][]byte) vault.Backup {
	t.Helper()
	w, err := v.Begin(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	w.Dir(vault.Entry{Path: "pgdata/pg_wal", Mode: 0o700})
	for p, content := range files {
		f := w.File(vault.Entry{Path: p, Mode: 0o600, ModTime: time.Unix(1e9, 0)})
		if _, err := f.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := f.Keep(); err != nil {
			t.Fatal(err)
		}
	}
	b, err := w.Commit(vault.Backup{
		Database: "orders", Kind: "full", SystemID: 7, Timeline: 1, Start: 0x2000028, Stop: 0x2000100,
		Started: time.Unix(2e9, 0).UTC(), Stopped: time.Unix(2e9+5, 0).UTC(), ServerVersion: 150018, SegmentSize: wal.DefaultSegmentSize,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func fetch(ctx context.Context, v *vault.Vault, id string) (map[string][]byte, error) {
	r, err := v.OpenBackup(ctx, id)
	if err != nil {
		return nil, err
	}
	got := map[string][]byte{}
	for _, e := range r.Entries() {
		if e.Dir || e.Path == "holdfast-backup.json" {
			continue
		}
		b := bytes.NewBuffer(make([]byte, 0, e.Size)) // one that grows copies all it has again and again
		if err := r.Copy(ctx, e, b); err != nil {
			return nil, err
		}
		got[e.Path] = b.Bytes()
	}
	return got, nil
}

func TestABackupIsSeenAndReadByAnotherProcess(t *testing.T) {
	onEachKind(t, aBackupIsSeenAndReadByAnotherProcess)
}

func aBackupIsSeenAndReadByAnotherProcess(t *testing.T, at func() place) {
	here := at()
	v := createIn(t, here)
	other, err := vault.Open(t.Context(), here.conf) // open before anything is written, as another host has it
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := other.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	want := store(t, v, sample())
	list, err := other.Backups(t.Context(), "orders")
	if err != nil || len(list) != 1 {
		t.Fatalf("lists %v, %v", list, err)
	}
	if d := cmp.Diff(want, list[0]); d != "" {
		t.Error(d)
	}
	got, err := fetch(t.Context(), other, want.ID)
	if err != nil {
		t.Fatal(err)
	}
	if d := differ(sample(), got); d != "" {
		t.Error("read back differently")
	}
	if l, err := other.Backups(t.Context(), "billing"); err != nil || len(l) != 0 {
		t.Errorf("another database lists %v, %v", l, err)
	}
	// The same data again costs next to nothing, and a validation made here is seen there.
	again := store(t, other, sample())
	if again.Stored > 200<<10 {
		t.Errorf("the same files again stored %d bytes", again.Stored)
	}
	if err := other.Mark(t.Context(), want.ID, vault.Validation{Passed: true, At: time.Unix(3e9, 0).UTC()}); err != nil {
		t.Fatal(err)
	}
	list, err = v.Backups(t.Context(), "orders")
	if err != nil || len(list) != 2 {
		t.Fatalf("lists %v, %v", list, err)
	}
	for _, b := range list {
		if b.Validated() != (b.ID == want.ID) {
			t.Errorf("%s validated: %v", b.ID, b.Validated())
		}
	}
}

func TestAnAbortedBackupIsNotListed(t *testing.T) { onEachKind(t, anAbortedBackupIsNotListed) }

func anAbortedBackupIsNotListed(t *testing.T, at func() place) {
	here := at()
	v := createIn(t, here)
	w, err := v.Begin(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	f := w.File(vault.Entry{Path: "pgdata/x"})
	if _, err := f.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	if err := f.Keep(); err != nil {
		t.Fatal(err)
	}
	if err := w.Abort(); err != nil {
		t.Fatal(err)
	}
	if l, err := v.Backups(t.Context(), ""); err != nil || len(l) != 0 {
		t.Errorf("lists %v, %v", l, err)
	}
}

func TestADamagedBlobIsAnErrorAndNeverData(t *testing.T) {
	onEachKind(t, aDamagedBlobIsAnErrorAndNeverData)
}

func aDamagedBlobIsAnErrorAndNeverData(t *testing.T, at func() place) {
	here := at()
	v := createIn(t, here)
	b := store(t, v, sample())
	if n := damageIn(t, here.held(t), func(name string) bool { return strings.HasPrefix(name, "repository/p") }); n == 0 {
		t.Fatal("no pack found to damage")
	}
	fresh, err := vault.Open(t.Context(), here.conf)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := fresh.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if _, err := fetch(t.Context(), fresh, b.ID); err == nil {
		t.Fatal("a flipped bit was read as data")
	}
}

func TestLogSegments(t *testing.T) { onEachKind(t, logSegments) }

func logSegments(t *testing.T, at func() place) {
	here := at()
	v, lies := createIn(t, here), here.held(t)
	ctx := t.Context()
	const size = 1 << 20
	l := v.Log(7, size)
	seg := func(fill byte) []byte { return bytes.Repeat([]byte{fill, 1, 2, 3}, size/4) }
	when := time.UnixMicro(1_800_000_000_000_000).UTC()
	held := func() string {
		t.Helper()
		list, err := l.Held(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var s []string
		for _, h := range list {
			s = append(s, fmt.Sprintf("%d %s-%s", h.Timeline, h.Start, h.End))
		}
		return strings.Join(s, ", ")
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(l.PutPartial(ctx, 1, size, seg(1)[:100], when))
	must(l.PutPartial(ctx, 1, size, seg(1)[:5000], when))
	if got, want := held(), "1 0/100000-0/101388"; got != want {
		t.Errorf("a longer beginning replaces a shorter one: holds %s, want %s", got, want)
	}
	padded, err := l.File(ctx, wal.SegmentName(1, size, size))
	must(err)
	if len(padded) != size || !bytes.Equal(padded[:5000], seg(1)[:5000]) || bytes.Trim(padded[5000:], "\x00") != nil && len(bytes.Trim(padded[5000:], "\x00")) > 0 {
		t.Error("a partial segment is not padded with zeros to its size")
	}
	must(l.PutSegment(ctx, 1, size, seg(1), when))
	must(l.PutSegment(ctx, 1, size, seg(1), when))
	must(l.PutSegment(ctx, 1, 2*size, seg(2), when))
	if got, want := held(), "1 0/100000-0/200000, 1 0/200000-0/300000"; got != want {
		t.Errorf("the whole replaces its beginnings: holds %s, want %s", got, want)
	}
	err = l.PutSegment(ctx, 1, size, seg(9), when)
	if d, ok := errors.AsType[*vault.DuplicateError](err); !ok || len(d.Stored) != 1 {
		t.Errorf("other content for a segment that is held: %v", err)
	}
	got, err := l.File(ctx, wal.SegmentName(1, size, size))
	must(err)
	if !bytes.Equal(got, seg(1)) {
		t.Error("the first content is gone")
	}
	list, err := l.Held(ctx)
	must(err)
	if c, err := l.Covers(ctx, list[0]); err != nil || !c.Equal(when) {
		t.Errorf("covers %s, %v", c, err)
	}
	history := []byte("1\t0/280000\tno recovery target specified\n")
	must(l.PutHistory(ctx, 2, history))
	if h, err := l.History(ctx, 2); err != nil || len(h) != 2 {
		t.Errorf("history %v, %v", h, err)
	}
	if _, err := l.File(ctx, wal.SegmentName(1, 9*size, size)); !errors.Is(err, vault.ErrNotHeld) {
		t.Errorf("a segment that is not there: %v", err)
	}
	if got, err := v.Log(8, size).Held(ctx); err != nil || len(got) != 0 {
		t.Errorf("another cluster's log: %v, %v", got, err)
	}
	// A segment in another's place, and a flipped bit, are both found.
	raw, err := lies.Read(ctx, list[1].Object)
	must(err)
	must(lies.Write(ctx, list[0].Object, raw))
	if _, err := l.Fetch(ctx, list[0]); err == nil {
		t.Error("a segment under another's name was read")
	}
	if damageIn(t, lies, func(name string) bool { return name == list[1].Object }) != 1 {
		t.Fatal("nothing damaged")
	}
	if _, err := l.Fetch(ctx, list[1]); err == nil {
		t.Error("a flipped bit in the log was read as data")
	}
}

func TestAPieceThatGrewSinceItWasListedIsStillRead(t *testing.T) {
	onEachKind(t, aPieceThatGrewSinceItWasListedIsStillRead)
}

func aPieceThatGrewSinceItWasListedIsStillRead(t *testing.T, at func() place) {
	here := at()
	v := createIn(t, here)
	ctx := t.Context()
	const size = 1 << 20
	l := v.Log(7, size)
	full := bytes.Repeat([]byte{1, 2, 3, 4}, size/4)
	if err := l.PutPartial(ctx, 1, 0, full[:100], time.Unix(9, 0)); err != nil {
		t.Fatal(err)
	}
	listed, err := l.Held(ctx)
	if err != nil || len(listed) != 1 {
		t.Fatal(listed, err)
	}
	if err := l.PutSegment(ctx, 1, 0, full, time.Unix(10, 0)); err != nil {
		t.Fatal(err)
	}
	got, err := l.Fetch(ctx, listed[0])
	if err != nil || !bytes.Equal(got, full[:100]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if at, err := l.Covers(ctx, listed[0]); !errors.Is(err, vault.ErrReplaced) || !at.IsZero() {
		t.Errorf("a piece that is gone covers %s, %v", at, err)
	}
}
