// Package vault is where backups live: encrypted, deduplicated, readable with nothing but its key. Start at
// [Create] and [Open].
//
// A vault is a place for blobs ([store.Store]) with three parts. repository/ is a kopia repository with the base backups as
// snapshots, which the stock kopia program lists and restores with the same key. wal/ holds one object for
// each segment of write-ahead log (docs/decisions/0004). vault.json says which application it belongs to.
// No other room knows how a repository is made: that is internal/vault/repo.
package vault

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/redact"
	"holdfast/internal/vault/attempt"
	"holdfast/internal/vault/azstore"
	"holdfast/internal/vault/copies"
	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/format"
	"holdfast/internal/vault/s3store"
	"holdfast/internal/vault/store"
)

// Keyring remembers what the keys of vaults were stretched to, in memory: opening one again takes neither the quarter of a second
// nor the 64 MiB that stretching takes. Its zero value is empty. It may be used by many goroutines.
type Keyring = format.Keyring

// Config says which vault and how to reach it.
type Config struct {
	Name        string         // the plan's name for it; "" = the last part of the URL
	URL         string         // file:///absolute/path or s3://bucket/prefix
	S3          s3store.Config // how an s3:// place is reached; its URL, Locks and Clock are set here
	Azure       azstore.Config // how an azblob:// place is reached; its URL is set here
	Copy        string         // name of this place among the vault's copies; "" = it is the only one
	Trash       time.Duration  // as in [Place]
	Reserve     int64          // as in [Place]
	Filled      bool           // as in [Place]
	Unready     error          // as in [Place]
	Others      []Place        // the vault's other copies, in the order in which they are asked
	ID          string         // which vault it must be; "" = the one that the first copy with any says
	ReadOnly    bool           // refuse to store or delete anything; s3:// places are asked with their credentials for reading
	Key         redact.String  // whoever has it reads everything; without it nothing can be read
	Keys        *Keyring       // remembers what keys give, for who opens vaults often; nil = each opening takes a quarter of a second
	Application string         // owner; "" = any (a restore from vault and key alone). Create needs one
	Host        string         // who writes, as lists show it; "" = "holdfast"
	Log         *slog.Logger   // nil = silent
	Deletions   Deletions      // who must agree before something goes for good

	instead    store.Store   // where it lies, whatever URL says; nil = there
	formatKept time.Duration // how long the repository's format is trusted to be what was read; 0 = a quarter of an hour
}

// Vault is an open vault. It may be used from many goroutines, and other processes may have it open too.
type Vault struct {
	name     string
	identity Identity
	host     string
	log      *slog.Logger
	files    store.Store
	members  *copies.Store // the same as files where there are several copies; nil where there is one
	recorder *recorder     // what files stand on where something may be stored; nil where it is only read
	guard    *guarded      // the same as files where something may be stored; nil where it is only read
	walKey   []byte        // seals segments
	nameKey  []byte        // keyed hash of a segment's content, part of its name

	repoMu sync.Mutex // one refresh or short write session at a time; long writers have sessions of their own
	repo   *repo.Repository
	unread []string // indexes that are damaged wherever they lie, passed over when the vault was opened; in their order
	// relearnt are lost indexes of which all is known again that any pack says, and a listed backup is not whole for all that.
	relearnt sync.Map
	lost     atomic.Pointer[[]string] // packs that were gone when a writer last looked, in their order; nil = nobody has looked

	formats     formats                 // set when the vault is opened, and by a rotation
	opened      [sha256.Size]byte       // hash of the wrap with which it was
	generation  int                     // of the newest wrap; 0 = the key was never rotated
	lastCatalog atomic.Pointer[catalog] // as it was last read; nil = not yet
	pages       knownPages              // of the catalog, as they were read
	bundles     indexes                 // of bundled log, as they were read

	deletions Deletions

	patience attempt.Patience // with lists that lag behind what is stored

	left sync.Once // what could not be let go was told

	fatalMu sync.Mutex
	fatal   error // what the repository called fatal; every later call returns it
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
	formatBlob     = repositoryDir + "/kopia.repository"
	formatBlobCopy = "kopia.repository.copy" // without the format blob nothing can be decrypted: kept twice
)

