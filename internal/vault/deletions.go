package vault

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/vault/consent"
	"holdfast/internal/vault/store"
)

// Requests to let something go for good, and the answers to them, are signed by persons (package consent); here they are
// bytes under their own hash, one object each, sealed as everything else. None is ever replaced, and a lock keeps them.
const (
	deletionDir    = "deletions"
	deletionSuffix = ".aes"
	deletionMagic  = "HFDELET\x01"
	deletionHead   = 20 // magic 8, nonce 12
)

// Deletions say who must agree before something goes for good.
type Deletions struct {
	TwoPersons bool   // the plan wants it; the vault may besides, and then the plan alone does not end it
	Authority  []byte // whose certificates are persons', PEM; nil = nobody here can be told from another
}

// PutPaper stores a request or an answer. That it is stored says nothing of whether it counts.
func (v *Vault) PutPaper(ctx context.Context, content []byte) error {
	ctx = store.LettingGo(ctx) // two persons may have to agree before anything goes
	if err := v.noteAuthority(ctx); err != nil {
		return fmt.Errorf("store a request in vault %s: %w", v.name, err)
	}
	sum := sha256.Sum256(content)
	name := deletionDir + "/" + hex.EncodeToString(sum[:16]) + deletionSuffix
	raw, err := v.sealPaper(name, content)
	if err == nil {
		err = v.files.Put(ctx, name, store.Bytes(raw))
	}
	if errors.Is(err, store.ErrDiffers) { // equal content under a fresh nonce is never equal bytes
		err = nil
	}
	if err == nil {
		raw, err = store.Read(ctx, v.files, name)
	}
	if err == nil {
		var there []byte
		if there, err = v.openPaper(name, raw); err == nil && !bytes.Equal(there, content) {
			err = errors.New("another one is kept under its name")
		}
	}
	if err == nil {
		err = v.isListed(ctx, v.files, name) // a refusal counts for whoever finds it by a list
	}
	if err != nil {
		return fmt.Errorf("store a request in vault %s: %w", v.name, err)
	}
	if err := v.writeDown(ctx, true); err != nil { // it is stored; its row waits
		v.log.WarnContext(ctx, "catalog not written", "err", err)
	}
	return nil
}

func (v *Vault) sealPaper(name string, content []byte) ([]byte, error) {
	gcm, err := v.cipherFor("holdfast-deletion-v1")
	if err != nil {
		return nil, err
	}
	head := make([]byte, deletionHead)
	copy(head, deletionMagic)
	_, _ = rand.Read(head[len(deletionMagic):]) // never fails (crypto/rand)
	return gcm.Seal(slices.Clone(head), head[len(deletionMagic):], content, []byte(name)), nil
}

func (v *Vault) openPaper(name string, raw []byte) ([]byte, error) {
	if len(raw) < deletionHead || string(raw[:len(deletionMagic)]) != deletionMagic {
		return nil, errors.New("it is no request, or one of another version")
	}
	gcm, err := v.cipherFor("holdfast-deletion-v1")
	if err != nil {
		return nil, err
	}
	content, err := gcm.Open(nil, raw[len(deletionMagic):deletionHead], raw[deletionHead:], []byte(name))
	if err != nil {
		return nil, errors.New("damaged: its seal does not fit")
	}
	return content, nil
}

// Requested is what was asked for in a vault, and whether two persons are needed there.
type Requested struct {
	TwoPersons bool           `json:"two_persons"`
	Terms      *consent.Terms `json:"terms,omitempty"` // what two persons last agreed to; nil = nothing, and nothing goes by itself
	Cases      []consent.Case `json:"requests"`        // the newest first
	Bad        []string       `json:"bad,omitempty"`   // what lies there and counts for nothing
	Waits      string         `json:"waits,omitempty"` // why nobody here can say what was agreed to: then nothing goes
	Lost       []string       `json:"lost,omitempty"`  // papers that no copy has whole and two persons have not set aside: then nothing goes
}

// Requested reads every request and judges it at a moment. A copy that is away may hold a refusal, or what says that two
// persons are needed: then it is an error.
func (v *Vault) Requested(ctx context.Context, now time.Time) (Requested, error) {
	return v.requested(ctx, now)
}

