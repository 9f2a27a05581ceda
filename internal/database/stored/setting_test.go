package stored

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/database"
)

func names(w int, list ...string) database.Names { return database.Names{W: w, List: list} }

// world is the walsenders of a server, each with a copy of the setting of its own, as PostgreSQL 13 to 18 count them
// (syncrep.c: SyncRepGetCandidateStandbys, SyncRepGetSyncRecPtr): who is a candidate says its own copy; how many are needed
// says the copy of the one that looks, which must be a candidate itself.
type world struct {
	senders []string
	needs   []int
	lists   []uint // of each value: which senders stand in it
}

func worldOf(values ...string) world {
	var w world
	for _, value := range values {
		n, ok := database.ParseNames(value)
		if !ok {
			panic(value)
		}
		var list uint
		for _, name := range n.List {
			if name == database.ClosedName || strings.HasPrefix(name, betweenPrefix) {
				continue
			}
			at := slices.Index(w.senders, name)
			if at < 0 {
				at, w.senders = len(w.senders), append(w.senders, name)
			}
			list |= 1 << at
		}
		w.needs, w.lists = append(w.needs, n.W), append(w.lists, list)
	}
	return w
}

// released calls found for every set of walsenders that hold a commit and make PostgreSQL release it, whoever has read
// which of the values. hold is a set of indexes of senders.
func (w world) released(found func(hold uint)) {
	done := make([]bool, 1<<len(w.senders))
	copies := make([]int, len(w.senders)) // who has read which value
	for {
		var candidates uint
		need := 0 // the least that one looks for who is a candidate itself
		for i, c := range copies {
			if w.lists[c]>>i&1 == 1 {
				candidates |= 1 << i
				if need == 0 || w.needs[c] < need {
					need = w.needs[c]
				}
			}
		}
		for hold := range done {
			if !done[hold] && need > 0 && bits.OnesCount(candidates&uint(hold)) >= need {
				done[hold] = true
				found(uint(hold))
			}
		}
		i := 0
		for ; i < len(copies); i++ {
			if copies[i]++; copies[i] < len(w.needs) {
				break
			}
			copies[i] = 0
		}
		if i == len(copies) {
			return
		}
	}
}

func (w world) count(hold uint) (standbys, votes int) {
	for i, name := range w.senders {
		switch {
		case hold>>i&1 == 0:
		case IsVote(name):
			votes++
		default:
			standbys++
		}
	}
	return standbys, votes
}

// settings are all that can stand with up to n standbys, with and without the vault, counted out for up to n.
func settings(n int) (out []Setting) {
	for count := 0; count <= n; count++ {
		var list []string
		for i := range count {
			list = append(list, fmt.Sprintf("s%d@3", i))
		}
		for w := 0; w <= count; w++ {
			if w == 0 && count > 0 || w > 0 && count == 0 {
				continue
			}
			out = append(out, Setting{Names: names(w, list...)})
			for standbys := count; standbys <= n; standbys++ {
				if w > 0 || standbys == 0 {
					out = append(out, Setting{Names: names(w, list...), Vault: true, Standbys: standbys})
				}
			}
		}
	}
	return append(out, Setting{Names: database.Closed()})
}

// way is the one of a driver that knows that everybody acts on from, or on one of before.
func way(from, to Setting, before ...Setting) []Stage {
	acted := Acted{Known: true}
	for _, s := range before {
		acted = acted.Add(s)
	}
	return Way(from, true, to, acted)
}

// Whoever satisfies a setting with the vault is W standbys and the vault; whoever is that satisfies it.
func TestTheQuorumIsExactlyWStandbysAndTheVault(t *testing.T) {
	for _, s := range settings(5) {
		if !s.Vault {
			continue
		}
		w := worldOf(s.String())
		released := map[uint]bool{}
		w.released(func(hold uint) { released[hold] = true })
		for hold := range uint(1) << len(w.senders) {
			standbys, votes := w.count(hold)
			if released[hold] && (standbys < s.Names.W || votes == 0) {
				t.Errorf("%s releases what %d standbys and %d votes hold", s, standbys, votes)
			}
			if !released[hold] && standbys >= s.Names.W && votes == s.Votes() {
				t.Errorf("%s does not release what %d standbys and the vault hold", s, standbys)
			}
		}
	}
}

