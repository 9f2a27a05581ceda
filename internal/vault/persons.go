package vault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"holdfast/internal/vault/consent"
	"holdfast/internal/vault/store"
)

// authorityNote holds the fingerprint of the authority by whose certificates persons are known in a vault. It lies beside the
// papers, is written before the first of them, and is never replaced: so another authority, in the root of whoever runs a
// command, makes no persons, and does not make those of before nobody.
const authorityNote = deletionDir + "/authority" + deletionSuffix

// noteAuthority writes the note where there is none yet, and refuses to store what would count for nothing.
func (v *Vault) noteAuthority(ctx context.Context) error {
	noted, err := v.paperIn(ctx, authorityNote)
	if err == nil {
		_, why := v.trust(string(noted), nil, 0)
		return sayWhy(why)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	_, is := consent.AuthorityIn(v.deletions.Authority, "")
	now, err := v.Requested(ctx, time.Now()) // of every copy: one that is away may have the note of another
	switch {
	case err != nil:
		return err
	case is == "" || now.Waits != "":
		return sayWhy(now.Waits + noAuthority)
	}
	raw, err := v.sealPaper(authorityNote, []byte(is))
	if err == nil {
		err = v.files.Put(ctx, authorityNote, store.Bytes(raw))
	}
	if errors.Is(err, store.ErrDiffers) { // somebody was first, or it is the same under another nonce
		err = nil
	}
	if err == nil {
		noted, err = v.paperIn(ctx, authorityNote)
	}
	if err == nil && string(noted) != is {
		err = errors.New("another authority was noted in the vault at the same time")
	}
	return err
}

const noAuthority = "there is no authority's certificate here by which persons are known"

func sayWhy(why string) error {
	if why == "" {
		return nil
	}
	return errors.New(why)
}

// trust is whose certificates are persons' in this vault: of the one authority that is noted there. Where none is, it is the one
// known here, if every paper is by its persons. why says that nobody can be trusted, and so nothing goes.
func (v *Vault) trust(noted string, papers [][]byte, lost int) (t consent.Trust, why string) {
	certificate, is := consent.AuthorityIn(v.deletions.Authority, noted)
	t = consent.Trust{Authority: certificate, Application: v.identity.Application, Vault: v.identity.ID}
	if is == "" {
		if _, other := consent.AuthorityIn(v.deletions.Authority, ""); other != "" {
			return t, fmt.Sprintf("the authority whose certificates are known here (%.12s) is not this vault's (%.12s)", other, noted)
		}
		return t, noAuthority
	}
	if noted == "" && lost > 0 {
		return t, "which authority's persons count here is not noted in the vault, and not every request and answer can be read"
	}
	for _, p := range papers {
		if noted == "" && !t.Knows(p) {
			return t, "a request or an answer was signed with a certificate that is not of the authority known here"
		}
	}
	return t, ""
}

// errPaperLost is that every copy of the vault has something under a paper's name, and none has it whole.
var errPaperLost = errors.New("no copy has it whole")

// paperIn reads what is sealed as a paper is, from the first copy that has it whole. It is lost, errPaperLost, when each copy
// was asked and none has.
func (v *Vault) paperIn(ctx context.Context, name string) ([]byte, error) {
	raw, err := store.Read(ctx, v.files, name)
	if err != nil {
		return nil, err
	}
	content, damaged := v.openPaper(name, raw)
	if damaged == nil {
		return content, nil
	}
	open, away := v.copiesAlone()
	silent := away
	for _, c := range sortedKeys(open) {
		raw, err := store.Read(ctx, open[c], name)
		if err != nil {
			if !errors.Is(err, store.ErrNotFound) { // it does not say: another one may
				silent = append(silent, fmt.Sprintf("%s: %v", c, err))
			}
			continue
		}
		if content, err = v.openPaper(name, raw); err == nil {
			return content, nil
		}
	}
	if len(silent) > 0 {
		return nil, fmt.Errorf("%w; a copy that does not answer may have it whole: %s", damaged, strings.Join(silent, "; "))
	}
	return nil, fmt.Errorf("%w: %w", errPaperLost, damaged)
}
