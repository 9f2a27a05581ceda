package vault_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/s3store"
	"holdfast/internal/vault/s3store/s3test"
	blobs "holdfast/internal/vault/store"
)

// inBucket is a place in a new bucket of a new server.
func inBucket(t *testing.T, lock bool) (place, *s3test.Server) {
	t.Helper()
	server := s3test.Start(t)
	server.Bucket(t, "vaults", lock)
	conf := config("")
	conf.S3, conf.URL = server.Config("", ""), "s3://vaults/clinic"
	return place{conf: conf}, server
}

func TestAnS3VaultThatCannotBeUsedIsAProblem(t *testing.T) {
	here, _ := inBucket(t, false)
	for name, c := range map[string]struct {
		code   string
		change func(*vault.Config)
	}{
		"a bucket that is not there":        {"vault.no-bucket", func(c *vault.Config) { c.URL = "s3://missing/clinic" }},
		"a wrong secret":                    {"vault.denied", func(c *vault.Config) { c.S3.Write.Secret = redact.Secret("hunter2") }},
		"a lock in a bucket without one":    {"vault.no-lock", func(c *vault.Config) { c.S3.Lock = time.Hour }},
		"a bucket without a vault, to open": {"vault.absent", func(*vault.Config) {}},
		"no key, where everything else is":  {"vault.no-key", func(c *vault.Config) { c.Key = redact.Secret("") }},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := here.conf
			c.change(&cfg)
			var err error
			if c.code != "vault.absent" {
				_, err = vault.Create(t.Context(), cfg)
			} else {
				_, err = vault.Open(t.Context(), cfg)
			}
			wantProblem(t, err, c.code)
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the secret is in %v", err)
			}
		})
	}
	if names, err := here.held(t).Names(t.Context(), ""); err != nil || len(names) > 0 {
		t.Errorf("something was written: %v, %v", names, err)
	}
}

