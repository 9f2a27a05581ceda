package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database/gate"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

const (
	// formerKept is how long a port that the plan gave up is served on: time to give clients the new one.
	formerKept = 10 * time.Minute
	// formerMax is how many such ports are remembered.
	formerMax = 8
	// listeningEvery is how often a host compares what its listener serves by with the plan.
	listeningEvery = time.Second
)

// listening keeps one database's listener on this host to the plan: whatever the process was started with, or was told
// by an agent that is gone, it is asked what it serves by, and told the plan's word where that is another.
type listening struct {
	host     *Host
	database string
	child    child
	client   *gate.Client

	mu   sync.Mutex // guards what follows
	spec gate.Spec  // written last
	why  error      // that the listener does not serve by it; nil = it does, or is away
}

// prepareListener writes what a listener of this host is started with.
func (h *Host) prepareListener(d plan.Database) (*listening, error) {
	l := &listening{host: h, database: d.Name, child: newChild(h.cfg, "gate-"+d.Name, "gate"), client: gate.Dial(gateSocket(h.cfg.Dir, d.Name))}
	before, err := gate.ReadSpec(specFile(h.cfg.Dir, l.child.name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		h.cfg.Log.Warn("what the listener was told before is not known", "database", d.Name, "err", err)
	}
	l.spec = carryOver(before, gateSpec(h.cfg, h.plan(), h.self, d), h.claims(d.Name), time.Now(), true)
	return l, l.child.writeSpec(l.spec)
}

// run keeps the listener to the plan until ctx ends.
func (l *listening) run(ctx context.Context) error {
	defer func() { _ = l.client.Close() }() // the listener goes on
	for {
		l.look(ctx)
		if !l.host.sleep(ctx, listeningEvery) {
			return nil
		}
	}
}

// look asks the listener what it serves by, and tells it what the plan wants where that is another.
func (l *listening) look(ctx context.Context) {
	p := l.host.plan()
	d, ok := p.DatabaseNamed(l.database)
	if !ok {
		return // which databases there are does not change at run time
	}
	l.mu.Lock()
	before, served := l.spec, l.why == nil
	l.mu.Unlock()
	want := carryOver(before, gateSpec(l.host.cfg, p, l.host.self, d), l.host.claims(d.Name), time.Now(), !served || l.host.rolling())
	err := l.bring(ctx, before, want)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spec = want
	if err != nil && (l.why == nil || l.why.Error() != err.Error()) {
		l.host.cfg.Log.Warn("listener does not serve by the plan", "database", l.database, "err", err)
	}
	l.why = err
}

// bring makes the file and the process say want. A listener that does not answer is not its matter: it is started with
// the file.
func (l *listening) bring(ctx context.Context, before, want gate.Spec) error {
	if !before.Equal(want) {
		if err := l.child.writeSpec(want); err != nil {
			return err
		}
	}
	call, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	now, err := l.client.Status(call)
	if err != nil || now.Spec.Equal(want) {
		return nil
	}
	_, err = l.client.Reread(call, want)
	if errors.Is(err, gate.ErrFixed) {
		l.host.cfg.Log.Warn("listener started anew: it was made for another plan", "database", l.database)
		return l.child.stop(call, stopGrace)
	}
	if err == nil {
		l.host.diary.Note("database", l.database, "the listener of "+l.host.self.Name+" follows the plan: "+listens(want), []string{"it served by another: " + listens(now.Spec)}, 0)
	}
	return err
}

// listens is what a spec serves, in words.
func listens(s gate.Spec) string {
	text, err := json.Marshal(map[string]any{"write": s.Listen, "read": s.ReadListen, "path": s.Path})
	if err != nil {
		return fmt.Sprint(s.Listen)
	}
	return string(text)
}

// problems says that the listener cannot serve by the plan.
func (l *listening) problems() []problem.Problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why == nil {
		return nil
	}
	return []problem.Problem{{
		Code: "database.listener-not-by-plan", Subject: l.database, Severity: problem.Degraded,
		Title:   fmt.Sprintf("the listener on %s does not serve as the plan says: %v", l.host.self.Name, l.why),
		Meaning: "It goes on as it was, on the ports that it had. It is tried again each second.",
		Remedy:  "free the port that is named (ss -ltnp), or apply a plan with another one",
	}}
}

// claims are the addresses that everything else on this host listens on by the plan.
func (h *Host) claims(but string) []string {
	p, all := h.plan(), []string(nil)
	for _, d := range p.Databases {
		if d.Name == but {
			continue
		}
		all = append(all, hostPort(h.self.Address, d.WritePort))
		if d.ReadPort != 0 {
			all = append(all, hostPort(h.self.Address, d.ReadPort))
		}
	}
	for _, s := range p.Services {
		if s.Route != nil {
			all = append(all, hostPort(h.self.Address, s.Route.Port))
		}
		if s.Port != 0 {
			all = append(all, hostPort(h.self.Address, s.Port))
		}
	}
	return all
}

// rolling reports whether some instance still runs as an older version, which knows the ports of before.
func (h *Host) rolling() bool {
	versions := map[string]string{}
	for _, w := range h.services.wanted() {
		versions[w.Name] = w.Version
	}
	return oldVersions(h.agent.Last(), versions)
}

func oldVersions(now agent.Snapshot, wanted map[string]string) bool {
	for _, placed := range now.Facts.Services.Agreed {
		for _, a := range placed.Assignments {
			if v, ok := wanted[a.Service]; ok && v != a.Version {
				return true
			}
		}
	}
	return false
}

// carryOver adds to what the plan wants of a listener the addresses that it gave up since before: served on for a
// while, longer where keep says that somebody may know no other, and then remembered. What anything else on this host
// listens on by now is forgotten at once.
func carryOver(before, want gate.Spec, claimed []string, now time.Time, keep bool) gate.Spec {
	taken := func(addr string) bool {
		return slices.Contains(want.Listen, addr) || slices.Contains(want.ReadListen, addr) || slices.Contains(claimed, addr)
	}
	want.Former = nil
	for _, f := range before.Former {
		if taken(f.Address) {
			continue
		}
		f.Ended = f.Ended || !keep && now.Unix() >= f.Until
		want.Former = append(want.Former, f)
	}
	gaveUp := func(addrs []string, reads bool) {
		for _, addr := range addrs {
			if !taken(addr) {
				want.Former = append(want.Former, gate.Former{Address: addr, Reads: reads, Until: now.Add(formerKept).Unix()})
			}
		}
	}
	gaveUp(before.Listen, false)
	if len(want.ReadListen) > 0 { // else there is nothing that its clients could be led to
		gaveUp(before.ReadListen, true)
	}
	if over := len(want.Former) - formerMax; over > 0 {
		want.Former = want.Former[over:]
	}
	return want
}
