package backup

import (
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// Scenario 30: a backup within which the clock jumped has no moments that could be told.
func TestABackupWithinWhichTheClockJumpsIsRefused(t *testing.T) {
	began := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		told, passed time.Duration
		by           string // "" = it stands
	}{
		"a steady clock":                   {10 * time.Minute, 10 * time.Minute, ""},
		"one that is set right slowly":     {10*time.Hour + 2*time.Minute, 10 * time.Hour, ""},
		"two hours on":                     {2*time.Hour + 10*time.Minute, 10 * time.Minute, "by 2h0m0s"},
		"two hours back":                   {10*time.Minute - 2*time.Hour, 10 * time.Minute, "by -2h0m0s"},
		"400 days on":                      {400 * 24 * time.Hour, time.Second, "by 9599h59m59s"},
		"a host that slept, as a jump too": {time.Hour, time.Minute, "by 59m0s"},
	} {
		err := clockJumped(vault.Backup{Database: "orders", Started: began, Stopped: began.Add(c.told)}, c.passed)
		p, refused := errors.AsType[*problem.Problem](err)
		if refused != (c.by != "") || refused && (p.Code != "backup.clock-jumped" || !strings.Contains(p.Title, c.by)) {
			t.Errorf("%s: %v, want %q", name, err, c.by)
		}
	}
}
