package host

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/auth"
	"holdfast/internal/cluster/etcd"
	"holdfast/internal/database/postgres"
	"holdfast/internal/durable"
	"holdfast/internal/keeper"
	"holdfast/internal/problem"
	"holdfast/internal/rebuild"
	"holdfast/internal/vault"
)

// answerMax bounds how long another host may take to show that it lives.
const answerMax = 2 * time.Second

// Outlook is what the survivor of a lost majority finds, and what a cluster of one would begin with. It changes nothing.
func Outlook(ctx context.Context, cfg Config, extra []vault.Config) (rebuild.Proposal, error) {
	f := rebuild.Found{Application: cfg.Plan.Application, Survivor: cfg.Self, Hosts: cfg.Plan.HostNames(), Now: time.Now().UTC()}
	own, err := readFounding(cfg.Dir)
	if err != nil {
		return rebuild.Proposal{}, err
	}
	told, err := readOverruling(cfg.Dir)
	if err != nil {
		return rebuild.Proposal{}, err
	}
	f.Heard = max(own.Recovery, told.Number)
	if left, err := readLeft(ctx, cfg); err != nil {
		f.OwnWhy = err.Error()
	} else {
		f.Own = stateOf(cfg, left, own.Recovery)
	}
	if f.Saved, f.PassedOver, err = furthestSaved(ctx, cfg, extra); err != nil {
		f.SavedWhy = err.Error()
	}
	for _, d := range cfg.Plan.Databases {
		p, ok, err := postgres.PromiseIn(databaseDir(cfg.Dir, d.Name))
		if err != nil {
			return rebuild.Proposal{}, fmt.Errorf("look at what %s has promised: %w", d.Name, err)
		}
		if ok {
			f.Promises = append(f.Promises, rebuild.Promise{Database: d.Name, Host: cfg.Self, Promise: p, Source: "its own disk"})
		}
	}
	return rebuild.Propose(f)
}

func stateOf(cfg Config, left etcd.Left, recovery int64) *rebuild.State {
	s := &rebuild.State{Application: cfg.Plan.Application, By: cfg.Self, ClusterID: left.ClusterID, Recovery: recovery}
	for _, e := range left.Entries {
		s.Entries = append(s.Entries, rebuild.Entry{Key: e.Key, Value: e.Value, Revision: e.Revision})
		s.Revision = max(s.Revision, e.Revision)
	}
	return s
}

// readLeft reads the survivor's own member: where it runs by asking it alone, else from a copy of its data. A rebuilding
// that was cut short may have put the data aside already.
func readLeft(ctx context.Context, cfg Config) (etcd.Left, error) {
	self, ok := cfg.Plan.Host(cfg.Self)
	if !ok {
		return etcd.Left{}, fmt.Errorf("the plan has no host %s", cfg.Self)
	}
	if _, state, err := keeper.Find(keepDir(cfg.Dir, "etcd")); err == nil && state.Condition == keeper.Alive {
		conf, err := auth.ClientTLS(certDir(cfg.Dir), "")
		if err != nil {
			return etcd.Left{}, err
		}
		return etcd.ReadServing(ctx, etcd.Config{Endpoints: []string{"https://" + hostPort(self.Address, cfg.Plan.Ports.EtcdClient)}, TLS: conf, Log: cfg.Log}, agent.KeyRoot)
	}
	member, err := ownMember(cfg)
	if err != nil {
		return etcd.Left{}, err
	}
	data, _ := memberFiles(cfg.Dir)
	dirs := []string{data}
	aside, err := filepath.Glob(data + ".before-*") // their names end in a time, so the last is the newest
	if err != nil {
		return etcd.Left{}, err
	}
	if len(aside) > 0 {
		dirs = append(dirs, aside[len(aside)-1])
	}
	for _, dir := range dirs {
		member.Dir = dir
		left, err := etcd.ReadLeft(ctx, member, filepath.Join(cfg.Dir, "etcd.copy"), agent.KeyRoot)
		if !errors.Is(err, etcd.ErrNoData) {
			return left, err
		}
	}
	return etcd.Left{}, fmt.Errorf("%s holds no etcd data", cfg.Dir)
}

