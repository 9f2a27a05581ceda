package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// writeCert puts a self-signed certificate for name into files.
func writeCert(t *testing.T, certFile, keyFile, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTLSServesEachNameItsCertificateAndReadsItAgain(t *testing.T) {
	b := httptest.NewServer(application("b"))
	t.Cleanup(b.Close)
	dir := t.TempDir()
	e, at := startEdge(t, testSpec(t)), freeAddr(t)
	var routes []Route
	for _, name := range []string{"one.example", "two.example"} {
		r := webRoute(at, b.Listener.Addr().String())
		r.Service, r.Scheme, r.Host = name, "https", name
		r.CertFile, r.KeyFile = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
		writeCert(t, r.CertFile, r.KeyFile, name)
		routes = append(routes, r)
	}
	e.apply(t, Snapshot{Revision: 1, Routes: routes})
	e.waitUp(t)
	names := func(sni string) *x509.Certificate {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", at,
			&tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if p := c.ConnectionState().NegotiatedProtocol; p != "h2" {
			t.Errorf("negotiated %q, want h2", p)
		}
		return c.ConnectionState().PeerCertificates[0]
	}
	first := names("two.example")
	if got := names("one.example"); got.Subject.CommonName != "one.example" || first.Subject.CommonName != "two.example" {
		t.Errorf("served %s and %s", got.Subject, first.Subject)
	}
	if err := os.WriteFile(routes[1].CertFile, []byte("half written"), 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "status tells of the broken file", func() bool {
		if !names("two.example").Equal(first) {
			t.Fatal("a broken file was served")
		}
		return strings.Contains(strings.Join(e.status(t).Problems, "\n"), "two.example.crt")
	})
	writeCert(t, routes[1].CertFile, routes[1].KeyFile, "two.example")
	waitFor(t, "the new certificate is served", func() bool { return !names("two.example").Equal(first) })
	if p := e.status(t).Problems; len(p) > 0 {
		t.Errorf("problems are left: %q", p)
	}
}
