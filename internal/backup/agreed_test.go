package backup

import (
	"testing"
	"time"
)

// What nobody agreed may go stays, marked to go or not.
func TestWhatNobodyAgreedAboutStays(t *testing.T) {
	all := []Fate{{ID: "a", Keep: true, Because: "pinned"}, {ID: "b", Marked: time.Unix(1, 0), Goes: time.Unix(2, 0), Because: "old"}}
	keepAll(all)
	if !all[0].Keep || all[0].Because != "pinned" || !all[1].Keep || !all[1].Goes.IsZero() || all[1].Because == "old" {
		t.Errorf("fates %+v", all)
	}
}
