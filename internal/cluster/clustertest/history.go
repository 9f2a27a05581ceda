package clustertest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"holdfast/internal/cluster"
)

func testOneWinner(t *testing.T, sub Subject, at string) {
	const hosts = 8
	rev := must[int64](t)(open(t, sub).Set(t.Context(), at+"k", []byte("start")))
	var wg sync.WaitGroup
	won := make([]bool, hosts)
	errs := make([]error, hosts)
	for i := range hosts {
		s := open(t, sub)
		wg.Go(func() {
			_, err := s.Put(t.Context(), at+"k", fmt.Append(nil, i), rev)
			won[i] = err == nil
			if !errors.Is(err, cluster.ErrConflict) {
				errs[i] = err
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	winners := 0
	for i, w := range won {
		if !w {
			continue
		}
		winners++
		if e := must[cluster.Entry](t)(open(t, sub).Get(t.Context(), at+"k")); string(e.Value) != fmt.Sprint(i) {
			t.Fatalf("%d won and the key holds %q", i, e.Value)
		}
	}
	if winners != 1 {
		t.Fatalf("%d winners", winners)
	}
}

// op is one call of the recorded history, and outcome what it gave.
type op struct {
	key    string
	verb   string // get, put, delete
	value  string
	ifRev  int64
	client int
}

type outcome struct {
	value    string
	rev      int64
	conflict bool
	unknown  bool // no answer: happened at some time later, or never
}

// cell is the state of one key in the model: value and revision, zero when absent.
type cell struct {
	value string
	rev   int64
}

// model is one key under compare-and-swap. A write's new revision is given by the store, so the model takes it
// from the answer and demands that it rises. A write without an answer may have taken any revision; the next
// read tells which, so the model keeps it as "unknown" (-1) until then.
func model() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byKey := map[string]int{}
			var out [][]porcupine.Operation
			for _, o := range history {
				k := o.Input.(op).key
				i, ok := byKey[k]
				if !ok {
					i = len(out)
					byKey[k] = i
					out = append(out, nil)
				}
				out[i] = append(out[i], o)
			}
			return out
		},
		Init: func() any { return cell{} },
		Step: func(state, input, output any) (bool, any) {
			c, in, out := state.(cell), input.(op), output.(outcome)
			if in.verb == "get" {
				if out.unknown {
					return true, c
				}
				if c.rev == -1 {
					return out.value == c.value && out.rev > 0, cell{out.value, out.rev}
				}
				return out.value == c.value && out.rev == c.rev, c
			}
			matches := c.rev == in.ifRev
			switch {
			case out.conflict:
				return !matches, c
			case out.unknown && !matches:
				return true, c // it will lose, whenever it arrives
			case !matches:
				return false, c
			case in.verb == "delete":
				return true, cell{}
			case out.unknown:
				return true, cell{in.value, -1}
			default:
				return out.rev > in.ifRev, cell{in.value, out.rev}
			}
		},
	}
}

func testLinearizable(t *testing.T, sub Subject, at string) {
	const clients, rounds, keys = 6, 40, 3
	start := time.Now()
	var mu sync.Mutex
	var history []porcupine.Operation
	var wg sync.WaitGroup
	for client := range clients {
		s := open(t, sub)
		dice := rand.New(rand.NewPCG(uint64(client), 7))
		wg.Go(func() {
			known := map[string]int64{} // revision last seen of each key
			for i := range rounds {
				in := op{key: fmt.Sprintf("%s%d", at, dice.IntN(keys)), client: client}
				switch n := dice.IntN(10); {
				case n < 4:
					in.verb = "get"
				case n < 9:
					in.verb, in.value = "put", fmt.Sprintf("%d.%d", client, i)
				default:
					in.verb = "delete"
				}
				in.ifRev = known[in.key]
				call := time.Since(start)
				out, err := perform(t, s, in)
				back := time.Since(start)
				if err != nil {
					t.Errorf("%s %s: %v", in.verb, in.key, err)
					return
				}
				if out.unknown {
					back = time.Hour // may take effect at any later time
				}
				if in.verb == "get" || !out.conflict {
					known[in.key] = out.rev
				}
				mu.Lock()
				history = append(history, porcupine.Operation{
					ClientId: client, Input: in, Output: out, Call: int64(call), Return: int64(back),
				})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	swaps := 0
	for _, o := range history {
		if o.Input.(op).verb == "put" && !o.Output.(outcome).conflict {
			swaps++
		}
	}
	if swaps < rounds/2 {
		t.Fatalf("only %d swaps of %d calls succeeded: the history proves little", swaps, len(history))
	}
	switch porcupine.CheckOperationsTimeout(model(), history, patience) {
	case porcupine.Ok:
	case porcupine.Unknown:
		t.Fatal("the history was too hard to judge in time")
	default:
		t.Fatalf("no order of these %d calls explains what they returned: %+v", len(history), history)
	}
}

func perform(t *testing.T, s cluster.Store, in op) (outcome, error) {
	var out outcome
	var err error
	switch in.verb {
	case "get":
		var e cluster.Entry
		e, err = s.Get(t.Context(), in.key)
		out.value, out.rev = string(e.Value), e.Revision
	case "put":
		out.rev, err = s.Put(t.Context(), in.key, []byte(in.value), in.ifRev)
	case "delete":
		err = s.Delete(t.Context(), in.key, in.ifRev)
	}
	switch {
	case errors.Is(err, cluster.ErrConflict):
		return outcome{conflict: true}, nil
	case errors.Is(err, cluster.ErrUnavailable):
		return outcome{unknown: true}, nil
	}
	return out, err
}
