package vault

import (
	"bytes"
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"holdfast/internal/vault/store"
)

// What the hosts of an application agreed on is kept beside the backups, for the day when most of them are gone: one
// object for each saving, named by its time, the agreed state's revision and a keyed hash of its content, so that no
// saving replaces another. What is in it is its writer's matter; here it is bytes.
const (
	stateDir        = "state"
	stateSuffix     = ".zst.aes"
	stateMagic      = "HFSTATE\x01"
	stateHeaderSize = 44 // magic 8, microseconds since 1970 8, revision 8, length 8, nonce 12; integers big-endian
	stateNonce      = 32
	stateTime       = "20060102T150405.000000Z"

	// StateMax bounds one saving, in bytes: the agreed state is hundreds of keys of a few kilobytes.
	StateMax = 64 << 20
	// statesNewest is how many of the newest savings are kept whatever their age, and statesDays for how many days
	// the last saving of each.
	statesNewest = 32
	statesDays   = 30
	// statesTurns is how many savings are kept of those behind which the revision fell: the last one of a cluster that another took the
	// place of, or of a state that was put back to an old backup. What runs on after that must not push out what got further.
	statesTurns = 8
)

// SavedState names one saving of the agreed state.
type SavedState struct {
	Object   string    `json:"object"`
	At       time.Time `json:"at"`       // by the saving host's clock
	Revision int64     `json:"revision"` // of the agreed state
}

// ErrNoState is returned by a vault that holds no saving of the agreed state.
var ErrNoState = errors.New("no agreed state is saved in the vault")

// PutState saves the agreed state as it was at revision, and then lets go of savings that neither are among the
// newest, nor the last of one of the latest days, nor the last before the revision fell. The same content again at the same instant is no error.
func (v *Vault) PutState(ctx context.Context, at time.Time, revision int64, content []byte) (SavedState, error) {
	if len(content) == 0 || len(content) > StateMax || revision < 0 {
		return SavedState{}, fmt.Errorf("save the agreed state in vault %s: %d bytes at revision %d are none", v.name, len(content), revision)
	}
	at = at.UTC().Truncate(time.Microsecond)
	hash, err := v.stateHash(content)
	if err != nil {
		return SavedState{}, fmt.Errorf("save the agreed state in vault %s: %w", v.name, err)
	}
	s := SavedState{At: at, Revision: revision}
	s.Object = path.Join(stateDir, fmt.Sprintf("%s-%016x-%s%s", at.Format(stateTime), revision, hash, stateSuffix))
	raw, err := v.sealState(s, content)
	if err != nil {
		return SavedState{}, fmt.Errorf("save the agreed state in vault %s: %w", v.name, err)
	}
	// Equal content under a fresh nonce is never equal bytes.
	if err := v.files.Put(ctx, s.Object, store.Bytes(raw)); err != nil && !errors.Is(err, store.ErrDiffers) {
		return SavedState{}, fmt.Errorf("save the agreed state in vault %s: %w", v.name, err)
	}
	if _, err := v.GetState(ctx, s); err != nil { // what cannot be read back is not saved
		return SavedState{}, err
	}
	return s, v.dropStates(ctx)
}

// States lists the savings, oldest first.
func (v *Vault) States(ctx context.Context) ([]SavedState, error) {
	names, err := v.files.Names(ctx, stateDir)
	if err != nil {
		return nil, fmt.Errorf("list the saved states of vault %s: %w", v.name, err)
	}
	var out []SavedState
	for _, n := range names {
		if s, ok := parseState(n); ok {
			out = append(out, s)
		}
	}
	sortStates(out)
	return out, nil
}

// sortStates puts the oldest first.
func sortStates(all []SavedState) {
	slices.SortFunc(all, func(a, b SavedState) int {
		return cmp.Or(a.At.Compare(b.At), strings.Compare(a.Object, b.Object))
	})
}

// EachState gives every saving that is whole to take, oldest first. Damaged ones are passed over, and told; ErrNoState when none is
// left. An error of take ends it, and is what is returned.
func (v *Vault) EachState(ctx context.Context, take func(SavedState, []byte) error) (damaged []error, err error) {
	all, err := v.States(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		content, err := v.GetState(ctx, s)
		if ctx.Err() != nil {
			return damaged, ctx.Err()
		}
		if err != nil {
			damaged = append(damaged, err)
			continue
		}
		if err := take(s, content); err != nil {
			return damaged, err
		}
	}
	if len(damaged) == len(all) {
		return damaged, fmt.Errorf("read the agreed state from vault %s: %w", v.name, errors.Join(append(damaged, ErrNoState)...))
	}
	return damaged, nil
}

// GetState reads one saving. Content that is not what its name and seal say is an error.
func (v *Vault) GetState(ctx context.Context, s SavedState) ([]byte, error) {
	info, err := v.files.Stat(ctx, s.Object)
	if err == nil && info.Size > StateMax {
		err = fmt.Errorf("it is %d bytes long", info.Size)
	}
	var raw bytes.Buffer
	if err == nil {
		err = v.files.Get(ctx, s.Object, 0, -1, &raw)
	}
	if err != nil {
		return nil, fmt.Errorf("read the saved state %s: %w", s.Object, err)
	}
	content, err := v.openSaved(s, raw.Bytes())
	if err != nil {
		return nil, fmt.Errorf("read the saved state %s: %w", s.Object, err)
	}
	return content, nil
}

