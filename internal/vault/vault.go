// Package vault is where backups live: encrypted, deduplicated, readable with nothing but its key. Start at
// [Create] and [Open].
//
// A vault is a directory with three parts. repository/ is a kopia repository with the base backups as
// snapshots, which the stock kopia program lists and restores with the same key. wal/ holds one object for
// each segment of write-ahead log (docs/decisions/0004). vault.json says which application it belongs to.
// No other room knows kopia.
package vault

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/kopia/kopia/repo"

	"holdfast/internal/redact"
	"holdfast/internal/vault/filestore"
)

// Config says which vault and how to reach it.
type Config struct {
	Name        string        // the plan's name for it; "" = the last part of the URL
	URL         string        // file:///absolute/path
	Key         redact.String // whoever has it reads everything; without it nothing can be read
	Application string        // owner; "" = any (a restore from vault and key alone). Create needs one
	Host        string        // who writes, as lists show it; "" = "holdfast"
	Log         *slog.Logger  // nil = silent
}

// Vault is an open vault. It may be used from many goroutines, and other processes may have it open too.
type Vault struct {
	name     string
	identity Identity
	host     string
	log      *slog.Logger
	files    *filestore.Store
	walKey   []byte // seals segments
	nameKey  []byte // keyed hash of a segment's content, part of its name
	state    string // private directory with kopia's connection file, removed by Close

	repoMu sync.Mutex // one refresh or short write session at a time; long writers have sessions of their own
	repo   repo.DirectRepository

	fatalMu sync.Mutex
	fatal   error // what kopia called fatal; every later call returns it
}

// Identity is what vault.json says. It is readable without the key, so that a vault of another application
// is recognised at once; Proof ties it to the key.
type Identity struct {
	Format      int       `json:"format"` // 1
	ID          string    `json:"id"`     // random, made at creation
	Application string    `json:"application"`
	Created     time.Time `json:"created"`
	Proof       string    `json:"proof"` // HMAC-SHA256 of the fields above under a key derived from the vault's
}

const (
	formatNow      = 1
	identityFile   = "vault.json"
	repositoryDir  = "repository"
	formatBlobFile = "repository/kopia.repository.f"
	formatBlobCopy = "kopia.repository.copy" // without the format blob nothing can be decrypted: kept twice
)

// Create makes a vault in a directory that is empty or absent, and opens it.
func Create(ctx context.Context, cfg Config) (*Vault, error) {
	dir, err := cfg.dir()
	if err != nil {
		return nil, err
	}
	name := cfg.label(dir)
	switch {
	case cfg.Application == "":
		return nil, fmt.Errorf("create vault %s: no application named", name)
	case cfg.Key.Reveal() == "":
		return nil, emptyKey(name)
	}
	if err := claim(dir, name); err != nil {
		return nil, err
	}
	files, err := filestore.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("create vault %s: %w", name, err)
	}
	if err := initRepository(ctx, filepath.Join(dir, repositoryDir), cfg.Key); err != nil {
		return nil, fmt.Errorf("create vault %s: %w", name, err)
	}
	v, err := connect(ctx, cfg, name, files)
	if err != nil {
		return nil, fmt.Errorf("create vault %s: %w", name, err)
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	v.identity = Identity{Format: formatNow, ID: hex.EncodeToString(id[:]), Application: cfg.Application, Created: time.Now().UTC().Truncate(time.Second)}
	if err := v.seal(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("create vault %s: %w", name, err), v.Close(ctx))
	}
	return v, nil
}

// claim makes dir, and refuses one with anything in it before it touches it.
func claim(dir, name string) error {
	if _, err := os.Stat(filepath.Join(dir, identityFile)); err == nil {
		return exists(name, dir)
	}
	if _, err := os.Stat(filepath.Join(dir, formatBlobFile)); err == nil {
		return notEmpty(name, dir, formatBlobFile) // a stock repository, or a Create that was cut off
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("create vault %s: %w", name, err)
	}
	for _, e := range entries {
		if e.Name() != repositoryDir && e.Name() != "lost+found" {
			return notEmpty(name, dir, e.Name())
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, repositoryDir), 0o700); err != nil {
		return fmt.Errorf("create vault %s: %w", name, err)
	}
	return nil
}

