package lab_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/api"
	"holdfast/lab"
)

// PostgreSQL is taken from one minor release to the next and back, as the handbook has it: both lie on the disk of every
// host, the plan names the folder, and what is pending is restarted. They are real releases of different builds.
func TestAMinorReleaseIsRolledOutAndBack(t *testing.T) {
	lab.Long(t)
	earlier, later := realReleases(t)
	w := lab.NewApartAs(t, lab.Shape{Services: true, Major: 18, Plan: earlier.inPlan})
	w.Start()
	load := w.PatientLoad("releases")
	now := earlier
	for _, to := range []release{later, earlier} {
		written, err := os.ReadFile(w.Plan)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(w.Plan, bytes.Replace(written, []byte(now.programs), []byte(to.programs), 1), 0o644); err != nil {
			t.Fatal(err)
		}
		says := fmt.Sprintf("its programs lie in %s (was %s)", to.programs, now.programs)
		if out, err := w.Run("apply", w.Plan, "--dry-run"); err != nil || !strings.Contains(out, says) {
			t.Fatalf("the dry run does not say %q: %v\n%s", says, err, out)
		}
		phase := "apply " + to.version
		load.Client.Mark(phase)
		if out, err := w.Run("apply", w.Plan, "--yes"); err != nil {
			t.Fatalf("apply: %v\n%s", err, out)
		}
		change := fmt.Sprintf("PostgreSQL %s -> %s", now.version, to.version)
		w.Await("every server waits for "+change, recoverMax, func(st api.Status) bool {
			return lab.Well(st) && !slices.ContainsFunc(st.Databases[0].Servers, func(s api.ServerStatus) bool { return !slices.Equal(s.Pending, []string{change}) })
		})
		if out, err := w.Run("database", "restart", "records", "--pending", "--dry-run"); err != nil || strings.Count(out, change) != len(w.Hosts) {
			t.Errorf("the dry run does not say %q for each server: %v\n%s", change, err, out)
		}
		w.Await("every server goes on with "+now.version, recoverMax, func(api.Status) bool { return allRun(t, w, now.version) })
		load.Recovered()
		for path, n := range failed(load.Client.Phases(), phase) {
			t.Errorf("%d requests failed by %s while the plan was applied", n, path)
		}
		rollOut(t, w, load, "restart "+to.version, to.version)
		now = to
	}
	for _, p := range load.End() {
		gap, failed, slow := p.Worst()
		t.Logf("%-24s longest gap %6.2f s, failed %d, slow %d", p.Name, gap.Seconds(), failed, slow)
	}
}

// rollOut restarts what is pending under load, as a phase of its own, and asserts what an operator is promised of that:
// every server runs a version of PostgreSQL then, by its own word ("" = any), the standbys came first and one at a time,
// one of them took over, and no request by the edge failed.
func rollOut(t *testing.T, w *lab.World, load *lab.Load, phase, version string) {
	t.Helper()
	was := w.Await("well", recoverMax, lab.Well).Databases[0]
	load.Recovered()
	load.Client.Mark(phase)
	begun := time.Now()
	if out, err := w.Run("database", "restart", "records", "--pending", "--yes"); err != nil {
		t.Fatalf("restart: %v\n%s", err, out)
	}
	now := w.Await("nothing is pending, and every server runs PostgreSQL "+cmp.Or(version, "as before"), recoverMax, func(st api.Status) bool {
		return lab.Well(st) && allRun(t, w, version) &&
			!slices.ContainsFunc(st.Databases[0].Servers, func(s api.ServerStatus) bool { return len(s.Pending) > 0 })
	}).Databases[0]
	t.Logf("%s took %.1f s", phase, time.Since(begun).Seconds())
	if now.Primary == was.Primary {
		t.Errorf("%s is still the primary, though a standby should have taken over", now.Primary)
	}
	inTurn(t, restartsSince(t, w, begun), was.Primary)
	load.Recovered()
	load.Client.Mark("after " + phase)
	for path, n := range failed(load.Client.Phases(), phase) {
		if strings.HasPrefix(path, "edge ") {
			t.Errorf("%d requests failed by %s during %s", n, path, phase)
		}
	}
}

// allRun reports whether the server of every host says of itself that it is of a version of PostgreSQL ("" = any).
func allRun(t *testing.T, w *lab.World, version string) bool {
	t.Helper()
	return version == "" || !slices.ContainsFunc(w.Hosts, func(host string) bool {
		says, _, _ := strings.Cut(settingAt(t, administrator(w, host), "server_version"), " ") // Debian's says more
		return says != version
	})
}

// restart is one of a server, by its own log.
type restart struct {
	host  string
	told  time.Time // to end
	ready time.Time // for questions; it follows its primary from then on
}

// The lines of PostgreSQL's log that tell of a restart. A server begins to follow its primary behind the second.
var (
	toldLine  = regexp.MustCompile(`(?m)^(\S+ \S+) (?:UTC|GMT) \[\d+\] LOG:  received fast shutdown request$`)
	readyLine = regexp.MustCompile(`(?m)^(\S+ \S+) (?:UTC|GMT) \[\d+\] LOG:  database system is ready to accept read-only connections$`)
)

