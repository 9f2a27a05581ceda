package cli

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/vault"
)

// A restore that begins with a backup which may hold pages that changed behind the log says so, and names the last good copy.
func TestARestoreSaysThatItMayHoldAChange(t *testing.T) {
	var made []vault.Backup
	for i := range 6 {
		at := time.Date(2026, 11, 10+i, 1, 0, 0, 0, time.UTC)
		made = append(made, vault.Backup{ID: fmt.Sprint("b", i), Database: "records", SystemID: 7, Started: at, Stopped: at, Earlier: fmt.Sprint("b", i-1), Validation: &vault.Validation{Passed: true}})
	}
	made[3].Differs, made[3].Earlier = []string{"clinic: table public.letters blocks 0 to 127"}, "b1" // b2 is of another host
	made[1].Validation = nil
	standing := func(all []vault.Backup) backup.Changed {
		t.Helper()
		c, stands := backup.StandingChange(all, nil)
		if !stands {
			t.Fatal("no change stands")
		}
		return c
	}
	for id, warned := range map[string]bool{"b0": false, "b1": false, "b2": true, "b3": true, "b5": true} {
		p := changeIn(standing(made), made, id)
		if (p != nil) != warned {
			t.Errorf("%s: %+v", id, p)
		}
		if p != nil && (!strings.Contains(p.Title, id) || !strings.Contains(p.Meaning, "The last good copy is b0.") || !strings.HasPrefix(p.Remedy, `holdfast restore database records --at "2026-11-10 01:00:01Z" --to DIR`)) {
			t.Errorf("%s: %s", id, p.Text())
		}
	}
	left := made[3:]
	if p := changeIn(standing(left), left, "b4"); p == nil || !strings.Contains(p.Meaning, "No backup from before is left.") {
		t.Errorf("none from before is left: %+v", p)
	}
}