// Create makes a vault where nothing is, and opens it.
func Create(ctx context.Context, cfg Config) (*Vault, error) {
	name := cfg.label()
	switch {
	case cfg.Application == "":
		return nil, fmt.Errorf("create vault %s: no application named", name)
	case cfg.Key.Reveal() == "":
		return nil, emptyKey(name)
	}
	v := cfg.vault(name)
	all, err := v.places(ctx, cfg, true)
	if err != nil {
		return nil, err
	}
	for _, files := range all {
		if err := claim(ctx, files, name); err != nil {
			return nil, err
		}
	}
	if err := initRepository(ctx, all[0], cfg); err != nil {
		return nil, fmt.Errorf("create vault %s: %w", name, err)
	}
	v.record(all[0])
	if err := v.connect(ctx, cfg); err != nil {
		return nil, fmt.Errorf("create vault %s: %w", name, err)
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	v.identity = Identity{Format: formatNow, ID: hex.EncodeToString(id[:]), Application: cfg.Application, Created: time.Now().UTC().Truncate(time.Second)}
	if err := v.seal(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("create vault %s: %w", name, err), v.Close(ctx))
	}
	if len(cfg.Others) == 0 {
		return v, nil
	}
	for _, files := range all[1:] { // they are opened again, as copies of this one
		closeStore(files)
	}
	cfg.ID = v.identity.ID
	if err := v.Close(ctx); err != nil {
		return nil, err
	}
	if v, err = Open(ctx, cfg); err != nil {
		return nil, err
	}
	if _, err := v.Sync(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("create vault %s: %w", name, err), v.Close(ctx))
	}
	return v, nil
}

// Vacant refuses what [Create] would refuse for what lies in the vault's places already, and makes and writes nothing. A
// directory that is not there yet is vacant, a bucket that is not there is vault.no-bucket.
func Vacant(ctx context.Context, cfg Config) error {
	name := cfg.label()
	if cfg.Key.Reveal() == "" {
		return emptyKey(name)
	}
	for _, p := range cfg.all() {
		files, err := p.openStore(ctx, false, true)
		switch {
		case errors.Is(err, store.ErrNotFound):
			continue
		case err != nil:
			return unusable(name, p.URL, fmt.Errorf("look where vault %s would be made: %w", name, err))
		}
		err = claim(ctx, files, name)
		closeStore(files)
		if err != nil {
			return err
		}
	}
	return nil
}

// claim refuses a place with anything in it.
func claim(ctx context.Context, files store.Store, name string) error {
	for _, there := range []struct {
		blob   string
		refuse *problem.Problem
	}{
		{identityFile, exists(name, files.Address())},
		{formatBlob, notEmpty(name, files.Address(), formatBlob)}, // a stock repository, or a Create that was cut off
	} {
		_, err := files.Stat(ctx, there.blob)
		if err == nil {
			return there.refuse
		}
		if !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("create vault %s: %w", name, err)
		}
	}
	names, err := files.Names(ctx, "")
	if err != nil {
		return fmt.Errorf("create vault %s: %w", name, err)
	}
	for _, n := range names {
		if n != repositoryDir && n != "lost+found" {
			return notEmpty(name, files.Address(), n)
		}
	}
	return nil
}

// Open opens an existing vault. Another application's is refused as vault.foreign, a wrong key as
// vault.wrong-key; neither writes anything.
func Open(ctx context.Context, cfg Config) (*Vault, error) {
	name := cfg.label()
	v := cfg.vault(name)
	if err := v.openFiles(ctx, cfg); err != nil {
		return nil, err
	}
	files := v.files
	id, err := readIdentity(ctx, files, name)
	switch {
	case err != nil:
		return nil, err
	case cfg.Application != "" && id.Application != cfg.Application:
		return nil, foreign(name, id.Application, cfg.Application)
	case cfg.ID != "" && id.ID != cfg.ID:
		return nil, exchanged(name, id.ID, cfg.ID)
	case cfg.Key.Reveal() == "":
		return nil, emptyKey(name)
	}
	if err := v.connect(ctx, cfg); err != nil {
		return nil, fmt.Errorf("open vault %s: %w", name, err)
	}
	v.identity = id
	want, err := v.proof()
	if err == nil && !hmac.Equal([]byte(want), []byte(id.Proof)) {
		err = damagedIdentity(name, files.Address(), "its proof does not fit this key")
	}
	if err != nil {
		return nil, errors.Join(err, v.Close(ctx))
	}
	return v, nil
}

