package auth

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// gossipKeyBytes makes AES-256.
const gossipKeyBytes = 32

// GossipKey derives the key that encrypts membership gossip from a secret of the application: equal secrets
// give equal keys, and the key tells nothing of the secret (HKDF-SHA256, RFC 5869).
func GossipKey(secret []byte, application string) ([]byte, error) {
	if len(secret) < 16 {
		return nil, errors.New("derive the gossip key: the secret is shorter than 16 bytes")
	}
	k, err := hkdf.Key(sha256.New, secret, []byte(application), "holdfast gossip 1", gossipKeyBytes)
	if err != nil {
		return nil, fmt.Errorf("derive the gossip key: %w", err)
	}
	return k, nil
}

// GossipKey is the one that this authority's hosts share.
func (a *Authority) GossipKey() ([]byte, error) {
	b, err := encodeKey(a.key)
	if err != nil {
		return nil, err
	}
	return GossipKey(b, a.Application)
}

// LoadGossipKey reads gossip.key from a host's or the authority's folder.
func LoadGossipKey(dir string) ([]byte, error) {
	path := filepath.Join(dir, GossipKeyFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("load the gossip key: %w", err)
	}
	k, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(k) != gossipKeyBytes {
		// The cause is left out: it could quote the secret.
		return nil, fmt.Errorf("load the gossip key: %s does not hold %d bytes in hexadecimal", path, gossipKeyBytes)
	}
	return k, nil
}

func encodeGossip(k []byte) []byte { return []byte(hex.EncodeToString(k) + "\n") }
