package postgres

import (
	"testing"

	"holdfast/internal/database"
	"holdfast/internal/database/stored"
)

// Where no names of the server's life ever held votes, a driver that has just begun takes the room's own steps, as if there
// were no vault; where some did, it ends whoever may still count them, until the server has started anew.
func TestADatabaseThatNeverAskedTheVaultTakesTheRoomsOwnSteps(t *testing.T) {
	dir := t.TempDir()
	one := stored.Setting{Names: database.Names{W: 1, List: []string{"s1@1"}}}
	closed := stored.Setting{Names: database.Closed()}
	stages := func(from stored.Setting, known bool, to stored.Setting) int {
		t.Helper()
		s := &Server{at: layoutOf(dir)} // it has just begun
		acted, err := s.acted(from, to)
		if err != nil {
			t.Fatal(err)
		}
		return len(stored.Way(from, known, to, acted))
	}
	check := func(when string, own int) {
		t.Helper()
		for name, got := range map[string]int{
			"from closed names":     stages(closed, true, one),
			"from unreadable names": stages(stored.Setting{}, false, one),
		} {
			if got != own {
				t.Errorf("%s, %s: %d stages, want %d", when, name, got, own)
			}
		}
		if got := stages(closed, true, one.Asking(1)); got != 2 {
			t.Errorf("%s, to the vault: %d stages, and nobody knows who acts on what", when, got)
		}
	}
	s := &Server{at: layoutOf(dir)}
	check("never asked", 1)
	for range 2 {
		if err := s.noteVotes(); err != nil {
			t.Fatal(err)
		}
	}
	check("asked", 2)
	for range 2 {
		if err := s.forgetVotes(); err != nil {
			t.Fatal(err)
		}
	}
	check("started anew", 1)
}
