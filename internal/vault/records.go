package vault

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"holdfast/internal/vault/store"
)

// A record is a small thing that a vault says of itself and that changes: when it was scrubbed, when its key was proven.
// It is readable by whoever may read the place, and cannot be forged without the key.
type record struct {
	At    time.Time       `json:"at"`
	About json.RawMessage `json:"about"`
	Proof string          `json:"proof"` // HMAC-SHA256 of name, time and content
}

// records names what changes by putRecord.
func isRecord(name string) bool {
	return name == recordFile || name == provenFile || name == condemnedFile || name == pointsFile
}

func (v *Vault) recordProof(name string, r record) (string, error) {
	key, err := v.repo.DeriveKey("holdfast-record-v1", 32)
	if err != nil {
		return "", err
	}
	m := hmac.New(sha256.New, key)
	_, _ = fmt.Fprintf(m, "%s\x00%d\x00%s", name, r.At.UnixNano(), r.About) // a hash takes all
	return hex.EncodeToString(m.Sum(nil)), nil
}

func (v *Vault) putRecord(ctx context.Context, name string, about any) error {
	raw, err := json.Marshal(about)
	if err != nil {
		return err
	}
	r := record{At: time.Now().UTC(), About: raw}
	if r.Proof, err = v.recordProof(name, r); err != nil {
		return err
	}
	content, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := v.files.Replace(store.LettingGo(ctx), name, store.Bytes(content)); err != nil {
		return fmt.Errorf("write %s in vault %s: %w", name, v.name, err)
	}
	return nil
}

// getRecord reads what was put last; false when nothing was.
func (v *Vault) getRecord(ctx context.Context, name string, about any) (bool, error) {
	raw, err := store.Read(ctx, v.files, name)
	if errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrUnseen) { // else what was put last may be in a copy that is away
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s in vault %s: %w", name, v.name, err)
	}
	r, err := v.openRecord(name, raw)
	if err == nil {
		err = json.Unmarshal(r.About, about)
	}
	if err != nil {
		return false, fmt.Errorf("read %s in vault %s: %w", name, v.name, err)
	}
	return true, nil
}

func (v *Vault) openRecord(name string, raw []byte) (record, error) {
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, err
	}
	want, err := v.recordProof(name, r)
	if err == nil && !hmac.Equal([]byte(want), []byte(r.Proof)) {
		err = errors.New("its proof does not fit")
	}
	return r, err
}
