package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

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
	v := &Vault{name: name, host: c.Host, log: c.Log}
	if v.host == "" {
		v.host = "holdfast"
	}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	v.log = v.log.With("vault", name)
	return v
}

// connect opens the repository. kopia insists on a connection file; it holds a token and no secret, and lives
// in a private directory until Close. Writing it here instead of through repo.Connect spares a second
// derivation of the key (a quarter of a second). When it fails, the files are let go too.
func (v *Vault) connect(ctx context.Context, cfg Config) error {
	state, err := os.MkdirTemp("", "holdfast-vault-*")
	if err != nil {
		return err
	}
	st, forget := newDriver(v.files)
	v.state, v.forget = state, forget
	connection := st.ConnectionInfo()
	raw, err := json.Marshal(repo.LocalConfig{
		Storage:       &connection,
		Caching:       &content.CachingOptions{},
		ClientOptions: repo.ClientOptions{Hostname: v.host, Username: userName, ReadOnly: cfg.ReadOnly},
	})
	if err == nil {
		err = os.WriteFile(filepath.Join(state, "connection.json"), raw, 0o600)
	}
	if err == nil {
		err = v.openRepository(ctx, cfg.Key)
	}
	if err == nil {
		if err = v.learnFormat(ctx); err != nil {
			err = errors.Join(err, v.repo.Close(ctx))
		}
	}
	if err != nil {
		forget()
		closeStore(v.files)
		return errors.Join(err, os.RemoveAll(state))
	}
	return nil
}

func (v *Vault) openRepository(ctx context.Context, key redact.String) error {
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
