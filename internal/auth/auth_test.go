package auth_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/auth"
)

func authority(t *testing.T, application string) *auth.Authority {
	t.Helper()
	a, err := auth.CreateAuthority(filepath.Join(t.TempDir(), "ca"), application)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func host(t *testing.T, a *auth.Authority, h auth.HostCert) string {
	t.Helper()
	dir := t.TempDir()
	if err := a.WriteHost(dir, h); err != nil {
		t.Fatal(err)
	}
	return dir
}

// handshake lets client talk to server over a real socket and tells what each saw.
func handshake(t *testing.T, server, client *tls.Config) (serverState tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.41.1.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // nothing is pending on it
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := l.Accept()
		if err != nil {
			serverErr = err
			return
		}
		c := tls.Server(raw, server)
		defer func() { _ = c.Close() }() // the handshake's error is the one wanted
		_ = raw.SetDeadline(time.Now().Add(2 * time.Minute))
		if serverErr = c.HandshakeContext(t.Context()); serverErr == nil {
			serverState = c.ConnectionState()
			_, serverErr = c.Write([]byte("ok"))
		}
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, client)
	defer func() { _ = c.Close() }() // the handshake's error is the one wanted
	_ = raw.SetDeadline(time.Now().Add(2 * time.Minute))
	// With TLS 1.3 a client learns of its own rejection only when it reads.
	if clientErr = c.HandshakeContext(t.Context()); clientErr == nil {
		_, clientErr = c.Read(make([]byte, 2))
	}
	_ = c.Close()
	<-done
	return serverState, serverErr, clientErr
}

func serverTLS(t *testing.T, dir string) *tls.Config {
	t.Helper()
	c, err := auth.ServerTLS(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func clientTLS(t *testing.T, dir, name string) *tls.Config {
	t.Helper()
	c, err := auth.ClientTLS(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHandshake(t *testing.T) {
	a, stranger := authority(t, "clinic"), authority(t, "clinic")
	b1 := host(t, a, auth.HostCert{Name: "b1", Addresses: []net.IP{net.ParseIP("127.41.1.1")}, DNSNames: []string{"orders.clinic.holdfast"}})
	b2 := host(t, a, auth.HostCert{Name: "b2"})
	operator := host(t, a, auth.HostCert{Name: "ada", Role: auth.Admin})
	foreign := host(t, stranger, auth.HostCert{Name: "b2"})
	tests := []struct {
		name           string
		server, client *tls.Config
		wantName       string
		wantRole       auth.Role
		refused        bool
	}{
		{"a host knows a host by name", serverTLS(t, b1), clientTLS(t, b2, "b1"), "b2", auth.Host, false},
		{"a host is reached by address", serverTLS(t, b1), clientTLS(t, b2, "127.41.1.1"), "b2", auth.Host, false},
		{"a host is reached by a further name", serverTLS(t, b1), clientTLS(t, b2, "orders.clinic.holdfast"), "b2", auth.Host, false},
		{"an operator is known as one", serverTLS(t, b1), clientTLS(t, operator, "b1"), "ada", auth.Admin, false},
		{"another host's name is refused", serverTLS(t, b1), clientTLS(t, b2, "b3"), "", "", true},
		{"an authority of the same name is still a stranger", serverTLS(t, b1), clientTLS(t, foreign, "b1"), "", "", true},
		{"a client without a certificate is refused", serverTLS(t, b1), &tls.Config{InsecureSkipVerify: true}, "", "", true},
		{"an operator's certificate serves nothing", serverTLS(t, operator), clientTLS(t, b2, "ada"), "", "", true},
		{"TLS 1.2 is refused", serverTLS(t, b1), func() *tls.Config {
			c := clientTLS(t, b2, "b1")
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return c
		}(), "", "", true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			state, serverErr, clientErr := handshake(t, tc.server, tc.client)
			if tc.refused {
				if serverErr == nil && clientErr == nil {
					t.Fatal("the handshake succeeded")
				}
				return
			}
			if serverErr != nil || clientErr != nil {
				t.Fatalf("server: %v, client: %v", serverErr, clientErr)
			}
			name, role, err := auth.PeerName(&state)
			if err != nil || name != tc.wantName || role != tc.wantRole {
				t.Fatalf("peer %q %q, %v", name, role, err)
			}
		})
	}
}

func TestPeerNameNeedsAVerifiedChain(t *testing.T) {
	for _, cs := range []*tls.ConnectionState{nil, {}, {PeerCertificates: []*x509.Certificate{{}}}} {
		if name, _, err := auth.PeerName(cs); !errors.Is(err, auth.ErrNoPeer) {
			t.Errorf("%q, %v", name, err)
		}
	}
}

func TestAuthority(t *testing.T) {
	t.Run("an authority is never overwritten", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := auth.CreateAuthority(dir, "clinic"); err != nil {
			t.Fatal(err)
		}
		before, _ := os.ReadFile(filepath.Join(dir, auth.CACertFile))
		if _, err := auth.CreateAuthority(dir, "clinic"); !errors.Is(err, auth.ErrExists) {
			t.Fatal(err)
		}
		if after, _ := os.ReadFile(filepath.Join(dir, auth.CACertFile)); !bytes.Equal(before, after) {
			t.Fatal("the certificate changed")
		}
	})
	t.Run("a creation that was cut short is begun anew", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := auth.CreateAuthority(dir, "clinic"); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, auth.CACertFile)); err != nil {
			t.Fatal(err)
		}
		if _, err := auth.CreateAuthority(dir, "clinic"); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a missing authority says that it does not exist", func(t *testing.T) {
		if _, err := auth.LoadAuthority(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	})
	t.Run("a key of another authority is refused", func(t *testing.T) {
		a, b := t.TempDir(), t.TempDir()
		for _, dir := range []string{a, b} {
			if _, err := auth.CreateAuthority(dir, "clinic"); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Rename(filepath.Join(b, auth.CAKeyFile), filepath.Join(a, auth.CAKeyFile)); err != nil {
			t.Fatal(err)
		}
		if _, err := auth.LoadAuthority(a); err == nil {
			t.Fatal("loaded")
		}
	})
	t.Run("secrets are readable by their owner alone", func(t *testing.T) {
		dir := t.TempDir()
		a, err := auth.CreateAuthority(dir, "clinic")
		if err != nil {
			t.Fatal(err)
		}
		h := host(t, a, auth.HostCert{Name: "b1"})
		for _, path := range []string{
			filepath.Join(dir, auth.CAKeyFile), filepath.Join(dir, auth.GossipKeyFile),
			filepath.Join(h, auth.HostKeyFile), filepath.Join(h, auth.GossipKeyFile),
		} {
			if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", filepath.Base(path), st.Mode(), err)
			}
		}
	})
	t.Run("a host's certificate lives a year and cannot issue others", func(t *testing.T) {
		issued, err := authority(t, "clinic").Issue(auth.HostCert{Name: "b1"})
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(issued.Cert)
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		left := time.Until(c.NotAfter)
		if c.IsCA || left < 364*24*time.Hour || left > 366*24*time.Hour {
			t.Fatalf("authority: %v, valid for %v", c.IsCA, left)
		}
	})
	t.Run("a certificate needs a name and a known role", func(t *testing.T) {
		a := authority(t, "clinic")
		for _, h := range []auth.HostCert{{}, {Name: "x", Role: "root"}, {Name: "x", Role: auth.Admin, DNSNames: []string{"b1"}}} {
			if _, err := a.Issue(h); err == nil {
				t.Errorf("issued %+v", h)
			}
		}
	})
}

