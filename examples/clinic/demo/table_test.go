package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/examples/clinic/client"
)

func TestTheTableIsAlignedAndNamesBrokenSteps(t *testing.T) {
	rows := []row{
		{title: "1  short", edge: client.Figures{LongestGap: 60 * time.Millisecond}, took: 3 * time.Second, whole: 2500 * time.Millisecond},
		{title: "12 a longer title with ä", edge: client.Figures{LongestGap: 12 * time.Second, Failed: 10}, listener: client.Figures{LongestGap: 7 * time.Second, Failed: 1},
			lost: 3, took: 100 * time.Second, broken: true},
	}
	var b strings.Builder
	if err := writeTable(&b, rows); err != nil {
		t.Fatal(err)
	}
	want := `
                             edge    edge  listener  listener      acked   whole  the step
STEP                          gap  failed       gap    failed  rows lost   again      took
------------------------------------------------------------------------------------------
1  short                   0.06 s       0    0.00 s         0          0  2.50 s    3.00 s
12 a longer title with ä  12.00 s      10    7.00 s         1          3       -  100.00 s  BROKEN
`
	if diff := cmp.Diff(want, "\n"+b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestTheTableOfTheStoryFitsATerminal(t *testing.T) {
	var rows []row
	for _, s := range story() {
		rows = append(rows, row{title: "1  " + s.title, took: 100 * time.Second, whole: 100 * time.Second,
			edge: client.Figures{LongestGap: 10 * time.Second}, listener: client.Figures{LongestGap: 10 * time.Second}})
	}
	var b strings.Builder
	if err := writeTable(&b, rows); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 110 {
			t.Errorf("a line has %d characters: %s", n, line)
		}
	}
}

func TestARowTakesTheWorseOfReadsAndWritesFromItsOwnPhase(t *testing.T) {
	phases := []client.Phase{
		{Name: "before", Paths: map[client.Path]client.Figures{client.EdgeRead: {LongestGap: time.Hour, Failed: 99}}},
		{Name: "fault", Paths: map[client.Path]client.Figures{
			client.EdgeRead: {LongestGap: 3 * time.Second, Failed: 2}, client.EdgeWrite: {LongestGap: time.Second, Failed: 5},
			client.ListenerWrite: {LongestGap: 4 * time.Second, Failed: 1},
		}},
	}
	var r row
	r.see(phases, "fault")
	got := []any{r.edge.LongestGap, r.edge.Failed, r.listener.LongestGap, r.listener.Failed}
	if diff := cmp.Diff([]any{3 * time.Second, 7, 4 * time.Second, 1}, got); diff != "" {
		t.Error(diff)
	}
}

func TestTextsAreShortened(t *testing.T) {
	if got := clip("äöü", 3); got != "äöü" {
		t.Errorf("what fits was changed to %q", got)
	}
	if got := clip("äöüß", 3); got != "äö…" {
		t.Errorf("clip gives %q", got)
	}
	if got := firstLines("a\nb\nc\nd\n", 2); got != "a\nb\n... 2 more lines" {
		t.Errorf("firstLines gives %q", got)
	}
	if got := firstLines("a\nb\n", 2); got != "a\nb\n" {
		t.Errorf("what fits was changed to %q", got)
	}
	if got := shown([]string{"restore", "records", "--where", "practice_id = 3"}); got != `holdfast restore records --where "practice_id = 3"` {
		t.Errorf("a shell would not take %s", got)
	}
}

func TestABackupIsProvenOnlyWhenThatIsSaid(t *testing.T) {
	for text, want := range map[string]bool{
		"base backup x, made on h in 2s\n  size      1 MiB\n  proven    yes, by restoring it\n": true,
		"base backup x\n  proven    no, the restore failed\n":                                   false,
		"base backup x is not proven yes\n":                                                     false,
		"":                                                                                      false,
	} {
		if saysProven(text) != want {
			t.Errorf("%q says proven: %v", text, !want)
		}
	}
}

func TestSizesAreForPeople(t *testing.T) {
	for bytes, want := range map[int64]string{0: "0 KiB", 2048: "2 KiB", 645 << 20: "645 MiB", 3 << 29: "1.50 GiB"} {
		if got := size(bytes); got != want {
			t.Errorf("%d bytes are %s, want %s", bytes, got, want)
		}
	}
}
