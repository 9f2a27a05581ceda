package vault

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/vault/filestore"
	"holdfast/internal/vault/store"
)

// TrashDefault is how long a directory keeps what is deleted, unless the plan says otherwise.
const TrashDefault = 7 * 24 * time.Hour

// trash is what a directory of this vault keeps of what is deleted: what is stored for ever. The rest is made to be let go.
func (p Place) trash() filestore.Trash {
	return filestore.Trash{For: max(cmp.Or(p.Trash, TrashDefault), 0), Of: locks}
}

// rawPlaces are the places by themselves, without what writes down or refuses.
func (v *Vault) rawPlaces() map[string]store.Store {
	if v.members == nil {
		switch s := v.files.(type) {
		case *guarded:
			return map[string]store.Store{"": v.recorder.Store}
		case readOnly:
			return map[string]store.Store{"": s.Store}
		default:
			return map[string]store.Store{"": s}
		}
	}
	open, _ := v.copiesAlone()
	return open
}

// InTrash is what one copy still has of what was deleted.
type InTrash struct {
	Copy    string          `json:"copy,omitempty"` // "" = the only one
	Objects int             `json:"objects"`
	Bytes   int64           `json:"bytes"`
	Oldest  time.Time       `json:"oldest,omitzero"` // when the first of them was deleted
	Keeps   time.Duration   `json:"keeps,omitempty"` // how long; 0 = by the place's own rules
	None    string          `json:"none,omitempty"`  // why the copy keeps nothing
	all     []store.Deleted // by name, the newest first
}

// Trash says of each copy that answers what it still has of what was deleted.
func (v *Vault) Trash(ctx context.Context) ([]InTrash, error) {
	places := v.rawPlaces()
	var out []InTrash
	for _, c := range sortedKeys(places) {
		t := InTrash{Copy: c}
		place, ok := places[c].(store.Trash)
		if !ok {
			t.None = "this version does not look into the trash of such a place: use the tools of its maker"
			out = append(out, t)
			continue
		}
		if e, ok := place.(store.Expunger); ok {
			t.Keeps = e.Keeps()
		}
		err := place.Deleted(ctx, "", func(d store.Deleted) error {
			t.Objects, t.Bytes = t.Objects+1, t.Bytes+d.Size
			if t.Oldest.IsZero() || d.At.Before(t.Oldest) {
				t.Oldest = d.At
			}
			t.all = append(t.all, d)
			return nil
		})
		if errors.Is(err, store.ErrNoTrash) {
			t.None = err.Error()
		} else if err != nil {
			return out, fmt.Errorf("look into the trash of vault %s: %w", v.name, err)
		}
		slices.SortFunc(t.all, func(a, b store.Deleted) int { return cmp.Or(cmp.Compare(a.Name, b.Name), b.At.Compare(a.At)) })
		out = append(out, t)
	}
	return out, nil
}

// UndeleteOptions say what is to be brought back.
type UndeleteOptions struct {
	Since  time.Time // only what was deleted then or later; zero = all that is there
	Prefix string    // only names that begin so
	DryRun bool      // say what would come back, and change nothing
}

// Undeleted is what came back.
type Undeleted struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
	There   int   `json:"there"` // of those asked for, so many are there already
}

// Undelete brings back what was deleted and its places still have, each under its name, and writes that down as stored. What
// is there under such a name stays. A backup that was taken off the list is not listed again by that: see [Vault.AsItWas].
func (v *Vault) Undelete(ctx context.Context, o UndeleteOptions) (Undeleted, error) {
	ctx = store.UseReserve(ctx)
	var out Undeleted
	trash, err := v.Trash(ctx)
	if err != nil {
		return out, err
	}
	places, done := v.rawPlaces(), map[string]bool{}
	for _, t := range trash {
		for _, d := range t.all {
			if done[d.Name] || d.At.Before(o.Since) || !strings.HasPrefix(d.Name, o.Prefix) {
				continue
			}
			if _, err := v.files.Stat(ctx, d.Name); err == nil {
				done[d.Name] = true
				out.There++
				continue
			} else if !errors.Is(err, store.ErrNotFound) {
				return out, fmt.Errorf("bring back %s: %w", d.Name, err)
			}
			content, err := v.getDeleted(ctx, places[t.Copy], d)
			if errors.Is(err, errDamaged) {
				v.log.WarnContext(ctx, "deleted object is damaged", "object", d.Name, "copy", t.Copy, "err", err)
				continue // another one of that name may be whole
			}
			if err == nil && !o.DryRun {
				err = v.files.Put(ctx, d.Name, store.Bytes(content))
			}
			if err != nil {
				return out, fmt.Errorf("bring back %s: %w", d.Name, err)
			}
			done[d.Name] = true
			out.Objects, out.Bytes = out.Objects+1, out.Bytes+d.Size
		}
	}
	return out, nil
}

// getDeleted reads what was deleted, and errs when it is not what its seal says.
func (v *Vault) getDeleted(ctx context.Context, from store.Store, d store.Deleted) ([]byte, error) {
	var b bytes.Buffer
	if err := from.(store.Trash).GetDeleted(ctx, d, &b); err != nil {
		return nil, err
	}
	if int64(b.Len()) != d.Size {
		return nil, fmt.Errorf("%w: %d bytes of %d", errDamaged, b.Len(), d.Size)
	}
	if err := v.checkSealed(d.Name, b.Bytes()); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return b.Bytes(), nil
}

