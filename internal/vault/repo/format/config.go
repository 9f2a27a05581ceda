package format

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// The one algorithm of each kind that vaults are made with, by kopia's names.
const (
	hashName       = "BLAKE3-256"
	encryptionName = "AES256-GCM-HMAC-SHA256"
	wrapName       = "AES256_GCM"
	derivationName = "scrypt-65536-8-1" // N, r and p are part of the name
	scryptN        = 65536
	scryptR        = 8
	scryptP        = 1

	version      = 3
	indexVersion = 2
	// indexFeature is the only feature that a repository may demand and this program has: reading the second version of the index.
	indexFeature = "index-v2"
)

// outer is the format blob as it is stored (kopia's KopiaRepositoryJSON).
type outer struct {
	Tool           string `json:"tool"`
	BuildVersion   string `json:"buildVersion"`
	BuildInfo      string `json:"buildInfo"`
	UniqueID       []byte `json:"uniqueID"`
	KeyDerivation  string `json:"keyAlgo"`
	Encryption     string `json:"encryption"`
	EncryptedBytes []byte `json:"encryptedBlockFormat,omitempty"` // nonce, ciphertext, tag
}

// sealed is what lies inside the seal.
type sealed struct {
	Format config `json:"format"`
}

// config is what a repository is (kopia's RepositoryConfig, whose parts lie flat in one object).
type config struct {
	Hash               string `json:"hash,omitempty"`
	Encryption         string `json:"encryption,omitempty"`
	ECC                string `json:"ecc,omitempty"`
	ECCOverheadPercent int    `json:"eccOverheadPercent,omitempty"` // 0 = no error correction, whatever ECC names
	HashSecret         []byte `json:"secret,omitempty"`
	MasterKey          []byte `json:"masterKey,omitempty"`

	Version         int    `json:"version,omitempty"`
	MaxPackSize     int    `json:"maxPackSize,omitempty"`
	IndexVersion    int    `json:"indexVersion,omitempty"`
	EpochParameters Epochs `json:"epochParameters"`

	// EnablePasswordChange is false in repositories older than version 2, whose keys come from the password.
	EnablePasswordChange bool   `json:"enablePasswordChange"`
	Splitter             string `json:"splitter,omitempty"`

	UpgradeLock      *upgradeLock `json:"upgradeLock,omitempty"`
	RequiredFeatures []required   `json:"requiredFeatures,omitempty"`
}

// upgradeLock is set while somebody moves the repository to another format, and expects to be alone.
type upgradeLock struct {
	OwnerID string `json:"ownerID,omitempty"`
	Message string `json:"message,omitempty"`
}

// required is a feature that whoever opens the repository must know.
type required struct {
	Feature         string `json:"feature"`
	IfNotUnderstood struct {
		Warn    bool   `json:"warn"` // going on without it does no harm
		Message string `json:"message,omitempty"`
	} `json:"ifNotUnderstood"`
}

// Epochs are the parameters of the index's epochs, with the JSON names that kopia gives them (internal/epoch.Parameters).
type Epochs struct {
	Enabled                               bool
	EpochRefreshFrequency                 time.Duration // how long the list of index blobs is trusted
	FullCheckpointFrequency               int           // epochs between range checkpoints
	CleanupSafetyMargin                   time.Duration // a replaced index blob stays at least as long
	MinEpochDuration                      time.Duration
	EpochAdvanceOnCountThreshold          int   // index blobs
	EpochAdvanceOnTotalSizeBytesThreshold int64 // of index blobs
	DeleteParallelism                     int
}

// DefaultEpochs are those of every new repository, as kopia sets them.
func DefaultEpochs() Epochs {
	return Epochs{
		Enabled: true, EpochRefreshFrequency: 20 * time.Minute, FullCheckpointFrequency: 7, CleanupSafetyMargin: 4 * time.Hour, MinEpochDuration: 24 * time.Hour,
		EpochAdvanceOnCountThreshold: 20, EpochAdvanceOnTotalSizeBytesThreshold: 10 << 20, DeleteParallelism: 4,
	}
}

func newConfig(n New, hashSecret, masterKey []byte) config {
	return config{
		Hash: hashName, Encryption: encryptionName, HashSecret: hashSecret, MasterKey: masterKey,
		Version: version, MaxPackSize: n.MaxPackSize, IndexVersion: indexVersion, EpochParameters: DefaultEpochs(),
		EnablePasswordChange: true, Splitter: n.Splitter,
	}
}

func parseConfig(plain []byte) (config, error) {
	var s sealed
	if err := json.Unmarshal(plain, &s); err != nil {
		return config{}, fmt.Errorf("decode the format inside its seal: %w: %w", ErrDamaged, err)
	}
	return s.Format, s.Format.check()
}