// restartsSince is the first restart of every host's server since a moment, in the order in which they were told to end.
func restartsSince(t *testing.T, w *lab.World, begun time.Time) []restart {
	t.Helper()
	var all []restart
	for _, host := range w.Hosts {
		log, err := os.ReadFile(filepath.Join(w.Root, "hosts", host, "db", "records", "postgres.log"))
		if err != nil {
			t.Fatal(err)
		}
		r := restart{host: host, told: firstSince(t, toldLine, log, begun)}
		r.ready = firstSince(t, readyLine, log, r.told)
		if r.told.IsZero() || r.ready.IsZero() {
			t.Fatalf("%s was not restarted, by its log:\n%s", host, log)
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b restart) int { return a.told.Compare(b.told) })
	return all
}

// firstSince is the moment of the first line of a form that was written since another moment; zero = there is none.
func firstSince(t *testing.T, form *regexp.Regexp, log []byte, since time.Time) time.Time {
	t.Helper()
	for _, line := range form.FindAllSubmatch(log, -1) {
		at, err := time.Parse("2006-01-02 15:04:05.000", string(line[1]))
		if err != nil {
			t.Fatal(err)
		}
		if !at.Before(since.Truncate(time.Millisecond)) { // as fine as the log is
			return at
		}
	}
	return time.Time{}
}

// inTurn asserts that each server was told to end only when the one before was ready again, and the primary last.
func inTurn(t *testing.T, all []restart, primary string) {
	t.Helper()
	for i, r := range all[1:] {
		if before := all[i]; r.told.Before(before.ready) {
			t.Errorf("%s was told to end at %s, and %s was ready again at %s", r.host, r.told, before.host, before.ready)
		}
	}
	if last := all[len(all)-1].host; last != primary {
		t.Errorf("the primary %s was not restarted last, but %s", primary, last)
	}
}

// release is a minor release of PostgreSQL on this machine's disk; its programs lie in a folder.
type release struct{ version, programs string }

// inPlan names it in a plan that names none.
func (r release) inPlan(plan string) string {
	return strings.Replace(plan, "    standbys: ", "    bin_dir: "+r.programs+"\n    standbys: ", 1)
}

// releaseIn asks the programs of a folder what they are.
func releaseIn(programs string) (release, error) {
	said, err := exec.Command(filepath.Join(programs, "postgres"), "--version").Output()
	if err != nil {
		return release{}, fmt.Errorf("ask which PostgreSQL is in %s: %w", programs, err)
	}
	_, rest, _ := strings.Cut(string(said), "(PostgreSQL) ")
	return release{strings.Fields(rest)[0], programs}, nil
}

// realReleases are two of PostgreSQL 18, from where scripts/setup puts them.
func realReleases(t *testing.T) (earlier, later release) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("scripts/setup knows of two releases of PostgreSQL 18 for amd64 alone")
	}
	earlier, err := releaseIn("/usr/local/pgsql-18.3/bin")
	later, also := releaseIn("/usr/local/pgsql-18/bin")
	switch err = errors.Join(err, also); {
	case err != nil && os.Getenv("CI") == "":
		t.Skipf("%v (scripts/setup installs it)", err)
	case err != nil:
		t.Fatalf("%v (scripts/setup installs it)", err)
	case earlier.version == later.version:
		t.Fatalf("both are PostgreSQL %s", later.version)
	}
	return earlier, later
}

// pretended makes another minor release of Debian's PostgreSQL below dir: a copy of its programs that calls itself so,
// with the libraries of the one that there is. That proves the way of an upgrade for little, not what a real release
// changes. Zero where PostgreSQL lies elsewhere.
func pretended(t *testing.T, dir string) release {
	t.Helper()
	major := cmp.Or(os.Getenv("HOLDFAST_TEST_POSTGRES"), "15")
	from := "/usr/lib/postgresql/" + major
	now, err := releaseIn(filepath.Join(from, "bin"))
	if errors.Is(err, fs.ErrNotExist) {
		return release{}
	}
	if err != nil {
		t.Fatal(err)
	}
	last := now.version[len(now.version)-1] + 1
	if last > '9' {
		last = '8'
	}
	to := filepath.Join(dir, "next", from)
	next := release{now.version[:len(now.version)-1] + string(last), filepath.Join(to, "bin")}
	if err := os.MkdirAll(next.programs, 0o755); err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadDir(now.programs)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		text, err := os.ReadFile(filepath.Join(now.programs, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(next.programs, e.Name()), bytes.ReplaceAll(text, []byte(now.version), []byte(next.version)), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	share := filepath.Join(dir, "next", "usr/share/postgresql")
	if err := errors.Join(os.MkdirAll(share, 0o755), os.Symlink("/usr/share/postgresql/"+major, filepath.Join(share, major)), os.Symlink(filepath.Join(from, "lib"), filepath.Join(to, "lib"))); err != nil {
		t.Fatal(err)
	}
	return next
}
