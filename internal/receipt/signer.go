package receipt

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"holdfast/internal/durable"
)

// Files of a signer's directory. The keys are secret: 0600, and never anywhere else.
const (
	keyFile     = "key.pem"
	nextKeyFile = "key.next.pem" // of a rotation that has begun
	voucherType = "application/vnd.holdfast.receipt-key.v1+json"
)

// Voucher is a host's word, by its certificate, that a key signs its receipts.
type Voucher struct {
	Statement   string `json:"statement"`   // base64 of a vouched
	Sig         string `json:"sig"`         // base64, ECDSA over SHA-256
	Certificate string `json:"certificate"` // of the host or operator, DER in base64
	Authority   string `json:"authority"`   // of the application, DER in base64
}

// vouched is what a voucher says.
type vouched struct {
	Key  string    `json:"key"` // Ed25519, base64
	Made time.Time `json:"made"`
}

// Identity is who signs: the certificate that a host or an operator has from the application's authority, as PEM.
type Identity struct {
	Certificate, Key, Authority []byte
}

// LoadIdentity reads the certificate, its key and the authority's certificate from files.
func LoadIdentity(certificate, key, authority string) (id Identity, err error) {
	for _, f := range []struct {
		name string
		to   *[]byte
	}{{certificate, &id.Certificate}, {key, &id.Key}, {authority, &id.Authority}} {
		if *f.to, err = os.ReadFile(f.name); err != nil {
			return id, fmt.Errorf("read who signs receipts: %w", err)
		}
	}
	return id, nil
}

// signer signs with one key.
type signer struct {
	key     ed25519.PrivateKey
	voucher *Voucher
}

func keyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:8])
}

func (s signer) id() string { return keyID(s.key.Public().(ed25519.PublicKey)) }

// sign makes the envelope of a statement.
func (s signer) sign(st Statement) (Receipt, error) {
	payload, err := json.Marshal(st)
	if err != nil {
		return Receipt{}, err
	}
	public := s.key.Public().(ed25519.PublicKey)
	raw, err := json.MarshalIndent(Envelope{
		PayloadType: payloadType, Payload: base64.StdEncoding.EncodeToString(payload), Signer: s.voucher,
		Signatures: []Signature{{KeyID: keyID(public), Key: base64.StdEncoding.EncodeToString(public), Sig: base64.StdEncoding.EncodeToString(ed25519.Sign(s.key, pae(payloadType, payload)))}},
	}, "", " ")
	if err != nil {
		return Receipt{}, err
	}
	return Read(append(raw, '\n'))
}

// loadSigner reads the key in dir, and makes one where there is none; id nil = nobody vouches for it.
func loadSigner(dir, file string, id *Identity, now time.Time) (signer, error) {
	name := filepath.Join(dir, file)
	raw, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		if raw, err = newKey(name, id, now); err != nil {
			return signer{}, fmt.Errorf("make the key that signs receipts: %w", err)
		}
	}
	if err != nil {
		return signer{}, fmt.Errorf("read the key that signs receipts: %w", err)
	}
	if at, err := os.Stat(name); err != nil || at.Mode().Perm()&0o077 != 0 {
		return signer{}, fmt.Errorf("read the key that signs receipts: %s can be read by others (mode %v, %v); make a new one with holdfast receipt rotate after chmod 600", name, at.Mode().Perm(), err)
	}
	s, err := parseKey(raw)
	if err == nil && (s.voucher == nil) != (id == nil) {
		err = errors.New("nobody vouches for it, or somebody does where nobody can")
	}
	if err != nil {
		return signer{}, fmt.Errorf("read the key that signs receipts in %s: %w", name, err)
	}
	return s, nil
}

// newKey draws a key and has it vouched for, if there is somebody. Both are one file, so that neither can be without the other.
func newKey(name string, id *Identity, now time.Time) ([]byte, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	raw := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if id == nil {
		return raw, durable.WriteFile(name, raw, 0o600)
	}
	v, err := vouch(public, *id, now)
	if err != nil {
		return nil, err
	}
	about, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	raw = append(raw, pem.EncodeToMemory(&pem.Block{Type: "HOLDFAST VOUCHER", Bytes: about})...)
	return raw, durable.WriteFile(name, raw, 0o600)
}

func parseKey(raw []byte) (signer, error) {
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != "PRIVATE KEY" {
		return signer{}, errors.New("it holds no PEM private key")
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return signer{}, err
	}
	key, ok := any.(ed25519.PrivateKey)
	if !ok {
		return signer{}, fmt.Errorf("it holds a %T, not an Ed25519 key", any)
	}
	about, _ := pem.Decode(rest)
	if about == nil {
		return signer{key: key}, nil
	}
	if about.Type != "HOLDFAST VOUCHER" {
		return signer{}, errors.New("nobody vouches for it")
	}
	s := signer{key: key, voucher: &Voucher{}}
	return s, json.Unmarshal(about.Bytes, s.voucher)
}

// vouch signs with a certificate's key that public is its holder's.
func vouch(public ed25519.PublicKey, id Identity, now time.Time) (*Voucher, error) {
	certificate, err := oneCertificate(id.Certificate)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	authority, err := oneCertificate(id.Authority)
	if err != nil {
		return nil, fmt.Errorf("read the authority's certificate: %w", err)
	}
	block, _ := pem.Decode(id.Key)
	if block == nil {
		return nil, errors.New("read the certificate's key: it is not PEM")
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the certificate's key: %w", err)
	}
	key, ok := any.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(certificate.PublicKey) {
		return nil, errors.New("the certificate and its key do not belong together")
	}
	// Seconds: a certificate's validity has no more, and one that is used in its first second must not seem too early.
	statement, err := json.Marshal(vouched{Key: base64.StdEncoding.EncodeToString(public), Made: now.UTC().Truncate(time.Second)})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(pae(voucherType, statement))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		return nil, err
	}
	b64 := base64.StdEncoding.EncodeToString
	return &Voucher{Statement: b64(statement), Sig: b64(sig), Certificate: b64(certificate.Raw), Authority: b64(authority.Raw)}, nil
}

func oneCertificate(raw []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("it holds no PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}
