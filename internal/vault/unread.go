package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/store"
)

// unreadMax bounds how many damaged indexes an opening passes over: each takes it a quarter of a second more.
const unreadMax = 100

// sound is a place of which indexes that cannot be read are left out, for a repository is not opened beside one of them.
type sound struct {
	*pinned
	unread map[string]bool // by name; fixed while the repository is open
	loaded sync.Map        // names of indexes that the place gave
}

// openPast opens the repository in a place past indexes that are damaged there in every copy. What such an index alone knows of is
// not listed: the same as if it were lost, which the catalog tells.
func (v *Vault) openPast(ctx context.Context, place *pinned, cfg Config) error {
	here := &sound{pinned: place, unread: map[string]bool{}}
	elsewhere := 0 // how often another copy may have an index whole
	for {
		err := v.openOver(ctx, here, cfg)
		if err == nil {
			v.unread = sortedKeys(here.unread)
			if len(v.unread) > 0 {
				v.log.ErrorContext(ctx, "indexes of the vault are damaged: what they alone know of is not listed", "indexes", v.unread)
			}
			return nil
		}
		name, ok := unreadIn(err)
		_, came := here.loaded.Load(name)
		if !ok || !came || here.unread[name] || len(here.unread) >= unreadMax || ctx.Err() != nil {
			return err // the place is at fault, or something else than an index
		}
		here = &sound{pinned: place, unread: here.unread}
		if v.members != nil && elsewhere < unreadMax && v.members.Mistrust(ctx, name, errUnread) {
			elsewhere++
			continue
		}
		here.unread[name] = true
	}
}

// unreadIn is the index of which an error says that it cannot be read.
func unreadIn(err error) (string, bool) {
	if bad, ok := errors.AsType[*repo.IndexError](err); ok {
		return blobName(bad.Blob), true
	}
	return "", false
}

func (s *sound) Get(ctx context.Context, name string, offset, length int64, to io.Writer) error {
	if s.unread[name] {
		return fmt.Errorf("read %s: %w", name, store.ErrNotFound)
	}
	err := s.pinned.Get(ctx, name, offset, length, to)
	if err == nil && strings.HasPrefix(name, indexPrefix) {
		s.loaded.Store(name, true)
	}
	return err
}

func (s *sound) Stat(ctx context.Context, name string) (store.Info, error) {
	if s.unread[name] {
		return store.Info{}, fmt.Errorf("look up %s: %w", name, store.ErrNotFound)
	}
	return s.pinned.Stat(ctx, name)
}

func (s *sound) List(ctx context.Context, prefix string, each func(store.Info) error) error {
	return s.pinned.List(ctx, prefix, func(i store.Info) error {
		if s.unread[i.Name] {
			return nil
		}
		return each(i)
	})
}

// isUnread reports whether an index was passed over when the vault was opened.
func (v *Vault) isUnread(name string) bool { return slices.Contains(v.unread, name) }
