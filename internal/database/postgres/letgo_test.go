package postgres

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/database"
)

// many makes n things that were put aside, of the epochs 1 to n.
func many(n int, of aside) []aside {
	var out []aside
	for i := range n {
		x := of
		x.epoch = int64(i + 1)
		x.id = fmt.Sprintf("epoch-%d-%d%s", i+1, of.commits, map[bool]string{true: "g"}[of.given])
		out = append(out, x)
	}
	return out
}

func TestWhatWasPutAsideIsLetGoByRule(t *testing.T) {
	nothing := aside{listed: true, log: true}
	told := aside{listed: true, log: true, commits: 3}
	given := aside{listed: true, log: true, commits: 3, given: true, decided: true}
	undecided := aside{listed: true, log: true, commits: 3, given: true}
	change := func(all []aside, f func(x *aside)) []aside {
		for i := range all {
			f(&all[i])
		}
		return all
	}
	for name, c := range map[string]struct {
		all  []aside
		want []string // id, and "log" or "whole"
	}{
		"nothing was put aside":                      {nil, nil},
		"of those without a commit the newest stays": {many(3, nothing), []string{"epoch-1-0 whole", "epoch-2-0 whole"}},
		"of those that nobody was told of three logs stay, and all lists": {
			many(5, told), []string{"epoch-1-3 log", "epoch-2-3 log"}},
		"what was decided about stays as long, apart from the others": {
			slices.Concat(many(4, given), many(3, told), many(1, nothing)), []string{"epoch-1-3g log"}},
		"a log that is gone already goes no second time": {
			change(many(5, told), func(x *aside) { x.log = x.epoch > 1 }), []string{"epoch-2-3 log"}},
		"of lists that nobody was told of fifty stay": {
			change(many(52, told), func(x *aside) { x.log = false }), []string{"epoch-1-3 whole", "epoch-2-3 whole"}},
		"lists of what was given up stay for good": {
			change(many(60, given), func(x *aside) { x.log = false }), nil},
		"what was given up and not decided about stays, however much it is":  {many(100, undecided), nil},
		"so it does when it lists no commit and something could not be read": {change(many(9, undecided), func(x *aside) { x.commits, x.unread = 0, 1 }), nil},
		"what was given up and holds no commit needs no decision": {
			change(many(2, undecided), func(x *aside) { x.commits = 0 }), []string{"epoch-1-3g whole"}},
		"what has no list stays":                  {change(many(9, aside{log: true}), func(*aside) {}), nil},
		"what is of the data that are here stays": {change(many(5, told), func(x *aside) { x.here = x.epoch == 1 }), []string{"epoch-2-3 log"}},
		"what could not be read is no empty list": {change(many(5, nothing), func(x *aside) { x.unread = 1 }), []string{"epoch-1-0 log", "epoch-2-0 log"}},
		"epochs are numbers, and order is not": {
			[]aside{{id: "epoch-9-a", epoch: 9, listed: true}, {id: "epoch-10-a", epoch: 10, listed: true}, {id: "epoch-8-a", epoch: 8, listed: true}},
			[]string{"epoch-8-a whole", "epoch-9-a whole"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, x := range surplus(c.all) {
				got = append(got, x.id+" "+map[bool]string{true: "whole", false: "log"}[x.whole])
			}
			slices.Sort(got)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
		})
	}
}

