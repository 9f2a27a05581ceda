package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"holdfast/internal/durable"
)

// Files of an authority's folder and of a host's.
const (
	CACertFile    = "ca.crt"     // both; public
	CAKeyFile     = "ca.key"     // authority only; 0600
	HostCertFile  = "host.crt"   // host or operator; public
	HostKeyFile   = "host.key"   // host or operator; 0600
	GossipKeyFile = "gossip.key" // both; 0600
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	hostLife      = 365 * 24 * time.Hour
	// backdate lets a certificate be used at once on a host whose clock is behind the issuer's.
	backdate = time.Hour
)

// ErrExists means that the folder already holds an authority, which is never overwritten: every host trusts it.
var ErrExists = errors.New("a certificate authority exists already")

// Authority issues the certificates of one application. Its key is needed for issuing alone; no running
// process loads it.
type Authority struct {
	Application string
	cert        *x509.Certificate
	key         *ecdsa.PrivateKey
}

// HostCert is what a certificate is to say.
type HostCert struct {
	Name      string   // common name, and always a DNS name of the certificate too
	Role      Role     // zero = Host
	Addresses []net.IP // where the host is dialled by address
	DNSNames  []string // further names, such as a database's listener name
}

// Issued is a certificate and its key, PEM-encoded. Key is secret.
type Issued struct {
	Cert []byte
	Key  []byte
}

// CreateAuthority makes the application's authority in dir (created 0700 if need be): ca.crt, ca.key and
// gossip.key. ErrExists if there is one.
func CreateAuthority(dir, application string) (*Authority, error) {
	if application == "" {
		return nil, errors.New("create a certificate authority: the application has no name")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create a certificate authority: %w", err)
	}
	// ca.crt is written last, so a folder with a key and no certificate is a creation that was cut short, and
	// nobody can have trusted it yet.
	if _, err := os.Lstat(filepath.Join(dir, CACertFile)); err == nil {
		return nil, fmt.Errorf("create a certificate authority in %s: %w", dir, ErrExists)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("create a certificate authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("create a certificate authority: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{application}, CommonName: application + " authority"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("create a certificate authority: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	gossip, err := GossipKey(keyPEM, application)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name string
		data []byte
		perm os.FileMode
	}{
		{CAKeyFile, keyPEM, 0o600},
		{GossipKeyFile, encodeGossip(gossip), 0o600},
		{CACertFile, encodeCert(der), 0o644},
	} {
		if err := durable.WriteFile(filepath.Join(dir, f.name), f.data, f.perm); err != nil {
			return nil, err
		}
	}
	return LoadAuthority(dir)
}

// LoadAuthority reads what CreateAuthority made. An absent one is fs.ErrNotExist.
func LoadAuthority(dir string) (*Authority, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, CACertFile))
	if err != nil {
		return nil, fmt.Errorf("load the certificate authority: %w", err)
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, CAKeyFile))
	if err != nil {
		return nil, fmt.Errorf("load the certificate authority: %w", err)
	}
	cert, err := decodeCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", filepath.Join(dir, CACertFile), err)
	}
	key, err := decodeKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", filepath.Join(dir, CAKeyFile), err)
	}
	if !cert.IsCA || len(cert.Subject.Organization) != 1 {
		return nil, fmt.Errorf("load %s: it is no authority of an application", filepath.Join(dir, CACertFile))
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("load %s: it does not belong to %s beside it", filepath.Join(dir, CAKeyFile), CACertFile)
	}
	return &Authority{Application: cert.Subject.Organization[0], cert: cert, key: key}, nil
}

// Issue makes a key and a certificate that is valid for a year.
func (a *Authority) Issue(h HostCert) (Issued, error) {
	if h.Role == "" {
		h.Role = Host
	}
	if h.Name == "" {
		return Issued{}, errors.New("issue a certificate: it needs a name")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Issued{}, fmt.Errorf("issue a certificate for %s: %w", h.Name, err)
	}
	serial, err := newSerial()
	if err != nil {
		return Issued{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject: pkix.Name{
			Organization:       []string{a.Application},
			OrganizationalUnit: []string{string(h.Role)},
			CommonName:         h.Name,
		},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(hostLife),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	switch h.Role {
	case Host:
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		template.DNSNames = append([]string{h.Name}, h.DNSNames...)
		template.IPAddresses = h.Addresses
	case Admin:
		if len(h.Addresses)+len(h.DNSNames) > 0 {
			return Issued{}, fmt.Errorf("issue a certificate for %s: an operator has no address", h.Name)
		}
	default:
		return Issued{}, fmt.Errorf("issue a certificate for %s: unknown role %q", h.Name, h.Role)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Issued{}, fmt.Errorf("issue a certificate for %s: %w", h.Name, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return Issued{}, err
	}
	return Issued{Cert: encodeCert(der), Key: keyPEM}, nil
}

// WriteHost issues a certificate into dir (created 0700 if need be): ca.crt, host.crt and host.key, and for a
// host gossip.key. An earlier certificate there is replaced; running processes notice.
func (a *Authority) WriteHost(dir string, h HostCert) error {
	issued, err := a.Issue(h)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write the certificate of %s: %w", h.Name, err)
	}
	if h.Role != Admin {
		gossip, err := a.GossipKey()
		if err != nil {
			return err
		}
		if err := durable.WriteFile(filepath.Join(dir, GossipKeyFile), encodeGossip(gossip), 0o600); err != nil {
			return err
		}
	}
	// Between the two renames the pair does not match; readers keep their old pair until it does.
	if err := durable.WriteFile(filepath.Join(dir, HostKeyFile), issued.Key, 0o600); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, HostCertFile), issued.Cert, 0o644); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, CACertFile), encodeCert(a.cert.Raw), 0o644)
}

// Expires tells until when the certificate in a host's or an operator's folder is valid.
func Expires(dir string) (time.Time, error) { return ends(filepath.Join(dir, HostCertFile)) }

// AuthorityExpires tells until when the authority is valid that such a folder, or its own, names.
func AuthorityExpires(dir string) (time.Time, error) { return ends(filepath.Join(dir, CACertFile)) }

func ends(file string) (time.Time, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the certificate: %w", err)
	}
	c, err := decodeCert(b)
	if err != nil {
		return time.Time{}, fmt.Errorf("read %s: %w", file, err)
	}
	return c.NotAfter, nil
}

func newSerial() (*big.Int, error) {
	// 127 bits: positive, and never longer than the 20 octets that RFC 5280 4.1.2.2 allows.
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func decodeCert(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("it holds no PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func decodeKey(b []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("it holds no PEM private key")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it holds a %T, not an ECDSA key", k)
	}
	return key, nil
}