// A host that archives needs no right to delete, and what it could not remove hurts nobody.
func TestAnS3VaultIsWrittenWithoutTheRightToDelete(t *testing.T) {
	here, _ := inBucket(t, false)
	here.conf.S3.Delete = s3store.Access{KeyID: "nobody", Secret: redact.Secret("nothing")}
	v := createIn(t, here)
	b := store(t, v, sample())
	if got, err := fetch(t.Context(), v, b.ID); err != nil || differ(sample(), got) != "" {
		t.Errorf("read back differently: %v", err)
	}
	const size = 1 << 20
	l := v.Log(7, size)
	full := bytes.Repeat([]byte{1, 2, 3, 4}, size/4)
	for _, n := range []int{100, 5000} {
		if err := l.PutPartial(t.Context(), 1, size, full[:n], time.Unix(9, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.PutSegment(t.Context(), 1, size, full, time.Unix(10, 0)); err != nil {
		t.Fatal(err)
	}
	held, err := l.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	whole := 0
	for _, h := range held {
		if !h.Partial {
			whole++
		}
		if got, err := l.Fetch(t.Context(), h); err != nil || !bytes.Equal(got, full[:len(got)]) || len(got) != int(h.End-h.Start) {
			t.Errorf("%s: %d bytes, %v", h.Object, len(got), err)
		}
	}
	if whole != 1 || len(held) != 3 {
		t.Errorf("holds %v", held)
	}
}

// A job with nothing but the right to read, on another machine, checks that what the catalog says is stored.
func TestAnS3VaultIsScrubbedWithTheRightToReadAlone(t *testing.T) {
	here, server := inBucket(t, false)
	v := createIn(t, here)
	store(t, v, map[string][]byte{"pgdata/PG_VERSION": []byte("15\n")})
	if err := v.Log(7, 1<<20).PutSegment(t.Context(), 1, 0, make([]byte, 1<<20), time.Unix(10, 0)); err != nil {
		t.Fatal(err)
	}
	conf := here.conf
	conf.S3.Write = server.ReadOnly(t, "vaults")
	raw := conf.S3
	raw.URL = conf.URL
	denied, err := s3store.Open(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	defer denied.Close()
	if err := denied.Replace(t.Context(), "x", blobs.Bytes("x")); !errors.Is(err, blobs.ErrDenied) {
		t.Fatalf("the account for reading may write: %v", err)
	}
	if err := denied.Delete(t.Context(), "vault.json"); !errors.Is(err, blobs.ErrDenied) {
		t.Fatalf("the account for reading may delete: %v", err)
	}
	conf.ReadOnly = true
	r := openAll(t, conf)
	if s := scrub(t, r); len(s.Damage()) > 0 || s.Blobs == 0 || s.Ended.IsZero() {
		t.Errorf("a whole vault: %+v", s)
	}
	held := here.held(t)
	flipped := biggestIn(t, held, "wal/")
	if n := damageIn(t, held, func(name string) bool { return name == flipped }); n != 1 {
		t.Fatal("nothing damaged")
	}
	if err := held.Remove(t.Context(), biggestIn(t, held, "repository/")); err != nil {
		t.Fatal(err)
	}
	if s := scrub(t, r); len(s.Damage()) != 2 {
		t.Errorf("a segment that is damaged and a pack that is lost: %+v", s.Damage())
	}
}

// With lock nobody takes a backup away, not even the store's own root account, and backups go on.
func TestAnS3VaultUnderLockSurvivesAThief(t *testing.T) {
	here, _ := inBucket(t, true)
	here.conf.S3.Lock = 240 * time.Hour
	v := createIn(t, here)
	store(t, v, sample())
	if err := v.Log(7, 1<<20).PutSegment(t.Context(), 1, 0, make([]byte, 1<<20), time.Unix(10, 0)); err != nil {
		t.Fatal(err)
	}
	conf := here.conf.S3
	conf.URL = here.conf.URL
	raw, err := s3store.Open(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for prefix, locked := range map[string]bool{
		"repository/p": true, "repository/q": true, "repository/x": true, "repository/kopia.repository": true, "wal/": true, "vault.json": true,
	} {
		n := 0
		err := raw.List(t.Context(), prefix, func(i blobs.Info) error {
			n++
			if err := here.held(t).Remove(t.Context(), i.Name); s3test.Refused(err) != locked || err != nil && !locked {
				t.Errorf("deleting all versions of %s: %v", i.Name, err)
			}
			return nil
		})
		if err != nil || n == 0 {
			t.Errorf("%d objects begin with %s, %v", n, prefix, err)
		}
	}
	if n, err := v.RenewLocks(t.Context()); n != 0 || err != nil { // all of them are young
		t.Errorf("renewed %d, %v", n, err)
	}
	b := store(t, v, map[string][]byte{"pgdata/PG_VERSION": []byte("16\n")})
	if got, err := fetch(t.Context(), v, b.ID); err != nil || len(got) != 1 {
		t.Errorf("a backup after it: %v", err)
	}
}

// The unmodified kopia program lists and restores what lies in a bucket.
func TestStockProgramReadsAnS3Vault(t *testing.T) {
	kopia := stockProgram(t)
	here, server := inBucket(t, false)
	v := createIn(t, here)
	b := store(t, v, sample())
	home := t.TempDir()
	root := s3test.Root()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), kopia, append(args, "--config-file="+filepath.Join(home, "kopia.config"), "--log-dir="+home)...)
		cmd.Env = append(os.Environ(), "KOPIA_PASSWORD="+here.conf.Key.Reveal(), "KOPIA_CHECK_FOR_UPDATES=false", "HOME="+home, "XDG_CACHE_HOME="+home,
			"AWS_ACCESS_KEY_ID="+root.KeyID, "AWS_SECRET_ACCESS_KEY="+root.Secret.Reveal())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("kopia %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("repository", "connect", "s3", "--bucket=vaults", "--prefix=clinic/repository/", "--endpoint="+server.Address, "--disable-tls", "--region=us-east-1", "--cache-directory="+filepath.Join(home, "cache"))
	list := run("snapshot", "list", "--all", "--json")
	if !strings.Contains(list, b.ID) {
		t.Errorf("kopia snapshot list does not name %s:\n%s", b.ID, list)
	}
	_, after, ok := strings.Cut(list, `"obj":"`)
	if !ok {
		t.Fatalf("no root object in\n%s", list)
	}
	object, _, _ := strings.Cut(after, `"`)
	out := filepath.Join(home, "out")
	run("snapshot", "restore", object, out)
	if d := differ(sample(), readTree(t, out)); d != "" {
		t.Error("restored differently by the stock program")
	}
}

func TestAVaultSaysWhatItHoldsAndWhetherItCanBeWritten(t *testing.T) { onEachKind(t, aVaultSays) }

func aVaultSays(t *testing.T, at func() place) {
	v := createIn(t, at())
	if err := v.TryWrite(t.Context()); err != nil {
		t.Error(err)
	}
	before, err := v.Contents(t.Context())
	if err != nil || before.Objects == 0 || before.Segments != 0 || !before.LastLog.IsZero() {
		t.Errorf("holds %+v, %v", before, err)
	}
	if err := v.Log(7, 1<<20).PutSegment(t.Context(), 1, 0, make([]byte, 1<<20), time.Unix(10, 0)); err != nil {
		t.Fatal(err)
	}
	after, err := v.Contents(t.Context())
	if err != nil || after.Segments != 1 || after.LastLog.IsZero() || after.Bytes <= before.Bytes || after.Objects != before.Objects+1 {
		t.Errorf("then holds %+v, %v", after, err)
	}
}
