package vault

import (
	"errors"
	"testing"
	"time"

	"holdfast/internal/problem"
)

func TestClocksThatDifferAreAProblem(t *testing.T) {
	v, now := &Vault{name: "home"}, time.Unix(2e9, 0)
	for name, c := range map[string]struct {
		there time.Time
		wrong bool
	}{
		"the same":              {now, false},
		"four minutes behind":   {now.Add(-4 * time.Minute), false},
		"two hours ahead":       {now.Add(2 * time.Hour), true},
		"more than a year back": {now.Add(-400 * 24 * time.Hour), true},
	} {
		err := v.compareClocks(now, c.there)
		p, ok := errors.AsType[*problem.Problem](err)
		if ok != c.wrong || ok && p.Code != "vault.clock" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
