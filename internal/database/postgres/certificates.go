package postgres

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"holdfast/internal/database"
	"holdfast/internal/durable"
)

// Files of layout.tls.
const (
	caFile   = "ca.crt"
	certFile = "host.crt"
	keyFile  = "host.key"
)

// streamKey is the key that the stream of one epoch uses. Recruit removes it before it looks for receivers: one
// that starts later with the old settings has nothing to log in with.
func (s *Server) streamKey(epoch int64) string {
	return filepath.Join(s.at.tls, fmt.Sprintf("stream-%d.key", epoch))
}

// copyCertificates brings the host's certificates to where PostgreSQL's user may read them.
func (s *Server) copyCertificates() error {
	for name, mode := range map[string]os.FileMode{caFile: 0o644, certFile: 0o644, keyFile: 0o600} {
		b, err := os.ReadFile(filepath.Join(s.cfg.CertDir, name))
		if err != nil {
			return fmt.Errorf("copy the host's certificate: %w", err)
		}
		to := filepath.Join(s.at.tls, name)
		if err := durable.WriteFile(to, b, mode); err != nil {
			return err
		}
		if err := s.owner.own(to); err != nil {
			return err
		}
	}
	return nil
}

// RenewCertificates brings a renewed host certificate to the server, which uses it for the next connection.
// Nothing happens when the copies are what they should be.
func (s *Server) RenewCertificates() error {
	s.op.Lock()
	defer s.op.Unlock()
	same := true
	for _, name := range []string{caFile, certFile, keyFile} {
		want, err := os.ReadFile(filepath.Join(s.cfg.CertDir, name))
		if err != nil {
			return fmt.Errorf("renew the server's certificate: %w", err)
		}
		have, err := os.ReadFile(filepath.Join(s.at.tls, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // nothing was ever started here
		}
		if err != nil {
			return fmt.Errorf("renew the server's certificate: %w", err)
		}
		same = same && bytes.Equal(have, want)
	}
	if same {
		return nil
	}
	if err := s.copyCertificates(); err != nil {
		return err
	}
	d, err := readDynamic(s.at.data)
	if err == nil && epochOf(d.conninfo) != 0 {
		err = s.makeStreamKey(epochOf(d.conninfo))
	}
	if err != nil {
		return fmt.Errorf("renew the server's certificate: %w", err)
	}
	if err := s.signal(syscall.SIGHUP); err != nil && !errors.Is(err, errNotRunning) {
		return err
	}
	s.log.Info("certificate renewed")
	return nil
}

func (s *Server) makeStreamKey(epoch int64) error {
	b, err := os.ReadFile(filepath.Join(s.cfg.CertDir, keyFile))
	if err != nil {
		return fmt.Errorf("copy the host's key: %w", err)
	}
	if err := durable.WriteFile(s.streamKey(epoch), b, 0o600); err != nil {
		return err
	}
	return s.owner.own(s.streamKey(epoch))
}

// removeStreamKeys takes away the keys of every epoch, durably.
func (s *Server) removeStreamKeys() error {
	keys, err := filepath.Glob(filepath.Join(s.at.tls, "stream-*.key"))
	if err != nil {
		return fmt.Errorf("list the stream keys: %w", err)
	}
	for _, k := range keys {
		if err := os.Remove(k); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("remove the stream key: %w", err)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	return durable.SyncDir(s.at.tls)
}

// verifiedName is what the server certificate of a peer must carry.
func (s *Server) verifiedName(p database.Endpoint) string {
	if s.cfg.ServerName != "" {
		return s.cfg.ServerName
	}
	return p.Host
}

// conninfo is a libpq connection string to a peer, with this host's certificate. It holds no secret.
func (s *Server) conninfo(p database.Endpoint, name, key string, more ...string) string {
	fields := []string{
		"host=" + s.verifiedName(p), "hostaddr=" + p.Address, "port=" + strconv.Itoa(p.Port), "user=" + Superuser,
		"application_name=" + name, "sslmode=verify-full", "sslcert=" + filepath.Join(s.at.tls, certFile), "sslkey=" + key,
		"sslrootcert=" + filepath.Join(s.at.tls, caFile), "connect_timeout=2", "gssencmode=disable",
		"keepalives_idle=2", "keepalives_interval=1", "keepalives_count=3", "tcp_user_timeout=5000",
	}
	fields = append(fields, more...)
	for i, f := range fields {
		k, v, _ := strings.Cut(f, "=")
		fields[i] = k + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "'"
	}
	return strings.Join(fields, " ")
}

// sourceOf reads which peer a stream's connection string leads to; "" = none that is known.
func (s *Server) sourceOf(conninfo string) string {
	for _, p := range s.cfg.Peers {
		if strings.Contains(conninfo, "hostaddr='"+p.Address+"' port='"+strconv.Itoa(p.Port)+"'") {
			return p.Host
		}
	}
	return ""
}

// epochOf reads the epoch out of the name in a stream's connection string; 0 = there is none.
func epochOf(conninfo string) int64 {
	_, rest, ok := strings.Cut(conninfo, "application_name='")
	name, _, _ := strings.Cut(rest, "'")
	_, number, found := strings.Cut(name, "@")
	epoch, err := strconv.ParseInt(number, 10, 64)
	if !ok || !found || err != nil {
		return 0
	}
	return epoch
}

// peerTLS is for our own sessions with a peer's server.
func (s *Server) peerTLS(p database.Endpoint) (*tls.Config, error) {
	ca, err := os.ReadFile(filepath.Join(s.cfg.CertDir, caFile))
	if err != nil {
		return nil, fmt.Errorf("load the authority's certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("load the authority's certificate: %s holds none", filepath.Join(s.cfg.CertDir, caFile))
	}
	own, err := tls.LoadX509KeyPair(filepath.Join(s.cfg.CertDir, certFile), filepath.Join(s.cfg.CertDir, keyFile))
	if err != nil {
		return nil, fmt.Errorf("load the host's certificate: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{own}, ServerName: s.verifiedName(p)}, nil
}
