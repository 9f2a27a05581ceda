package api

import (
	"slices"
	"strings"
	"testing"

	"holdfast/internal/agent"
	"holdfast/internal/cluster"
	"holdfast/internal/problem"
)

// stops is what the rounds of a host say while they end what runs.
func stops() problem.Problem {
	return problem.Problem{Code: "cluster.stopping", Severity: problem.Critical, Title: "the operator is stopping the whole application, or has stopped it"}
}

func TestOneHostThatStopsIsNotTheWholeApplication(t *testing.T) {
	w := allWell()
	w.complain("b3", stops())
	st := Describe(clinic(), "b1", w.snapshot())
	i := slices.IndexFunc(st.Problems, func(p problem.Problem) bool { return p.Code == "host.stopping" })
	if i < 0 || len(st.Problems) != 1 {
		t.Fatalf("the problems are %v", codes(st.Problems))
	}
	if p := st.Problems[i]; p.Subject != "b3" || p.Severity != problem.Degraded || !strings.Contains(p.Remedy, "--host b3") {
		t.Errorf("it says %+v", p)
	}
}

func TestAStopOfAllIsSaidOnceWithTheWayBack(t *testing.T) {
	w := allWell()
	for _, host := range []string{"b1", "b2", "b3"} {
		w.complain(host, stops())
	}
	s := w.snapshot()
	s.Agreed = map[string]cluster.Entry{agent.KeyStopping: {Key: agent.KeyStopping, Revision: 9}}
	st := Describe(clinic(), "b1", s)
	if len(st.Problems) != 1 || st.Problems[0].Code != "cluster.stopping" || !strings.Contains(st.Problems[0].Remedy, "holdfast cluster start") {
		t.Errorf("it says %+v", st.Problems)
	}
}

// What hosts say that refuse an old agreed state names no command that is refused then.
func TestAnOldAgreedStateSendsToTheHandbook(t *testing.T) {
	w := allWell()
	w.complain("b2", problem.Problem{Code: "database.agreed-state-old", Severity: problem.Critical, Title: "b2 promised epoch 9", Remedy: "see what a forced failover would lose"})
	st := Describe(clinic(), "b1", w.snapshot())
	if len(st.Problems) != 1 || !strings.Contains(st.Problems[0].Remedy, "lost-majority.md") || strings.Contains(st.Problems[0].Remedy, "would lose") {
		t.Errorf("it says %+v", st.Problems)
	}
}