// AsItWas makes a vault of its own in an empty directory that holds what this one held at a moment: what was stored until
// then and is there still, and what was deleted later and can be brought back. It has the same key. Nothing is changed here.
func (v *Vault) AsItWas(ctx context.Context, at time.Time, dir string, dry bool) (Undeleted, error) {
	ctx = store.UseReserve(ctx)
	var out Undeleted
	if err := v.refresh(ctx); err != nil {
		return out, fmt.Errorf("read vault %s as it was: %w", v.name, err)
	}
	to, err := filestore.Open(dir)
	if err != nil {
		return out, err
	}
	if err := claim(ctx, to, v.name); err != nil {
		return out, err
	}
	trash, err := v.Trash(ctx)
	if err != nil {
		return out, err
	}
	put := func(name string, content []byte) error {
		out.Objects, out.Bytes = out.Objects+1, out.Bytes+int64(len(content))
		if dry {
			return nil
		}
		return to.Put(ctx, name, store.Bytes(content))
	}
	done, last := map[string]bool{}, []string{}
	err = v.files.List(ctx, "", func(i store.Info) error {
		switch {
		case passing(i.Name):
			return nil
		case !changing(i.Name) && v.storedAt(i).After(at):
			if before, err := v.bundledBefore(ctx, i.Name, at); err != nil || !before {
				return err
			}
		case i.Name == identityFile: // what makes it a vault comes last
			last = append(last, i.Name)
			return nil
		}
		content, err := store.Read(ctx, v.files, i.Name)
		if err != nil {
			return err
		}
		done[i.Name] = true
		return put(i.Name, content)
	})
	if err != nil {
		return out, fmt.Errorf("copy vault %s as it was: %w", v.name, err)
	}
	places := v.rawPlaces()
	for _, t := range trash {
		for _, d := range t.all {
			_, isBundle := parseBundleName(d.Name)
			if done[d.Name] || d.At.Before(at) || d.ModTime.After(at) && !isBundle || passing(d.Name) {
				continue
			}
			content, err := v.getDeleted(ctx, places[t.Copy], d)
			if err == nil && d.ModTime.After(at) && !v.bundleOf(d.Name, content, at) {
				continue
			}
			if errors.Is(err, errDamaged) {
				continue
			}
			if err == nil {
				err = put(d.Name, content)
			}
			if err != nil {
				return out, fmt.Errorf("copy vault %s as it was: %w", v.name, err)
			}
			done[d.Name] = true
		}
	}
	for _, name := range last {
		content, err := store.Read(ctx, v.files, name)
		if err == nil {
			err = put(name, content)
		}
		if err != nil {
			return out, fmt.Errorf("copy vault %s as it was: %w", v.name, err)
		}
	}
	return out, nil
}

// bundledBefore reports whether a blob that was stored after a moment is a bundle with log from before it: its segments lay alone
// then, and their trash may be empty.
func (v *Vault) bundledBefore(ctx context.Context, name string, at time.Time) (bool, error) {
	b, ok := parseBundleName(name)
	if !ok {
		return false, nil
	}
	var head bytes.Buffer
	err := v.files.Get(ctx, name, 0, headSize(b.count), &head)
	if err != nil && !errors.Is(err, store.ErrShort) {
		return false, err
	}
	return v.bundleOf(name, head.Bytes(), at), nil
}

// bundleOf reports whether any segment of a bundle was sent until a moment, or may have been: of a damaged one nobody knows.
func (v *Vault) bundleOf(name string, raw []byte, at time.Time) bool {
	b, err := v.openBundle(name, raw)
	return err != nil || slices.ContainsFunc(b.parts, func(p bundled) bool { return !p.covers.After(at) })
}

// storedAt is when a blob was stored: as the catalog says, for a copy that was filled later dates it anew.
func (v *Vault) storedAt(i store.Info) time.Time {
	if r, ok := v.known(i.Name); ok && time.Unix(r.At+1, 0).Before(i.ModTime) { // it counts whole seconds
		return time.Unix(r.At+1, 0)
	}
	return i.ModTime
}

// emptyTrash ends what was deleted longer ago than its place keeps, and than two persons agreed where two must, by may's leave
// each time. The caller has asked [Vault.MayLetGo].
func (v *Vault) emptyTrash(ctx context.Context, may func(context.Context) error) (n int64, err error) {
	trash, err := v.Trash(ctx)
	if err != nil {
		return 0, err
	}
	terms, err := v.Terms(ctx)
	if err != nil {
		return 0, err
	}
	agreed := time.Duration(0)
	if terms != nil {
		agreed = terms.Undelete
	}
	places := v.rawPlaces()
	for _, t := range trash {
		place, ok := places[t.Copy].(store.Expunger)
		if !ok || t.Keeps <= 0 {
			continue
		}
		for _, d := range t.all {
			if time.Since(d.At) < max(t.Keeps, agreed) {
				continue
			}
			if err := may(ctx); err != nil {
				return n, fmt.Errorf("empty the trash of vault %s: %w", v.name, err)
			}
			if err := place.Expunge(ctx, d); err != nil {
				return n, fmt.Errorf("empty the trash of vault %s: %w", v.name, err)
			}
			n++
		}
	}
	return n, nil
}
