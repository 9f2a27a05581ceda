package format

import (
	"crypto/sha256"
	"sync"

	"golang.org/x/crypto/scrypt"
)

// keyringMax is how many keys are remembered: more passwords than a process opens repositories with.
const keyringMax = 64

// Keyring remembers what passwords were stretched to, for whoever opens repositories again and again: that takes a quarter of a
// second and 64 MiB of memory each time. What it holds opens a repository as the password does, and stays in memory. A nil one
// remembers nothing. It may be used by many goroutines.
type Keyring struct {
	mu    sync.Mutex // guards known
	known map[[sha256.Size]byte][]byte
}

// stretch gives the key of a password for the repository of that unique id.
func (k *Keyring) stretch(password string, id []byte) ([]byte, error) {
	of := sha256.Sum256(append(append(make([]byte, 0, len(id)+len(password)), id...), password...)) // an id is as long as any other
	if key := k.look(of); key != nil {
		return key, nil
	}
	key, err := scrypt.Key([]byte(password), id, scryptN, scryptR, scryptP, keyBytes)
	if err == nil {
		k.keep(of, key)
	}
	return key, err
}

func (k *Keyring) look(of [sha256.Size]byte) []byte {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.known[of]
}

func (k *Keyring) keep(of [sha256.Size]byte, key []byte) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.known) >= keyringMax || k.known == nil {
		k.known = map[[sha256.Size]byte][]byte{}
	}
	k.known[of] = key
}
