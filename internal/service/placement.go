package service

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Place says which instances shall run where. It keeps what is well where it is, replaces what is lost or
// failed, moves at most one instance of a service at a time and drops the old one only when the new one is
// ready, and never has two of a singleton: its next one waits until the last is attested gone, or its host has
// been silent for so long that its keeper's deadline has surely passed. Equal arguments, equal result.
func Place(p PlacementPolicy, v PlacementView) PlacementDecision {
	p = p.withDefaults()
	var d PlacementDecision
	load := make(map[string]int) // assignments of all services, to even out among equals
	for _, s := range v.Services {
		for _, a := range s.Placed.Assignments {
			load[a.Host]++
		}
	}
	for _, s := range v.Services {
		pl := newPlacer(p, v, s, load)
		if s.Instances == 1 {
			pl.singleton()
		} else {
			pl.several()
		}
		next := Placed{Service: s.Name, Proven: pl.proven, Assignments: pl.as}
		d.Services = append(d.Services, next)
		d.Because = append(d.Because, pl.because...)
		if next.Proven != s.Placed.Proven || !slices.Equal(next.Assignments, s.Placed.Assignments) {
			d.Changed = true
		}
	}
	return d
}

// placer works on one service.
type placer struct {
	p       PlacementPolicy
	v       PlacementView
	s       ServiceView
	hosts   map[string]HostView
	state   map[string]ReportState
	load    map[string]int
	as      []Assignment
	proven  string
	made    int
	because []string
}

func newPlacer(p PlacementPolicy, v PlacementView, s ServiceView, load map[string]int) *placer {
	pl := &placer{
		p: p, v: v, s: s, load: load, as: slices.Clone(s.Placed.Assignments), proven: s.Placed.Proven,
		hosts: make(map[string]HostView), state: make(map[string]ReportState),
	}
	for _, h := range v.Hosts {
		pl.hosts[h.Name] = h
	}
	for _, r := range v.Reports {
		pl.state[r.ID] = r.State
	}
	for _, a := range pl.as {
		if a.Version == s.Version && pl.ready(a) {
			pl.proven = s.Version
		}
	}
	return pl
}

func (pl *placer) say(format string, args ...any) {
	pl.because = append(pl.because, pl.s.Name+": "+fmt.Sprintf(format, args...))
}

// lost: the host is no longer in the plan's hosts, or silent for too long. Never heard of is not lost: a
// controller that just began knows nothing yet.
func (pl *placer) lost(host string) bool {
	h, ok := pl.hosts[host]
	return !ok || h.Silence > pl.p.HostLostAfter
}

func (pl *placer) allowed(host string) bool {
	return len(pl.s.Hosts) == 0 || slices.Contains(pl.s.Hosts, host)
}

func (pl *placer) ready(a Assignment) bool {
	return pl.state[a.ID] == Ready && !pl.lost(a.Host) && !a.Leave
}

// live counts towards the wanted number: on a host that answers, neither given up nor leaving.
func (pl *placer) live(a Assignment) bool {
	st := pl.state[a.ID]
	return !a.Leave && !pl.lost(a.Host) && st != Failed && st != Gone
}

// gone: nothing of it runs any more.
func (pl *placer) gone(a Assignment) bool {
	st := pl.state[a.ID]
	if st == Gone || st == Failed {
		return true
	}
	h, ok := pl.hosts[a.Host]
	return ok && h.Silence > pl.p.SingletonGoneAfter
}

// misplaced: it runs where, or as what, it should not any more.
func (pl *placer) misplaced(a Assignment) string {
	switch {
	case a.Version != pl.s.Version:
		return fmt.Sprintf("runs version %s, wanted is %s", a.Version, pl.s.Version)
	case !pl.allowed(a.Host):
		return a.Host + " may not run it any more"
	case pl.hosts[a.Host].Draining:
		return a.Host + " is draining"
	}
	return ""
}

func (pl *placer) drop(i int, why string) {
	a := pl.as[i]
	pl.load[a.Host]--
	pl.as = slices.Delete(pl.as, i, i+1)
	pl.say("%s leaves %s: %s", a.ID, a.Host, why)
}

// add places one more, counting `without` as gone already; false when no host can take it.
func (pl *placer) add(without map[string]bool, why string) bool {
	host, ok := pl.best(without)
	if !ok {
		return false
	}
	pl.made++
	id := fmt.Sprintf("%s.%d", pl.s.Name, pl.v.Generation)
	if pl.made > 1 {
		id = fmt.Sprintf("%s.%d", id, pl.made)
	}
	pl.as = append(pl.as, Assignment{ID: id, Service: pl.s.Name, Host: host, Version: pl.s.Version, Port: pl.s.Port, Since: pl.v.Generation})
	pl.load[host]++
	pl.say("%s goes to %s: %s", id, host, why)
	return true
}

