package lab_test

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/lab"
)

var (
	repeat = flag.Int("lab.n", 1, "how often each scenario runs")
	few    = flag.Int("lab.points", 0, "at most so many moments of each scenario that has several, spread evenly; 0 = all")
	timed  = flag.Bool("lab.timed", false, "judge what only a quiet machine can keep: that a drill takes what was foreseen")
	chosen = flag.String("lab.scenario", "", "run only the scenarios of these `names`, separated by commas, in CI or not")
)

// TestScenarios plays the list of scenarios.go: those of one shape in one world, for coming up costs more than most.
func TestScenarios(t *testing.T) {
	kinds := map[string][]lab.Scenario{}
	for _, s := range scenarios() {
		switch {
		case *chosen != "" && !slices.Contains(strings.Split(*chosen, ","), s.Name):
		case *chosen == "" && !s.InCI && !lab.All():
			t.Logf("%2d %-28s is run by make lab only", s.Number, s.Name)
		default:
			kinds[s.Kind] = append(kinds[s.Kind], s)
		}
	}
	if len(kinds) == 0 {
		t.Fatalf("no scenario is called %q", *chosen)
	}
	for _, kind := range sortedKeys(kinds) {
		shape := kinds[kind][0].Shape
		var short, long []lab.Scenario
		for _, s := range kinds[kind] {
			if len(roundsOf(s)) > movesInAWorld {
				long = append(long, s)
			} else {
				short = append(short, s)
			}
		}
		playShort(t, cmp.Or(kind, "three-hosts"), shape, short)
		for _, s := range long {
			t.Run(s.Name, func(t *testing.T) { playLong(t, shape, s) })
		}
	}
}

// playShort runs scenarios one after the other in one world, and in a new one what follows a scenario that failed: the world
// that it leaves behind says nothing of the next.
func playShort(t *testing.T, name string, shape lab.Shape, left []lab.Scenario) {
	for before := 0; len(left) > 0 && len(left) != before; {
		before = len(left)
		t.Run(name, func(t *testing.T) {
			w := lab.NewApartAs(t, shape)
			w.Start()
			for len(left) > 0 {
				s := left[0]
				left = left[1:]
				if !t.Run(s.Name, func(t *testing.T) {
					var sum tally
					playIn(t, w, s, roundsOf(s), &sum)
					sum.tell(t, s)
				}) {
					return
				}
			}
		})
	}
	if len(left) > 0 { // a world that did not start, or was skipped, plays none
		t.Logf("%s and what follows it were not run", left[0].Name)
	}
}

// movesInAWorld is how many changes of primary a world sees before a scenario that is repeated goes on in a new one: a host
// whose silence has moved the primary three times within ten minutes is given more time each time after, so a fourth
// round would measure that, and not what the scenario is about.
const movesInAWorld = 6

// round is one repetition of a scenario.
type round struct {
	number int
	point  time.Duration
}

// tally is what all rounds of a scenario brought.
type tally struct {
	gaps, wholes []time.Duration
	lost         int
}

// roundsOf are the rounds of a scenario, as often as asked for.
func roundsOf(s lab.Scenario) (all []round) {
	points := []time.Duration{0}
	if s.Points != nil {
		points = thinned(s.Points(lab.All()), *few)
	}
	for n := range *repeat * len(points) {
		all = append(all, round{n + 1, points[n%len(points)]})
	}
	return all
}

// playLong runs a scenario of many rounds, in one world after the other.
func playLong(t *testing.T, shape lab.Shape, s lab.Scenario) {
	var sum tally
	left, before := roundsOf(s), 0
	for n := 1; len(left) > 0 && len(left) != before; n++ {
		before = len(left)
		t.Run(fmt.Sprintf("world-%d", n), func(t *testing.T) {
			w := lab.NewApartAs(t, shape)
			w.Start()
			left = playIn(t, w, s, left, &sum)
		})
		if t.Failed() && len(left) > 0 {
			t.Fatalf("the rounds from number %d on are not run", left[0].number)
		}
	}
	if len(left) > 0 { // a world that was skipped plays none
		t.Skipf("%d rounds were not run", len(left))
	}
	sum.tell(t, s)
}

// tell prints what clients saw in all rounds.
func (sum *tally) tell(t *testing.T, s lab.Scenario) {
	if n := len(sum.gaps); n > 1 {
		t.Logf("%s: %d rounds, lost %d rows; min, p50, p99, max of the gap %s s, until whole again %s s", s.Name, n, sum.lost, quantiles(sum.gaps), quantiles(sum.wholes))
	}
}

