package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/upkeep"
	"holdfast/internal/vault/store"
)

const (
	// repositoryDir is where the repository's blobs lie in a store.
	repositoryDir = "repository"
	// sessionMarkers is how the names of the markers of writing sessions begin.
	sessionMarkers = "s"
	// splitter cuts relation files: their pages never shift (measured in docs/decisions/0004).
	splitter = "FIXED-1M"
	userName = "holdfast"
)

func blobName(id string) string { return repositoryDir + "/" + id }

// packPrefixes are how the names of packs begin: of files' content, and of what describes it.
func packPrefixes() []string { return []string{"p", "q"} }

func initRepository(ctx context.Context, files store.Store, cfg Config) error {
	if err := repo.Initialize(ctx, files, cfg.Key.Reveal(), cfg.Keys); err != nil {
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
			err = errors.Join(err, v.repo.Close(ctx))
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

// openOver opens the repository in a place.
func (v *Vault) openOver(ctx context.Context, place store.Store, cfg Config) error {
	r, err := repo.Open(ctx, place, cfg.Key.Reveal(), repo.Options{
		Host: v.host, User: userName, ReadOnly: cfg.ReadOnly, FormatKept: cfg.formatKept, Keys: cfg.Keys, Fatal: v.setBroken, Log: v.log,
	})
	switch {
	case errors.Is(err, repo.ErrWrongPassword):
		return wrongKey(v.name)
	case errors.Is(err, repo.ErrNotInitialized):
		return lostFormat(v.name)
	case err != nil:
		return fmt.Errorf("open repository: %w", err)
	}
	v.repo = r
	if v.walKey, err = r.DeriveKey("holdfast-wal-v1", 32); err == nil {
		v.nameKey, err = r.DeriveKey("holdfast-wal-name-v1", 32)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("derive the log's keys: %w", err), r.Close(ctx))
	}
	return nil
}

// takeMaintenance writes into the repository that nobody but Holdfast's maintainer may clean it up, so that
// a stock kopia program leaves it alone.
func (v *Vault) takeMaintenance(ctx context.Context) error {
	return v.repo.Write(ctx, repo.WriteOptions{Purpose: "holdfast-create"}, func(ctx context.Context, w *repo.Writer) error {
		if err := upkeep.Own(ctx, w, "holdfast@vault"); err != nil {
			return fmt.Errorf("set maintenance owner: %w", err)
		}
		return nil
	})
}
