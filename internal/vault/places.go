package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast/internal/vault/azstore"
	"holdfast/internal/vault/copies"
	"holdfast/internal/vault/filestore"
	"holdfast/internal/vault/s3store"
	"holdfast/internal/vault/store"
)

// Place is one copy of a vault and how it is reached.
type Place struct {
	Copy    string         // its name among the vault's copies; "" = it is the only one
	URL     string         // file:///absolute/path, s3://bucket/prefix or azblob://account/container/prefix
	S3      s3store.Config // how an s3:// place is reached; its URL, Locks and Clock are set here
	Azure   azstore.Config // how an azblob:// place is reached; its URL is set here
	Trash   time.Duration  // how long a file:// place keeps what is deleted; 0 = [TrashDefault], below 0 = not at all
	Reserve int64          // bytes of a file:// place's disk that base backups leave to the log; 0 = a tenth, 4 GiB at most
	Filled  bool           // it held the vault once: an empty one is a disk that is not mounted
	Unready error          // why it cannot be reached at all, such as a secret that is missing

	instead store.Store // the place itself, whatever URL says; nil = what URL names
}

// all are the copies in their order.
func (c Config) all() []Place {
	return append([]Place{{Copy: c.Copy, URL: c.URL, S3: c.S3, Azure: c.Azure, Trash: c.Trash, Reserve: c.Reserve, Filled: c.Filled, Unready: c.Unready, instead: c.instead}}, c.Others...)
}

