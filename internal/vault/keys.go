package vault

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/redact"
	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/store"
)

// The passphrase does not encrypt the data: it wraps the vault's own key, which never changes, in the format blob. A new
// passphrase is a new wrap. Each wrap is kept as key/<generation>-<proof>, so that a rotation that is cut off anywhere
// leaves a vault that opens with either passphrase, and copies agree on which wrap is the newest.
const (
	keyDir = "key"
	// provenFile says when the exported copy of the key was last shown to open the vault.
	provenFile = "key-proven.json"
	// configBlob is kopia's, sealed under the passphrase too; it holds nothing that we use, and two blobs cannot be
	// exchanged in one step, so it is hidden from kopia, and deleted by the first rotation.
	configBlob = repositoryDir + "/kopia.blobcfg"
	// ProveEvery is how long a proof of the exported key counts.
	ProveEvery = 180 * 24 * time.Hour
)

// wrap is one of the passphrases' wraps of the vault's own key.
type wrap struct {
	generation int
	name       string
	content    []byte
}

// formats are the wraps that are known to be whole, by their hash; the value orders them by age.
type formats map[[sha256.Size]byte]int

// formatRank is 0 for a wrap that is not known.
func (v *Vault) formatRank(raw []byte) int { return v.formats[sha256.Sum256(raw)] }

// checkFormat says whether raw is a whole wrap of the vault's own key.
func (v *Vault) checkFormat(raw []byte) error {
	if v.formatRank(raw) == 0 {
		return errors.New("damaged: it is not the format with which the vault opens")
	}
	return nil
}