// ownMember is this host's member as a library call wants it.
func ownMember(cfg Config) (etcd.MemberConfig, error) {
	self, ok := cfg.Plan.Host(cfg.Self)
	if !ok {
		return etcd.MemberConfig{}, fmt.Errorf("the plan has no host %s", cfg.Self)
	}
	s := etcdSpec(cfg, self)
	if s.Cluster[s.Name] == "" { // a host without a seat until now
		s.Cluster = map[string]string{s.Name: s.PeerURL}
	}
	return s.config(cfg.Log), nil
}

// furthestSaved is the furthest saving ([rebuild.Furthest]) in any vault of the plan, or in extra ones.
func furthestSaved(ctx context.Context, cfg Config, extra []vault.Config) (best, over *rebuild.State, err error) {
	places := append([]vault.Config(nil), extra...)
	var errs []error
	for _, v := range cfg.Plan.Vaults {
		for _, c := range v.Copies {
			place, err := PlaceOf(ctx, cfg.Plan, v, c)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			place.Log = cfg.Log
			places = append(places, place)
		}
	}
	var all []rebuild.State
	for _, place := range places {
		saved, err := savings(ctx, place)
		errs = append(errs, err)
		all = append(all, saved...)
	}
	if best, over = rebuild.Furthest(all); best == nil {
		return nil, nil, errors.Join(append(errs, errors.New("no vault holds a saving"))...)
	}
	return best, over, nil
}

// SavedIn reads the furthest saving of one vault.
func SavedIn(ctx context.Context, place vault.Config) (rebuild.State, error) {
	all, err := savings(ctx, place)
	best, _ := rebuild.Furthest(all)
	if best == nil {
		return rebuild.State{}, err
	}
	return *best, nil
}

// savings are what one vault holds that this program can read; err != nil says why there are none, or not all of them.
func savings(ctx context.Context, place vault.Config) (all []rebuild.State, err error) {
	v, err := vault.Open(ctx, place)
	if err != nil {
		return nil, err
	}
	defer func() { _ = v.Close(context.WithoutCancel(ctx)) }() // only read
	var unread []error
	_, err = v.EachState(ctx, func(_ vault.SavedState, content []byte) error {
		s, err := rebuild.Decode(content)
		if err != nil {
			unread = append(unread, err)
			return nil
		}
		all = append(all, s)
		return nil
	})
	return all, errors.Join(append(unread, err)...)
}

// MayRecover refuses a rebuilding that nobody needs or that would make a second cluster: when a majority answers, and
// when a host that would be written off answers although it was not named.
func MayRecover(ctx context.Context, cfg Config, writeOff []string) error {
	conf, err := auth.ClientTLS(certDir(cfg.Dir), "")
	if err != nil {
		return fmt.Errorf("read this host's certificate: %w", err)
	}
	own, err := readFounding(cfg.Dir)
	if err != nil {
		return err
	}
	store, err := openStore(ctx, cfg, own, etcd.Config{TLS: conf})
	if err != nil {
		return err
	}
	_, err = store.Get(ctx, agent.KeyPlan)
	if closing := store.Close(); closing != nil {
		cfg.Log.Debug("store not closed", "err", closing)
	}
	if err == nil {
		return &problem.Problem{
			Code: "cluster.majority-lives", Subject: cfg.Plan.Application, Severity: problem.Note, Title: "a majority of the members answers, so nothing is lost",
			Meaning: "Nothing was changed. A cluster that was founded anew now would be a second one beside it.",
			Remedy:  "holdfast cluster status shows the members; a dead one's place: holdfast cluster replace HOST",
		}
	}
	return nobodyAnswers(ctx, cfg, conf, writeOff)
}

