package postgres

import (
	"slices"
	"testing"
)

// What Holdfast itself writes into postgresql.auto.conf, for a disk that is nearly full, too, nobody set by hand.
func TestWhatHoldfastWritesIsNotByHand(t *testing.T) {
	for _, full := range []bool{false, true} {
		own := dynamic{names: "ANY 1 (b2)", conninfo: "host=b2", readOnly: full}.text()
		if got := byHand(own); len(got) > 0 {
			t.Errorf("read-only %t: by hand %v", full, got)
		}
		if got := byHand(own + "work_mem = '64MB'\n"); !slices.Equal(got, []string{"work_mem"}) {
			t.Errorf("read-only %t: by hand %v", full, got)
		}
	}
}
