package postgres

import (
	"strconv"
	"testing"

	"holdfast/internal/database"
	"holdfast/internal/database/stored"
)

// An answer may be older than the names that stand when it is looked at, and newer than what stood when it was asked for.
func TestAnAnswerShowsWhatStoodSinceItWasAskedFor(t *testing.T) {
	var w written
	if !w.has(0, "anything") {
		t.Error("a hand is suspected before anything was written")
	}
	w.only("a")
	asked := w.stands
	if !w.has(asked, "a") || w.has(asked, "b") {
		t.Error("what a hand wrote is not told from what this process wrote")
	}
	b := w.add("b") // a session shows a or b until that is settled
	if !w.has(asked, "a") || !w.has(asked, "b") || !w.has(w.stands, "a") {
		t.Error("while b is being written, a or b is taken for a hand's")
	}
	w.stands = b
	c := w.add("c")
	w.stands = c
	if !w.has(asked, "a") || !w.has(asked, "b") || !w.has(asked, "c") {
		t.Error("what was asked for before both changes is taken for a hand's")
	}
	if w.has(w.stands, "b") || w.has(w.stands, "a") {
		t.Error("what is shown now is what stood before")
	}
	for i := range 5 * writtenMax {
		w.only(strconv.Itoa(i))
	}
	if len(w.values) != writtenMax || w.has(asked, "a") || !w.has(asked, strconv.Itoa(5*writtenMax-1)) || w.has(w.stands, strconv.Itoa(5*writtenMax-2)) {
		t.Errorf("after many changes: %d values from %d on, %d stands", len(w.values), w.first, w.stands)
	}
}

// What commits wait for goes on through closed and unreadable names: that they wait for the vault may be agreed, whatever
// the plan says by now.
func TestAServerThatAskedTheVaultOpensSo(t *testing.T) {
	one := database.Names{W: 1, List: []string{"a@1"}}
	asking := stored.Setting{Names: one, Vault: true, Standbys: 1}
	closed := stored.Setting{Names: database.Closed()}
	for name, c := range map[string]struct {
		before []stored.Setting // as they were written
		unread bool             // the last of them can not be read any more
		wish   bool
		want   bool
	}{
		"the plan asks":                          {[]stored.Setting{closed}, false, true, true},
		"the plan does not":                      {[]stored.Setting{closed}, false, false, false},
		"it did, and the plan asks no more":      {[]stored.Setting{asking, closed}, false, false, true},
		"it did before names that a hand wrote":  {[]stored.Setting{asking}, true, false, true},
		"it did, and that was left":              {[]stored.Setting{asking, {Names: one}, closed}, false, false, false},
		"it does":                                {[]stored.Setting{asking}, false, false, true},
		"it does not, and the plan asks by now":  {[]stored.Setting{closed, {Names: one}}, false, true, false},
		"nothing can be read, and nobody asked":  {[]stored.Setting{closed, {Names: one}}, true, false, false},
		"nothing can be read, and the plan asks": {[]stored.Setting{closed, {Names: one}}, true, true, true},
	} {
		s := &Server{stored: StoredWish{Vault: c.wish, Standbys: 1}}
		s.promotedClosed()
		from := closed
		for _, to := range c.before {
			s.writes(from, true, to)
			from = to
		}
		to := s.withVault(from, !c.unread, one)
		if to.Vault != c.want {
			t.Errorf("%s: the vault is asked: %v", name, to.Vault)
		}
		s.writes(from, !c.unread, to)
		if s.now.asked.sure && c.unread || s.now.asked.acted.Known && c.unread {
			t.Errorf("%s: nothing could be read, and it is known what is acted on: %+v", name, s.now.asked)
		}
	}
}

// While a server goes on to ask the vault its mark stays: what was claimed since holds. When it begins to, there is none
// until it is noted, and nothing is claimed.
func TestTheMarkIsOfTheMomentSinceWhichTheVaultIsAsked(t *testing.T) {
	one, two := database.Names{W: 1, List: []string{"a@1"}}, database.Names{W: 1, List: []string{"a@1", "b@1"}}
	s := &Server{}
	s.promotedClosed()
	s.writes(stored.Setting{Names: database.Closed()}, true, stored.Setting{Names: one, Vault: true})
	if s.now.asked.mark != 0 || !s.now.asked.sure {
		t.Fatalf("at opening: %+v", s.now.asked)
	}
	s.now.asked.mark = 100
	s.writes(stored.Setting{Names: one, Vault: true}, true, stored.Setting{Names: two, Vault: true})
	if s.now.asked.mark != 100 || !s.now.asked.sure {
		t.Errorf("a standby joins: %+v", s.now.asked)
	}
	s.writes(stored.Setting{Names: two, Vault: true}, true, stored.Setting{Names: database.Closed()})
	s.writes(stored.Setting{Names: database.Closed()}, true, stored.Setting{Names: one, Vault: true})
	if s.now.asked.mark != 0 {
		t.Errorf("it opens again: %+v", s.now.asked)
	}
	s.now.asked.mark = 200
	s.writes(stored.Setting{Names: one, Vault: true}, true, stored.Setting{Names: one})
	if s.now.asked.mark != 0 || s.now.asked.sure {
		t.Errorf("the vault is left: %+v", s.now.asked)
	}
}
