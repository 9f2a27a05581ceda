package receipt

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/durable"
)

// Shelf is a place that keeps receipts for ever: a vault. Names are as [ParseName] reads them.
type Shelf interface {
	ReceiptNames(ctx context.Context) ([]string, error)
	Receipt(ctx context.Context, name string) ([]byte, error)
	// PutReceipt stores one; the same again is no error, and nothing that is there is ever replaced.
	PutReceipt(ctx context.Context, name string, raw []byte) error
}

// Book is where one signer writes its receipts: files of its own first, then the vault. Several processes may have it open.
type Book struct {
	dir string
	id  Identity
	as  Author

	unvouched bool
}

// Author is who writes.
type Author struct {
	Application string
	Host        string // as in the certificate
	Tool        string // version of the program
}

// KeyLife is how long a key signs before the next one takes its place.
const KeyLife = 365 * 24 * time.Hour

// NewBook opens the book in dir, which is made when it is needed.
func NewBook(dir string, id Identity, as Author) *Book { return &Book{dir: dir, id: id, as: as} }

// NewUnvouchedBook opens the book of whoever has no certificate of the application, such as a machine on which all is restored
// from a vault alone. What it writes is signed with a key that the directory keeps, says that nobody vouches for that, and proves
// no more than that it is of whoever has the key. Its public half lies beside it: [PublicKeyFile].
func NewUnvouchedBook(dir string, as Author) *Book { return &Book{dir: dir, as: as, unvouched: true} }

// PublicKeyFile is the public key of an unvouched book, PEM, in its directory.
const PublicKeyFile = "key.pub"

// signer is who signs now; a key is made where there is none.
func (b *Book) signer(file string, now time.Time) (signer, error) {
	s, err := loadSigner(b.dir, file, b.identity(), now)
	if err != nil || !b.unvouched {
		return s, err
	}
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err == nil {
		err = durable.WriteFile(filepath.Join(b.dir, PublicKeyFile), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644)
	}
	if err != nil {
		return s, fmt.Errorf("write the public key of receipts: %w", err)
	}
	return s, nil
}

// identity is who vouches for the key; nil = nobody.
func (b *Book) identity() *Identity {
	if b.unvouched {
		return nil
	}
	return &b.id
}

// Dir is where a vault's receipts of this book lie, one directory for each chain.
func (b *Book) Dir(vault string) string { return filepath.Join(b.dir, pageDir(vault)) }

// NotCarriedError says that a receipt is written on this host and has not reached the vault. The next one carries it there.
type NotCarriedError struct{ Err error }

func (e *NotCarriedError) Error() string {
	return "the receipt is kept on this host, and has not reached the vault yet: " + e.Err.Error()
}

// Unwrap gives what stood in the way.
func (e *NotCarriedError) Unwrap() error { return e.Err }

// Append writes down what was done. vault is the vault's identifier ("" = there is none; then shelf is nil). When the
// vault cannot be reached the receipt is written all the same, with a *NotCarriedError.
func (b *Book) Append(ctx context.Context, vault string, shelf Shelf, what Event, now time.Time) (Receipt, error) {
	unlock, err := b.lock()
	if err != nil {
		return Receipt{}, err
	}
	defer unlock()
	s, err := b.signer(keyFile, now)
	if err != nil {
		return Receipt{}, err
	}
	r, carried, err := b.append(ctx, s, vault, shelf, what, now)
	if err != nil {
		return r, fmt.Errorf("write a receipt of %s %s: %w", what.Kind, what.Subject, err)
	}
	return r, carried
}

// append writes one with the book locked. carried is why it has not reached the vault.
func (b *Book) append(ctx context.Context, s signer, vault string, shelf Shelf, what Event, now time.Time) (r Receipt, carried, err error) {
	p, err := b.page(vault)
	if err != nil {
		return r, nil, err
	}
	var names []string
	if shelf != nil {
		if names, err = shelf.ReceiptNames(ctx); err != nil {
			err = &NotCarriedError{err}
		} else {
			err = p.agree(ctx, shelf, names, b.as.Host, s)
		}
		if _, late := errors.AsType[*NotCarriedError](err); late {
			shelf, carried = nil, err // written down here, it waits
		} else if err != nil {
			return r, nil, err
		}
	}
	st := Statement{
		Format: formatNow, Application: b.as.Application, Vault: vault, Chain: p.chain, Sequence: 1, At: now.UTC().Truncate(time.Millisecond),
		Host: b.as.Host, Tool: b.as.Tool, Unvouched: b.unvouched, Event: what, Seen: heads(names, p.chain),
	}
	if last, ok := p.last(); ok {
		before, err := p.read(last)
		if err != nil {
			return r, nil, err
		}
		st.Sequence, st.Previous = before.Sequence+1, before.Hash
	}
	if r, err = s.sign(st); err != nil {
		return r, nil, err
	}
	if err := p.write(r); err != nil {
		return r, nil, err
	}
	if shelf != nil {
		if err := p.carry(ctx, shelf, names); err != nil {
			carried = &NotCarriedError{err}
		}
	}
	return r, carried, nil
}

