package host

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/agent"
	"holdfast/internal/clock"
	"holdfast/internal/cluster"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

func isAbsent(err error) bool {
	p, ok := errors.AsType[*problem.Problem](err)
	return ok && p.Code == "vault.absent"
}

// founder makes a vault where there is none yet. One host does it at a time: of two that made one in the same place at the
// same moment, the second would replace the format under which the first had begun to write.
type founder struct {
	store cluster.Store
	self  string
	clock clock.Clock
	log   *slog.Logger
	sleep func(ctx context.Context, d time.Duration) bool
}

func (f founder) found(ctx context.Context, name string, conf vault.Config) (v *vault.Vault, err error) {
	office := cluster.Campaign(f.store, agent.KeyCare+name+"/found", f.self+"/"+rand.Text()[:8], careTTL, f.clock, f.log.With("vault", name))
	hold, leave := context.WithCancel(context.WithoutCancel(ctx))
	var g errgroup.Group
	g.Go(func() error { return office.Run(hold) })
	defer func() {
		leave()
		_ = g.Wait() // it gives no error
	}()
	for !office.Leading() {
		if !f.sleep(ctx, carePace) {
			return nil, fmt.Errorf("create vault %s: %w", name, context.Cause(ctx))
		}
	}
	known, revision, err := vaultKey(name).Load(ctx, f.store)
	if err != nil {
		return nil, fmt.Errorf("create vault %s: %w", name, err)
	}
	conf.ID = known
	v, err = vault.Open(ctx, conf)
	if revision == 0 && isAbsent(err) {
		if err = office.Confirm(ctx); err == nil {
			v, err = vault.Create(ctx, conf)
		}
	}
	if err != nil {
		return nil, err
	}
	if revision == 0 {
		if _, err := vaultKey(name).Swap(ctx, f.store, 0, v.Identity().ID); err != nil {
			return nil, errors.Join(err, v.Close(ctx))
		}
	}
	return v, nil
}