// openSaved opens a saving, and proves that its content is what its name says.
func (v *Vault) openSaved(s SavedState, raw []byte) ([]byte, error) {
	content, err := v.openState(s, raw)
	if err != nil {
		return nil, err
	}
	hash, err := v.stateHash(content)
	if err == nil && !strings.HasSuffix(s.Object, "-"+hash+stateSuffix) {
		err = errors.New("its content does not fit its name")
	}
	return content, err
}

// checkState says whether raw can lie under a saving's name.
func (v *Vault) checkState(s SavedState, raw []byte) error {
	_, err := v.openSaved(s, raw)
	return err
}

// dropStates removes what [keptStates] does not keep.
func (v *Vault) dropStates(ctx context.Context) error {
	all, err := v.States(ctx)
	if err != nil {
		return err
	}
	keep := keptStates(all)
	for _, s := range all {
		if keep[s.Object] {
			continue
		}
		if err := v.letGo(ctx, s.Object); err != nil {
			return fmt.Errorf("let go of the saved state %s: %w", s.Object, err)
		}
	}
	return nil
}

// keptStates are the newest savings, the last one of each of the latest days that have any, and the latest of those behind which the
// revision fell. all is oldest first.
func keptStates(all []SavedState) map[string]bool {
	keep := map[string]bool{}
	days := map[string]bool{}
	turns := 0
	for i, s := range slices.Backward(all) {
		day := s.At.Format(time.DateOnly)
		if len(all)-i <= statesNewest || !days[day] && len(days) < statesDays {
			keep[s.Object] = true
		}
		if i+1 < len(all) && all[i+1].Revision < s.Revision && turns < statesTurns {
			turns++
			keep[s.Object], keep[all[i+1].Object] = true, true // the one behind it shows the fall, also when what runs on is further
		}
		days[day] = true
	}
	return keep
}

// parseState reads an object's name. Names of anything else give false.
func parseState(name string) (SavedState, bool) {
	base, ok := strings.CutSuffix(name, stateSuffix)
	parts := strings.Split(base, "-")
	if !ok || len(parts) != 3 || len(parts[1]) != 16 {
		return SavedState{}, false
	}
	at, err := time.Parse(stateTime, parts[0])
	revision, bad := strconv.ParseInt(parts[1], 16, 64)
	if err != nil || bad != nil {
		return SavedState{}, false
	}
	return SavedState{Object: path.Join(stateDir, name), At: at.UTC(), Revision: revision}, true
}

func (s SavedState) header(length int) []byte {
	b := make([]byte, stateHeaderSize)
	copy(b, stateMagic)
	be := binary.BigEndian
	be.PutUint64(b[8:], uint64(s.At.UnixMicro()))
	be.PutUint64(b[16:], uint64(s.Revision))
	be.PutUint64(b[24:], uint64(length))
	return b
}

func (v *Vault) sealState(s SavedState, content []byte) ([]byte, error) {
	gcm, err := v.stateCipher()
	if err != nil {
		return nil, err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	packed := enc.EncodeAll(content, nil)
	if err := enc.Close(); err != nil {
		return nil, err
	}
	head := s.header(len(content))
	_, _ = rand.Read(head[stateNonce:]) // never fails (crypto/rand)
	return gcm.Seal(slices.Clone(head), head[stateNonce:], packed, head), nil
}

func (v *Vault) openState(s SavedState, raw []byte) ([]byte, error) {
	if len(raw) < stateHeaderSize || string(raw[:8]) != stateMagic {
		return nil, errors.New("it is no saved state, or one of another version")
	}
	head := raw[:stateHeaderSize]
	length := binary.BigEndian.Uint64(head[24:])
	if length > StateMax || !bytes.Equal(head[:24], s.header(0)[:24]) {
		return nil, errors.New("its head does not fit its name")
	}
	gcm, err := v.stateCipher()
	if err != nil {
		return nil, err
	}
	packed, err := gcm.Open(nil, head[stateNonce:], raw[stateHeaderSize:], head)
	if err != nil {
		return nil, errors.New("damaged: its seal does not fit")
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(StateMax))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	content, err := dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if uint64(len(content)) != length {
		return nil, fmt.Errorf("it holds %d bytes, states %d", len(content), length)
	}
	return content, nil
}

func (v *Vault) stateCipher() (cipher.AEAD, error) { return v.cipherFor("holdfast-state-v1") }

// cipherFor is the cipher of one purpose: its key leads to no other's.
func (v *Vault) cipherFor(purpose string) (cipher.AEAD, error) {
	key, err := v.repo.DeriveKey(purpose, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// stateHash is keyed, so that a name does not let a stranger confirm a guess about the content.
func (v *Vault) stateHash(content []byte) (string, error) {
	key, err := v.repo.DeriveKey("holdfast-state-name-v1", 32)
	if err != nil {
		return "", err
	}
	h, err := blake3.NewKeyed(key)
	if err != nil {
		return "", err
	}
	_, _ = h.Write(content) // a hash takes all
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}