// Carry brings to the vault what waits on this host.
func (b *Book) Carry(ctx context.Context, vault string, shelf Shelf) error {
	unlock, err := b.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(filepath.Join(b.dir, pageDir(vault))); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	p, err := b.page(vault)
	if err != nil || len(p.names) == 0 {
		return err
	}
	names, err := shelf.ReceiptNames(ctx)
	if err != nil {
		return fmt.Errorf("carry receipts to the vault: %w", err)
	}
	if err := p.carry(ctx, shelf, names); err != nil {
		return fmt.Errorf("carry receipts to the vault: %w", err)
	}
	return nil
}

// lock keeps other writers of the book out until the returned function is called.
func (b *Book) lock() (func(), error) {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the receipts: %w", err)
	}
	if b.unvouched {
		if err := ownDir(b.dir); err != nil {
			return nil, fmt.Errorf("open the receipts: %w", err)
		}
	}
	f, err := os.OpenFile(filepath.Join(b.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the receipts: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the receipts in %s: %w", b.dir, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // the lock goes with it
}

// ownDir refuses a directory that another user made, could write to, or leads elsewhere. Where anybody can write, one who guessed
// its name would have us sign with his key, and go on with what he wrote.
func ownDir(dir string) error {
	at, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := at.Sys().(*syscall.Stat_t)
	if !ok || !at.IsDir() || int(st.Uid) != os.Geteuid() || at.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is not a directory of this user's that nobody else can write to; look at what it is, and move it away or choose another place", dir)
	}
	return nil
}

// page is the chain that one vault holds of this signer, as it lies on this host.
type page struct {
	dir   string
	chain string
	names []string // oldest first
}

// chainFile says which chain is written on. Another begins when this one was found to have forked.
const chainFile = "chain"

const fileSuffix = ".json"

func pageDir(vault string) string {
	if vault == "" {
		return "alone"
	}
	return "vault-" + vault
}

func (b *Book) page(vault string) (*page, error) {
	if vault != "" && !goodChain(vault) {
		return nil, fmt.Errorf("open the receipts: %q is no vault's identifier", vault)
	}
	p := &page{dir: filepath.Join(b.dir, pageDir(vault))}
	raw, err := os.ReadFile(filepath.Join(p.dir, chainFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return p, p.begin(b.as.Host)
	case err != nil:
		return nil, err
	}
	p.chain = strings.TrimSpace(string(raw))
	if !goodChain(p.chain) {
		return nil, fmt.Errorf("%s names no chain", filepath.Join(p.dir, chainFile))
	}
	return p, p.list()
}

// begin starts a new chain.
func (p *page) begin(host string) error {
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	p.chain, p.names = host+"-"+hex.EncodeToString(random[:]), nil
	if !goodChain(p.chain) {
		return fmt.Errorf("begin a chain of receipts: %q is no host's name", host)
	}
	if err := os.MkdirAll(filepath.Join(p.dir, p.chain), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(p.dir, chainFile), []byte(p.chain+"\n"), 0o600)
}

func (p *page) list() error {
	entries, err := os.ReadDir(filepath.Join(p.dir, p.chain))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	p.names = nil
	for _, e := range entries {
		base, ok := strings.CutSuffix(e.Name(), fileSuffix)
		if _, _, _, good := ParseName(p.chain + "/" + base); ok && good {
			p.names = append(p.names, p.chain+"/"+base)
		}
	}
	sortNames(p.names)
	return nil
}

func sortNames(names []string) {
	slices.SortFunc(names, func(a, b string) int {
		chainA, seqA, _, _ := ParseName(a)
		chainB, seqB, _, _ := ParseName(b)
		return cmp.Or(cmp.Compare(chainA, chainB), cmp.Compare(seqA, seqB), cmp.Compare(a, b))
	})
}

func (p *page) last() (string, bool) {
	if len(p.names) == 0 {
		return "", false
	}
	return p.names[len(p.names)-1], true
}

func (p *page) file(name string) string {
	return filepath.Join(p.dir, filepath.FromSlash(name)+fileSuffix)
}

func (p *page) read(name string) (Receipt, error) {
	raw, err := os.ReadFile(p.file(name))
	if err != nil {
		return Receipt{}, err
	}
	r, err := Read(raw)
	if err == nil && r.Name != name {
		err = fmt.Errorf("%s holds receipt %s", p.file(name), r.Name)
	}
	return r, err
}

func (p *page) write(r Receipt) error {
	if err := os.MkdirAll(filepath.Join(p.dir, p.chain), 0o700); err != nil {
		return err
	}
	if err := durable.WriteFile(p.file(r.Name), r.Raw, 0o600); err != nil {
		return err
	}
	p.names = append(p.names, r.Name)
	return nil
}

// agree takes over what the vault holds of this chain and this host has lost (it was set back to an earlier state), and
// begins another chain when the vault holds one that this host cannot go on with: a fork, or what s may not follow. What this
// host has of the old one is in the vault before. A *NotCarriedError says that the vault stood in the way.
func (p *page) agree(ctx context.Context, shelf Shelf, names []string, host string, s signer) error {
	lost, good, err := p.lost(ctx, shelf, names, s)
	if err != nil {
		return err
	}
	if !good {
		if err := p.carry(ctx, shelf, names); err != nil {
			return &NotCarriedError{err}
		}
		return p.begin(host) // both sides stay, and whoever verifies hears of it
	}
	for _, r := range lost {
		if err := p.write(r); err != nil {
			return err
		}
	}
	return nil
}

// lost is what the vault holds behind the end of this chain. good is false when the chain has forked, or when that is not a
// whole continuation, each signed by the key before or by the one that it announced, behind which s may sign: anybody with the
// vault's key can put something there.
func (p *page) lost(ctx context.Context, shelf Shelf, names []string, s signer) (lost []Receipt, good bool, err error) {
	end, key, announced := Receipt{}, s.id(), ""
	if last, ok := p.last(); ok {
		if end, err = p.read(last); err != nil {
			return nil, false, err
		}
		key, announced = end.Envelope.Signatures[0].KeyID, nextKey(end)
	}
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool {
		chain, _, _, ok := ParseName(n)
		return !ok || chain != p.chain || slices.Contains(p.names, n)
	})
	sortNames(names)
	for _, n := range names {
		if _, seq, _, _ := ParseName(n); seq <= end.Sequence {
			if p.has(seq) {
				return nil, false, nil // forked
			}
			continue // a hole here that the vault does not have
		}
		raw, err := shelf.Receipt(ctx, n)
		if err != nil {
			return nil, false, &NotCarriedError{fmt.Errorf("take over %s from the vault: %w", n, err)}
		}
		r, err := Read(raw)
		if err != nil || r.Name != n || r.Sequence != end.Sequence+1 || r.Previous != end.Hash {
			return nil, false, nil
		}
		signed, err := Trust{}.signature(r)
		if err != nil || signed.Key != key && signed.Key != announced {
			return nil, false, nil
		}
		end, key, announced, lost = r, signed.Key, nextKey(r), append(lost, r)
	}
	return lost, len(lost) == 0 || s.id() == key || s.id() == announced, nil
}