func TestRenewedCertificateIsUsedWithoutRestart(t *testing.T) {
	a := authority(t, "clinic")
	b1, b2 := host(t, a, auth.HostCert{Name: "b1"}), host(t, a, auth.HostCert{Name: "b2"})
	server, client := serverTLS(t, b1), clientTLS(t, b2, "b1")
	serial := func() string {
		t.Helper()
		c, err := server.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.SerialNumber.String()
	}
	first := serial()
	if err := a.WriteHost(b1, auth.HostCert{Name: "b1"}); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Minute) // file times may be coarser than this test is quick
	for _, f := range []string{auth.HostCertFile, auth.HostKeyFile} {
		if err := os.Chtimes(filepath.Join(b1, f), later, later); err != nil {
			t.Fatal(err)
		}
	}
	second := serial()
	if second == first {
		t.Fatal("the old certificate is still in use")
	}
	if _, serverErr, clientErr := handshake(t, server, client); serverErr != nil || clientErr != nil {
		t.Fatalf("server: %v, client: %v", serverErr, clientErr)
	}
	if err := os.WriteFile(filepath.Join(b1, auth.HostCertFile), []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	if serial() != second {
		t.Fatal("a broken file replaced a good certificate")
	}
}

func TestGossipKey(t *testing.T) {
	dir := t.TempDir()
	a, err := auth.CreateAuthority(dir, "clinic")
	if err != nil {
		t.Fatal(err)
	}
	want, err := auth.LoadGossipKey(dir)
	if err != nil || len(want) != 32 {
		t.Fatalf("%d bytes, %v", len(want), err)
	}
	for _, h := range []string{"b1", "b2"} {
		got, err := auth.LoadGossipKey(host(t, a, auth.HostCert{Name: h}))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has another key, %v", h, err)
		}
	}
	other, err := authority(t, "clinic").GossipKey()
	if err != nil || bytes.Equal(other, want) {
		t.Errorf("two applications share a key, %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, auth.GossipKeyFile), []byte("5ecre7"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := auth.LoadGossipKey(dir); err == nil || strings.Contains(err.Error(), "5ecre7") {
		t.Errorf("broken key file: %v", err)
	}
	if _, err := auth.GossipKey([]byte("short"), "clinic"); err == nil {
		t.Error("a short secret was taken")
	}
}