// A driver that died between two stages goes on from the first.
func TestTheWayGoesOnFromAStageBetween(t *testing.T) {
	all := settings(3)
	for _, from := range all {
		for _, to := range all {
			first := way(from, to)
			if len(first) == 1 {
				continue
			}
			at, ok := Parse(first[0].Value)
			if !ok || !at.Between || !at.Vault || at.String() != first[0].Value || at.Names.W != min(from.Names.W, to.Names.W) {
				t.Errorf("%q is read as %+v (%v)", first[0].Value, at, ok)
			}
			for _, then := range []Setting{to, from} {
				on := way(at, then)
				checkWay(t, at, then, on)
				checkMix(t, from, then, from.String(), on[0].Value) // nobody of before may have ended
				if len(on) == 1 && on[0].Value != database.Closed().String() && then.Names.W > 0 {
					t.Errorf("from %q on to %q nobody is ended", at, then)
				}
			}
		}
	}
}

// On the way from one setting to another nothing is released that fewer standbys hold than the smaller of both Ws, and
// nothing that the vault lacks where both ask for it.
func TestNoMixOfCopiesReleasesMoreThanTheWeakerOfBoth(t *testing.T) {
	all := settings(3)
	for _, from := range all {
		for _, to := range all {
			checkWay(t, from, to, way(from, to))
		}
	}
}

// A standby that takes the place of another is in one list and not in the other.
func TestStandbysThatTakeEachOthersPlaceDoNotStandForTheVault(t *testing.T) {
	for _, standbys := range []int{2, 3} {
		from := Setting{Names: names(1, "a@1", "b@1"), Vault: true, Standbys: standbys}
		to := Setting{Names: names(1, "a@1", "c@1"), Vault: true, Standbys: standbys}
		checkWay(t, from, to, way(from, to))
	}
	// Also when one leaves before the other comes, and nobody had to be ended between.
	two := Setting{Names: names(1, "a@1", "b@1"), Vault: true, Standbys: 2}
	one := Setting{Names: names(1, "a@1"), Vault: true, Standbys: 2}
	other := Setting{Names: names(1, "a@1", "c@1"), Vault: true, Standbys: 2}
	if got := way(two, one); len(got) != 1 {
		t.Errorf("a standby leaves over %v", got)
	}
	if got := way(one, other, two); len(got) != 2 || !got[0].Force {
		t.Errorf("while somebody acts on names of before another one comes over %v", got)
	}
	if got := way(one, other); len(got) != 1 {
		t.Errorf("once nobody does another one comes over %v", got)
	}
	if got := Way(one, true, other, Acted{}); len(got) != 2 || !got[0].Force {
		t.Errorf("by who has just begun another one comes over %v", got)
	}
}

func checkWay(t *testing.T, from, to Setting, way []Stage) bool {
	t.Helper()
	good := true
	before := from.String()
	for i, stage := range way {
		if i > 0 && !way[i-1].Force {
			t.Errorf("from %q to %q: two values without ending the walsenders between them", from, to)
		}
		good = checkMix(t, from, to, before, stage.Value) && good
		before = stage.Value
	}
	if before != to.String() {
		t.Errorf("the way from %q to %q ends at %q", from, to, before)
	}
	return good
}

// checkMix looks at all that walsenders release of which some act on one value and some on another.
func checkMix(t *testing.T, from, to Setting, before, after string) bool {
	t.Helper()
	good := true
	w := worldOf(before, after)
	w.released(func(hold uint) {
		standbys, votes := w.count(hold)
		if good && (standbys < min(from.Names.W, to.Names.W) || from.Vault && to.Vault && !from.Between && votes == 0) {
			good = false
			t.Errorf("from %q to %q: between %q and %q, %d standbys and %d votes suffice", from, to, before, after, standbys, votes)
		}
	})
	return good
}

