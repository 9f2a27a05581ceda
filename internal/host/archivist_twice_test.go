package host

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/plan"
	"holdfast/internal/vault"
)

// Log that came twice is known to an agent that starts again, until a base backup stands behind it: one of this host, or of
// another one meanwhile.
func TestLogThatCameTwiceOutlivesTheAgent(t *testing.T) {
	duplicate := &vault.DuplicateError{Vault: "main", Name: "000000010000000000000007"}
	const says = "archive the log of orders: vault main holds other content for 000000010000000000000007"
	bad := &vault.Validation{}
	made := func(started time.Duration, v *vault.Validation) vault.Backup {
		return vault.Backup{ID: "b", Started: time.Now().Add(started), Validation: v}
	}
	for name, c := range map[string]struct {
		made []vault.Backup
		err  error
		want string
	}{
		"nothing was made":                {nil, nil, says},
		"one was begun before":            {[]vault.Backup{made(-time.Hour, nil)}, nil, says},
		"one was begun behind and is bad": {[]vault.Backup{made(time.Hour, bad)}, nil, says},
		"the vault does not say":          {nil, errors.New("no route to host"), says},
		"one was begun behind":            {[]vault.Backup{made(-time.Hour, nil), made(time.Hour, nil)}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := &Host{cfg: Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}, clock: clock.Real()}
			agent := func() *archivist { return &archivist{host: h, db: plan.Database{Name: "orders"}} }
			list := func(context.Context, string) ([]vault.Backup, error) { return c.made, c.err }
			told := func(a *archivist, want string) {
				t.Helper()
				if lost, _ := a.gapNow(); lost != want || a.gaps.twice != want || a.told.Gap != want {
					t.Errorf("lost is %q, twice %q, told %q; want %q", lost, a.gaps.twice, a.told.Gap, want)
				}
			}
			first := agent()
			first.recallTwice(t.Context(), list)
			told(first, "")
			if !first.isTwice(duplicate) {
				t.Fatal("it is no news")
			}
			first.keepTwice()

			again := agent()
			again.recallTwice(t.Context(), list)
			told(again, c.want)
			if c.want != "" && again.isTwice(duplicate) {
				t.Error("after a start it is news again")
			}
			again.bridged(says)
			again.dropTwice()
			last := agent()
			last.recallTwice(t.Context(), func(context.Context, string) ([]vault.Backup, error) { return nil, nil })
			told(last, "")
		})
	}
}