// seal writes what makes the directory a vault: the copy of the format blob, and vault.json last.
func (v *Vault) seal(ctx context.Context) error {
	blob, err := store.Read(ctx, v.files, formatBlob)
	if err != nil {
		return err
	}
	if err := v.files.Put(ctx, formatBlobCopy, store.Bytes(blob)); err != nil {
		return err
	}
	if err := v.takeMaintenance(ctx); err != nil {
		return err
	}
	if v.identity.Proof, err = v.proof(); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(v.identity, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", identityFile, err)
	}
	return v.files.Put(ctx, identityFile, store.Bytes(append(raw, '\n')))
}

func (v *Vault) proof() (string, error) {
	key, err := v.repo.DeriveKey("holdfast-identity-v1", 32)
	if err != nil {
		return "", fmt.Errorf("derive identity key: %w", err)
	}
	return proofUnder(key, v.identity), nil
}

func proofUnder(key []byte, id Identity) string {
	m := hmac.New(sha256.New, key)
	_, _ = fmt.Fprintf(m, "%d\x00%s\x00%s\x00%d", id.Format, id.ID, id.Application, id.Created.Unix()) // a hash takes all
	return hex.EncodeToString(m.Sum(nil))
}

// Name is the plan's name for the vault.
func (v *Vault) Name() string { return v.name }

// Host is who writes, as lists show it.
func (v *Vault) Host() string { return v.host }

// Identity is what the vault says of itself.
func (v *Vault) Identity() Identity { return v.identity }

// drainMax bounds how long Close goes on carrying to other copies what was stored.
const drainMax = 20 * time.Second

// Close lets go of the vault. Writers must have been committed or aborted, and Follow must have ended.
func (v *Vault) Close(ctx context.Context) error {
	err := v.writeDown(ctx, false)
	err = errors.Join(err, v.repo.Close(ctx))
	if v.members != nil {
		drain, done := context.WithTimeout(ctx, drainMax)
		v.members.Drain(drain)
		done()
	}
	closeStore(v.files)
	if err != nil {
		return fmt.Errorf("close vault %s: %w", v.name, err)
	}
	return nil
}

// letGo deletes what something newer has taken the place of. Where the credentials have no right to delete, as is good
// for a host that only archives, it stays: it is passed over by every reader.
func (v *Vault) letGo(ctx context.Context, name string) error {
	return v.mayStay(ctx, name, v.files.Delete(ctx, name))
}

// supersede lets go of a blob in each copy that has the one that takes its place, and in the others once they do.
func (v *Vault) supersede(ctx context.Context, name, by string) error {
	if v.members == nil {
		return v.letGo(ctx, name)
	}
	return v.mayStay(ctx, name, v.members.Supersede(ctx, name, by))
}

// mayStay passes over that there is no right to delete.
func (v *Vault) mayStay(ctx context.Context, name string, err error) error {
	if errors.Is(err, store.ErrDenied) {
		v.left.Do(func() {
			v.log.InfoContext(ctx, "superseded objects stay: no right to delete", "object", name, "err", err)
		})
		return nil
	}
	return err
}

// broken is the error after which nothing is written any more, if any.
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

// locks names what is stored for ever, and what a vault cannot be read without: the place may keep it under lock. What
// is made to be let go again (beginnings of segments, savings of the agreed state, the repository's notes) is not among it.
func locks(name string) bool {
	dir, base, _ := strings.Cut(name, "/")
	switch dir {
	case "wal":
		return !strings.Contains(base, ".partial-") && path.Base(base) != coveredFile
	case repositoryDir:
		return base != "" && strings.Contains("pqx", base[:1]) || base == "kopia.repository" // packs, indexes, format
	}
	return name == identityFile || name == formatBlobCopy || dir == receiptDir || dir == deletionDir
}

func (c Config) label() string {
	if c.Name != "" {
		return c.Name
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return "vault"
	}
	return path.Base(u.Path)
}
