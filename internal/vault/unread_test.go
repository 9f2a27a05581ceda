package vault_test

import (
	"testing"
)

// Each copy has another index damaged, and each index is whole in one of them: nothing is passed over, whichever copy is read first.
func TestIndexesThatAreEachWholeSomewhereHideNothing(t *testing.T) {
	conf, home, away := pair(t)
	v := createIn(t, place{home, conf})
	conf.Others[0].Filled = true
	all := map[string]map[string][]byte{store(t, v, sample()).ID: sample(), store(t, v, other(3)).ID: other(3)}
	syncAll(t, v)
	closed(t, v)
	here, there := files(t, home, "repository/x"), files(t, away, "repository/x")
	if len(here) < 2 || len(here) != len(there) {
		t.Fatalf("indexes are %v and %v", here, there)
	}
	for i := range here { // in turn, so that neither copy opens the vault alone
		if i%2 == 0 {
			spoil(t, here[i], "a flipped bit")
		} else {
			spoil(t, there[i], "a flipped bit")
		}
	}
	hurt := opens(t, conf)
	if p, err := hurt.Hides(t.Context()); p != nil || err != nil {
		t.Errorf("it says %v, %v", p, err)
	}
	listed, err := hurt.Backups(t.Context(), "orders")
	if err != nil || len(listed) != len(all) {
		t.Errorf("%d backups are listed, want %d: %v", len(listed), len(all), err)
	}
	for id, want := range all {
		if got, err := fetch(t.Context(), hurt, id); err != nil || differ(want, got) != "" {
			t.Errorf("%s: %v %s", id, err, differ(want, got))
		}
	}
}