// openStore opens the place that the URL names; create makes it where it can be made: a directory is, a bucket is not.
// A place that is not there is store.ErrNotFound for a directory and store.ErrNoPlace for a bucket.
func (p Place) openStore(ctx context.Context, create, readOnly bool) (store.Store, error) {
	if p.Unready != nil {
		return nil, p.Unready
	}
	if p.instead != nil {
		return p.instead, nil
	}
	if strings.HasPrefix(p.URL, "s3:") {
		conf := p.S3
		conf.URL, conf.Locks = p.URL, locks
		if readOnly {
			if conf.Read != (s3store.Access{}) {
				conf.Write = conf.Read
			}
			conf.Delete, conf.Lock = conf.Write, 0
		}
		return s3store.Open(ctx, conf)
	}
	if strings.HasPrefix(p.URL, "azblob:") {
		conf := p.Azure
		conf.URL = p.URL
		if readOnly {
			if conf.Read != (azstore.Access{}) {
				conf.Write = conf.Read
			}
			conf.Delete = conf.Write
		}
		return azstore.Open(ctx, conf)
	}
	u, err := url.Parse(p.URL)
	if err != nil {
		return nil, fmt.Errorf("read vault address: %w", err)
	}
	if u.Scheme != "file" || u.Host != "" || !filepath.IsAbs(u.Path) {
		return nil, fmt.Errorf("read vault address %q: not file:///absolute/path, s3://bucket/prefix or azblob://account/container/prefix", p.URL)
	}
	dir := filepath.Clean(u.Path)
	if create {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if readOnly {
		return filestore.Open(dir)
	}
	return filestore.OpenKeeping(dir, p.trash(), p.Reserve)
}

// places opens every place of a vault that is to be made; one that does not open is an error.
func (v *Vault) places(ctx context.Context, cfg Config, create bool) (all []store.Store, err error) {
	defer func() {
		if err != nil {
			for _, s := range all {
				closeStore(s)
			}
		}
	}()
	for _, p := range cfg.all() {
		s, err := p.openStore(ctx, create, cfg.ReadOnly)
		if err != nil {
			return all, unusable(v.name, p.URL, fmt.Errorf("create vault %s: %w", v.name, err))
		}
		all = append(all, s)
	}
	return all, nil
}

func closeStore(s store.Store) {
	if c, ok := s.(interface{ Close() }); ok {
		c.Close()
	}
}

// openFiles opens where the vault lies: its one place, or all of its copies as one.
func (v *Vault) openFiles(ctx context.Context, cfg Config) error {
	if len(cfg.Others) == 0 {
		s, err := v.openPlace(ctx, cfg.all()[0], cfg.ReadOnly)
		if err != nil {
			return err
		}
		v.files = s
	} else {
		id, err := v.whichVault(ctx, cfg)
		if err != nil {
			return err
		}
		var places []copies.Place
		for _, p := range cfg.all() {
			places = append(places, copies.Place{Name: p.Copy, Address: p.URL, Open: func(ctx context.Context) (store.Store, error) {
				return v.openCopy(ctx, p, id, cfg.ReadOnly)
			}})
		}
		if v.members, err = copies.Open(ctx, v.policy(), nil, places); err != nil {
			return err
		}
		v.files = v.members
	}
	if cfg.ReadOnly {
		v.files = readOnly{v.files}
	} else {
		v.record(v.files)
	}
	return nil
}

// record makes the vault write down what is stored in s.
func (v *Vault) record(s store.Store) {
	v.recorder = &recorder{Store: s}
	v.guard = &guarded{Store: v.recorder} // outside: what a lock keeps is not recorded as gone
	v.files = v.guard
}

func (v *Vault) openPlace(ctx context.Context, p Place, readOnly bool) (store.Store, error) {
	s, err := p.openStore(ctx, false, readOnly)
	if errors.Is(err, store.ErrNotFound) {
		return nil, absent(v.name, p.URL)
	}
	if err != nil {
		return nil, unusable(v.name, p.URL, fmt.Errorf("open vault %s: %w", v.name, err))
	}
	return s, nil
}

// whichVault is the identifier that all copies must have: the one that is known, or that of the first copy with any.
func (v *Vault) whichVault(ctx context.Context, cfg Config) (string, error) {
	if cfg.ID != "" {
		return cfg.ID, nil
	}
	var first error
	for _, p := range cfg.all() {
		s, err := v.openPlace(ctx, p, cfg.ReadOnly)
		if err == nil {
			var id Identity
			id, err = readIdentity(ctx, s, v.name)
			closeStore(s)
			if err == nil {
				return id.ID, nil
			}
		}
		// A place that does not answer says more than one where nothing is: a vault may be behind it.
		if first == nil || isAbsent(first) && !isAbsent(err) {
			first = err
		}
	}
	return "", first
}

// openCopy opens one of several copies. A place where nothing is becomes a copy, unless it was one before.
func (v *Vault) openCopy(ctx context.Context, p Place, id string, readOnly bool) (store.Store, error) {
	s, err := p.openStore(ctx, !p.Filled && !readOnly, readOnly)
	if errors.Is(err, store.ErrNotFound) {
		return nil, copyGone(v.name, p.Copy, p.URL)
	}
	if err != nil {
		return nil, unusable(v.name, p.URL, err)
	}
	if err := v.belongs(ctx, s, p, id, readOnly); err != nil {
		closeStore(s)
		return nil, err
	}
	return s, nil
}

// belongs refuses a place that holds anything but this vault.
func (v *Vault) belongs(ctx context.Context, s store.Store, p Place, id string, readOnly bool) error {
	there, err := readIdentity(ctx, s, v.name)
	switch {
	case err == nil && there.ID != id:
		return exchanged(v.name, there.ID, id)
	case err == nil || !isAbsent(err):
		return err
	}
	raw, err := store.Read(ctx, s, fillingFile)
	switch {
	case err == nil:
		var begun Identity
		if err := json.Unmarshal(raw, &begun); err != nil || begun.ID != id {
			return notEmpty(v.name, s.Address(), fillingFile)
		}
		return nil
	case !errors.Is(err, store.ErrNotFound):
		return err
	case p.Filled || readOnly:
		return copyGone(v.name, p.Copy, s.Address())
	}
	if err := claim(ctx, s, v.name); err != nil {
		return err
	}
	mark, err := json.Marshal(Identity{Format: formatNow, ID: id})
	if err != nil {
		return err
	}
	return s.Put(ctx, fillingFile, store.Bytes(mark))
}

func readIdentity(ctx context.Context, s store.Store, name string) (Identity, error) {
	raw, err := store.Read(ctx, s, identityFile)
	if errors.Is(err, store.ErrNotFound) {
		return Identity{}, absent(name, s.Address())
	}
	if err != nil {
		return Identity{}, unusable(name, s.Address(), fmt.Errorf("open vault %s: %w", name, err))
	}
	var id Identity
	if err := json.Unmarshal(raw, &id); err != nil {
		return Identity{}, damagedIdentity(name, s.Address(), err.Error())
	}
	if id.Format != formatNow {
		return Identity{}, otherFormat(name, id.Format)
	}
	return id, nil
}

// ErrReadOnly is returned by a vault that was opened for reading alone.
var ErrReadOnly = errors.New("the vault is open for reading alone")

// readOnly refuses everything that changes a store.
type readOnly struct{ store.Store }

func (r readOnly) Put(_ context.Context, name string, _ store.Data) error {
	return fmt.Errorf("store %s: %w", name, ErrReadOnly)
}

func (r readOnly) Replace(_ context.Context, name string, _ store.Data) error {
	return fmt.Errorf("replace %s: %w", name, ErrReadOnly)
}

func (r readOnly) Delete(_ context.Context, name string) error {
	return fmt.Errorf("delete %s: %w", name, ErrReadOnly)
}

// Close lets go of the connections.
func (r readOnly) Close() { closeStore(r.Store) }

// Follow carries to each copy of the vault what it lacks, until ctx ends. A vault with one copy has nothing to carry.
func (v *Vault) Follow(ctx context.Context) {
	if v.members == nil {
		<-ctx.Done()
		return
	}
	v.members.Follow(ctx)
}

// Copies says of each copy how it stands, as far as this process knows; nil for a vault with one.
func (v *Vault) Copies() []copies.Status {
	if v.members == nil {
		return nil
	}
	return v.members.Status()
}

// Compare lists every copy and says what each lacks; nil for a vault with one.
func (v *Vault) Compare(ctx context.Context) ([]copies.Lack, error) {
	if v.members == nil {
		return nil, nil
	}
	return v.members.Compare(ctx)
}

// Sync brings every copy that answers up to date with all others, once.
func (v *Vault) Sync(ctx context.Context) ([]copies.Carried, error) {
	if v.members == nil {
		return nil, nil
	}
	return v.members.Sync(ctx)
}

// Insist makes what the vault lists, and what it says is not there, an error while a copy has no part in that, until done.
func (v *Vault) Insist() (done func()) {
	if v.members == nil {
		return func() {}
	}
	return v.members.Insist()
}

// Away gives the copies that cannot be read now, as far as is known, and why; none for a vault with one copy.
func (v *Vault) Away() []error {
	if v.members == nil {
		return nil
	}
	return v.members.Away()
}

// Whole is nil when every copy of the vault answers, as far as is known.
func (v *Vault) Whole() error {
	if v.members == nil {
		return nil
	}
	return v.members.Whole()
}
