package vault

import (
	"context"
	"crypto/sha256"
	"errors"

	"holdfast/internal/vault/store"
)

// provenFile says when the exported copy of the key was last shown to open the vault.
const provenFile = "key-proven.json"

// formats are the wraps of the vault's own key that are known to be whole, by their hash; the value orders them by age.
type formats map[[sha256.Size]byte]int

// learnFormat notes the wrap with which the vault was just opened.
func (v *Vault) learnFormat(ctx context.Context) error {
	raw, err := store.Read(ctx, v.files, formatBlob)
	if err != nil {
		return err
	}
	v.formats = formats{sha256.Sum256(raw): 1}
	return nil
}

// formatRank is 0 for a wrap that is not known.
func (v *Vault) formatRank(raw []byte) int { return v.formats[sha256.Sum256(raw)] }

// checkFormat says whether raw is a whole wrap of the vault's own key.
func (v *Vault) checkFormat(raw []byte) error {
	if v.formatRank(raw) == 0 {
		return errors.New("damaged: it is not the format with which the vault opens")
	}
	return nil
}
