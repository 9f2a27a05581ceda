package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// No command takes a way to write its answer that it does not know for another one.
func TestAnUnknownOutputIsRefused(t *testing.T) {
	var commands func(c *cobra.Command, path string) []string
	commands = func(c *cobra.Command, path string) (out []string) {
		if c.Flags().Lookup("output") != nil && c.Runnable() {
			out = append(out, path)
		}
		for _, sub := range c.Commands() {
			out = append(out, commands(sub, path+" "+sub.Name())...)
		}
		return out
	}
	all := commands(New(), "")
	if len(all) < 40 {
		t.Fatalf("only %d commands have --output", len(all))
	}
	for _, path := range all {
		root := New()
		c, _, err := root.Find(strings.Fields(path))
		if err != nil {
			t.Fatal(err)
		}
		f := c.Flags().Lookup("output")
		if f.Value.Type() == "string" && f.Shorthand == "" {
			continue // plan's own words: see judgePlanOutput
		}
		if err := f.Value.Set("yaml"); err == nil {
			t.Errorf("%s takes yaml", path)
		}
		if err := f.Value.Set("json"); err != nil || f.DefValue != "table" {
			t.Errorf("%s: %v, and it is %s unless told", path, err, f.DefValue)
		}
	}
	var out, errs strings.Builder
	if got := Main(strings.Fields("database requests --root "+t.TempDir()+" -o yaml"), strings.NewReader(""), &out, &errs); got != 2 || !strings.Contains(errs.String(), "table or json") {
		t.Errorf("status %d: %s", got, &errs)
	}
}

func TestAPauseTakesDays(t *testing.T) {
	c := pauseCommand()
	if err := c.ParseFlags([]string{"--for", "2d"}); err != nil {
		t.Fatal(err)
	}
	if got := c.Flags().Lookup("for").Value.String(); got != (48 * time.Hour).String() {
		t.Errorf("2d is %s", got)
	}
}
