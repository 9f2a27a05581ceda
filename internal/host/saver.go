package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/auth"
	"holdfast/internal/cluster"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/rebuild"
	"holdfast/internal/vault"
)

// saver saves the agreed state to every vault of the plan after each change, while this host is the controller, so
// that a cluster can be rebuilt when most hosts are gone. Nothing waits for it.
type saver struct {
	host   *Host
	digest string    // of what is agreed now, as last seen
	since  time.Time // when it was first seen
	first  time.Time // when the oldest change that is not saved yet was seen; zero = none
	retry  map[string]time.Time

	mu     sync.Mutex // guards what follows
	failed map[string]problem.Problem
}

const (
	// savePace is how often the agreed state is compared with what is saved.
	savePace = 500 * time.Millisecond
	// saveQuiet is how long nothing must have changed before a saving, and saveMost how long changes may go on.
	saveQuiet = 1500 * time.Millisecond
	saveMost  = 10 * time.Second
	// saveDaily is the age at which what has not changed is saved again: old savings are let go.
	saveDaily = 24 * time.Hour
	// saveRetry is the pause after a saving that did not succeed.
	saveRetry = 15 * time.Second
	// saveMax bounds one saving; a vault that hangs is said.
	saveMax = time.Minute
)

func newSaver(h *Host) *saver {
	return &saver{host: h, retry: map[string]time.Time{}, failed: map[string]problem.Problem{}}
}

func (s *saver) run(ctx context.Context) error {
	for {
		if s.host.govern.Leading() {
			s.look(ctx)
		} else {
			s.digest, s.first = "", time.Time{}
			s.clear()
		}
		if !s.host.sleep(ctx, savePace) {
			return nil
		}
	}
}

// look saves to each vault that lacks what is agreed now, once it has settled.
func (s *saver) look(ctx context.Context) {
	now, snap := s.host.clock.Now(), s.host.agent.Last()
	lasting := rebuild.Lasting(snap.Agreed)
	if d := rebuild.Digest(lasting); d != s.digest {
		s.digest, s.since = d, now
		if s.first.IsZero() {
			s.first = now
		}
	}
	if now.Sub(s.since) < saveQuiet && now.Sub(s.first) < saveMost {
		return
	}
	all := true
	for _, v := range s.host.cfg.Plan.Vaults {
		if !s.due(snap, v.Name, now) {
			continue
		}
		if now.Before(s.retry[v.Name]) {
			all = false
			continue
		}
		if err := s.save(ctx, snap, v.Name, lasting); err != nil {
			all = false
			s.retry[v.Name] = s.host.clock.Now().Add(saveRetry)
			s.tell(v.Name, err)
		} else {
			s.tell(v.Name, nil)
		}
	}
	if all {
		s.first = time.Time{}
	}
}

// due reports whether a vault lacks what is agreed now, or has not been given it for a day.
func (s *saver) due(snap agent.Snapshot, vault string, now time.Time) bool {
	var last agent.Saved
	e, ok := snap.Agreed[agent.KeySaved+vault]
	if !ok || json.Unmarshal(e.Value, &last) != nil {
		return true
	}
	return last.Digest != s.digest || now.Sub(last.At) > saveDaily || last.At.Sub(now) > saveDaily
}

// save writes one saving and tells the others of it.
func (s *saver) save(ctx context.Context, snap agent.Snapshot, name string, lasting []rebuild.Entry) error {
	ctx, cancel := context.WithTimeout(ctx, saveMax)
	defer cancel()
	at := time.Now().UTC()
	state := rebuild.State{
		Application: s.host.cfg.Plan.Application, At: at, By: s.host.cfg.Self, ClusterID: s.host.store.ClusterID(),
		Recovery: snap.Facts.Recovery, Entries: lasting, Promises: promisesHeard(s.host.cfg.Self, snap),
	}
	for _, e := range lasting {
		state.Revision = max(state.Revision, e.Revision)
	}
	var err error
	v, err := s.host.openVault(ctx, name)
	if err != nil {
		return err
	}
	kept, err := s.put(ctx, v, state)
	if err = errors.Join(err, v.Close(context.WithoutCancel(ctx))); err != nil {
		return err
	}
	key := cluster.Key[agent.Saved](agent.KeySaved + name)
	_, err = key.Set(ctx, s.host.store, agent.Saved{Vault: name, Object: kept.Object, At: kept.At, Revision: kept.Revision, Digest: s.digest, Host: s.host.cfg.Self})
	if err == nil {
		s.host.cfg.Log.Info("agreed state saved", "vault", name, "revision", kept.Revision, "took", time.Since(at))
	}
	return err
}

