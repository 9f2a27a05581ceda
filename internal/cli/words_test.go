package cli

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/problem"
)

// A command that takes words refuses too few and too many of them alike: by saying what it takes, with the status of a usage
// error.
func TestTheNumberOfWordsIsAMatterOfUsage(t *testing.T) {
	checked := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if _, takes, _ := strings.Cut(c.Use, " "); !c.Runnable() || takes == "" || strings.HasPrefix(takes, "--") || c.Args == nil {
			return
		}
		checked++
		for _, words := range [][]string{nil, slices.Repeat([]string{"x"}, 9)} {
			if err := c.Args(c, words); err != nil && !errors.Is(err, errUsage) {
				t.Errorf("%s with %d words: %v", c.CommandPath(), len(words), err)
			}
		}
	}
	walk(New())
	if checked < 40 {
		t.Errorf("%d commands were checked; are they found?", checked)
	}
}

func TestARefusedSwitchoverHasACodeAndAWayOn(t *testing.T) {
	c := api.Candidates{Primary: "h1", Refused: map[string]string{"h2": "", "h3": "h3 follows asynchronously"}}
	for to, want := range map[string]string{"": "no standby", "h1": "the primary already", "h3": "asynchronously"} {
		var p *problem.Problem
		err := notSwitched("records", refusal(c, to), "Nothing was changed.")
		if !errors.As(err, &p) || p.Code != "database.not-switched" || p.Subject != "records" || !strings.Contains(p.Title, want) || p.Meaning != "Nothing was changed." || !strings.Contains(p.Remedy, "--dry-run") {
			t.Errorf("to %q: %v", to, err)
		}
	}
}