// best is the host that takes one more with the widest spread: fewest in its fault domain, fewest on itself,
// least loaded, first by name. A host that gave up lately is no candidate.
func (pl *placer) best(without map[string]bool) (string, bool) {
	perDomain, perHost := pl.spread(without)
	var able []HostView
	for _, h := range pl.v.Hosts {
		if !pl.eligible(h) || pl.avoided(h.Name) || (pl.s.Port != 0 && pl.occupied(h.Name)) {
			continue
		}
		able = append(able, h)
	}
	if len(able) == 0 {
		return "", false
	}
	return slices.MinFunc(able, func(a, b HostView) int {
		return cmp.Or(
			cmp.Compare(perDomain[a.FaultDomain], perDomain[b.FaultDomain]),
			cmp.Compare(perHost[a.Name], perHost[b.Name]),
			cmp.Compare(pl.load[a.Name], pl.load[b.Name]),
			strings.Compare(a.Name, b.Name))
	}).Name, true
}

// eligible hosts answer: one never heard of may be dead.
func (pl *placer) eligible(h HostView) bool {
	return h.Silence >= 0 && h.Silence <= pl.p.HostLostAfter && !h.Draining && pl.allowed(h.Name)
}

func (pl *placer) avoided(host string) bool {
	return slices.ContainsFunc(pl.v.Failures, func(f Failure) bool {
		return f.Service == pl.s.Name && f.Host == host && f.Version == pl.s.Version && f.Age < pl.p.RetryAfter
	})
}

// occupied: an instance of this service may hold the port there. One without a port was placed by a version that did not
// write it down, or before the service had one.
func (pl *placer) occupied(host string) bool {
	return slices.ContainsFunc(pl.as, func(a Assignment) bool {
		return a.Host == host && (a.Port == pl.s.Port || a.Port == 0) && pl.state[a.ID] != Gone && pl.state[a.ID] != Failed
	})
}

// spread counts live instances by fault domain and by host.
func (pl *placer) spread(without map[string]bool) (perDomain, perHost map[string]int) {
	perDomain, perHost = make(map[string]int), make(map[string]int)
	for _, a := range pl.as {
		if pl.live(a) && !without[a.ID] {
			perDomain[pl.hosts[a.Host].FaultDomain]++
			perHost[a.Host]++
		}
	}
	return perDomain, perHost
}

func (pl *placer) count(is func(Assignment) bool) int {
	n := 0
	for _, a := range pl.as {
		if is(a) {
			n++
		}
	}
	return n
}

// singleton keeps one, and makes the next only when no other can still run.
func (pl *placer) singleton() {
	for i := len(pl.as) - 1; i >= 0; i-- {
		switch a := pl.as[i]; {
		case pl.state[a.ID] == Failed && !pl.canReplace():
			pl.say("%s failed on %s, and no other host can take it now", a.ID, a.Host)
		case pl.gone(a):
			pl.drop(i, "nothing of it runs there any more")
		}
	}
	keep := pl.keeper()
	for i, a := range pl.as {
		if why := pl.misplaced(a); !a.Leave && i != keep {
			pl.as[i].Leave = true
			pl.say("%s is asked to leave %s: another one stays", a.ID, a.Host)
		} else if !a.Leave && why != "" && !pl.lost(a.Host) && pl.canReplace() {
			pl.as[i].Leave = true
			pl.say("%s is asked to leave %s: %s", a.ID, a.Host, why)
		}
	}
	switch {
	case len(pl.as) > 0:
		for _, a := range pl.as {
			if pl.lost(a.Host) {
				pl.say("%s on silent %s may still run: waiting until its deadline has surely passed", a.ID, a.Host)
			}
		}
	case !pl.add(nil, "none runs"):
		pl.say("no host can take it now")
	}
}

// keeper is the index of the one assignment that stays: a ready one, else the oldest; -1 when there is none.
func (pl *placer) keeper() int {
	best := -1
	for i, a := range pl.as {
		if a.Leave {
			continue
		}
		if best < 0 || (pl.ready(a) && !pl.ready(pl.as[best])) {
			best = i
		}
	}
	return best
}

// canReplace reports whether some host would take an instance that replaces what is there.
func (pl *placer) canReplace() bool {
	return slices.ContainsFunc(pl.v.Hosts, func(h HostView) bool { return pl.eligible(h) && !pl.avoided(h.Name) })
}
