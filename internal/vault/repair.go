package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/store"
)

// Mending is one thing that a repair does, or did.
type Mending struct {
	Copy string `json:"copy"`
	Name string `json:"name"`
	Kind string `json:"kind"` // of the finding
	From string `json:"from,omitempty"`
	// Entries is how many entries were missing, of an index that is made anew from the packs themselves.
	Entries int `json:"entries,omitempty"`
	// Listed are the backups that are listed again with an index that was made anew. One that had been let go of may be among them.
	Listed []string `json:"listed,omitempty"`
	Done   bool     `json:"done"`
	Why    string   `json:"why,omitempty"` // why it was not done
}

// Repair mends findings of a scrub from copies that have the blob whole; what was let go of and came back is removed
// again. Right before, both sides are read once more: a whole blob is never replaced, and only a whole one replaces. Indexes that
// no copy has whole are made anew from the packs, last, when those are mended. dry = nothing is changed. What is mended may use
// the room that is kept for the log.
func (v *Vault) Repair(ctx context.Context, findings []Finding, dry bool) ([]Mending, error) {
	ctx = store.UseReserve(ctx)
	if err := v.refresh(ctx); err != nil {
		return nil, fmt.Errorf("repair vault %s: %w", v.name, err)
	}
	open, _ := v.copiesAlone()
	var out []Mending
	var lost []string
	for _, f := range findings {
		if f.Kind == Unlisted {
			continue
		}
		m := Mending{Copy: f.Copy, Name: f.Name, Kind: f.Kind}
		err := v.mend(ctx, &m, open, dry)
		if ctx.Err() != nil {
			return out, fmt.Errorf("repair vault %s: %w", v.name, context.Cause(ctx))
		}
		if err != nil {
			m.Why = err.Error()
		}
		if errors.Is(err, errNobody) && strings.HasPrefix(f.Name, indexPrefix) {
			lost = append(lost, f.Name)
		}
		out = append(out, m)
	}
	if len(lost) == 0 {
		return out, nil
	}
	before := v.listedNow(ctx, dry)
	n, err := v.remake(ctx, lost, dry)
	var listed []string
	if err == nil {
		listed = slices.DeleteFunc(v.listedNow(ctx, dry), func(id string) bool { return slices.Contains(before, id) })
	}
	if ctx.Err() != nil {
		return out, fmt.Errorf("repair vault %s: %w", v.name, context.Cause(ctx))
	}
	for i := range out {
		m := &out[i]
		switch {
		case !slices.Contains(lost, m.Name):
		case err != nil:
			m.Why += "; made anew it cannot be: " + err.Error()
		case isMarker(m.Name):
			m.Why, m.From, m.Done = "", NoEntries, !dry
		default:
			m.Why, m.From, m.Entries, m.Listed, m.Done = "", ThePacks, n, listed, !dry
		}
	}
	return out, nil
}

var (
	errCopyAway    = errors.New("the copy does not answer now")
	errIsGood      = errors.New("it is whole now")
	errNobody      = errors.New("no copy that answers has it whole")
	errNotForget   = errors.New("the catalog does not say that it was let go of")
	errNoBundle    = errors.New("the bundle that took its place is not whole in this copy: it stays until that is mended")
	errOtherBundle = errors.New("the bundle that has its place holds other content: a person must look which is right")
)

func (v *Vault) mend(ctx context.Context, m *Mending, open map[string]store.Store, dry bool) error {
	target, ok := open[m.Copy]
	if !ok {
		return errCopyAway
	}
	if m.Kind == ShouldBeGo {
		c := v.lastCatalog.Load()
		if c == nil || !c.gone(m.Name) {
			return errNotForget
		}
		if err := v.bundledThere(ctx, *c, target, m.Name); err != nil {
			return err
		}
		if dry {
			return nil
		}
		err := target.Delete(ctx, m.Name)
		m.Done = err == nil
		return err
	}
	own, err := store.Read(ctx, target, m.Name)
	if err == nil && v.whole(m.Name, own) == nil && v.proves(m.Name) {
		return errIsGood
	}
	nothing := errors.Is(err, store.ErrNotFound) // then there is nothing good to lose
	for _, from := range slices.Sorted(maps.Keys(open)) {
		source := m.Name
		if from == m.Copy {
			if source = twin(m.Name); source == "" {
				continue
			}
		}
		content, err := store.Read(ctx, open[from], source)
		if err != nil || v.whole(m.Name, content) != nil || !v.proves(m.Name) && !nothing {
			continue
		}
		m.From = from
		if dry {
			return nil
		}
		if err := target.Replace(ctx, m.Name, store.Bytes(content)); err != nil {
			return err
		}
		back, err := store.Read(ctx, target, m.Name)
		if err == nil {
			err = v.whole(m.Name, back)
		}
		m.Done = err == nil
		return err
	}
	return errNobody
}

