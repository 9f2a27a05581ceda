package lab_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"holdfast/internal/api"
	"holdfast/lab"
)

// decideMax is how long a judgement may take; one that takes longer decides nothing, and fails.
const decideMax = time.Minute

// judge tells whether one register each could have answered so.
func judge(calls []lab.Call) porcupine.CheckResult {
	model := porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			parts := map[int][]porcupine.Operation{}
			for _, op := range history {
				r := op.Input.(lab.Call).Register
				parts[r] = append(parts[r], op)
			}
			return slices.Collect(maps.Values(parts))
		},
		Init: func() any { return int64(0) },
		Step: func(state, input, _ any) (bool, any) {
			c := input.(lab.Call)
			return c.Write || c.Value == state.(int64), c.Value
		},
	}
	var ops []porcupine.Operation
	for _, c := range calls {
		ops = append(ops, porcupine.Operation{ClientId: c.Client, Input: c, Call: int64(c.Began), Return: int64(c.Ended)})
	}
	return porcupine.CheckOperationsTimeout(model, ops, decideMax)
}

// Who believes the judgement of histories must have seen it refuse what a stale primary, or a forgotten commit, gives.
func TestAHistoryThatNoRegisterCouldGiveIsFound(t *testing.T) {
	const never = lab.Unanswered
	write := func(value int64, from, to time.Duration) lab.Call {
		return lab.Call{Write: true, Value: value, Began: from, Ended: to}
	}
	read := func(value int64, from, to time.Duration) lab.Call {
		return lab.Call{Client: 1, Value: value, Began: from, Ended: to}
	}
	for _, c := range []struct {
		name  string
		calls []lab.Call
		want  porcupine.CheckResult
	}{
		{"a read after the answer to a write shows it", []lab.Call{write(1, 0, 10), read(1, 20, 30)}, porcupine.Ok},
		{"an older value after a newer one was acknowledged is stale", []lab.Call{write(1, 0, 10), write(2, 20, 30), read(1, 40, 50)}, porcupine.Illegal},
		{"while the write is on its way either may be shown", []lab.Call{write(1, 0, 10), write(2, 20, 60), read(1, 40, 50)}, porcupine.Ok},
		{"a write without an answer may have happened", []lab.Call{write(1, 0, 10), write(2, 20, never), read(2, 40, 50)}, porcupine.Ok},
		{"or not", []lab.Call{write(1, 0, 10), write(2, 20, never), read(1, 40, 50), read(1, 60, 70)}, porcupine.Ok},
		{"but once shown it is not forgotten", []lab.Call{write(1, 0, 10), write(2, 20, never), read(2, 40, 50), read(1, 60, 70)}, porcupine.Illegal},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := judge(c.calls); got != c.want {
				t.Errorf("judged %s, want %s", got, c.want)
			}
		})
	}
}

// linearizable records a history through a crash, a cut-off whose clients still reach the old primary, and a switchover.
func linearizable(r *lab.Round) {
	h := r.W.History()
	r.Fault()
	crashServer(r)
	r.Was = r.W.Await("well after the crash", recoverMax, func(st api.Status) bool { // where that is faster, it is restarted in place
		return lab.Well(st) && st.Databases[0].Epoch > r.Was.Epoch
	}).Databases[0]
	r.W.Net.Separate(r.Was.Primary, r.W.Others(r.Was.Primary)...)
	r.Moved()
	r.Flows("after the cut")
	r.Hold(r.Since() + 4*time.Second)
	r.W.Net.Heal()
	was := r.W.Await("well after the cut", recoverMax, lab.Well).Databases[0]
	r.Was = was
	to := r.Standbys()[0]
	r.W.AwaitFit(to, recoverMax)
	if out, err := r.W.Run("database", "switchover", "records", "--to", to, "--yes"); err != nil {
		r.Fatalf("switchover: %v\n%s", err, out)
	}
	r.Flows("after the switchover")
	calls := h.Calls()
	if result := judge(calls); result != porcupine.Ok || len(calls) == 0 {
		r.Errorf("%d calls through three changes of primary are judged %s", len(calls), result)
	}
	r.Logf("%d calls were judged", len(calls))
}