// Foresee is [Vault.Requested] as it would be with one paper more.
func (v *Vault) Foresee(ctx context.Context, paper []byte, now time.Time) (Requested, error) {
	return v.requested(ctx, now, paper)
}

func (v *Vault) requested(ctx context.Context, now time.Time, extra ...[]byte) (Requested, error) {
	defer v.Insist()()
	out := Requested{TwoPersons: v.deletions.TwoPersons, Cases: []consent.Case{}}
	var names []string
	err := v.files.List(ctx, deletionDir+"/", func(i store.Info) error {
		if strings.HasSuffix(i.Name, deletionSuffix) {
			names = append(names, i.Name)
		}
		return nil
	})
	if err == nil {
		err = v.Whole()
	}
	if err != nil {
		return out, fmt.Errorf("read what was asked for in vault %s: %w", v.name, err)
	}
	slices.Sort(names)
	var papers [][]byte
	noted, lost := "", []string(nil)
	for _, name := range names {
		content, err := v.paperIn(ctx, name)
		switch {
		case errors.Is(err, errPaperLost) && name != authorityNote:
			// It may be a refusal. Whoever can damage it in every copy can stop what goes until two persons set it aside.
			lost = append(lost, name)
		case err != nil:
			return out, fmt.Errorf("read %s in vault %s: %w", name, v.name, err)
		case name == authorityNote:
			noted = string(content)
		default:
			papers = append(papers, content)
		}
	}
	if len(papers) == 0 && noted == "" && len(extra) == 0 && len(lost) == 0 {
		return out, nil
	}
	papers = append(papers, extra...)
	trust, why := v.trust(noted, papers, len(lost))
	if why != "" { // and nobody here can say what was agreed to
		out.TwoPersons, out.Waits = true, why
		return out, nil
	}
	out.Cases, out.Bad = consent.Judge(papers, trust, now)
	if out.Cases == nil {
		out.Cases = []consent.Case{}
	}
	if out.Lost = consent.Without(out.Cases, lost); len(out.Lost) > 0 { // one of them may say that two are needed
		out.TwoPersons = true
		return out, nil
	}
	terms, on := consent.Standing(out.Cases)
	out.Terms, out.TwoPersons = terms, out.TwoPersons || on
	return out, nil
}

// MayNeedTwo reports whether two persons may be needed, by the copies that answer: what must never be too little is said where
// it cannot be told.
func (v *Vault) MayNeedTwo(ctx context.Context) (bool, error) {
	if v.deletions.TwoPersons {
		return true, nil
	}
	any := false
	err := v.files.List(ctx, deletionDir+"/", func(store.Info) error {
		any = true
		return nil
	})
	if err != nil || !any {
		return any, err
	}
	now, err := v.Requested(ctx, time.Now())
	return err != nil || now.TwoPersons, nil
}

// leave is nil when a deed may be done now: one person is enough in this vault, or two agreed to exactly this. by names them.
func (v *Vault) leave(ctx context.Context, d consent.Deed) (by string, err error) {
	now, err := v.Requested(ctx, time.Now())
	if err != nil || !now.TwoPersons {
		return "", err
	}
	c, ok := consent.Leave(now.Cases, d)
	if !ok || len(now.Lost) > 0 {
		return "", now.refuse(v.name, d)
	}
	return fmt.Sprintf("%s, and %s agreed", c.By, c.Second), nil
}

// Terms are for how long two persons agreed that things stay at least; nil where one person's plan is enough. Where two are
// needed and have not agreed, nothing may go: that is the problem vault.needs-two-persons.
func (v *Vault) Terms(ctx context.Context) (*consent.Terms, error) {
	now, err := v.Requested(ctx, time.Now())
	switch {
	case err != nil:
		return nil, err
	case now.TwoPersons && now.Terms == nil:
		return nil, now.refuse(v.name, consent.Deed{Kind: consent.Retention})
	case !now.TwoPersons:
		return nil, nil
	}
	return now.Terms, nil
}