// twin is the blob that holds the same beside it; "" = there is none.
func twin(name string) string {
	return map[string]string{formatBlob: formatBlobCopy, formatBlobCopy: formatBlob}[name]
}

// whole says whether content is what lies under name, by its seal and by the catalog.
func (v *Vault) whole(name string, content []byte) error {
	switch {
	case sealed(name):
		return v.checkSealed(name, content)
	case name == formatBlob, name == formatBlobCopy:
		return v.checkFormat(content)
	case isRecord(name):
		_, err := v.openRecord(name, content)
		return err
	}
	return v.checkRow(name, content)
}

// proves reports whether there is anything that tells a whole blob from a damaged one.
func (v *Vault) proves(name string) bool {
	_, ok := v.known(name)
	return ok || sealed(name) || isRecord(name) || name == formatBlob || name == formatBlobCopy
}

// Affected lists the files of backups that need any of the named blobs. Blobs of the log name the segment themselves.
func (v *Vault) Affected(ctx context.Context, blobs []string) ([]Affected, error) {
	packs := map[string]bool{}
	for _, b := range blobs {
		if id, ok := strings.CutPrefix(b, repositoryDir+"/"); ok {
			packs[id] = true
		}
	}
	var out []Affected
	if len(packs) == 0 {
		return nil, nil
	}
	all, err := v.Backups(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, b := range all {
		r, err := v.OpenBackup(ctx, b.ID)
		if err != nil {
			out = append(out, Affected{Backup: b.ID, Path: "its directories: " + err.Error()})
			continue
		}
		for _, e := range r.entries {
			if e.object == "" {
				continue
			}
			pack, err := v.needs(ctx, e.object, packs)
			if err != nil {
				pack = err.Error()
			}
			if pack != "" {
				out = append(out, Affected{Backup: b.ID, Path: e.Path, Blob: pack})
			}
		}
	}
	return out, nil
}

// needs gives the first of the packs that an object needs; "" = none.
func (v *Vault) needs(ctx context.Context, text string, packs map[string]bool) (string, error) {
	id, err := repo.ParseObjectID(text)
	if err != nil {
		return "", err
	}
	contents, err := v.repo.VerifyObject(ctx, id)
	if err != nil {
		return "", err
	}
	for _, c := range contents {
		info, err := v.repo.ContentInfo(ctx, c)
		if err != nil {
			return "", err
		}
		if packs[string(info.Pack)] {
			return repositoryDir + "/" + string(info.Pack), nil
		}
	}
	return "", nil
}

// GiveUp settles what no copy has whole. The repository forgets the chunks of lost packs, so that the next backup of the
// same data stores them again instead of relying on them; backups that share them are whole again then. It gives their
// number. Anything else that is lost is settled when nothing that is listed needs it, and named in the error otherwise. What
// any copy has whole is refused before anything is done.
func (v *Vault) GiveUp(ctx context.Context, names []string) (int, error) {
	fail := func(err error) error { return fmt.Errorf("give up what vault %s has lost: %w", v.name, err) }
	if err := v.refresh(ctx); err != nil {
		return 0, fail(err)
	}
	open, away := v.copiesAlone()
	if len(away) > 0 {
		return 0, fail(fmt.Errorf("a copy that does not answer may have it: %s", strings.Join(away, "; ")))
	}
	packs := map[string]bool{}
	for _, n := range names {
		if err := v.nowhere(ctx, open, n); err != nil {
			return 0, fail(err)
		}
		if isPack(n) {
			packs[strings.TrimPrefix(n, repositoryDir+"/")] = true
		}
	}
	chunks, err := v.forgetChunks(ctx, packs)
	if err != nil {
		return 0, fail(err)
	}
	var needed []error
	for _, n := range names {
		if !isPack(n) {
			if err := v.needless(ctx, n); err != nil {
				needed = append(needed, fmt.Errorf("%s stays lost: %w", n, err))
				continue
			}
		}
		v.recorder.add(row{Name: n, Gone: true}) // nothing is missing that nobody counts on
	}
	if err := errors.Join(append(needed, v.writeDown(ctx, false))...); err != nil {
		return chunks, fail(err)
	}
	return chunks, nil
}

// forgetChunks deletes the entries of all chunks of lost packs from the repository's index.
func (v *Vault) forgetChunks(ctx context.Context, lost map[string]bool) (int, error) {
	if len(lost) == 0 {
		return 0, nil
	}
	n := 0
	v.repoMu.Lock()
	defer v.repoMu.Unlock()
	err := v.repo.Write(ctx, repo.WriteOptions{Purpose: "holdfast-give-up"}, func(ctx context.Context, w *repo.Writer) error {
		var ids []repo.ContentID
		err := v.repo.EachContent(ctx, false, func(i repo.Info) error {
			if lost[string(i.Pack)] {
				ids = append(ids, i.ID)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := w.Delete(ctx, id); err != nil {
				return err
			}
		}
		n = len(ids)
		return nil
	})
	return n, err
}
