package service

import (
	"cmp"
	"fmt"
	"slices"
)

// several places a service of any number but one.
func (pl *placer) several() {
	pl.dropGone()
	pl.trim()
	pl.fill()
	pl.move()
}

// dropGone lets go of what is over: attested gone; or lost or failed, once enough others are ready, so that a
// host that comes back in time keeps what still runs there.
func (pl *placer) dropGone() {
	for i := len(pl.as) - 1; i >= 0; i-- {
		a := pl.as[i]
		enough := pl.count(pl.ready) >= pl.s.Instances
		switch {
		case pl.state[a.ID] == Gone:
			pl.drop(i, "nothing of it runs there any more")
		case pl.s.Instances == 0:
			pl.drop(i, "the service is taken out")
		case pl.lost(a.Host) && enough:
			pl.drop(i, "its host is lost and it has been replaced")
		case pl.state[a.ID] == Failed && (enough || pl.canReplace()):
			pl.drop(i, "the host gave up on it")
		}
	}
	pl.limitLost()
}

// limitLost keeps no more lost ones than places are missing, the newest going first.
func (pl *placer) limitLost() {
	for i := len(pl.as) - 1; i >= 0 && len(pl.as) > 2*max(pl.s.Instances, 1); i-- {
		if pl.lost(pl.as[i].Host) {
			pl.drop(i, "its host is lost")
		}
	}
}

// trim takes away what is too many. One more than wanted may be a move under way: then the one that moves
// stays until the new one is ready.
func (pl *placer) trim() {
	for {
		n := pl.count(pl.live)
		if n <= pl.s.Instances {
			return
		}
		i := pl.worst()
		if n == pl.s.Instances+1 && pl.ready(pl.as[i]) && pl.count(pl.ready) <= pl.s.Instances && pl.starting() {
			pl.say("%s stays on %s until its replacement is ready", pl.as[i].ID, pl.as[i].Host)
			return
		}
		pl.drop(i, "one too many")
	}
}

// starting: some live instance of the wanted version is on its way up.
func (pl *placer) starting() bool {
	return slices.ContainsFunc(pl.as, func(a Assignment) bool {
		return pl.live(a) && !pl.ready(a) && a.Version == pl.s.Version && pl.state[a.ID] != Unready
	})
}

// worst is the live instance that can best be spared: misplaced, then the one whose place is most crowded,
// then one that is not ready, then the newest.
func (pl *placer) worst() int {
	perDomain, perHost := pl.spread(nil)
	rank := func(i int) []int {
		a := pl.as[i]
		return []int{
			truth(pl.misplaced(a) != ""), perDomain[pl.hosts[a.Host].FaultDomain], perHost[a.Host], truth(!pl.ready(a)), int(a.Since), i,
		}
	}
	best := -1
	for i, a := range pl.as {
		if pl.live(a) && (best < 0 || slices.Compare(rank(i), rank(best)) > 0) {
			best = i
		}
	}
	return best
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// fill adds what is missing. A version that was never ready gets one instance alone first: two that both
// migrate an empty schema destroy each other's work.
func (pl *placer) fill() {
	for missing := pl.s.Instances - pl.count(pl.live); missing > 0; missing-- {
		if pl.proven != pl.s.Version && pl.count(pl.wanted) > 0 {
			pl.say("version %s starts alone until it is ready once; %d more wait", pl.s.Version, missing)
			return
		}
		why := fmt.Sprintf("%d of %d run", pl.s.Instances-missing, pl.s.Instances)
		if !pl.add(nil, why) {
			pl.say("%s, and no host can take one more now", why)
			return
		}
	}
}

// wanted: a live instance, or one that may live on a silent host, of the wanted version.
func (pl *placer) wanted(a Assignment) bool {
	return a.Version == pl.s.Version && (pl.live(a) || pl.lost(a.Host) && !pl.gone(a))
}

// move begins at most one: only when all that are wanted are ready, so that a move never takes away what is
// needed. The new one is added first; trim takes the old one away when the new one is ready. Where no host has
// room for one more, a misplaced one goes first.
func (pl *placer) move() {
	n := pl.s.Instances
	if n == 0 || pl.count(pl.live) != n || pl.count(pl.ready) != n {
		return
	}
	if i := pl.worst(); pl.misplaced(pl.as[i]) != "" {
		a := pl.as[i]
		why := pl.misplaced(a)
		if pl.add(map[string]bool{a.ID: true}, fmt.Sprintf("replaces %s, since it %s", a.ID, why)) {
			return
		}
		if a.Version != pl.s.Version && pl.canReplace() && !pl.hosts[a.Host].Draining && pl.allowed(a.Host) {
			pl.drop(i, why+", and no other host has room")
		}
		return
	}
	victim, target, ok := pl.wider()
	if ok {
		pl.add(map[string]bool{victim.ID: true}, fmt.Sprintf("wider spread: %s shares its place on %s, %s has room", victim.ID, victim.Host, target))
	}
}

// wider finds a move that makes the spread wider: from the most crowded place to the emptiest, when they differ
// by two or more (by one a move would only swap them).
func (pl *placer) wider() (victim Assignment, target string, ok bool) {
	i := pl.worst()
	victim = pl.as[i]
	target, ok = pl.best(map[string]bool{victim.ID: true})
	if !ok {
		return victim, "", false
	}
	perDomain, perHost := pl.spread(nil)
	from, to := pl.hosts[victim.Host], pl.hosts[target]
	gain := cmp.Or(
		truth(perDomain[from.FaultDomain]-perDomain[to.FaultDomain] >= 2),
		truth(from.FaultDomain == to.FaultDomain && perHost[from.Name]-perHost[to.Name] >= 2))
	return victim, target, gain == 1
}