// UnpinDeed names the pin of a backup, as it is now.
func (v *Vault) UnpinDeed(ctx context.Context, backup string) (consent.Deed, error) {
	return v.noteDeed(ctx, consent.Unpin, backup, Pin)
}

// ReleaseDeed names the legal hold of a backup, as it is now.
func (v *Vault) ReleaseDeed(ctx context.Context, backup string) (consent.Deed, error) {
	return v.noteDeed(ctx, consent.Release, backup, Hold)
}

// noteDeed names one note so that a later one, on the same backup, is another.
func (v *Vault) noteDeed(ctx context.Context, kind, backup, note string) (consent.Deed, error) {
	all, err := v.Notes(ctx)
	if err != nil {
		return consent.Deed{}, err
	}
	var items []string
	for _, n := range all {
		if n.Backup == backup && n.Kind == note {
			items = append(items, fmt.Sprintf("%s on %s, put by %s at %s: %s", n.Kind, n.Backup, n.By, n.At.UTC().Format(time.RFC3339), n.Reason))
		}
	}
	return consent.NewDeed(kind, backup, items, nil), nil
}

// SetAsideDeed names the papers that no copy has whole and that stop whatever goes for good.
func (v *Vault) SetAsideDeed(ctx context.Context) (consent.Deed, error) {
	now, err := v.Requested(ctx, time.Now())
	if err != nil {
		return consent.Deed{}, err
	}
	return consent.NewDeed(consent.SetAside, "", now.Lost, nil), nil
}

// RetireDeed names the wraps of the keys that would open the vault no more.
func (v *Vault) RetireDeed(ctx context.Context) (consent.Deed, error) {
	_, old, err := v.wrapsToRetire(ctx)
	if err != nil {
		return consent.Deed{}, err
	}
	return retireDeed(old), nil
}

func retireDeed(old []wrap) consent.Deed {
	var items []string
	for _, w := range old {
		items = append(items, w.name)
	}
	return consent.NewDeed(consent.RetireKey, "", items, nil)
}

// refuse says that a deed was not agreed to, and why nobody can tell.
func (r Requested) refuse(name string, d consent.Deed) error {
	p := NotAgreed(name, d)
	if len(r.Lost) > 0 {
		return &problem.Problem{Code: "vault.paper-lost", Subject: name, Severity: problem.Degraded,
			Title:   fmt.Sprintf("%d requests or answers are damaged in every copy, and each may be a refusal: %s", len(r.Lost), strings.Join(r.Lost, ", ")),
			Meaning: "Nothing is let go of for good, whatever was agreed to, and the vault grows. Backups, restores and the log go on.",
			Remedy:  "holdfast vault repair " + name + " brings back what a copy or its trash still has; else one person asks: holdfast vault deletions request set-aside " + name + "; another one agrees"}
	}
	if r.Waits != "" {
		p.Title, p.Severity = "nobody here can tell what two persons agreed to: "+r.Waits, problem.Degraded
		p.Remedy = "use a plan's data root whose certificates are of the vault's own authority; holdfast vault deletions list says more"
	}
	return p
}

// NotAgreed refuses what one person alone, or nobody, wants.
func NotAgreed(name string, d consent.Deed) *problem.Problem {
	p := &problem.Problem{Code: "vault.needs-two-persons", Subject: name, Severity: problem.Note,
		Title:   "two persons must agree to this, and have not",
		Meaning: "Nothing was let go of, and nothing was changed.",
		Remedy:  "one asks: holdfast vault deletions request " + d.Kind + " " + name + "; another one agrees: holdfast vault deletions approve ID"}
	switch d.Kind {
	case consent.Retention:
		p.Severity, p.Title = problem.Degraded, "two persons must agree for how long things stay, and have not"
		p.Meaning = "Nothing is let go of until they do, and the vault grows. Backups and the log go on."
	case consent.Unpin, consent.Release:
		p.Remedy = "one asks: holdfast vault deletions request " + d.Kind + " " + d.Subject + "; another one agrees within a day: holdfast vault deletions approve ID; then this again"
	case consent.RetireKey:
		p.Remedy += " within a day; then this again"
	}
	return p
}