// Open opens an existing vault. Another application's is refused as vault.foreign, a wrong key as
// vault.wrong-key; neither writes anything.
func Open(ctx context.Context, cfg Config) (*Vault, error) {
	dir, err := cfg.dir()
	if err != nil {
		return nil, err
	}
	name := cfg.label(dir)
	raw, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, absent(name, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open vault %s: %w", name, err)
	}
	var id Identity
	if err := json.Unmarshal(raw, &id); err != nil {
		return nil, damagedIdentity(name, dir, err.Error())
	}
	switch {
	case id.Format != formatNow:
		return nil, otherFormat(name, id.Format)
	case cfg.Application != "" && id.Application != cfg.Application:
		return nil, foreign(name, id.Application, cfg.Application)
	case cfg.Key.Reveal() == "":
		return nil, emptyKey(name)
	}
	files, err := filestore.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open vault %s: %w", name, err)
	}
	v, err := connect(ctx, cfg, name, files)
	if err != nil {
		return nil, fmt.Errorf("open vault %s: %w", name, err)
	}
	v.identity = id
	want, err := v.proof()
	if err == nil && !hmac.Equal([]byte(want), []byte(id.Proof)) {
		err = damagedIdentity(name, dir, "its proof does not fit this key")
	}
	if err != nil {
		return nil, errors.Join(err, v.Close(ctx))
	}
	return v, nil
}

// seal writes what makes the directory a vault: the copy of the format blob, and vault.json last.
func (v *Vault) seal(ctx context.Context) error {
	var blob bytes.Buffer
	if err := v.files.Get(ctx, formatBlobFile, 0, -1, &blob); err != nil {
		return err
	}
	if err := v.files.Put(ctx, formatBlobCopy, &blob); err != nil {
		return err
	}
	if err := v.takeMaintenance(ctx); err != nil {
		return err
	}
	var err error
	if v.identity.Proof, err = v.proof(); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(v.identity, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", identityFile, err)
	}
	return v.files.Put(ctx, identityFile, bytes.NewBuffer(append(raw, '\n')))
}

func (v *Vault) proof() (string, error) {
	key, err := v.repo.DeriveKey("holdfast-identity-v1", 32)
	if err != nil {
		return "", fmt.Errorf("derive identity key: %w", err)
	}
	m := hmac.New(sha256.New, key)
	_, _ = fmt.Fprintf(m, "%d\x00%s\x00%s\x00%d", v.identity.Format, v.identity.ID, v.identity.Application, v.identity.Created.Unix()) // a hash takes all
	return hex.EncodeToString(m.Sum(nil)), nil
}

// Name is the plan's name for the vault.
func (v *Vault) Name() string { return v.name }

// Identity is what the vault says of itself.
func (v *Vault) Identity() Identity { return v.identity }

// Close lets go of the vault. Writers must have been committed or aborted.
func (v *Vault) Close(ctx context.Context) error {
	err := v.repo.Close(ctx)
	if rmErr := os.RemoveAll(v.state); err == nil {
		err = rmErr
	}
	if err != nil {
		return fmt.Errorf("close vault %s: %w", v.name, err)
	}
	return nil
}

// broken is the error that kopia called fatal, if any.
func (v *Vault) broken() error {
	v.fatalMu.Lock()
	defer v.fatalMu.Unlock()
	return v.fatal
}

func (v *Vault) setBroken(err error) {
	v.fatalMu.Lock()
	defer v.fatalMu.Unlock()
	if v.fatal == nil {
		v.fatal = fmt.Errorf("vault %s cannot go on: %w", v.name, err)
	}
}

func (c Config) dir() (string, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return "", fmt.Errorf("read vault address %q: %w", c.URL, err)
	}
	if u.Scheme != "file" || u.Host != "" || !filepath.IsAbs(u.Path) {
		return "", fmt.Errorf("read vault address %q: not file:///absolute/path", c.URL)
	}
	return filepath.Clean(u.Path), nil
}

func (c Config) label(dir string) string {
	if c.Name != "" {
		return c.Name
	}
	return filepath.Base(dir)
}
