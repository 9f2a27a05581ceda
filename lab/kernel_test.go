package lab_test

import (
	"os/exec"
	"strings"
	"testing"

	"holdfast/internal/api"
	"holdfast/lab"
)

// A world whose hosts lead their own programs to the primary by rules: writers beside every server go past all listeners,
// through a switchover and a killed primary, and nothing that was acknowledged to them is lost. In the end no rule is left.
func TestTheKernelPathFollowsThePrimary(t *testing.T) {
	lab.Long(t)
	w := lab.NewApartAs(t, lab.Shape{Plan: func(text string) string {
		return strings.Replace(text, "listen: { write: 5432 }", "listen: { write: 5432, path: kernel }", 1)
	}})
	w.Start()
	ledTo := func(primary string) {
		t.Helper()
		w.Await("every host's rules lead to "+primary, recoverMax, func(api.Status) bool {
			for _, h := range w.Hosts {
				if !strings.Contains(rules(t, w, h), "dnat ip to "+w.Address[primary]+":") {
					return false
				}
			}
			return true
		})
	}
	for _, s := range []lab.Scenario{
		{Name: "kernel-switchover", Run: switchover},
		{Name: "kernel-crash", Run: func(r *lab.Round) {
			ledTo(r.Was.Primary)
			crash(r)
		}},
	} {
		t.Run(s.Name, func(t *testing.T) {
			o := w.Play(t, s, 1, 0)
			t.Logf("gap %.2f s, acknowledged %d, lost %d, epochs begun %d", o.Gap.Seconds(), o.Acknowledged, o.Lost, o.Moves)
		})
	}
	ledTo(w.Await("well", recoverMax, lab.Well).Databases[0].Primary)
	w.Stop()
	for _, h := range w.Hosts {
		if left := rules(t, w, h); strings.Contains(left, "holdfast") {
			t.Errorf("%s is down, and keeps\n%s", h, left)
		}
	}
}

// rules are those of one host.
func rules(t *testing.T, w *lab.World, host string) string {
	t.Helper()
	var out []byte
	err := w.Net.Inside(host, func() (err error) {
		out, err = exec.Command("nft", "list", "ruleset").CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("list the rules of %s: %v: %s", host, err, out)
	}
	return string(out)
}
