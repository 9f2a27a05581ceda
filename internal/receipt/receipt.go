// Package receipt is signed evidence of what was done: each receipt is one JSON statement, signed with Ed25519 in a DSSE
// envelope, and names the hash of the one before. Start at [Book.Append], which writes one, and [Verify], which judges any
// number of them with nothing but the authority's certificate. docs/decisions/0026 says why it is so.
package receipt

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"
)

// Kinds of what is receipted.
const (
	Backup     = "backup"
	Validation = "validation"
	Restore    = "restore"
	Switchover = "switchover"
	Failover   = "failover"
	Drill      = "drill"
	Key        = "key" // the signer's next receipts are signed with the key that it names
)

// Outcomes. What could not be found out is no receipt.
const (
	Done   = "done"
	Passed = "passed"
	Failed = "failed"
)

// Event is what was done, as whoever did it tells.
type Event struct {
	Kind    string             `json:"kind"`
	Subject string             `json:"subject"` // a database or a file set of the plan
	Outcome string             `json:"outcome"`
	Says    string             `json:"says"`              // one sentence
	Figures map[string]float64 `json:"figures,omitempty"` // the unit ends the name: stored_bytes, took_seconds, rpo_seconds
	Details json.RawMessage    `json:"details,omitempty"` // of the kind: a validation's checks, say
}

// Statement is what a receipt says. Times are the signing host's clock.
type Statement struct {
	Format      int             `json:"format"` // 1
	Application string          `json:"application"`
	Vault       string          `json:"vault,omitempty"` // identifier of the vault that keeps it; "" = kept on its host alone
	Chain       string          `json:"chain"`
	Sequence    int64           `json:"sequence"`           // 1 and on, without a hole
	Previous    string          `json:"previous,omitempty"` // hash of the one before; "" = it is the first
	At          time.Time       `json:"at"`
	Host        string          `json:"host"`
	Tool        string          `json:"tool"`                // version of the program
	Unvouched   bool            `json:"unvouched,omitempty"` // nobody vouches for its key: it was written where no host of the application is
	Seen        map[string]Head `json:"seen,omitempty"`
	Event
}

// Head is the last receipt of another chain that the writer saw. It shows when the end of that chain is cut off later.
type Head struct {
	Sequence int64  `json:"sequence"`
	Hash     string `json:"hash"` // its beginning, as the vault names it
}

const (
	formatNow   = 1
	payloadType = "application/vnd.holdfast.receipt.v1+json"
	// hashShort is how many digits of a hash a name carries.
	hashShort = 16
	// sizeMax bounds one receipt, in bytes.
	sizeMax = 1 << 20
)

// Envelope is a receipt as it is kept: DSSE (Dead Simple Signing Envelope, version 1), and beside the signature who vouches
// for the key. What vouches proves itself.
type Envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     string      `json:"payload"` // base64
	Signatures  []Signature `json:"signatures"`
	Signer      *Voucher    `json:"signer,omitempty"` // nil = nobody vouches for the key
}

// Signature is one signature over a payload.
type Signature struct {
	KeyID string `json:"keyid"` // SHA-256 of the public key, the first 16 digits
	Key   string `json:"key"`   // the public key, base64
	Sig   string `json:"sig"`   // base64
}

// pae is what is signed: DSSE's pre-authentication encoding.
func pae(kind string, payload []byte) []byte {
	return append([]byte(fmt.Sprintf("DSSEv1 %d %s %d ", len(kind), kind, len(payload))), payload...)
}

// Receipt is one that was read, before anybody has judged it.
type Receipt struct {
	Statement
	Name     string // chain/sequence-hash, as it is kept
	Hash     string // of what is signed
	Envelope Envelope
	Raw      []byte
	payload  []byte
}

// Read takes a receipt apart. That it can be read says nothing of its signature.
func Read(raw []byte) (Receipt, error) {
	r := Receipt{Raw: raw}
	if len(raw) > sizeMax {
		return r, fmt.Errorf("read a receipt: %d bytes are none", len(raw))
	}
	if err := json.Unmarshal(raw, &r.Envelope); err != nil {
		return r, fmt.Errorf("read a receipt: %w", err)
	}
	if r.Envelope.PayloadType != payloadType || len(r.Envelope.Signatures) != 1 {
		return r, errors.New("read a receipt: it is none, or one of another version")
	}
	var err error
	if r.payload, err = base64.StdEncoding.DecodeString(r.Envelope.Payload); err != nil {
		return r, fmt.Errorf("read a receipt: %w", err)
	}
	if err := json.Unmarshal(r.payload, &r.Statement); err != nil {
		return r, fmt.Errorf("read a receipt: %w", err)
	}
	if r.Format != formatNow || r.Sequence < 1 || !goodChain(r.Chain) {
		return r, errors.New("read a receipt: it is of another version, or has no place in a chain")
	}
	sum := sha256.Sum256(pae(payloadType, r.payload))
	r.Hash = hex.EncodeToString(sum[:])
	r.Name = nameOf(r.Chain, r.Sequence, r.Hash)
	return r, nil
}

// ID is how a person names it.
func (r Receipt) ID() string { return fmt.Sprintf("%s/%d", r.Chain, r.Sequence) }

func nameOf(chain string, sequence int64, hash string) string {
	return fmt.Sprintf("%s/%08d-%s", chain, sequence, hash[:hashShort])
}

// ParseName takes a receipt's name apart.
func ParseName(name string) (chain string, sequence int64, short string, ok bool) {
	chain, base := path.Split(name)
	chain = strings.TrimSuffix(chain, "/")
	digits, short, found := strings.Cut(base, "-")
	sequence, err := strconv.ParseInt(digits, 10, 64)
	return chain, sequence, short, found && err == nil && len(digits) >= 8 && sequence > 0 && len(short) == hashShort && goodChain(chain)
}

// goodChain keeps names of chains from leading anywhere.
func goodChain(s string) bool {
	return s != "" && len(s) <= 100 && s != "." && s != ".." && strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	}) < 0
}
