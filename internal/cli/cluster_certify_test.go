package cli

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/auth"
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

// endsOn puts an operator's certificate in the place of the one that is there, which ends then.
func endsOn(t *testing.T, admin string, until time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: until.AddDate(-1, 0, 0), NotAfter: until}
	cert, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{auth.HostCertFile: {Type: "CERTIFICATE", Bytes: cert}, auth.HostKeyFile: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(filepath.Join(admin, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// The end of the certificate that commands use is told in time, and what it says renews it.
func TestTheEndOfTheOperatorsCertificateIsTold(t *testing.T) {
	dir := t.TempDir()
	root, file := filepath.Join(dir, "root"), filepath.Join(dir, "holdfast.yaml")
	text := "application: clinic\nsites: { east: { hosts: { a: { address: 127.47.3.1 }, b: { address: 127.47.3.2 }, c: { address: 127.47.3.3 } } } }\nservices: { web: { run: /bin/web, instances: 2 } }\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	certify := []string{"cluster", "certify", "a", "--plan", file, "--root", root, "--yes"}
	words(t, 0, certify...)
	status := func() string { return words(t, 1, "status", "--root", root) } // no agent runs there
	if said := status(); strings.Contains(said, "certificate-ends") {
		t.Errorf("of a new one: %s", said)
	}
	for left, says := range map[time.Duration]string{29 * 24 * time.Hour: "ends on", -time.Hour: "has ended on"} {
		endsOn(t, filepath.Join(root, "admin"), time.Now().Add(left))
		if said := status(); !strings.Contains(said, "cli.certificate-ends") || !strings.Contains(said, says) || !strings.Contains(said, "cluster certify") {
			t.Errorf("%s before its end: %s", left, said)
		}
		words(t, 0, certify...)
		if said := status(); strings.Contains(said, "certificate-ends") {
			t.Errorf("renewed: %s", said)
		}
	}
}
