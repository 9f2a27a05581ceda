package cli

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/disktest"
	"holdfast/internal/files"
	"holdfast/internal/files/mount"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
)

// A backup is looked into with nothing but the vault and its key, by the command line, until it is told to end.
func TestABackupIsMountedByTheCommandLine(t *testing.T) {
	if _, err := mount.Check(t.TempDir()); err != nil {
		disktest.Cannot(t, "no backup can be shown here: %v", err)
	}
	base := t.TempDir()
	at := func(name string) string { return filepath.Join(base, name) }
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.MkdirAll(at("set/letters"), 0o755))
	check(os.Mkdir(at("look"), 0o755))
	check(os.WriteFile(at("set/letters/one"), []byte("dear practice"), 0o640))
	check(os.WriteFile(at("vault.key"), []byte("the key of the test\n"), 0o600))
	v, err := vault.Create(t.Context(), vault.Config{URL: "file://" + at("vault"), Key: redact.Secret("the key of the test"), Application: "clinic"})
	check(err)
	b, err := files.Backup(t.Context(), files.Options{Vault: v, Set: "attachments", Host: "east-1", Path: at("set")})
	check(err)
	check(v.Close(t.Context()))

	ctx, end := context.WithCancel(t.Context())
	defer end()
	said, out := io.Pipe()
	var trouble bytes.Buffer
	done := make(chan error, 1)
	go func() {
		root := New()
		root.SetArgs([]string{"files", "mount", "attachments", at("look"), "--vault", at("vault"), "--key", at("vault.key")})
		root.SetOut(out)
		root.SetErr(&trouble)
		err := root.ExecuteContext(ctx)
		_ = out.Close() // never fails (io.PipeWriter)
		done <- err
	}()
	var text strings.Builder
	lines := bufio.NewScanner(said)
	for lines.Scan() && text.Len() < 1<<20 {
		text.WriteString(lines.Text() + "\n")
		if strings.HasPrefix(lines.Text(), "end it with") {
			raw, err := os.ReadFile(at("look/letters/one"))
			if err != nil || string(raw) != "dear practice" {
				t.Errorf("read %q, %v", raw, err)
			}
			end()
		}
	}
	if err := <-done; err != nil {
		t.Fatalf("%v\n%s", err, trouble.String())
	}
	for _, want := range []string{"backup " + b.ID + " of " + at("set") + " on east-1", ": 1 files, 13 B\n", "mounted read-only on " + at("look") + ", for this user alone\n", "umount " + at("look") + "\n", at("look") + " is unmounted\n"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, text.String())
		}
	}
	if found, err := os.ReadDir(at("look")); err != nil || len(found) > 0 || trouble.Len() > 0 {
		t.Errorf("left behind: %v, %v; told %q", found, err, trouble.String())
	}
}