// A walsender may be slower than several changes: as long as nobody had to be ended, copies of all of them are mixed.
func TestNoMixOfThreeSettingsReleasesMoreThanTheWeakest(t *testing.T) {
	all := settings(2)
	for _, one := range all {
		for _, two := range all {
			for _, three := range all {
				first, second := way(one, two), way(two, three, one)
				if len(first) > 1 || len(second) > 1 || one.Names.W == 0 || two.Names.W == 0 || three.Names.W == 0 {
					continue // ended between, or nothing is promised
				}
				if why := weaker(one, two, three, one.String(), two.String(), three.String()); why != "" {
					t.Fatalf("from %q over %q to %q: %s", one, two, three, why)
				}
			}
		}
	}
}

// weaker says what walsenders release that is less than all of three settings promise, if each acts on one of some values.
func weaker(one, two, three Setting, values ...string) (why string) {
	w := worldOf(values...)
	least := min(one.Names.W, three.Names.W)
	if two.open() {
		least = min(least, two.Names.W)
	}
	w.released(func(hold uint) {
		standbys, votes := w.count(hold)
		if standbys < least || one.Vault && three.Vault && (two.Vault || !two.open()) && votes == 0 {
			why = fmt.Sprintf("%d standbys and %d votes suffice", standbys, votes)
		}
	})
	return why
}

// Who writes closed names ends nobody: a walsender may be as slow as it likes, and act on what was before them when the server
// opens. An agent that has just begun does not even know what that was.
func TestFromAClosedSettingNobodyActsOnWhatWasBefore(t *testing.T) {
	closed := Setting{Names: database.Closed()}
	all := settings(2)
	planted := false
	for _, one := range all {
		for _, three := range all {
			if one.Names.W == 0 || three.Names.W == 0 || !one.open() || !three.open() {
				continue
			}
			atOnce := weaker(one, closed, three, one.String(), closed.String(), three.String())
			planted = planted || atOnce != ""
			for name, on := range map[string][]Stage{"known": way(closed, three, one), "not known": Way(closed, true, three, Acted{}), "unread": Way(Setting{}, false, three, Acted{})} {
				if len(on) == 1 && atOnce != "" {
					t.Errorf("from %q over closed names to %q (%s): %s", one, three, name, atOnce)
				}
				if len(on) > 1 && (on[0] != Stage{closed.String(), true} || on[1] != Stage{Value: three.String()}) {
					t.Errorf("from %q over closed names to %q (%s): %v", one, three, name, on)
				}
				if len(on) == 1 && name != "known" {
					t.Errorf("from closed names to %q nobody is ended, though nobody knows what is acted on (%s)", three, name)
				}
			}
		}
	}
	if !planted {
		t.Error("there is no way on which somebody would have to be ended")
	}
	// What no vault ever voted in stays as the room has it.
	plain := Setting{Names: names(1, "a@1")}
	if got := way(closed, plain, Setting{Names: names(1, "b@1")}); len(got) != 1 {
		t.Errorf("without a vault a server opens over %v", got)
	}
	if got := way(closed, Setting{Names: names(1, "a@1"), Vault: true}, closed); len(got) != 1 {
		t.Errorf("a server that was promoted closed opens over %v", got)
	}
}

