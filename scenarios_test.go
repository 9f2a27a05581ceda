package holdfast_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	scenariosPage = "docs/backup-scenarios.md"
	lastScenario  = 48 // of the list that the page's numbers are from
)

// TestTheTableOfBackupScenariosIsTrue holds the page of what backups must live through to the tests that show it.
func TestTheTableOfBackupScenariosIsTrue(t *testing.T) {
	page, err := os.ReadFile(scenariosPage)
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range scenarioBreaches(string(page), lastScenario, testsOf(t)) {
		t.Error(wrong)
	}
}

// TestTheTableOfBackupScenariosIsHeldToTheTests plants each mistake that the page could make.
func TestTheTableOfBackupScenariosIsHeldToTheTests(t *testing.T) {
	where := func(folder, test string) string {
		return map[string]string{"a TestQuick": "CI", "b TestLong": "make lab"}[folder+" "+test]
	}
	row := func(n int, shown, tests, runs, asserted string) string {
		return fmt.Sprintf("| %d | something | %s | %s | %s | %s |\n", n, shown, tests, runs, asserted)
	}
	good := row(1, "whole", "`a TestQuick`, `b TestLong`", "CI, make lab", "all of it")
	for name, c := range map[string]struct{ page, says string }{
		"nothing is wrong":                      {good + row(2, "none yet", "", "", ""), ""},
		"a number without a row":                {good, "number 2 has no row"},
		"a number twice":                        {good + good + row(2, "none yet", "", "", ""), "number 1 has 2 rows"},
		"a test that is not there":              {good + row(2, "whole", "`a TestGone`", "CI", "x"), "a TestGone is not there"},
		"a test that runs elsewhere":            {good + row(2, "whole", "`b TestLong`", "CI", "x"), "runs in make lab"},
		"shown by nothing":                      {good + row(2, "whole", "", "", "x"), "names no test"},
		"none yet, and yet a test":              {good + row(2, "none yet", "`a TestQuick`", "CI", "x"), "names tests"},
		"in part without a word of the rest":    {good + row(2, "in part", "`a TestQuick`", "CI", "x"), "does not say what is missing"},
		"whole although something is missing":   {good + row(2, "whole", "`a TestQuick`", "CI", "x. Missing: y"), "says what is missing"},
		"a word that the page does not explain": {good + row(2, "nearly", "`a TestQuick`", "CI", "x"), "nearly"},
	} {
		got := strings.Join(scenarioBreaches(c.page, 2, where), "\n")
		if c.says == "" && got != "" || !strings.Contains(got, c.says) {
			t.Errorf("%s: %q, want %q", name, got, c.says)
		}
	}
}

var (
	scenarioRow  = regexp.MustCompile(`(?m)^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$`)
	scenarioTest = regexp.MustCompile("^`([a-z0-9/]+) (Test[A-Za-z0-9]+)`$")
)

// scenarioBreaches says what is wrong with the page. where tells what runs a folder's test, "" = there is none.
func scenarioBreaches(page string, last int, where func(folder, test string) string) []string {
	var wrong []string
	rows := map[string]int{}
	for _, m := range scenarioRow.FindAllStringSubmatch(page, -1) {
		number, shown, named, runs, asserted := m[1], m[3], strings.TrimSpace(m[4]), strings.TrimSpace(m[5]), m[6]
		rows[number]++
		say := func(form string, args ...any) {
			wrong = append(wrong, scenariosPage+": number "+number+" "+fmt.Sprintf(form, args...))
		}
		var in []string
		for _, one := range strings.Split(named, ", ") {
			if named == "" {
				break
			}
			parts := scenarioTest.FindStringSubmatch(one)
			if parts == nil {
				say("names %s, which is no `folder TestName`", one)
				continue
			}
			at := where(parts[1], parts[2])
			if at == "" {
				say("names a test that does not exist: %s %s is not there", parts[1], parts[2])
			}
			if !slices.Contains(in, at) {
				in = append(in, at)
			}
		}
		slices.Sort(in)
		if got := strings.Join(in, ", "); named != "" && got != runs {
			say("runs in %s, and the page says %q", got, runs)
		}
		missing := strings.Contains(asserted, "Missing: ")
		switch {
		case shown != "whole" && shown != "in part" && shown != "none yet":
			say("is shown %q; that is whole, in part or none yet", shown)
		case shown == "none yet" && named != "":
			say("is shown by none yet, and names tests")
		case shown != "none yet" && named == "":
			say("is shown %s, and names no test", shown)
		case shown == "in part" && !missing:
			say("is shown in part, and does not say what is missing")
		case shown == "whole" && missing:
			say("is shown whole, and says what is missing")
		}
	}
	for n := 1; n <= last; n++ {
		switch k := rows[fmt.Sprint(n)]; k {
		case 0:
			wrong = append(wrong, fmt.Sprintf("%s: number %d has no row", scenariosPage, n))
		case 1:
		default:
			wrong = append(wrong, fmt.Sprintf("%s: number %d has %d rows", scenariosPage, n, k))
		}
	}
	return wrong
}

// testsOf reads what runs each test from the test itself.
func testsOf(t *testing.T) func(folder, test string) string {
	t.Helper()
	begins := regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9_]+)\(`)
	found := map[string]string{}
	for _, top := range []string{"internal", "lab", "bench"} {
		err := walkTree(top, func(name string, text []byte) error {
			if !strings.HasSuffix(name, "_test.go") {
				return nil
			}
			tests := begins.FindAllSubmatchIndex(text, -1)
			for i, at := range tests {
				end := len(text)
				if i+1 < len(tests) {
					end = tests[i+1][0]
				}
				body, runs := string(text[at[0]:end]), "CI"
				switch {
				case strings.Contains(body, "\tlab.Long(t)") || strings.Contains(body, "HOLDFAST_LAB\""):
					runs = "make lab"
				case strings.Contains(body, "stockProgram(t)\n"):
					runs = "by name"
				}
				found[filepath.ToSlash(filepath.Dir(name))+" "+string(text[at[2]:at[3]])] = runs
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(found) < 500 {
		t.Fatalf("only %d tests were found: the search is broken", len(found))
	}
	return func(folder, test string) string { return found[folder+" "+test] }
}
