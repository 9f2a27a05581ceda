package vault

import (
	"context"
	"fmt"
	"strings"
	"time"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/store"
)

// takeUpMax is how long ago a writer may have begun whose packs are taken up: far less than [Grace], after which packs that no index
// knows are freed.
const takeUpMax = 24 * time.Hour

// newWriter opens a write session. What a writer before it had stored when it was killed or broken off is known first, so that none of
// that is stored again.
func (v *Vault) newWriter(ctx context.Context, purpose string, uploaded func(int64)) (*repo.Writer, *atWork, error) {
	if err := v.broken(); err != nil {
		return nil, nil, err
	}
	n, err := v.takeUp(ctx)
	switch {
	case ctx.Err() != nil:
		return nil, nil, context.Cause(ctx)
	case err != nil: // it costs time and room, and nothing else
		v.log.WarnContext(ctx, "what an unfinished writer left in the vault is not used", "err", err)
	case n > 0:
		v.log.InfoContext(ctx, "chunks that an unfinished writer left in the vault are used", "chunks", n)
	}
	work, err := v.beginWork(ctx)
	if err != nil {
		return nil, nil, err
	}
	lost, err := v.lostPacks(ctx) // behind the mark: what is there now is not freed while this one writes
	if ctx.Err() != nil {
		work.end(ctx)
		return nil, nil, context.Cause(ctx)
	}
	if err != nil { // a list that lags behind fails too: it goes on as if none were, and a scrub tells
		v.log.WarnContext(ctx, "not looked whether packs of the vault are gone", "err", err)
	}
	w, err := v.repo.NewWriter(ctx, repo.WriteOptions{Purpose: purpose, OnUpload: uploaded, Lost: lost})
	if err != nil {
		work.end(ctx)
		return nil, nil, fmt.Errorf("begin writing to vault %s: %w", v.name, err)
	}
	return w, work, nil
}

// takeUp adds to the index what unfinished writers have stored: each leaves a marker from before its first pack until an index
// knows its packs. Those of a writer that lives are known a little sooner for that, which harms nothing. Packs of entries stay
// unknown: whoever wrote them was told that they do not count, and may have decided otherwise since.
func (v *Vault) takeUp(ctx context.Context) (int, error) {
	if v.recorder == nil {
		return 0, nil
	}
	unfinished := map[string]bool{}
	err := v.files.List(ctx, repositoryDir+"/"+sessionMarkers, func(i store.Info) error {
		if time.Since(i.ModTime) < takeUpMax {
			unfinished[repo.SessionOf(strings.TrimPrefix(i.Name, repositoryDir+"/"))] = true
		}
		return nil
	})
	if err != nil || len(unfinished) == 0 {
		return 0, err
	}
	packs, err := v.packs(ctx, func(i store.Info) bool {
		return bulk(i.Name) && unfinished[repo.SessionOf(strings.TrimPrefix(i.Name, repositoryDir+"/"))]
	})
	if err == nil && len(packs) > 0 {
		packs, err = v.unknownPacks(ctx, packs)
	}
	if err != nil || len(packs) == 0 {
		return 0, err
	}
	return v.learnPacks(ctx, packs, false)
}

// unknownPacks leaves out the packs of which the index knows anything: it knows all of them then.
func (v *Vault) unknownPacks(ctx context.Context, packs []store.Info) ([]store.Info, error) {
	v.repoMu.Lock()
	defer v.repoMu.Unlock()
	if err := v.repo.Refresh(ctx); err != nil {
		return nil, err
	}
	waiting := map[string]store.Info{}
	for _, p := range packs {
		waiting[strings.TrimPrefix(p.Name, repositoryDir+"/")] = p
	}
	err := v.repo.EachContent(ctx, true, func(i repo.Info) error {
		delete(waiting, i.Pack)
		return nil
	})
	out := packs[:0:0]
	for _, p := range packs {
		if _, ok := waiting[strings.TrimPrefix(p.Name, repositoryDir+"/")]; ok {
			out = append(out, p)
		}
	}
	return out, err
}