// playIn runs rounds in one world, and returns those that need another one.
func playIn(t *testing.T, w *lab.World, s lab.Scenario, rounds []round, sum *tally) (left []round) {
	moves := int64(0)
	for n, r := range rounds {
		if moves >= movesInAWorld {
			return rounds[n:]
		}
		o := w.Play(t, s, r.number, r.point)
		at := ""
		if s.Points != nil {
			at = fmt.Sprintf(" at %.2f s", r.point.Seconds())
		}
		t.Logf("%s%s: gap %.2f s, whole after %.1f s, acknowledged %d, lost %d, epochs begun %d", s.Name, at, o.Gap.Seconds(), o.Whole.Seconds(), o.Acknowledged, o.Lost, o.Moves)
		sum.gaps, sum.wholes, sum.lost, moves = append(sum.gaps, o.Gap), append(sum.wholes, o.Whole), sum.lost+o.Lost, moves+o.Moves
		if t.Failed() {
			t.Fatalf("round %d failed; the %d after it are not run", r.number, len(rounds)-n-1)
		}
	}
	return nil
}

// thinned are at most some of the points, the first and the last among them; 0 = all.
func thinned(points []time.Duration, most int) []time.Duration {
	if most <= 1 || len(points) <= most {
		return points
	}
	out := make([]time.Duration, most)
	for i := range out {
		out[i] = points[i*(len(points)-1)/(most-1)]
	}
	return out
}

func quantiles(values []time.Duration) string {
	return fmt.Sprintf("%.2f %.2f %.2f %.2f", rank(values, 0).Seconds(), rank(values, 50).Seconds(), rank(values, 99).Seconds(), rank(values, 100).Seconds())
}

// rank is the value that percent of the values do not exceed.
func rank(values []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// The table in README.md is made from the list, so that nothing in it is claimed and not run:
// UPDATE=1 go test ./lab -run Table
func TestTheTableOfScenariosIsWhole(t *testing.T) {
	const file, begin, end = "README.md", "<!-- scenarios -->\n", "<!-- end of scenarios -->\n"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := strings.Cut(string(text), begin)
	old, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the table", file)
	}
	table := scenarioTable(t)
	if table == old {
		return
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(head+begin+table+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s has another table than the list of scenarios gives (UPDATE=1 go test ./lab -run Table writes it):\n%s", file, table)
}

// What CI leaves out it names, and it takes the names from the page.
func TestEachTestThatTakesLongIsOnThePage(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("the tests of this folder: %q, %v", files, err)
	}
	begins := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	long := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tests := begins.FindAllSubmatchIndex(text, -1)
		for i, at := range tests {
			end := len(text)
			if i+1 < len(tests) {
				end = tests[i+1][0]
			}
			name := string(text[at[2]:at[3]])
			if !bytes.Contains(text[at[1]:end], []byte("\tlab."+"Long(t)")) {
				continue
			}
			long++
			if !bytes.Contains(page, []byte("`"+name+"` | make lab |")) {
				t.Errorf("%s takes long, and README.md does not say that make lab alone runs it", name)
			}
		}
	}
	if long == 0 {
		t.Error("no test that takes long was found: this looks for the wrong words")
	}
}

func scenarioTable(t *testing.T) string {
	type row struct {
		number             int
		name, where, claim string
	}
	var rows []row
	names := map[string]bool{}
	for _, s := range scenarios() {
		where := "make lab"
		if s.InCI {
			where = "CI"
		}
		if names[s.Name] {
			t.Errorf("two scenarios are called %s", s.Name)
		}
		names[s.Name] = true
		rows = append(rows, row{s.Number, "`" + s.Name + "`", where, s.Claim})
	}
	for _, e := range elsewhere() {
		rows = append(rows, row{e.number, e.test, e.where, e.claim})
	}
	for n := 1; n <= lastNumber; n++ {
		if !slices.ContainsFunc(rows, func(r row) bool { return r.number == n }) {
			rows = append(rows, row{n, "none yet", "", ""})
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.number, b.number) })
	var out strings.Builder
	out.WriteString("| number | scenario or test | runs in | what is asserted |\n|---|---|---|---|\n")
	for _, r := range rows {
		number := fmt.Sprint(r.number)
		if r.number > lastNumber {
			number = "-"
		}
		fmt.Fprintf(&out, "| %s | %s | %s | %s |\n", number, r.name, r.where, r.claim)
	}
	return out.String()
}
