package consent

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// What is signed, so that no signature can be taken for one of something else.
const (
	requestType = "application/vnd.holdfast.deletion-request.v1+json"
	voteType    = "application/vnd.holdfast.deletion-vote.v1+json"
	// paperMax bounds what is read, in bytes.
	paperMax = 4 << 20
)

// roleOfPersons stands in the certificate of whoever is no host (internal/auth).
const roleOfPersons = "admin"

// sharedName is in the certificate that every machine with the command line has: it says which machine asks, and not who.
const sharedName = "operator"

// PersonName says why a name is none that a person can be told from others by; nil = it is one. Names are small letters, so
// that no two differ by their writing alone.
func PersonName(name string) error {
	switch {
	case name == sharedName:
		return fmt.Errorf("%q is in the certificate of the machine, which whoever works there uses: it stands for no person", name)
	case name == "" || len(name) > 63 || strings.Trim(name, "-.") != name || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "":
		return fmt.Errorf("%q is no person's name (small letters, digits, - and ., such as anna.k)", name)
	}
	return nil
}

// paper is a request or an answer as it is kept.
type paper struct {
	Type        string `json:"type"`
	Payload     string `json:"payload"`     // base64
	Certificate string `json:"certificate"` // of whoever signed, DER in base64
	Sig         string `json:"sig"`         // base64, ECDSA over SHA-256
}

// AuthorityIn finds the certificate of one authority among several, by its fingerprint, or takes the first where that is "". It
// gives nil when it is not there.
func AuthorityIn(all []byte, want string) (certificate []byte, fingerprint string) {
	for {
		block, rest := pem.Decode(all)
		if block == nil {
			return nil, ""
		}
		sum := sha256.Sum256(block.Bytes)
		if is := hex.EncodeToString(sum[:]); block.Type == "CERTIFICATE" && (want == "" || is == want) {
			return pem.EncodeToMemory(block), is
		}
		all = rest
	}
}

// Knows reports whether a paper is of somebody whom the authority knows, rightly signed or not.
func (t Trust) Knows(raw []byte) bool {
	_, err := t.open(raw)
	return !errors.Is(err, errStranger)
}

// errStranger is that a certificate is another authority's, or none that can be read.
var errStranger = errors.New("the application's authority does not know it")

// Person signs with its own certificate.
type Person struct {
	Name        string
	certificate []byte
	key         *ecdsa.PrivateKey
}

// LoadPerson reads a certificate and its key, PEM. A host's and the machine's shared one are refused.
func LoadPerson(certificate, key []byte) (Person, error) {
	block, _ := pem.Decode(certificate)
	if block == nil || block.Type != "CERTIFICATE" {
		return Person{}, errors.New("it holds no PEM certificate")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Person{}, err
	}
	name, err := nameIn(c)
	if err != nil {
		return Person{}, err
	}
	block, _ = pem.Decode(key)
	if block == nil {
		return Person{}, errors.New("its key is not PEM")
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Person{}, fmt.Errorf("read its key: %w", err)
	}
	k, ok := any.(*ecdsa.PrivateKey)
	if !ok || !k.PublicKey.Equal(c.PublicKey) {
		return Person{}, errors.New("the certificate and its key do not belong together")
	}
	return Person{Name: name, certificate: c.Raw, key: k}, nil
}

// nameIn is the person that a certificate stands for.
func nameIn(c *x509.Certificate) (string, error) {
	if len(c.Subject.OrganizationalUnit) != 1 || c.Subject.OrganizationalUnit[0] != roleOfPersons {
		return "", fmt.Errorf("the certificate of %q is a host's: only persons ask and agree", c.Subject.CommonName)
	}
	return c.Subject.CommonName, PersonName(c.Subject.CommonName)
}

// Ask signs a request. id is what an answer names.
func (p Person) Ask(r Request) (raw []byte, id string, err error) {
	r.Format, r.By, r.At = 1, p.Name, r.At.UTC()
	return p.sign(requestType, r)
}