// wraps reads all wraps that are stored, newest first. Their proof is not looked at.
func (v *Vault) wraps(ctx context.Context) ([]wrap, error) {
	var out []wrap
	err := v.files.List(ctx, keyDir+"/", func(i store.Info) error {
		digits, _, ok := strings.Cut(path.Base(i.Name), "-")
		if n, err := strconv.Atoi(digits); ok && err == nil && n > 0 {
			out = append(out, wrap{generation: n, name: i.Name})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the keys of vault %s: %w", v.name, err)
	}
	slices.SortFunc(out, func(a, b wrap) int { return b.generation - a.generation })
	for i := range out {
		if out[i].content, err = store.Read(ctx, v.files, out[i].name); err != nil {
			return nil, fmt.Errorf("read a key of vault %s: %w", v.name, err)
		}
	}
	return out, nil
}

func (v *Vault) wrapName(generation int, content []byte) (string, error) {
	key, err := v.repo.DeriveKey("holdfast-wrap-v1", 32)
	if err != nil {
		return "", fmt.Errorf("derive the keys' proof: %w", err)
	}
	m := hmac.New(sha256.New, key)
	_, _ = fmt.Fprintf(m, "%d\x00%s", generation, content) // a hash takes all
	return fmt.Sprintf("%s/%08d-%x", keyDir, generation, m.Sum(nil)[:16]), nil
}

// learnFormats notes the wrap with which the vault was opened, and all that were written by somebody with its key.
func (v *Vault) learnFormats(ctx context.Context, opened []byte) error {
	v.formats = formats{sha256.Sum256(opened): 1}
	all, err := v.wraps(ctx)
	if err != nil {
		return err
	}
	v.opened = sha256.Sum256(opened)
	for _, w := range all {
		name, err := v.wrapName(w.generation, w.content)
		if err != nil {
			return err
		}
		if name == w.name {
			v.formats[sha256.Sum256(w.content)] = w.generation + 1
			v.generation = max(v.generation, w.generation)
		}
	}
	return nil
}

// pinned is a place whose format is a wrap of our choice, and that has none of kopia's configuration.
type pinned struct {
	store.Store

	mu     sync.Mutex // guards what follows
	format []byte     // nil = the place's own
	sealed bool       // a new format is kept here and not stored
}

func (p *pinned) own(name string) ([]byte, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if name == formatBlob && p.format != nil {
		return p.format, true
	}
	return nil, name == configBlob
}

func (p *pinned) Get(ctx context.Context, name string, offset, length int64, to io.Writer) error {
	raw, ok := p.own(name)
	switch {
	case !ok:
		return p.Store.Get(ctx, name, offset, length, to)
	case raw == nil:
		return fmt.Errorf("read %s: %w", name, store.ErrNotFound)
	case length < 0:
		length = int64(len(raw)) - offset
	}
	if offset < 0 || length < 0 || offset+length > int64(len(raw)) {
		return fmt.Errorf("read %s: %w", name, io.ErrUnexpectedEOF)
	}
	_, err := to.Write(raw[offset : offset+length])
	return err
}

func (p *pinned) Stat(ctx context.Context, name string) (store.Info, error) {
	raw, ok := p.own(name)
	switch {
	case !ok:
		return p.Store.Stat(ctx, name)
	case raw == nil:
		return store.Info{}, fmt.Errorf("look up %s: %w", name, store.ErrNotFound)
	}
	return store.Info{Name: name, Size: int64(len(raw)), ModTime: time.Now()}, nil
}

// Replace keeps a new format here while the place is sealed: it is stored step by step by whoever asked for it.
func (p *pinned) Replace(ctx context.Context, name string, data store.Data) error {
	if !p.isSealed() || !strings.HasPrefix(name, repositoryDir+"/kopia.") {
		return p.Store.Replace(ctx, name, data)
	}
	in := data.Reader()
	raw, err := io.ReadAll(in)
	if err = errors.Join(err, in.Close()); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if name == formatBlob {
		p.format = raw
	}
	return nil
}

// Put and Delete are refused while the place is sealed.
func (p *pinned) Put(ctx context.Context, name string, data store.Data) error {
	if p.isSealed() {
		return readOnly{p.Store}.Put(ctx, name, data)
	}
	return p.Store.Put(ctx, name, data)
}

// Delete implements [store.Store].
func (p *pinned) Delete(ctx context.Context, name string) error {
	if p.isSealed() {
		return readOnly{p.Store}.Delete(ctx, name)
	}
	return p.Store.Delete(ctx, name)
}

func (p *pinned) isSealed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sealed
}

// Rotate gives the vault a new passphrase; the old one opens it until [Vault.Retire]. old is the one with which it was
// opened. Every copy must answer. Cut off anywhere, both open it, and the same call again ends it.
func (v *Vault) Rotate(ctx context.Context, old, fresh redact.String) error {
	if err := v.rotate(ctx, old, fresh); err != nil {
		return fmt.Errorf("rotate the key of vault %s: %w", v.name, err)
	}
	return nil
}

func (v *Vault) rotate(ctx context.Context, old, fresh redact.String) error {
	switch {
	case fresh.Reveal() == "":
		return emptyKey(v.name)
	case fresh.Reveal() == old.Reveal():
		return &problem.Problem{Code: "vault.same-key", Subject: v.name, Severity: problem.Note, Title: "the new key is the old one",
			Meaning: "Nothing was changed.", Remedy: "give a reference to a new secret"}
	}
	if err := v.allAnswer(ctx); err != nil {
		return err
	}
	all, err := v.wraps(ctx)
	if err != nil {
		return err
	}
	newest := wrap{}
	for _, w := range all {
		if v.formatRank(w.content) == w.generation+1 {
			newest = w
			break
		}
	}
	if newest.generation > 0 {
		done, err := v.opensWith(ctx, newest.content, fresh)
		if err != nil {
			return err
		}
		if done { // an earlier rotation that was cut off
			return v.establish(ctx, newest.content)
		}
	} else {
		own, err := store.Read(ctx, v.files, formatBlob)
		if err != nil {
			return err
		}
		if newest, err = v.putWrap(ctx, 1, own); err != nil {
			return err
		}
	}
	content, err := v.rewrapped(ctx, old, fresh)
	if err != nil {
		return err
	}
	done, err := v.opensWith(ctx, content, fresh)
	if err != nil {
		return err
	}
	if !done {
		return errors.New("the new wrap does not open with the new key; nothing was changed")
	}
	w, err := v.putWrap(ctx, newest.generation+1, content)
	if err != nil {
		return err
	}
	return v.establish(ctx, w.content)
}

// allAnswer is nil when every copy of the vault is there, holds everything and takes a small write.
func (v *Vault) allAnswer(ctx context.Context) error {
	lacks, err := v.Compare(ctx)
	if err != nil {
		return err
	}
	for _, l := range lacks {
		if l.Away != nil {
			return &problem.Problem{Code: "vault.needs-every-copy", Subject: v.name, Severity: problem.Note,
				Title:   fmt.Sprintf("copy %s does not answer: %v", l.Copy, l.Away),
				Meaning: "Nothing was changed: this must reach every copy.",
				Remedy:  "bring it back, or take it out of the plan; see holdfast vault status " + v.name}
		}
	}
	return v.TryWrite(ctx)
}

// putWrap stores a wrap in every copy.
func (v *Vault) putWrap(ctx context.Context, generation int, content []byte) (wrap, error) {
	name, err := v.wrapName(generation, content)
	if err != nil {
		return wrap{}, err
	}
	if err := v.files.Put(ctx, name, store.Bytes(content)); err != nil {
		return wrap{}, err
	}
	if v.members != nil {
		for _, m := range v.members.Members() {
			if err := m.Store.Put(ctx, name, store.Bytes(content)); err != nil {
				return wrap{}, fmt.Errorf("copy %s: %w", m.Name, err)
			}
		}
	}
	v.formats[sha256.Sum256(content)] = generation + 1
	v.generation = max(v.generation, generation)
	return wrap{generation, name, content}, nil
}

// establish makes a wrap the one that every copy opens with. The stock program opens a copy before and after each step.
func (v *Vault) establish(ctx context.Context, content []byte) error {
	open, _ := v.copiesAlone()
	for _, c := range sortedKeys(open) {
		s := open[c]
		if err := s.Delete(ctx, configBlob); err != nil && !errors.Is(err, store.ErrDenied) && !errors.Is(err, store.ErrLocked) {
			return err
		}
		for _, name := range []string{formatBlobCopy, formatBlob} {
			if err := s.Replace(ctx, name, store.Bytes(content)); err != nil {
				return fmt.Errorf("copy %s: %w", c, err)
			}
		}
		back, err := store.Read(ctx, s, formatBlob)
		if err == nil && !bytes.Equal(back, content) {
			err = errors.New("another key is there than was written")
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", c, err)
		}
	}
	return nil
}

// rewrapped is the format under a new passphrase. Nothing is stored.
func (v *Vault) rewrapped(ctx context.Context, old, fresh redact.String) ([]byte, error) {
	here, err := v.openedFormat(ctx)
	if err != nil {
		return nil, err
	}
	var out []byte
	err = v.beside(ctx, &pinned{Store: v.files, format: here, sealed: true}, old, func(r *repo.Repository) error {
		out, err = r.Rewrapped(fresh.Reveal())
		return err
	})
	return out, err
}

// openedFormat is the wrap with which this vault was opened.
func (v *Vault) openedFormat(ctx context.Context) ([]byte, error) {
	raw, err := store.Read(ctx, v.files, formatBlob)
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(raw) == v.opened {
		return raw, nil
	}
	all, err := v.wraps(ctx)
	for _, w := range all {
		if sha256.Sum256(w.content) == v.opened {
			return w.content, err
		}
	}
	return nil, errors.Join(err, errors.New("the wrap with which the vault was opened is gone; open it again"))
}

// opensWith reports whether a wrap opens with a passphrase, and leads to this vault's own key.
func (v *Vault) opensWith(ctx context.Context, content []byte, key redact.String) (bool, error) {
	var found string
	err := v.beside(ctx, &pinned{Store: v.files, format: content, sealed: true}, key, func(r *repo.Repository) error {
		derived, err := r.DeriveKey("holdfast-identity-v1", 32)
		found = proofUnder(derived, v.identity)
		return err
	})
	if p, ok := errors.AsType[*problem.Problem](err); ok && p.Code == "vault.wrong-key" {
		return false, nil
	}
	return err == nil && hmac.Equal([]byte(found), []byte(v.identity.Proof)), err
}

// beside opens the repository once more, over another place.
func (v *Vault) beside(ctx context.Context, place store.Store, key redact.String, do func(*repo.Repository) error) error {
	other := &Vault{name: v.name, host: v.host, log: v.log}
	if err := other.openOver(ctx, place, Config{Key: key}); err != nil {
		return err
	}
	return errors.Join(do(other.repo), other.repo.Close(ctx))
}

// Retire makes the newest wrap every copy's own, and removes all others: the old passphrase opens the vault no more. It is refused to whoever opened
// the vault with an old one.
func (v *Vault) Retire(ctx context.Context) (int, error) {
	n, err := v.retire(ctx)
	if err != nil {
		return n, fmt.Errorf("retire old keys of vault %s: %w", v.name, err)
	}
	return n, nil
}

func (v *Vault) retire(ctx context.Context) (int, error) {
	newest, old, err := v.wrapsToRetire(ctx)
	if err != nil {
		return 0, err
	}
	if len(old) > 0 {
		if _, err := v.leave(ctx, retireDeed(old)); err != nil {
			return 0, err
		}
	}
	// A rotation that was cut off left copies that open with the old key.
	for _, w := range newest {
		if err := v.establish(ctx, w.content); err != nil {
			return 0, err
		}
	}
	n := 0
	for _, w := range old {
		if err := v.files.Delete(ctx, w.name); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// wrapsToRetire are the newest wrap and those that would go. Every copy answers.
func (v *Vault) wrapsToRetire(ctx context.Context) (newest, old []wrap, err error) {
	if v.OldKey() {
		return nil, nil, oldKey(v.name)
	}
	if err := v.allAnswer(ctx); err != nil {
		return nil, nil, err
	}
	all, err := v.wraps(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range all {
		switch {
		case w.generation > v.generation: // somebody rotated meanwhile; or it is damaged, and which is newest is not known
			return nil, nil, fmt.Errorf("%s is newer than the key that the vault was opened with, or damaged; nothing was changed", w.name)
		case v.formatRank(w.content) != v.generation+1 || w.generation != v.generation:
			old = append(old, w)
		default:
			newest = append(newest, w)
		}
	}
	return newest, old, nil
}

// OldKey reports whether the vault was opened with a passphrase that a newer one has replaced.
func (v *Vault) OldKey() bool { return v.formats[v.opened] < v.generation+1 && v.generation > 0 }

// KeyProof says that the copy of the key that is kept elsewhere opened the vault.
type KeyProof struct {
	At   time.Time `json:"at"`
	By   string    `json:"by"`
	Wrap string    `json:"wrap"` // SHA-256 of the wrap that it opened
}

// ProveKey notes that an exported copy of the key opened the vault; proven is the vault as that copy opened it.
func (v *Vault) ProveKey(ctx context.Context, proven *Vault, by string) error {
	switch {
	case proven.identity.ID != v.identity.ID:
		return exchanged(v.name, proven.identity.ID, v.identity.ID)
	case proven.OldKey():
		return oldKey(v.name)
	}
	return v.putRecord(ctx, provenFile, KeyProof{At: time.Now().UTC(), By: by, Wrap: hex.EncodeToString(proven.opened[:])})
}

// Keys is how it stands with the vault's keys.
type Keys struct {
	Generation int       `json:"generation"` // 0 = never rotated
	Opening    int       `json:"opening"`    // passphrases that open the vault
	Proven     *KeyProof `json:"proven,omitempty"`
}

// Trouble is what an operator should do about the keys at a moment; nil = nothing.
func (k Keys) Trouble(name string, now time.Time) *problem.Problem {
	p := &problem.Problem{Code: "vault.key-unproven", Subject: name, Severity: problem.Degraded,
		Meaning: "When the hosts are gone, so is their copy of the key. A copy that nobody tried may not open the vault.",
		Remedy:  "holdfast vault key export " + name + ", put it away from the hosts, then holdfast vault key prove " + name + " --sheet FILE"}
	switch {
	case k.Proven == nil:
		p.Title = "no copy of its key away from the hosts has been shown to open it"
	case now.Sub(k.Proven.At) > ProveEvery:
		p.Title = fmt.Sprintf("the copy of its key was last tried %d days ago", int(now.Sub(k.Proven.At).Hours()/24))
	default:
		return nil
	}
	return p
}

// Keys reads how it stands with the vault's keys. A proof of a passphrase that was replaced does not count.
func (v *Vault) Keys(ctx context.Context) (Keys, error) {
	k := Keys{Generation: v.generation, Opening: 1}
	all, err := v.wraps(ctx)
	if err != nil {
		return k, err
	}
	k.Opening = max(1, len(all))
	var p KeyProof
	there, err := v.getRecord(ctx, provenFile, &p)
	if err != nil || !there {
		return k, err
	}
	newest, err := v.newestWrap(all)
	if err != nil {
		return k, err
	}
	if newest.generation > v.generation { // the key was changed since the vault was opened
		sum := sha256.Sum256(newest.content)
		if k.Generation = newest.generation; hex.EncodeToString(sum[:]) == p.Wrap {
			k.Proven = &p
		}
		return k, nil
	}
	for sum, rank := range v.formats {
		if hex.EncodeToString(sum[:]) == p.Wrap && (rank == v.generation+1 || v.generation == 0) {
			k.Proven = &p
		}
	}
	return k, nil
}

// newestWrap is the newest of wraps, newest first, that somebody with the vault's key has written; the zero wrap when none is.
func (v *Vault) newestWrap(all []wrap) (wrap, error) {
	for _, w := range all {
		name, err := v.wrapName(w.generation, w.content)
		if err != nil || name == w.name {
			return w, err
		}
	}
	return wrap{}, nil
}

func oldKey(name string) *problem.Problem {
	return &problem.Problem{Code: "vault.old-key", Subject: name, Severity: problem.Degraded,
		Title:   "this key was replaced by a newer one",
		Meaning: "It opens the vault until the old key is retired. Nothing was changed.",
		Remedy:  "use the new key; a new export is holdfast vault key export " + name}
}