// check says why a repository cannot be used.
func (c *config) check() error {
	for _, one := range []struct {
		not  bool
		what string
	}{
		{c.Version != version, fmt.Sprintf("format version %d", c.Version)},
		{c.IndexVersion != indexVersion, fmt.Sprintf("index version %d", c.IndexVersion)},
		{c.Hash != hashName, fmt.Sprintf("hash %q", c.Hash)},
		{c.Encryption != encryptionName, fmt.Sprintf("encryption %q", c.Encryption)},
		{c.ECCOverheadPercent != 0, fmt.Sprintf("error correction %q", c.ECC)},
		{!c.EnablePasswordChange, "keys that come from the password"},
		{!c.EpochParameters.Enabled, "an index without epochs"},
	} {
		if one.not {
			return fmt.Errorf("%w: %s", ErrTooNew, one.what)
		}
	}
	if err := c.checkFeatures(); err != nil {
		return err
	}
	switch {
	case len(c.HashSecret) < keyBytes || len(c.MasterKey) < keyBytes:
		return fmt.Errorf("read the format: %w: keys of %d and %d bytes", ErrDamaged, len(c.HashSecret), len(c.MasterKey))
	case c.MaxPackSize <= 0 || c.MaxPackSize > maxPackSize:
		return fmt.Errorf("read the format: %w: packs of %d bytes", ErrDamaged, c.MaxPackSize)
	case c.EpochParameters.EpochRefreshFrequency <= 0 || c.EpochParameters.MinEpochDuration <= 0 || c.EpochParameters.FullCheckpointFrequency <= 0:
		return fmt.Errorf("read the format: %w: epochs of %+v", ErrDamaged, c.EpochParameters)
	}
	return nil
}

func (c *config) checkFeatures() error {
	var unknown []string
	for _, r := range c.RequiredFeatures {
		if r.Feature != indexFeature && !r.IfNotUnderstood.Warn {
			unknown = append(unknown, strings.TrimSpace(fmt.Sprintf("feature %q %s", r.Feature, r.IfNotUnderstood.Message)))
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("%w: %s", ErrTooNew, strings.Join(unknown, ", "))
	}
	if l := c.UpgradeLock; l != nil {
		return fmt.Errorf("%w: %q moves it to another format: %s", ErrTooNew, l.OwnerID, l.Message)
	}
	return nil
}

func newOuter(id []byte) outer {
	return outer{Tool: "holdfast", UniqueID: slices.Clone(id), KeyDerivation: derivationName, Encryption: wrapName}
}

func parseOuter(blob []byte) (outer, error) {
	var o outer
	if err := json.Unmarshal(blob, &o); err != nil {
		return o, fmt.Errorf("decode the format: %w: %w", ErrDamaged, err)
	}
	switch {
	case o.KeyDerivation == "" || o.Encryption == "" || len(o.UniqueID) < 16 || len(o.EncryptedBytes) < nonceBytes+tagBytes:
		return o, fmt.Errorf("decode the format: %w: parts are missing", ErrDamaged)
	case o.KeyDerivation != derivationName:
		return o, fmt.Errorf("%w: keys derived with %q", ErrTooNew, o.KeyDerivation)
	case o.Encryption != wrapName:
		return o, fmt.Errorf("%w: a format sealed with %q", ErrTooNew, o.Encryption)
	}
	return o, nil
}

// unwrap opens the seal.
func (o outer) unwrap(keys *Keyring, password string) ([]byte, error) {
	aead, associated, err := o.aead(keys, password)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, o.EncryptedBytes[:nonceBytes], o.EncryptedBytes[nonceBytes:], associated)
	if err != nil {
		return nil, ErrWrongPassword
	}
	return plain, nil
}

// wrap gives the blob with plain in it.
func (o outer) wrap(plain []byte, keys *Keyring, password string, random io.Reader) ([]byte, error) {
	aead, associated, err := o.aead(keys, password)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, nonceBytes, nonceBytes+len(plain)+tagBytes)
	if _, err := io.ReadFull(random, nonce); err != nil {
		return nil, fmt.Errorf("draw a nonce: %w", err)
	}
	o.EncryptedBytes = aead.Seal(nonce, nonce, plain, associated)
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	if err := e.Encode(o); err != nil {
		return nil, fmt.Errorf("encode the format: %w", err)
	}
	return b.Bytes(), nil
}

// aead gives the cipher of the seal and the data that it authenticates beside (kopia's internal/crypto/aesgcm.go): both are
// derived from what the password gives.
func (o outer) aead(keys *Keyring, password string) (cipher.AEAD, []byte, error) {
	master, err := keys.stretch(password, o.UniqueID)
	if err != nil {
		return nil, nil, fmt.Errorf("derive a key from the password: %w", err)
	}
	key, err := hkdf.Key(sha256.New, master, o.UniqueID, "AES", keyBytes)
	if err != nil {
		return nil, nil, fmt.Errorf("derive the key of the format: %w", err)
	}
	associated, err := hkdf.Key(sha256.New, master, o.UniqueID, "CHECKSUM", keyBytes)
	if err != nil {
		return nil, nil, fmt.Errorf("derive the proof of the format: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, fmt.Errorf("make the cipher of the format: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, nil, fmt.Errorf("make the cipher of the format: %w", err)
	}
	return aead, associated, nil
}