// nobodyAnswers refuses while the agent of a host that would be written off answers.
func nobodyAnswers(ctx context.Context, cfg Config, conf *tls.Config, writeOff []string) error {
	named := map[string]bool{}
	for _, h := range writeOff {
		if _, ok := cfg.Plan.Host(h); !ok {
			return fmt.Errorf("write off %s: the plan has no such host", h)
		}
		named[h] = true
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	var answer []error
	for _, h := range cfg.Plan.AllHosts() {
		if h.Name == cfg.Self || named[h.Name] {
			continue
		}
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, answerMax)
			defer cancel()
			d := tls.Dialer{NetDialer: &net.Dialer{}, Config: conf}
			c, err := d.DialContext(ctx, "tcp", hostPort(h.Address, cfg.Plan.Ports.Agent))
			if err != nil {
				return
			}
			_ = c.Close() // it lives; that was the question
			mu.Lock()
			defer mu.Unlock()
			answer = append(answer, &problem.Problem{
				Code: "cluster.lost-host-answers", Subject: h.Name, Severity: problem.Critical, Title: "this host would be written off, and its agent answers",
				Meaning: "Nothing was changed. It may serve clients, or make a majority again with another host.",
				Remedy:  "bring the others back; or stop it; or say that you mean it: --write-off " + h.Name,
			})
		})
	}
	all.Wait()
	return errors.Join(answer...)
}

// Hold takes the host's directory as an agent does, so that none runs meanwhile. While one does, it is refused as
// host.in-use.
func Hold(cfg Config) (release func(), err error) {
	if err := os.MkdirAll(runDir(cfg.Dir), 0o711); err != nil {
		return nil, err
	}
	f, err := lock(cfg.Dir)
	if err != nil {
		return nil, err
	}
	return func() { _ = f.Close() }, nil // gives the lock back
}

// Rebuild founds a cluster of one on this host, with what [Outlook] proposes once this host's own member is stopped.
// The caller holds the host's directory ([Hold]) and has had the outlook confirmed. Cut short at any moment it may be
// repeated: the data of before are only put aside.
func Rebuild(ctx context.Context, cfg Config, extra []vault.Config) (rebuild.Proposal, error) {
	if err := newChild(cfg, "etcd", "etcd-member").stop(ctx, stopGrace); err != nil {
		return rebuild.Proposal{}, fmt.Errorf("stop this host's etcd member: %w", err)
	}
	p, err := Outlook(ctx, cfg, extra)
	if err != nil {
		return p, err
	}
	return p, refound(ctx, cfg, p)
}

func refound(ctx context.Context, cfg Config, p rebuild.Proposal) error {
	member, err := ownMember(cfg)
	if err != nil {
		return err
	}
	data, _ := memberFiles(cfg.Dir)
	member.Dir = data + ".new"
	id, err := etcd.Refound(ctx, member, p.Founding, p.Entries)
	if err != nil {
		return err
	}
	next := founding{
		ClusterID: id, Founding: p.Founding, Recovery: p.Number, Members: map[string]string{member.Name: member.PeerURL}, Clients: []string{member.ClientURL},
	}
	if err := enter(cfg.Dir, member.Dir, next); err != nil {
		return err
	}
	diary, err := openDiary(cfg.Dir, cfg.Self, cfg.Log)
	if err != nil {
		return err
	}
	diary.Note("cluster", cfg.Plan.Application, fmt.Sprintf("agreed state rebuilt, number %d, from %s", p.Number, p.From), append([]string{"an operator asked for it"}, p.Unknown...), 0)
	return diary.Close()
}

// enter puts the data of a new cluster in the place of the member's own. The old marker goes last: whatever ends the
// work before, a member that starts finds data that are not its marker's, or none, and stays down. An empty one must never
// begin in between, under an id that votes in either cluster.
func enter(dir, made string, next founding) error {
	data, marker := memberFiles(dir)
	forget := func(paths ...string) error {
		for _, path := range paths {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("forget what the host was told before: %w", err)
			}
		}
		return durable.SyncDir(dir)
	}
	if err := forget(joinFile(dir)); err != nil { // the next start of the agent would carry it out
		return err
	}
	if err := keepAside(dir, time.Now()); err != nil {
		return err
	}
	if err := os.Rename(made, data); err != nil {
		return fmt.Errorf("put the new cluster in its place: %w", err)
	}
	if err := durable.SyncDir(dir); err != nil {
		return err
	}
	if err := next.write(dir); err != nil {
		return err
	}
	return forget(overruledFile(dir), marker)
}
