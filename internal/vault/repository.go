package vault

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/format"
	"github.com/kopia/kopia/repo/maintenance"

	"holdfast/internal/redact"
	"holdfast/internal/vault/store"
)

// Settings of the repository, fixed for its life; measured in docs/decisions/0004.
const (
	hashing    = "BLAKE3-256"
	encryption = "AES256-GCM-HMAC-SHA256"
	splitter   = "FIXED-1M" // pages never shift inside a relation file
	compressor = "zstd-fastest"
	packSize   = 20 << 20 // bytes
	userName   = "holdfast"
)

func initRepository(ctx context.Context, files store.Store, key redact.String) error {
	compressOnOneCore()
	st, forget := newDriver(files)
	defer forget()
	opt := &repo.NewRepositoryOptions{
		BlockFormat: format.ContentFormat{
			Hash: hashing, Encryption: encryption,
			MutableParameters: format.MutableParameters{Version: format.FormatVersion3, MaxPackSize: packSize, IndexVersion: content.DefaultIndexVersion},
		},
		ObjectFormat: format.ObjectFormat{Splitter: splitter},
	}
	if err := repo.Initialize(ctx, st, opt, key.Reveal()); err != nil {
		return fmt.Errorf("initialise repository: %w", err)
	}
	return nil
}

// vault is one that is not open yet.
func (c Config) vault(name string) *Vault {
	v := &Vault{name: name, host: c.Host, log: c.Log, deletions: c.Deletions, patience: c.S3.Patience.OrDefaults()}
	if v.host == "" {
		v.host = "holdfast"
	}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	v.log = v.log.With("vault", name)
	return v
}

// connectOnce opens the repository with the format that lies there, or else, where that is lost, damaged or does not open
// with this key, with its copies and with the wraps that a rotation of the key keeps.
func (v *Vault) connectOnce(ctx context.Context, cfg Config, open opener) error {
	format, err := v.openWith(ctx, cfg, open)
	if err == nil {
		if err = v.learnFormats(ctx, format); err != nil {
			err = errors.Join(err, v.letRepositoryGo(ctx))
		}
	}
	return err
}

// formatsTried bounds how many different formats a key is tried on: each takes a quarter of a second.
const formatsTried = 6

// openWith opens the repository and gives the format with which it did. The first trouble is the one that is told.
func (v *Vault) openWith(ctx context.Context, cfg Config, open opener) ([]byte, error) {
	var trouble error
	tried := map[string]bool{}
	for i, find := range []func(context.Context) ([][]byte, error){v.formatHere, v.formatCopies, v.formatWraps} {
		found, err := find(ctx)
		if err != nil {
			trouble = cmp.Or(trouble, err)
		}
		for _, raw := range found {
			if tried[string(raw)] || len(tried) == formatsTried {
				continue
			}
			tried[string(raw)] = true
			place := &pinned{Store: v.files}
			if i > 0 {
				place.format = raw
			}
			if err = open(ctx, place, cfg); err == nil {
				return raw, nil
			}
			trouble = cmp.Or(trouble, err)
		}
		if ctx.Err() != nil {
			return nil, trouble
		}
	}
	if len(tried) == 0 && trouble == nil {
		trouble = lostFormat(v.name)
	}
	return nil, trouble
}

func (v *Vault) formatHere(ctx context.Context) ([][]byte, error) {
	raw, err := store.Read(ctx, v.files, formatBlob)
	if errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrUnseen) { // else a copy that is away may open it
		return nil, nil
	}
	return [][]byte{raw}, err
}

// formatCopies are what lies beside the format for the day when it is lost, and in other copies of the vault.
func (v *Vault) formatCopies(ctx context.Context) ([][]byte, error) {
	var out [][]byte
	open, _ := v.copiesAlone()
	for _, c := range sortedKeys(open) {
		for _, name := range []string{formatBlobCopy, formatBlob} {
			if raw, err := store.Read(ctx, open[c], name); err == nil { // it only helps when it is there
				out = append(out, raw)
			}
		}
	}
	return out, ctx.Err()
}

func (v *Vault) formatWraps(ctx context.Context) ([][]byte, error) {
	all, err := v.wraps(ctx)
	var out [][]byte
	for _, w := range all {
		out = append(out, w.content)
	}
	return out, err
}

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// openOver opens the repository in a place. kopia insists on a connection file; it holds a token and no secret, and lives
// in a private directory until Close. Writing it here instead of through repo.Connect spares a second
// derivation of the key (a quarter of a second).
func (v *Vault) openOver(ctx context.Context, place store.Store, cfg Config) error {
	state, err := os.MkdirTemp("", "holdfast-vault-*")
	if err != nil {
		return err
	}
	st, forget := newDriver(place)
	v.state, v.forget = state, forget
	connection := st.ConnectionInfo()
	raw, err := json.Marshal(repo.LocalConfig{
		Storage:       &connection,
		Caching:       &content.CachingOptions{},
		ClientOptions: repo.ClientOptions{Hostname: v.host, Username: userName, ReadOnly: cfg.ReadOnly, FormatBlobCacheDuration: cfg.formatKept},
	})
	if err == nil {
		err = os.WriteFile(filepath.Join(state, "connection.json"), raw, 0o600)
	}
	if err == nil {
		err = v.openRepository(ctx, cfg.Key)
	}
	if err != nil {
		forget()
		return errors.Join(err, os.RemoveAll(state))
	}
	return nil
}

// letRepositoryGo is the way back from openOver.
func (v *Vault) letRepositoryGo(ctx context.Context) error {
	err := v.repo.Close(ctx)
	v.forget()
	return errors.Join(err, os.RemoveAll(v.state))
}

func (v *Vault) openRepository(ctx context.Context, key redact.String) error {
	compressOnOneCore()
	r, err := repo.Open(ctx, filepath.Join(v.state, "connection.json"), key.Reveal(), &repo.Options{
		DisableRepositoryLog: true,
		DoNotWaitForUpgrade:  true,
		OnFatalError:         v.setBroken, // kopia's own choice is os.Exit
	})
	switch {
	case errors.Is(err, repo.ErrInvalidPassword):
		return wrongKey(v.name)
	case errors.Is(err, blob.ErrBlobNotFound), errors.Is(err, repo.ErrRepositoryNotInitialized):
		return lostFormat(v.name)
	case err != nil:
		return fmt.Errorf("open repository: %w", err)
	}
	direct, ok := r.(repo.DirectRepository)
	if !ok {
		return errors.Join(errors.New("open repository: not one that is read directly"), r.Close(ctx))
	}
	v.repo = direct
	if v.walKey, err = direct.DeriveKey("holdfast-wal-v1", 32); err == nil {
		v.nameKey, err = direct.DeriveKey("holdfast-wal-name-v1", 32)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("derive the log's keys: %w", err), direct.Close(ctx))
	}
	return nil
}

// takeMaintenance writes into the repository that nobody but Holdfast's maintainer may clean it up, so that
// a stock kopia program leaves it alone.
func (v *Vault) takeMaintenance(ctx context.Context) error {
	return repo.WriteSession(ctx, v.repo, repo.WriteSessionOptions{Purpose: "holdfast-create"}, func(ctx context.Context, w repo.RepositoryWriter) error {
		p := maintenance.DefaultParams()
		p.Owner = "holdfast@vault"
		p.QuickCycle.Enabled = false
		p.FullCycle.Enabled = false
		if err := maintenance.SetParams(ctx, w, &p); err != nil {
			return fmt.Errorf("set maintenance owner: %w", err)
		}
		return nil
	})
}
