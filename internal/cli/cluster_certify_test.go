package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/local"
)

// A host is certified by command: what to copy is said, no key is shown, and the exit status tells of a refusal.
func TestCertifyByCommand(t *testing.T) {
	dir := t.TempDir()
	root, file := filepath.Join(dir, "root"), filepath.Join(dir, "holdfast.yaml")
	text := "application: clinic\nsites: { east: { hosts: { a: { address: 10.0.0.1 }, b: { address: 10.0.0.2 }, c: { address: 10.0.0.3 } } } }\nservices: { web: { run: /bin/web, instances: 2 } }\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (int, string, string) {
		var out, words bytes.Buffer
		status := Main(append([]string{"cluster", "certify", "--plan", file, "--root", root}, args...), strings.NewReader(""), &out, &words)
		return status, out.String(), words.String()
	}
	status, out, words := run("a")
	if status != 0 || !strings.Contains(out, "hosts/a/tls") || !strings.Contains(out, "founds the application with a, b, c") || !strings.Contains(out, "authority was made") {
		t.Errorf("%d: %s%s", status, out, words)
	}
	key, err := os.ReadFile(filepath.Join(root, "hosts", "a", "tls", "host.key"))
	if err != nil || strings.Contains(out, strings.Split(string(key), "\n")[1]) {
		t.Errorf("the key is shown, or is not there: %v", err)
	}
	for what, args := range map[string][]string{
		"cluster.certified-already": {"a"},
		"no such host":              {"z"},
	} {
		if status, out, words := run(args...); status != 1 || !strings.Contains(words, what) && what != "no such host" {
			t.Errorf("%v: %d: %s%s", args, status, out, words)
		}
	}
	if status, out, words := run("a", "--yes"); status != 0 || strings.Contains(out, "founds the application") || !strings.Contains(out, "certified before") {
		t.Errorf("a founder once more: %d: %s%s", status, out, words)
	}
	status, out, words = run("b", "--out", filepath.Join(dir, "for b"), "--output", "json")
	var told local.Certified
	if err := json.Unmarshal([]byte(out), &told); status != 0 || err != nil || told.Host != "b" || told.Dir != filepath.Join(dir, "for b") || !told.Founds || told.Made {
		t.Errorf("%d, %v: %s%s", status, err, out, words)
	}
}
