package host

import (
	"context"
	"sync"

	"holdfast/internal/vault"
)

// While a base backup is copied and proven, which may take hours, commits may wait for what else is found in the vault. Where
// nobody waits nothing here does anything.

// lookWhile looks through the vault beside what takes long, for as long as commits may wait for that. stop returns when it looks
// no more.
func (a *archivist) lookWhile(ctx context.Context, look func(context.Context)) (stop func()) {
	if !a.asksVotes() {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var g sync.WaitGroup
	g.Go(func() {
		for a.host.sleep(ctx, dueSoon) {
			if !a.judged() || a.newLead() {
				look(ctx)
			}
		}
	})
	return func() {
		cancel()
		g.Wait()
	}
}

// stored takes a base backup that was begun when lost was, and is listed now, for what it is before its trial: what proves it may
// take as long as making it did. One that is then found bad is looked for behind it again.
func (a *archivist) stored(ctx context.Context, lost string, b vault.Backup, look func(context.Context)) {
	if !a.asksVotes() {
		return
	}
	a.bridged(lost)
	listed := leadsFrom([]vault.Backup{b}, a.record()).ID
	a.mu.Lock()
	if listed != "" {
		a.listed = listed
	}
	a.mu.Unlock()
	look(ctx)
}
