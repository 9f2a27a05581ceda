package auth

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// ServerTLS is for a listener of the host whose folder is dir: TLS 1.3, and every client shows a certificate
// of this application. A renewed host certificate is used from the next handshake on.
func ServerTLS(dir string) (*tls.Config, error) {
	roots, own, err := open(dir)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs:  roots,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return own.current()
		},
		VerifyConnection: verifyRole(""),
	}, nil
}

// ClientTLS is for connections from the host or operator whose folder is dir to the server serverName, which
// must show a host's certificate of this application that is valid for that name. With serverName empty the
// caller (net/http, gRPC) sets it from the address it dials.
func ClientTLS(dir, serverName string) (*tls.Config, error) {
	roots, own, err := open(dir)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: serverName,
		RootCAs:    roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return own.current()
		},
		VerifyConnection: verifyRole(Host),
	}, nil
}

// verifyRole runs after the chain was verified, on resumed connections too. The zero Role admits each.
func verifyRole(want Role) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		name, role, err := PeerName(&cs)
		if err != nil {
			return err
		}
		if want != "" && role != want {
			return fmt.Errorf("%s has a certificate of an %s, not of a %s", name, role, want)
		}
		return nil
	}
}

func open(dir string) (*x509.CertPool, *pair, error) {
	b, err := os.ReadFile(filepath.Join(dir, CACertFile))
	if err != nil {
		return nil, nil, fmt.Errorf("load the authority's certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(b) {
		return nil, nil, fmt.Errorf("load %s: it holds no PEM certificate", filepath.Join(dir, CACertFile))
	}
	own := &pair{cert: filepath.Join(dir, HostCertFile), key: filepath.Join(dir, HostKeyFile)}
	if _, err := own.current(); err != nil {
		return nil, nil, err
	}
	return roots, own, nil
}

// pair is a certificate and key on disk, read again when a file changed.
type pair struct {
	cert, key string

	mu     sync.Mutex // guards what follows
	loaded *tls.Certificate
	seen   [2]stamp
}

// stamp tells one version of a file from another.
type stamp struct {
	modified time.Time
	size     int64
}

// current gives the newest pair that is whole: half-replaced or unreadable files leave the last good one in use.
func (p *pair) current() (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, err := p.stamps()
	if err == nil && p.loaded != nil && now == p.seen {
		return p.loaded, nil
	}
	if err == nil {
		var c tls.Certificate
		if c, err = tls.LoadX509KeyPair(p.cert, p.key); err == nil {
			p.loaded, p.seen = &c, now
			return p.loaded, nil
		}
	}
	if p.loaded == nil {
		return nil, fmt.Errorf("load the host's certificate: %w", err)
	}
	return p.loaded, nil
}

func (p *pair) stamps() ([2]stamp, error) {
	c, errC := os.Stat(p.cert)
	k, errK := os.Stat(p.key)
	if err := errors.Join(errC, errK); err != nil {
		return [2]stamp{}, err
	}
	return [2]stamp{{c.ModTime(), c.Size()}, {k.ModTime(), k.Size()}}, nil
}
