package cli

import (
	"strings"
	"testing"

	"holdfast/internal/plan"
	"holdfast/internal/vault"
)

// Who goes back in place is told what does not go with it.
func TestWhatDoesNotGoBackInPlaceIsTold(t *testing.T) {
	sets := []plan.FileSet{{Name: "attachments", Moment: plan.Moment{Database: "records"}}, {Name: "scans", Moment: plan.Moment{Database: "records"}},
		{Name: "letters", Moment: plan.Moment{Database: "other"}}, {Name: "logs"}}
	b := vault.FileBackup{Set: "attachments", Point: &vault.Point{Database: "records"}}
	if told := staysBehind(b, sets[:1]); len(told) > 0 {
		t.Errorf("all of it goes back: %v", told)
	}
	b.Excluded = []string{"*.tmp", "cache/"}
	told := staysBehind(b, sets)
	if len(told) != 2 || !strings.Contains(told[0], "leaves out *.tmp cache/") || !strings.HasPrefix(told[1], "files scans ") {
		t.Errorf("it says %q", told)
	}
}