// has reports whether a receipt of that number lies on this host.
func (p *page) has(seq int64) bool {
	return slices.ContainsFunc(p.names, func(n string) bool {
		_, here, _, _ := ParseName(n)
		return here == seq
	})
}

// carry stores in the vault what it lacks, oldest first.
func (p *page) carry(ctx context.Context, shelf Shelf, names []string) error {
	for _, n := range p.names {
		if slices.Contains(names, n) {
			continue
		}
		r, err := p.read(n)
		if err != nil {
			return err
		}
		if err := shelf.PutReceipt(ctx, n, r.Raw); err != nil {
			return err
		}
	}
	return nil
}

// heads are the last receipts of all other chains.
func heads(names []string, own string) map[string]Head {
	var out map[string]Head
	for _, n := range names {
		chain, seq, hash, ok := ParseName(n)
		if !ok || chain == own || seq <= out[chain].Sequence {
			continue
		}
		if out == nil {
			out = map[string]Head{}
		}
		out[chain] = Head{Sequence: seq, Hash: hash}
	}
	return out
}

// Rotate gives the signer a new key. Each chain on this host first says so, signed with the old one. Cut off anywhere, the
// same call again ends it. Receipts that have not reached their vault are carried with the next.
func (b *Book) Rotate(ctx context.Context, now time.Time) (old, fresh string, err error) {
	unlock, err := b.lock()
	if err != nil {
		return "", "", err
	}
	defer unlock()
	before, err := b.signer(keyFile, now)
	if err != nil {
		return "", "", err
	}
	next, err := loadSigner(b.dir, nextKeyFile, b.identity(), now)
	if err != nil {
		return "", "", err
	}
	pages, err := filepath.Glob(filepath.Join(b.dir, "*", chainFile))
	if err != nil {
		return "", "", err
	}
	details, err := json.Marshal(map[string]string{"next": next.id()})
	if err != nil {
		return "", "", err
	}
	for _, f := range pages {
		vault, _ := strings.CutPrefix(filepath.Base(filepath.Dir(f)), "vault-")
		if vault == "alone" {
			vault = ""
		}
		what := Event{Kind: Key, Subject: b.as.Host, Outcome: Done, Says: "receipts are signed with key " + next.id() + " from here on, in place of " + before.id(), Details: details}
		if _, _, err := b.append(ctx, before, vault, nil, what, now); err != nil {
			return "", "", fmt.Errorf("announce a new key for receipts: %w", err)
		}
	}
	if err := os.Rename(filepath.Join(b.dir, nextKeyFile), filepath.Join(b.dir, keyFile)); err != nil {
		return "", "", fmt.Errorf("change the key of receipts: %w", err)
	}
	return before.id(), next.id(), durable.SyncDir(b.dir)
}

// KeyMade is when the present key was made; zero = there is none yet.
func (b *Book) KeyMade() (time.Time, error) {
	at, err := os.Stat(filepath.Join(b.dir, keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return at.ModTime(), nil
}