// Standbys of the plan come and go while some are dead and some are still in the names: whoever votes gives as many votes as
// the server waits for, and the server is told of the plan's number once that has changed.
func TestVotesAreAsManyAsTheServerWaitsFor(t *testing.T) {
	ask := func(standbys, w int, list ...string) Setting {
		return Setting{Names: names(w, list...), Vault: true, Standbys: standbys}
	}
	for name, c := range map[string]struct {
		stands     Setting
		plan       int // standbys; -1 = it does not ask for the vault
		votes      int
		more, less bool
	}{
		"as planned":                                                {ask(2, 1, "a@1", "b@1"), 2, 2, false, false},
		"one of two is dead":                                        {ask(2, 1, "a@1"), 2, 2, false, false},
		"one is dead, and the plan has one less":                    {ask(2, 1, "a@1"), 1, 2, true, false},
		"the plan has one less, which has not left yet":             {ask(2, 1, "a@1", "b@1"), 1, 2, false, false},
		"more are in the names than the plan has, or ever had":      {ask(1, 1, "a@1", "b@1", "c@1"), 1, 3, false, false},
		"the plan has one more, which is not there yet":             {ask(1, 1, "a@1"), 2, 2, false, true},
		"the plan does not ask any more, and the server still does": {ask(2, 1, "a@1", "b@1"), -1, 2, false, false},
		"two of three must hold it, and the plan has two":           {ask(3, 2, "a@1", "b@1"), 2, 2, true, false},
		"no standby need hold it":                                   {ask(2, 0), 2, 1, false, false},
		"the server is not asked yet":                               {Setting{Names: names(1, "a@1", "b@1")}, 2, 2, false, false},
		"the server is not asked, nor is the plan":                  {Setting{Names: names(1, "a@1", "b@1")}, -1, 0, false, false},
		"on a stage between":                                        {Setting{Names: names(1, "a@1"), Vault: true, Between: true, need: 3, votes: 1}, 2, 2, false, false},
	} {
		votes, ok := Wanted(c.stands.String(), c.plan)
		more, less := c.stands.Miscounted(c.plan)
		if !ok || votes != c.votes || c.plan >= 0 && (more != c.more || less != c.less) {
			t.Errorf("%s: %q gets %d votes (%v), counted out for more %v, less %v", name, c.stands, votes, ok, more, less)
		}
		if votes < c.stands.Votes() {
			t.Errorf("%s: %q waits for %d votes and gets %d", name, c.stands, c.stands.Votes(), votes)
		}
		if again := c.stands.Asking(c.plan); c.plan >= 0 {
			if more, less := again.Miscounted(c.plan); more || less {
				t.Errorf("%s: asked again it is still miscounted: %q", name, again)
			}
		}
	}
	for _, unknown := range []string{database.Closed().String(), "FIRST 1 (x)", `ANY 2 ("a@1", "holdfast-vault-2")`} {
		if votes, ok := Wanted(unknown, 2); ok {
			t.Errorf("%q gets %d votes", unknown, votes)
		}
	}
}

// The checker above finds what it is for: written at once, votes stand for standbys.
func TestThePlantedWayWithoutAStageBetweenIsFound(t *testing.T) {
	from := Setting{Names: names(1, "a@1")}
	to := Setting{Names: names(1, "a@1"), Vault: true, Standbys: 2}
	found := false
	w := worldOf(from.String(), to.String())
	w.released(func(hold uint) {
		standbys, _ := w.count(hold)
		found = found || standbys == 0
	})
	if !found {
		t.Error("a mix of copies that forgets a commit was not found")
	}
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	for _, s := range settings(5) {
		got, ok := Parse(s.String())
		if !ok || got.String() != s.String() || got.Vault != s.Vault || !got.Names.Equal(s.Names) {
			t.Errorf("%q is read as %+v (%v), written of %+v", s, got, ok, s)
		}
	}
	for _, foreign := range []string{
		`ANY 2 ("a@1", "b@1", "holdfast-vault-1")`,                            // a vote is missing: the vault need not hold it
		`ANY 1 ("a@1", "holdfast-vault-1")`,                                   // either
		`ANY 2 ("a@1", "holdfast-vault-2")`,                                   // no first vote
		`ANY 1 ("holdfast-closed", "holdfast-vault-1")`,                       // closed by nobody of ours
		`ANY 2 ("holdfast-vault-1", "holdfast-vault-2")`,                      // W 0 is one vote
		`FIRST 2 ("a@1", "holdfast-vault-1")`,                                 // another kind
		`ANY 2 ("a@1", "holdfast-vault-1", "holdfast-vault-1")`,               // twice
		`ANY 3 ("a@1", "b@1", "c@1", "holdfast-vault-1", "holdfast-vault-2")`, // three standbys suffice
	} {
		if s, ok := Parse(foreign); ok {
			t.Errorf("%s is taken for %+v", foreign, s)
		}
	}
}
