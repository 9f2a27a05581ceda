package lab_test

import (
	"slices"
	"strings"
	"syscall"

	"holdfast/internal/api"
	"holdfast/internal/problem"
	"holdfast/lab"
)

// crashesEverywhere lets a process of each primary crash by itself, as a faulty extension does wherever the database is:
// after the third time nothing moves any more, the server is started in place, and an operator lets moves go on.
func crashesEverywhere(r *lab.Round) {
	r.Fault()
	now := r.Was
	for range 2 {
		before := now
		segfault(r, before.Primary)
		now = r.W.Await("another primary", recoverMax, func(st api.Status) bool {
			d := st.Databases[0]
			return d.Open && d.Primary != before.Primary && d.Epoch > before.Epoch
		}).Databases[0]
		r.W.Await("well between two crashes", recoverMax, lab.Well)
	}
	segfault(r, now.Primary)
	st := r.W.Await("moves have ended", recoverMax, func(st api.Status) bool { return cannotHelp(st) != "" })
	if words := cannotHelp(st); !strings.Contains(words, "3 times") || !strings.Contains(words, "signal 11") {
		r.Errorf("the problem says %q", words)
	}
	again := r.W.Await("the same primary, started in place", recoverMax, func(st api.Status) bool {
		return st.Databases[0].Open && st.Databases[0].Epoch > now.Epoch
	}).Databases[0]
	if again.Primary != now.Primary {
		r.Errorf("the primary moved from %s to %s after moves had ended", now.Primary, again.Primary)
	}
	r.Flows("after the start in place")
	r.Over()
	if out, err := r.W.Run("database", "explain", "records"); err != nil || !strings.Contains(out, "another host cannot help") {
		r.Errorf("explain: %v\n%s", err, out)
	}
	if out, err := r.W.Run("database", "resume", "records"); err != nil {
		r.Errorf("resume: %v\n%s", err, out)
	}
	r.W.Await("moves go on", recoverMax, func(st api.Status) bool { return cannotHelp(st) == "" })
}

// segfault lets one backend of a primary crash.
func segfault(r *lab.Round, host string) {
	r.Helper()
	conn, err := r.W.Connect(r.Context(), host)
	if err != nil {
		r.Fatal(err)
	}
	defer func() { _ = conn.Close(r.Context()) }() // its backend is dead
	var pid int
	if err := conn.QueryRow(r.Context(), "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		r.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSEGV); err != nil {
		r.Fatal(err)
	}
}

// cannotHelp is what status says of moves that have ended because they do not help; "" = they have not.
func cannotHelp(st api.Status) string {
	i := slices.IndexFunc(st.Problems, func(p problem.Problem) bool { return p.Code == "database.failover-cannot-help" })
	if i < 0 {
		return ""
	}
	return st.Problems[i].Title
}
