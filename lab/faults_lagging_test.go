package lab_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"holdfast/internal/api"
	"holdfast/lab"
)

// fourOfFive gives the database four hosts of five, and lets most members of etcd lie on the fourth and the fifth: whoever is
// left can agree, so that nobody is promoted because of what he lacks, and for no other reason.
func fourOfFive(text string) string {
	for _, h := range []string{"h1", "h4", "h5"} {
		text = strings.Replace(text, "rack-"+h+" }", "rack-"+h+", etcd: true }", 1)
	}
	return strings.Replace(text, "    standbys: ", "    hosts: [h1, h2, h3, h4]\n    standbys: ", 1)
}

// applies changes the plan from here on, and gives back what puts it as it was.
func applies(r *lab.Round, from, to string) (undo func()) {
	r.Helper()
	was, err := os.ReadFile(r.W.Plan)
	if err != nil {
		r.Fatal(err)
	}
	apply := func(text string) {
		r.Helper()
		if err := os.WriteFile(r.W.Plan, []byte(text), 0o644); err != nil {
			r.Fatal(err)
		}
		for deadline := time.Now().Add(recoverMax); ; time.Sleep(200 * time.Millisecond) {
			out, err := r.W.Run("apply", r.W.Plan, "--yes")
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				r.Fatalf("apply: %v\n%s", err, out)
			}
		}
	}
	next := strings.Replace(string(was), from, to, 1)
	if next == string(was) {
		r.Fatalf("the plan has no %q:\n%s", from, was)
	}
	apply(next)
	return func() { apply(string(was)) }
}

// laggard cuts a standby that counts off from its primary, and takes the power from the primary and the standby that is
// level, while the one that lags leaves those that count: it must not take over.
func laggard(r *lab.Round) {
	far, level := r.Standbys()[0], r.Standbys()[1]
	r.Fault()
	r.W.Net.Cut(r.Was.Primary, far)
	cut := time.Now()
	r.Hold(r.Point)
	dieButOne(r, cut, far, r.Was.Primary, level)
}

// laggardWhileMoreIsAsked does the same while the plan begins to want two standbys to hold a commit.
func laggardWhileMoreIsAsked(r *lab.Round) {
	far, level := r.Standbys()[0], r.Standbys()[1]
	r.Fault()
	r.W.Net.Cut(r.Was.Primary, far)
	cut := time.Now()
	r.Flows("to the level standby alone")
	undo := applies(r, "acknowledged_by: 1\n", "acknowledged_by: 2\n")
	r.Hold(r.Since() + r.Point)
	dieButOne(r, cut, far, r.Was.Primary, level)
	undo()
}

// newcomer adds a standby, cuts it off from the primary when it has just begun to follow, and takes the power from all
// others: it must not take over.
func newcomer(r *lab.Round) {
	undo := applies(r, "standbys: 2\n", "standbys: 3\n")
	var added string
	r.W.Await("a standby is being added", recoverMax, func(st api.Status) bool {
		for _, s := range st.Databases[0].Servers {
			if s.Role == "standby" && !slices.Contains(r.Standbys(), s.Host) && s.Host != r.Was.Primary {
				added = s.Host
			}
		}
		return added != ""
	})
	r.Fault()
	r.Hold(r.Point)
	r.W.Net.Cut(r.Was.Primary, added)
	cut := time.Now()
	r.Flows("to the other standbys")
	dieButOne(r, cut, added, append(r.Standbys(), r.Was.Primary)...)
	now := r.W.Await("all four are well", recoverMax, func(st api.Status) bool { return lab.Well(st) && len(st.Databases[0].Servers) == 4 }).Databases[0]
	if now.Primary == added { // it took over in good order later; the plan of before has no place for it
		to := r.Was.Primary
		r.W.AwaitFit(to, recoverMax)
		if out, err := r.W.Run("database", "switchover", "records", "--to", to, "--yes"); err != nil {
			r.Fatalf("switchover: %v\n%s", err, out)
		}
	}
	undo()
	r.W.Await("three are well", recoverMax, func(st api.Status) bool { return lab.Well(st) && len(st.Databases[0].Servers) == 3 })
}

// refusedFor is how long one that lags is watched: longer than any election lasts.
const refusedFor = 15 * time.Second

// dieButOne takes the power from hosts for good, so that only one that lacks acknowledged rows is left. It is
// refused, it is said, nothing is acknowledged; then the power comes back.
func dieButOne(r *lab.Round, cut time.Time, left string, dying ...string) {
	r.Helper()
	for _, h := range dying {
		r.W.PowerOff(h)
	}
	off := time.Now()
	lacks, said := r.AcknowledgedSince(cut), ""
	for time.Since(off) < refusedFor || said == "" && time.Since(off) < recoverMax {
		st, err := r.W.Status()
		if err != nil {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		if d := st.Databases[0]; d.Primary == left {
			r.Fatalf("%s became the primary of epoch %d, and lacks %d acknowledged rows: %v", left, d.Epoch, lacks, d.Because)
		}
		for _, p := range st.Problems {
			if p.Code == "database.no-candidate" {
				said = fmt.Sprintf("%s: %s %s", p.Code, p.Title, p.Meaning)
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
	if said == "" {
		r.Errorf("nobody says why %s does not take over", left)
	}
	if n := r.AcknowledgedSince(off); n > 0 {
		r.Errorf("%d rows were acknowledged while only %s was left", n, left)
	}
	r.Logf("%s lacks %d acknowledged rows; %s", left, lacks, said)
	r.Over()
	r.W.Net.Heal()
	for _, h := range dying {
		r.W.PowerOn(h)
	}
}

// moments are a scenario's points: those of a short run, or all.
func moments(few []time.Duration, more ...time.Duration) func(bool) []time.Duration {
	return func(all bool) []time.Duration {
		if !all {
			return few
		}
		return slices.Concat(few, more)
	}
}
