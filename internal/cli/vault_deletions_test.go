package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/auth"
	"holdfast/internal/host"
	"holdfast/internal/local"
	"holdfast/internal/plan"
	"holdfast/internal/vault"
	"holdfast/internal/vault/consent"
)

// twoPersons is [twoCopies] whose vault needs two persons, with an authority and a backup from long ago that is pinned.
func twoPersons(t *testing.T) (root, backup string) {
	t.Helper()
	root = twoCopies(t)
	rewrite(t, root, "key: file:${root}/vault.key", "key: file:${root}/vault.key\n    deletions: two-persons")
	rewrite(t, root, `, away: "file://${root}/away"`, "")
	ca, err := auth.CreateAuthority(local.AuthorityDir(root), "clinic")
	if err == nil {
		err = ca.WriteHost(local.AdminDir(root), auth.HostCert{Name: "operator", Role: auth.Admin})
	}
	if err == nil {
		err = ca.WriteHost(host.CertDir(local.HostDir(root, "h1")), auth.HostCert{Name: "h1"})
	}
	if err != nil {
		t.Fatal(err)
	}
	words(t, 0, "vault", "init", "main", "--root="+root)
	return root, oldBackup(t, root)
}

func rewrite(t *testing.T, root, old, fresh string) {
	t.Helper()
	file := filepath.Join(root, "holdfast.yaml")
	text, err := os.ReadFile(file)
	if err == nil && !strings.Contains(string(text), old) {
		err = errors.New("the plan does not say " + old)
	}
	if err == nil {
		err = os.WriteFile(file, []byte(strings.Replace(string(text), old, fresh, 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// applicationAt is the application of the plan in that directory, as the commands have it.
func applicationAt(t *testing.T, root string) application {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, "holdfast.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	p, mistakes := plan.Parse("holdfast.yaml", raw)
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	return application{Context: local.Context{Root: root}, plan: p.WithRoot(root)}
}

// oldBackup stores proven backups of one small file, and gives the oldest, of a hundred days ago.
func oldBackup(t *testing.T, root string) string {
	t.Helper()
	a := applicationAt(t, root)
	v, err := a.openToWrite(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	id := ""
	for _, at := range []time.Time{time.Now(), time.Now().Add(-50 * 24 * time.Hour), time.Now().Add(-100 * 24 * time.Hour)} {
		w, err := v.Begin(t.Context(), "test")
		if err != nil {
			t.Fatal(err)
		}
		f := w.File(vault.Entry{Path: "pgdata/PG_VERSION", Mode: 0o600, ModTime: at})
		if _, err = f.Write([]byte(at.String())); err == nil {
			err = f.Keep()
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := w.Commit(vault.Backup{Database: "records", Kind: "full", SystemID: 7, Timeline: 1, Started: at, Stopped: at})
		if err == nil {
			err = v.Mark(t.Context(), b.ID, vault.Validation{Passed: true, At: at})
		}
		if err != nil {
			t.Fatal(err)
		}
		id = b.ID
	}
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	words(t, 0, "backup", "pin", id, "--root="+root, "--reason", "before the move")
	return id
}

// asked is the id of the only open request.
func asked(t *testing.T, at string) string {
	t.Helper()
	var all []requestedIn
	if err := json.Unmarshal([]byte(words(t, 0, "vault", "deletions", "list", at, "--output", "json")), &all); err != nil {
		t.Fatal(err)
	}
	open := ""
	for _, c := range all[0].Cases {
		if c.State == "open" {
			if open != "" {
				t.Fatal("more than one request is open")
			}
			open = c.ID
		}
	}
	return open
}

// One person with two sessions, two certificates, the machine's and a host's, and a plan without the word, lets nothing go; two
// persons do.
func TestOnePersonAloneLetsNothingGo(t *testing.T) {
	root, backup := twoPersons(t)
	at := "--root=" + root
	person := func(name string) string {
		dir := filepath.Join(t.TempDir(), name)
		says(t, words(t, 0, "operator", "issue", name, "--to", dir, at, "--dry-run"), "nothing was changed")
		says(t, words(t, 0, "operator", "issue", name, "--to", dir, at), "made a certificate of "+name)
		return "--as=" + dir
	}
	anna, ben := person("anna"), person("ben")
	second := person("anna")
	words(t, 1, "operator", "issue", "carl", "--to", strings.TrimPrefix(anna, "--as="), at) // never over another
	words(t, 2, "operator", "issue", "operator", "--to", filepath.Join(root, "x"), at)
	words(t, 2, "operator", "issue", "Anna", "--to", filepath.Join(root, "x"), at)

	unpin := []string{"backup", "unpin", backup, at, "--yes"}
	says(t, words(t, 1, unpin...), "vault.needs-two-persons", "holdfast vault deletions request unpin")
	request := []string{"vault", "deletions", "request", "unpin", backup, at}
	for _, as := range []string{"--as=" + local.AdminDir(root), "--as=" + host.CertDir(local.HostDir(root, "h1"))} {
		says(t, words(t, 1, append(request, as, "--yes")...), "vault.not-a-person")
	}
	words(t, 2, append(request, "--yes")...) // --as is missing
	words(t, 2, append(request, anna)...)    // not confirmed
	says(t, words(t, 0, append(request, anna, "--yes", "--reason", "moved")...), "pin on "+backup, "before the move", "asked for")
	id := asked(t, at)
	for _, as := range []string{anna, second} {
		says(t, words(t, 1, "vault", "deletions", "approve", id[:12], at, as, "--yes"), "vault.same-person")
	}
	says(t, words(t, 1, "vault", "deletions", "approve", id[:3], at, ben, "--yes"), "vault.unknown-request")
	says(t, words(t, 0, "vault", "deletions", "approve", id[:12], at, ben, "--yes"), "agreed", "holdfast backup unpin "+backup)
	words(t, 0, "vault", "deletions", "refuse", id[:12], at, ben, "--yes")
	says(t, words(t, 1, unpin...), "vault.needs-two-persons")

	retention := []string{"vault", "deletions", "request", "retention", at, "--yes"}
	says(t, words(t, 0, "backup", "prune", "records", at, "--dry-run"), "two persons have not agreed")
	says(t, words(t, 0, append(retention, anna)...), "records: weekly")
	says(t, words(t, 0, "vault", "deletions", "approve", asked(t, at), at, ben, "--yes"), "it counts from now on")
	rewrite(t, root, "deletions: two-persons", "deletions: one-person") // what one person can do to a plan
	says(t, words(t, 1, unpin...), "vault.needs-two-persons")
	says(t, words(t, 0, "vault", "deletions", "list", at), "how long things stay was agreed", "The authority's key lies on this machine")

	words(t, 0, append(request, ben, "--yes")...)
	words(t, 0, "vault", "deletions", "approve", asked(t, at), at, anna, "--yes")
	says(t, words(t, 0, unpin...), "is not pinned any more")
	words(t, 2, append(request, anna, "--yes")...) // nothing is pinned

	rewrite(t, root, `full: "daily 01:00"`, `full: "daily 01:00", weekly: 4w`)
	says(t, words(t, 0, "backup", "prune", "records", at, "--dry-run"), "the plan is shorter than what two persons agreed to", "weekly 2y")
	says(t, words(t, 0, append(retention, anna)...), "records: weekly 28d (was 2y", "backup "+backup+" of records goes")
	says(t, words(t, 0, "vault", "deletions", "approve", asked(t, at), at, ben, "--yes"), "it counts from now on")
	if out := words(t, 0, "backup", "prune", "records", at, "--dry-run"); strings.Contains(out, "agreed") {
		t.Errorf("two agreed, and the plan does not count:\n%s", out)
	}
}

// Whoever agrees to terms sees those that would count, and agrees to none that are not the plan's or take more than was said.
func TestTermsAreShownAndWorkedOutAnew(t *testing.T) {
	terms := func(weekly time.Duration) *consent.Terms {
		return &consent.Terms{Keeps: map[string]map[string]time.Duration{"records": {"weekly": weekly}}}
	}
	item := "backup a of records goes: older than 28d"
	c := consent.Case{ID: strings.Repeat("a", 64), Request: consent.Request{Reason: "x\x1b[2J", Deed: consent.NewDeed(consent.Retention, "", []string{item}, terms(time.Hour))}}
	says(t, caseText(c), "can be brought back: none", "backups of records stay: weekly 1h", `"x\x1b[2J"`)
	for name, now := range map[string]struct {
		deed consent.Deed
		ok   bool
	}{
		"the same":                 {c.Deed, true},
		"the same, said otherwise": {consent.NewDeed(consent.Retention, "", []string{"backup a of records goes: bad"}, terms(time.Hour)), true},
		"less goes":                {consent.NewDeed(consent.Retention, "", nil, terms(time.Hour)), true},
		"more goes":                {consent.NewDeed(consent.Retention, "", []string{item, "backup b of records goes: bad"}, terms(time.Hour)), false},
		"other terms":              {consent.NewDeed(consent.Retention, "", []string{item}, terms(2*time.Hour)), false},
	} {
		if err := sameTerms(c, now.deed); (err == nil) != now.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What was asked for and lies damaged in every copy is named, stops what goes, and is set aside by two.
func TestALostRequestIsNamedAndSetAside(t *testing.T) {
	root, backup := twoPersons(t)
	at := "--root=" + root
	var as []string
	for _, name := range []string{"anna", "ben"} {
		dir := filepath.Join(t.TempDir(), name)
		words(t, 0, "operator", "issue", name, "--to", dir, at)
		as = append(as, "--as="+dir)
	}
	request := []string{"vault", "deletions", "request", "set-aside", "main", at, as[0], "--yes"}
	words(t, 2, request...) // nothing is lost
	dir := filepath.Join(root, "home", "deletions")
	before := map[string]bool{}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		before[e.Name()] = true
	}
	words(t, 0, "vault", "deletions", "request", "unpin", backup, at, as[0], "--yes")
	if entries, err = os.ReadDir(dir); err != nil {
		t.Fatal(err)
	}
	lost := ""
	for _, e := range entries {
		if !before[e.Name()] && e.Name() != "authority.aes" {
			lost = e.Name()
		}
	}
	if err := os.WriteFile(filepath.Join(dir, lost), []byte("HFDELET\x01 and nothing that was sealed"), 0o600); err != nil {
		t.Fatal(err)
	}
	says(t, words(t, 1, "backup", "unpin", backup, at, "--yes"), "vault.paper-lost", lost, "request set-aside main")
	says(t, words(t, 0, "vault", "deletions", "list", at), "deletions/"+lost, "nothing is let go of", "request set-aside main")
	says(t, words(t, 0, "backup", "prune", "records", at, "--dry-run"), "until two persons set them aside")
	says(t, words(t, 0, request...), "set-aside", "deletions/"+lost)
	id := asked(t, at)
	says(t, words(t, 1, "vault", "deletions", "approve", id[:12], at, as[0], "--yes"), "vault.same-person")
	says(t, words(t, 0, "vault", "deletions", "approve", id[:12], at, as[1], "--yes"), "it counts from now on", "void")
	says(t, words(t, 1, "backup", "unpin", backup, at, "--yes"), "vault.needs-two-persons")
	says(t, words(t, 1, "vault", "deletions", "request", "unpin", backup, at, as[0], "--yes"), "may have been a refusal of it") // for five minutes
}