// Answer signs a vote.
func (p Person) Answer(v Vote) ([]byte, error) {
	v.Format, v.By, v.At = 1, p.Name, v.At.UTC()
	raw, _, err := p.sign(voteType, v)
	return raw, err
}

func (p Person) sign(kind string, what any) (raw []byte, hash string, err error) {
	payload, err := json.Marshal(what)
	if err != nil {
		return nil, "", err
	}
	sum := digest(kind, payload)
	sig, err := ecdsa.SignASN1(rand.Reader, p.key, sum[:])
	if err != nil {
		return nil, "", fmt.Errorf("sign as %s: %w", p.Name, err)
	}
	b64 := base64.StdEncoding.EncodeToString
	raw, err = json.Marshal(paper{Type: kind, Payload: b64(payload), Certificate: b64(p.certificate), Sig: b64(sig)})
	return raw, hex.EncodeToString(sum[:]), err
}

// digest is DSSE's pre-authentication encoding, hashed.
func digest(kind string, payload []byte) [sha256.Size]byte {
	return sha256.Sum256(append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(kind), kind, len(payload)), payload...))
}

// person is who signed, as far as that is proven.
type person struct{ name, key string }

// opened is a paper whose signature holds: a request, or else an answer.
type opened struct {
	person
	hash    string
	request *Request
	vote    *Vote
}

// open reads a paper and proves who signed it.
func (t Trust) open(raw []byte) (opened, error) {
	var p paper
	if len(raw) > paperMax {
		return opened{}, fmt.Errorf("%d bytes are no request", len(raw))
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return opened{}, fmt.Errorf("it is no request and no answer: %w", err)
	}
	var parts [3][]byte
	for i, text := range []string{p.Payload, p.Certificate, p.Sig} {
		var err error
		if parts[i], err = base64.StdEncoding.DecodeString(text); err != nil {
			return opened{}, fmt.Errorf("it is no request and no answer: %w", err)
		}
	}
	sum := digest(p.Type, parts[0])
	o := opened{hash: hex.EncodeToString(sum[:])}
	at, into := time.Time{}, any(nil)
	switch p.Type {
	case requestType:
		o.request = &Request{}
		into = o.request
	case voteType:
		o.vote = &Vote{}
		into = o.vote
	default:
		return opened{}, fmt.Errorf("%q is no request and no answer", p.Type)
	}
	if err := json.Unmarshal(parts[0], into); err != nil {
		return opened{}, fmt.Errorf("it is no request and no answer: %w", err)
	}
	if o.request != nil {
		at = o.request.At
	} else {
		at = o.vote.At
	}
	var err error
	if o.person, err = t.who(parts[1], parts[2], sum, at); err != nil {
		return opened{}, err
	}
	if o.vote != nil && o.vote.By != o.name {
		return opened{}, fmt.Errorf("an answer that says it is of %s was signed by %s", o.vote.By, o.name)
	}
	return o, nil
}

// who proves a signature, and whose it is by the authority's word at the time.
func (t Trust) who(certificate, sig []byte, sum [sha256.Size]byte, at time.Time) (person, error) {
	c, err := x509.ParseCertificate(certificate)
	if err != nil {
		return person{}, fmt.Errorf("the certificate of whoever signed cannot be read: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(t.Authority) {
		return person{}, errors.New("there is no authority's certificate here by which persons are known")
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return person{}, fmt.Errorf("the certificate of %q is not this application's: %w: %w", c.Subject.CommonName, errStranger, err)
	}
	if len(c.Subject.Organization) != 1 || c.Subject.Organization[0] != t.Application {
		return person{}, fmt.Errorf("the certificate of %q is of %v", c.Subject.CommonName, c.Subject.Organization)
	}
	name, err := nameIn(c)
	if err != nil {
		return person{}, err
	}
	public, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(public, sum[:], sig) {
		return person{}, fmt.Errorf("what %s is to have signed was changed: the signature does not fit", name)
	}
	key := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return person{name: name, key: hex.EncodeToString(key[:])}, nil
}
