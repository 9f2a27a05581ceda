package receipt

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// Trust is whose word counts: who is signed by none of them is a fault. The zero value takes the key and the authority that each
// receipt brings along, which anybody can make: it proves that nothing was changed since, and not by whom it was signed.
type Trust struct {
	authorities []*x509.Certificate
	keys        []ed25519.PublicKey
}

// ParseTrust reads an authority's certificate (ca.crt) or an Ed25519 public key, PEM; both may stand in one file.
func ParseTrust(raw []byte) (Trust, error) {
	var t Trust
	for {
		block, rest := pem.Decode(raw)
		if block == nil {
			break
		}
		switch block.Type {
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return t, fmt.Errorf("read whom to trust: %w", err)
			}
			if !c.IsCA {
				return t, fmt.Errorf("read whom to trust: the certificate of %q is no authority's", c.Subject.CommonName)
			}
			t.authorities = append(t.authorities, c)
		case "PUBLIC KEY":
			k, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				return t, fmt.Errorf("read whom to trust: %w", err)
			}
			key, ok := k.(ed25519.PublicKey)
			if !ok {
				return t, fmt.Errorf("read whom to trust: a %T is no key of receipts", k)
			}
			t.keys = append(t.keys, key)
		default:
			return t, fmt.Errorf("read whom to trust: %q is neither a certificate nor a public key", block.Type)
		}
		raw = rest
	}
	if len(t.authorities)+len(t.keys) == 0 {
		return t, errors.New("read whom to trust: the file holds neither a certificate nor a public key")
	}
	return t, nil
}

// given reports whether somebody said whom to trust.
func (t Trust) given() bool { return len(t.authorities)+len(t.keys) > 0 }

// Signed is who signed a receipt, as far as that is proven.
type Signed struct {
	Key       string `json:"key"`                 // its id
	Name      string `json:"name,omitempty"`      // of the host or operator whose certificate vouches for it
	Role      string `json:"role,omitempty"`      // host or admin
	Authority string `json:"authority,omitempty"` // SHA-256 of the authority's certificate, the first 16 digits
	Trusted   bool   `json:"trusted"`             // by what the verifier was given, not by what the receipt brought along
	Unvouched bool   `json:"unvouched,omitempty"` // no host vouches for the key, and the receipt says so
}

// signature judges the signature of one receipt and who vouches for its key.
func (t Trust) signature(r Receipt) (Signed, error) {
	sig := r.Envelope.Signatures[0]
	raw, err := base64.StdEncoding.DecodeString(sig.Key)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return Signed{}, errors.New("its key cannot be read")
	}
	key := ed25519.PublicKey(raw)
	got, err := base64.StdEncoding.DecodeString(sig.Sig)
	if err != nil || !ed25519.Verify(key, pae(payloadType, r.payload), got) {
		return Signed{}, errors.New("it was changed, or its signature was: the signature does not fit (fields payload, sig)")
	}
	s := Signed{Key: keyID(key)}
	if sig.KeyID != s.Key {
		return s, errors.New("it names another key than the one that it brings along (field keyid)")
	}
	for _, k := range t.keys {
		s.Trusted = s.Trusted || k.Equal(key)
	}
	if s.Unvouched = r.Unvouched; s.Unvouched && r.Envelope.Signer != nil {
		return s, errors.New("it says that nobody vouches for its key, and brings along who does (fields unvouched, signer)")
	}
	if r.Envelope.Signer == nil {
		switch {
		case s.Trusted:
			return s, nil
		case s.Unvouched && t.given():
			return s, fmt.Errorf("no host vouches for key %s, as the receipt says: whoever restored from the vault alone signed it; give that key's public half to be trusted", s.Key)
		case s.Unvouched:
			return s, nil
		}
		return s, errors.New("nobody vouches for its key (field signer)")
	}
	if err := t.voucher(*r.Envelope.Signer, key, r.Statement, &s); err != nil {
		return s, err
	}
	if t.given() && !s.Trusted {
		return s, fmt.Errorf("it is signed with key %s, for which authority %s vouches: neither is among those that were given to be trusted", s.Key, s.Authority)
	}
	return s, nil
}

// voucher judges a host's word for a key.
func (t Trust) voucher(v Voucher, key ed25519.PublicKey, st Statement, s *Signed) error {
	var parts [4][]byte
	for i, text := range []string{v.Statement, v.Sig, v.Certificate, v.Authority} {
		var err error
		if parts[i], err = base64.StdEncoding.DecodeString(text); err != nil {
			return fmt.Errorf("who vouches for its key cannot be read: %w", err)
		}
	}
	certificate, err := x509.ParseCertificate(parts[2])
	if err != nil {
		return fmt.Errorf("the certificate that vouches for its key cannot be read: %w", err)
	}
	authority, err := x509.ParseCertificate(parts[3])
	if err != nil {
		return fmt.Errorf("the authority behind its key cannot be read: %w", err)
	}
	var says vouched
	if err := json.Unmarshal(parts[0], &says); err != nil {
		return fmt.Errorf("who vouches for its key cannot be read: %w", err)
	}
	public, ok := certificate.PublicKey.(*ecdsa.PublicKey)
	sum := sha256.Sum256(pae(voucherType, parts[0]))
	switch {
	case !ok || !ecdsa.VerifyASN1(public, sum[:], parts[1]):
		return errors.New("what vouches for its key was changed: the certificate's signature does not fit")
	case says.Key != base64.StdEncoding.EncodeToString(key):
		return errors.New("what vouches for a key is about another one")
	case st.At.Before(says.Made.Add(-time.Minute)):
		return fmt.Errorf("it is of %s, before its key was made (field at)", st.At.UTC().Format(time.RFC3339))
	}
	trusted, roots := false, []*x509.Certificate{authority}
	for _, a := range t.authorities {
		trusted = trusted || bytes.Equal(a.Raw, authority.Raw)
	}
	if len(t.authorities) > 0 && !trusted {
		return fmt.Errorf("another authority vouches for it: %s, of %v", fingerprint(authority), authority.Subject.Organization)
	}
	pool := x509.NewCertPool()
	for _, c := range roots {
		pool.AddCert(c)
	}
	// At the time at which it vouched: a certificate lives a year, and a receipt longer.
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: says.Made, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("the certificate that vouches for its key is not the authority's: %w", err)
	}
	if len(certificate.Subject.Organization) != 1 || certificate.Subject.Organization[0] != st.Application || len(certificate.Subject.OrganizationalUnit) != 1 {
		return fmt.Errorf("a certificate of %v vouches for a receipt of %s (field application)", certificate.Subject.Organization, st.Application)
	}
	if certificate.Subject.CommonName != st.Host {
		return fmt.Errorf("the certificate of %s vouches for a receipt of %s (field host)", certificate.Subject.CommonName, st.Host)
	}
	s.Name, s.Role, s.Authority, s.Trusted = st.Host, certificate.Subject.OrganizationalUnit[0], fingerprint(authority), s.Trusted || trusted
	return nil
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:8])
}