// shelf is a server without data and with things that were put aside.
func shelf(t *testing.T) *Server {
	t.Helper()
	s := &Server{at: layoutOf(t.TempDir()), log: slog.New(slog.DiscardHandler)}
	if err := os.MkdirAll(s.at.data, 0o700); err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, path string, what any) {
	t.Helper()
	text, ok := what.(string)
	if !ok {
		raw, err := json.Marshal(what)
		if err != nil {
			t.Fatal(err)
		}
		text = string(raw)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// shelve puts a folder there as Preserve leaves it.
func shelve(t *testing.T, s *Server, epoch, commits int, given bool) database.Kept {
	t.Helper()
	incarnation := fmt.Sprintf("i%d", epoch)
	k := database.Kept{ID: fmt.Sprintf("epoch-%d-%s", epoch, incarnation), Incarnation: incarnation, End: 5000, Commits: commits,
		Parted: database.Parting{Timeline: 1, LSN: 4000, Given: given}}
	dir := filepath.Join(s.at.preserved, k.ID)
	put(t, filepath.Join(dir, keptFile), k)
	put(t, filepath.Join(dir, ReportFile), database.Salvage{ID: k.ID, Commits: make([]database.LostCommit, commits)})
	put(t, filepath.Join(dir, "000000010000000000000001"), "log")
	put(t, filepath.Join(dir, "pg_control"), "control")
	return k
}

// there names what is below preserved: a folder with its log, or in brackets without it.
func there(t *testing.T, s *Server) string {
	t.Helper()
	entries, err := os.ReadDir(s.at.preserved)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		name := e.Name()
		if files, err := logAside(filepath.Join(s.at.preserved, name)); err != nil {
			t.Fatal(err)
		} else if len(files) == 0 {
			name = "(" + name + ")"
		}
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

func tidy(t *testing.T, s *Server) {
	t.Helper()
	if err := s.TidyPreserved(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestAFolderThatLostNothingGoes(t *testing.T) {
	s := shelf(t)
	tidy(t, s) // where nothing was ever put aside
	for epoch := 1; epoch <= 5; epoch++ {
		shelve(t, s, epoch, 0, false)
	}
	for epoch := 6; epoch <= 9; epoch++ {
		shelve(t, s, epoch, 2, false)
	}
	put(t, filepath.Join(s.at.data, incarnationFile), "i3\n")
	// What a removal that was cut short left, and a copy on its way.
	put(t, filepath.Join(s.at.preserved, goneMark+"epoch-0-x", "pg_control"), "")
	put(t, filepath.Join(s.at.preserved, ".epoch-12-i12", "pg_control"), "")
	put(t, filepath.Join(s.at.preserved, "epoch-2-i2.mine", "pg_control"), "") // somebody's own
	for range 2 {
		tidy(t, s)
		if got, want := there(t, s), ".epoch-12-i12 epoch-2-i2.mine epoch-3-i3 epoch-5-i5 (epoch-6-i6) epoch-7-i7 epoch-8-i8 epoch-9-i9"; got != want {
			t.Fatalf("there are %s, want %s", got, want)
		}
	}
}

func TestWhatIsNotUnderstoodStays(t *testing.T) {
	s := shelf(t)
	for epoch := 1; epoch <= 4; epoch++ {
		shelve(t, s, epoch, 0, false)
	}
	put(t, filepath.Join(s.at.preserved, "epoch-1-i1", keptFile), "{")
	put(t, filepath.Join(s.at.preserved, "epoch-2-i2", ReportFile), "{")
	tidy(t, s)
	if got, want := there(t, s), "epoch-1-i1 epoch-2-i2 epoch-4-i4"; got != want {
		t.Fatalf("there are %s, want %s", got, want)
	}
	// Nor does anything go while nobody knows of which data the folder is.
	shelve(t, s, 5, 0, false)
	if err := os.Mkdir(filepath.Join(s.at.data, incarnationFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.TidyPreserved(t.Context()); err == nil || there(t, s) != "epoch-1-i1 epoch-2-i2 epoch-4-i4 epoch-5-i5" {
		t.Fatalf("%v: there are %s", err, there(t, s))
	}
}

// An order to make data a copy again comes only when what was given up of them has been decided about. It is noted
// once the old data count no more, and whatever a crash leaves between two steps says the same when the order is repeated.
func TestOnlyWhatWasDecidedAboutGoes(t *testing.T) {
	s := shelf(t)
	for epoch := 1; epoch <= 6; epoch++ {
		shelve(t, s, epoch, 2, true)
	}
	tidy(t, s)
	all := "epoch-1-i1 epoch-2-i2 epoch-3-i3 epoch-4-i4 epoch-5-i5 epoch-6-i6"
	if got := there(t, s); got != all {
		t.Fatalf("undecided: there are %s", got)
	}
	for epoch := 1; epoch <= 6; epoch++ {
		put(t, filepath.Join(s.at.data, incarnationFile), fmt.Sprintf("i%d\n", epoch))
		replaces, err := s.replaces()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.markPartial(database.KindRewind, "new", replaces); err != nil {
			t.Fatal(err)
		}
		tidy(t, s)
		if got := there(t, s); epoch < 5 && got != all {
			t.Fatalf("epoch %d: there are %s", epoch, got)
		}
		// The process ended here, after the rewind had given the data their new name: the next try is a copy.
		put(t, filepath.Join(s.at.data, incarnationFile), "new\n")
		again, err := s.replaces()
		if err != nil || again != replaces {
			t.Fatalf("it replaces %q, then %q (%v)", replaces, again, err)
		}
		if err := s.noteReplaced(again, database.KindClone, int64(epoch)); err != nil {
			t.Fatal(err)
		}
		if err := s.clearPartial(); err != nil {
			t.Fatal(err)
		}
	}
	tidy(t, s)
	if got, want := there(t, s), "(epoch-1-i1) (epoch-2-i2) (epoch-3-i3) epoch-4-i4 epoch-5-i5 epoch-6-i6"; got != want {
		t.Fatalf("decided: there are %s, want %s", got, want)
	}
	// A list that was made anew since is another one, and was not decided about.
	k := shelve(t, s, 1, 2, true)
	k.Parted.LSN = 3000
	put(t, filepath.Join(s.at.preserved, k.ID, keptFile), k)
	tidy(t, s)
	if got := there(t, s); !strings.HasPrefix(got, "epoch-1-i1 ") {
		t.Fatalf("a longer list: there are %s", got)
	}
}
