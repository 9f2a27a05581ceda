package cli

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/problem"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
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

// Every group of commands refuses a word that is none of its commands, with the status of a usage error, and names the nearest.
func TestAnUnknownCommandIsAMatterOfUsage(t *testing.T) {
	groups := 0
	var walk func(c *cobra.Command, path []string)
	walk = func(c *cobra.Command, path []string) {
		for _, sub := range c.Commands() {
			walk(sub, append(slices.Clone(path), sub.Name()))
		}
		if _, takes, _ := strings.Cut(c.Use, " "); !c.HasSubCommands() || takes != "" {
			return
		}
		groups++
		says(t, words(t, 2, append(slices.Clone(path), "zzqqxx")...), `has no command "zzqqxx"`)
		words(t, 0, path...)
	}
	walk(New(), nil)
	if groups < 10 {
		t.Errorf("%d groups were checked; are they found?", groups)
	}
	says(t, words(t, 2, "backup", "wndow"), "the nearest: window")
	says(t, words(t, 2, "bakcup"), "the nearest: backup")
}

// A database that the vault of --vault does not hold is refused where it is listed, as where it is restored; what a problem says to do
// reaches that vault.
func TestAVaultByItselfRefusesADatabaseThatItDoesNotHold(t *testing.T) {
	root := twoCopies(t)
	words(t, 0, "vault", "init", "main", "--root="+root)
	v, err := vault.Open(t.Context(), vault.Config{Key: redact.Secret("a key of the test"), URL: "file://" + filepath.Join(root, "home")})
	if err != nil {
		t.Fatal(err)
	}
	w, err := v.Begin(t.Context(), "test")
	if err == nil {
		_, err = w.Commit(vault.Backup{Database: "records", Kind: "full", SystemID: 7, Timeline: 1, SegmentSize: 1 << 20, Start: 1 << 20, Stop: 2 << 20, Started: time.Now(), Stopped: time.Now()})
	}
	if err == nil {
		err = v.Close(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	where := vaultFlags{url: filepath.Join(root, "home"), key: filepath.Join(root, "vault.key")}
	alone := []string{"--vault", where.url, "--key", where.key}
	for _, verb := range []string{"list", "window"} {
		says(t, words(t, 1, append([]string{"backup", verb, "nosuch"}, alone...)...), "restore.unknown-database", "[records]")
		words(t, 0, append([]string{"backup", verb, "records"}, alone...)...)
	}
	outside := &problem.Problem{Code: "restore.outside-window", Remedy: "choose: holdfast backup window records"}
	if err := where.inRemedy("records", outside); !strings.Contains(err.Error(), "backup window records --vault "+where.url+" --key "+where.key) {
		t.Error(err)
	}
	if (&vaultFlags{}).inRemedy("records", nil) != nil || (&vaultFlags{}).inRemedy("records", outside) != error(outside) {
		t.Error("with a plan it is said otherwise")
	}
}