// put stores a saving. Whoever has the vault's key can read it: where two persons must agree, in any vault of the plan or by
// this one's own word, the key that makes persons is left out.
func (s *saver) put(ctx context.Context, v *vault.Vault, state rebuild.State) (vault.SavedState, error) {
	two, err := v.MayNeedTwo(ctx)
	if err != nil {
		return vault.SavedState{}, err
	}
	if state.Files, err = ownFiles(s.host.cfg, !two && !needsTwo(s.host.cfg.Plan) && !needsTwo(s.host.plan())); err != nil {
		return vault.SavedState{}, err
	}
	content, err := state.Encode()
	if err != nil {
		return vault.SavedState{}, err
	}
	return v.PutState(ctx, state.At, state.Revision, content)
}

// needsTwo reports whether two persons must agree in any vault of a plan.
func needsTwo(p *plan.Plan) bool {
	return slices.ContainsFunc(p.Vaults, func(v plan.Vault) bool { return v.TwoPersons })
}

// promisesHeard are what every server that is heard, ours included, has sworn.
func promisesHeard(self string, snap agent.Snapshot) []rebuild.Promise {
	var out []rebuild.Promise
	for _, d := range snap.Facts.Databases {
		if d.Local.Promise.Epoch > 0 {
			out = append(out, rebuild.Promise{Database: d.Name, Host: self, Promise: d.Local.Promise})
		}
		for _, p := range snap.Facts.Peers {
			if p.Report == nil {
				continue
			}
			if told := p.Report.Databases[d.Name]; told != nil && told.Local.Promise.Epoch > 0 {
				out = append(out, rebuild.Promise{Database: d.Name, Host: p.Host, Promise: told.Local.Promise})
			}
		}
	}
	return out
}

// ownFiles are what this host needs to be itself again, and the application's authority where it lies on this machine: its key
// only when withKey is set.
func ownFiles(cfg Config, withKey bool) (map[string][]byte, error) {
	out := map[string][]byte{}
	for name, dir := range map[string]string{"ca": cfg.Authority, filepath.Join("hosts", cfg.Self, "tls"): certDir(cfg.Dir)} {
		if dir == "" {
			continue
		}
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read certificates to save: %w", err)
		}
		for _, e := range entries {
			if !e.Type().IsRegular() || e.Name() == auth.CAKeyFile && !withKey {
				continue
			}
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				return nil, fmt.Errorf("read certificates to save: %w", err)
			}
			out[filepath.ToSlash(filepath.Join(name, e.Name()))] = b
		}
	}
	return out, nil
}

// tell keeps a vault's trouble for this host's report; nil = it went well.
func (s *saver) tell(vault string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, was := s.failed[vault]
	switch {
	case err == nil && was:
		delete(s.failed, vault)
		s.host.cfg.Log.Info("agreed state saved again", "vault", vault)
	case err == nil:
	default:
		if !was {
			s.host.cfg.Log.Warn("agreed state not saved", "vault", vault, "err", err)
		}
		why := err.Error()
		if p, ok := errors.AsType[*problem.Problem](err); ok {
			why = p.Title
		}
		s.failed[vault] = problem.Problem{
			Code: "cluster.state-not-saved", Subject: vault, Severity: problem.Degraded, Title: "the agreed state is not saved to this vault: " + why,
			Meaning: "Everything runs on. Should most hosts be lost now, what was agreed since the last saving would be lost with them.",
			Remedy:  "bring the vault back; saving goes on by itself. holdfast cluster status shows the last one",
		}
	}
}

func (s *saver) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.failed)
}

// problems are those of saving, for this host's report.
func (s *saver) problems() []problem.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []problem.Problem
	for _, v := range s.host.cfg.Plan.Vaults {
		if p, ok := s.failed[v.Name]; ok {
			out = append(out, p)
		}
	}
	return out
}
