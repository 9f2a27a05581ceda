package edge

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestChooseTable(t *testing.T) {
	up := func(id string, inFlight int) Member {
		return Member{ID: id, State: Up, StateAge: time.Hour, InFlight: inFlight}
	}
	with := func(m Member, f func(*Member)) Member { f(&m); return m }
	eject := func(m *Member) { m.Ejected = true }
	for _, c := range []struct {
		name    string
		members []Member
		may     []string // every member that some dice choose, in order; nil = none
	}{
		{"no member, no choice", nil, nil},
		{"the less busy of two is chosen", []Member{up("a", 5), up("b", 1)}, []string{"b"}},
		{"equals share", []Member{up("a", 1), up("b", 1)}, []string{"a", "b"}},
		{"the busiest of three never wins a draw", []Member{up("a", 1), up("b", 9), up("c", 2)}, []string{"a", "c"}},
		{"one that starts gets nothing", []Member{{ID: "a", State: Starting}}, nil},
		{"one that drains gets nothing", []Member{with(up("a", 0), func(m *Member) { m.Draining = true })}, nil},
		{"one that had the request does not get it again", []Member{with(up("a", 0), func(m *Member) { m.Tried = true }), up("b", 9)}, []string{"b"}},
		{"an ejected one waits while half are well", []Member{with(up("a", 0), eject), up("b", 9)}, []string{"b"}},
		{"in a panic a doubtful one still waits while the well one has little to do",
			[]Member{with(up("a", 0), eject), up("b", 3), {ID: "c", State: Down}}, []string{"b"}},
		{"in a panic an ejected one relieves a busy one", []Member{with(up("a", 0), eject), up("b", 20), {ID: "c", State: Down}}, []string{"a"}},
		{"in a panic silent ones relieve a busy one", []Member{{ID: "a", State: Silent}, up("b", 20), {ID: "c", State: Silent}}, []string{"a", "c"}},
		{"with nobody well the silent ones are asked", []Member{{ID: "a", State: Silent}, {ID: "b", State: Down}}, []string{"a"}},
		{"one that is silent and ejected stays away", []Member{{ID: "a", State: Silent, Ejected: true}, up("b", 9), {ID: "c", State: Down}}, []string{"b"}},
		{"not even a panic brings back who refuses", []Member{{ID: "a", State: Down}, {ID: "b", State: Down}}, nil},
		{"one that came back begins with a small share", []Member{{ID: "a", State: Up, Returned: true}, up("b", 5)}, []string{"b"}},
		{"one that came back long ago has its full share", []Member{{ID: "a", State: Up, StateAge: time.Minute, Returned: true}, up("b", 5)}, []string{"a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := map[string]bool{}
			for dice := range uint64(200) {
				i, err := Choose(Defaults(), c.members, dice)
				if err == nil {
					seen[c.members[i].ID] = true
				} else if !errors.Is(err, ErrNoBackend) {
					t.Fatal(err)
				}
			}
			var got []string
			for _, m := range c.members {
				if seen[m.ID] {
					got = append(got, m.ID)
				}
			}
			if d := cmp.Diff(c.may, got); d != "" {
				t.Errorf("chosen (-want +got):\n%s", d)
			}
		})
	}
}

func genMembers(t *rapid.T) []Member {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Member {
		return Member{
			State:    rapid.SampledFrom([]State{Starting, Up, Up, Up, Silent, Down}).Draw(t, "state"),
			StateAge: time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "age")),
			Returned: rapid.Bool().Draw(t, "returned"), Ejected: rapid.Bool().Draw(t, "ejected"),
			Draining: rapid.Bool().Draw(t, "draining"), Tried: rapid.Bool().Draw(t, "tried"),
			InFlight: rapid.IntRange(0, 50).Draw(t, "in flight"),
		}
	}), 0, 9).Draw(t, "members")
}

// Whatever the members, a choice is one that may take requests, and there is one whenever any is well.
func TestChooseIsNeverWrong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := genMembers(t)
		dice := rapid.Uint64().Draw(t, "dice")
		i, err := Choose(Defaults(), ms, dice)
		if j, again := Choose(Defaults(), ms, dice); i != j || !errors.Is(again, err) {
			t.Fatalf("the same arguments gave %d, %v and %d, %v", i, err, j, again)
		}
		if err != nil {
			for _, m := range ms {
				if m.State == Up && !m.Ejected && !m.Draining && !m.Tried {
					t.Fatalf("no choice although %+v is well", m)
				}
			}
			return
		}
		m := ms[i]
		if m.Draining || m.Tried || m.State == Starting || m.State == Down || (m.State == Silent && m.Ejected) {
			t.Fatalf("chose %+v", m)
		}
		if (m.Ejected || m.State == Silent) && !Panicking(Defaults(), ms) {
			t.Fatalf("chose %+v without need", m)
		}
	})
}

func TestEqualMembersShareEqually(t *testing.T) {
	ms := make([]Member, 5)
	for i := range ms {
		ms[i].State = Up
	}
	var got [5]int
	const draws = 50_000
	for dice := range uint64(draws) {
		i, err := Choose(Defaults(), ms, dice)
		if err != nil {
			t.Fatal(err)
		}
		got[i]++
	}
	for i, n := range got {
		if math.Abs(float64(n)-draws/5) > draws/5/10 {
			t.Errorf("member %d got %d of %d, want about a fifth: %v", i, n, draws, got)
		}
	}
}

func TestHealth(t *testing.T) {
	p := Defaults()
	for _, c := range []struct {
		name    string
		results []Result
		want    State
	}{
		{"a new backend is up after its first good check", []Result{Passed}, Up},
		{"a new backend is not up before that", []Result{NoAnswer, Refused, Wrong}, Starting},
		{"two failures are forgiven", []Result{Passed, Refused, Refused}, Up},
		{"a success in between forgives all", []Result{Passed, Refused, Refused, Passed, Refused, Refused}, Up},
		{"the third failure takes it down", []Result{Passed, Refused, Wrong, Refused}, Down},
		{"three times no answer is silence", []Result{Passed, NoAnswer, NoAnswer, NoAnswer}, Silent},
		{"one that is silent and then refuses is down", []Result{Passed, NoAnswer, NoAnswer, NoAnswer, Refused}, Down},
		{"one success is not enough to return", []Result{Passed, Refused, Refused, Refused, Passed}, Down},
		{"two are", []Result{Passed, Refused, Refused, Refused, Passed, Passed}, Up},
		{"two with a failure between are not", []Result{Passed, Refused, Refused, Refused, Passed, Refused, Passed}, Down},
	} {
		t.Run(c.name, func(t *testing.T) {
			var h Health
			for _, r := range c.results {
				h = h.After(p, r)
			}
			if h.State != c.want {
				t.Errorf("is %s, want %s", h.State, c.want)
			}
		})
	}
}

// However backends fail, at most a third is set aside (or one), and one that is well stays.
func TestEjectionLeavesEnough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Defaults()
		n := rapid.IntRange(1, 9).Draw(t, "backends")
		records, ms := make([]Record, n), make([]Member, n)
		for i := range ms {
			ms[i].State = Up
		}
		for range rapid.IntRange(0, 200).Draw(t, "requests") {
			i := rapid.IntRange(0, n-1).Draw(t, "backend")
			switch rapid.SampledFrom([]string{"ok", "fail", "fail", "fail", "fail", "back"}).Draw(t, "what") {
			case "ok":
				records[i] = records[i].Succeeded()
			case "fail":
				records[i] = records[i].Failed(p, MayEject(p, ms))
			case "back":
				if records[i].Ejected {
					records[i] = records[i].Back()
				}
			}
			ms[i].Ejected = records[i].Ejected
			ejected := 0
			for _, r := range records {
				if r.Ejected {
					ejected++
				}
				if s := r.Span(p); s > p.EjectMax || (r.Ejected && s < p.EjectFor) {
					t.Fatalf("ejected for %s", s)
				}
			}
			if ejected == n || ejected > max(1, n/3) {
				t.Fatalf("%d of %d are ejected", ejected, n)
			}
		}
	})
}

func TestEjection(t *testing.T) {
	p := Defaults()
	fail := func(r Record, n int) Record {
		for range n {
			r = r.Failed(p, true)
		}
		return r
	}
	r := fail(Record{}, 4)
	if r.Ejected {
		t.Error("ejected after four failures")
	}
	if r = fail(r.Succeeded(), 4); r.Ejected {
		t.Error("a success did not end the run of failures")
	}
	if r = fail(r, 1); !r.Ejected || r.Span(p) != 10*time.Second {
		t.Errorf("after five in a row: %+v for %s", r, r.Span(p))
	}
	if r = fail(r.Back(), 5); !r.Ejected || r.Span(p) != 20*time.Second {
		t.Errorf("the second time: %+v for %s", r, r.Span(p))
	}
	if r = fail(r.Back().Succeeded(), 5); r.Span(p) != 10*time.Second {
		t.Errorf("a success after the return did not clear the history: %s", r.Span(p))
	}
}

func TestRetry(t *testing.T) {
	for _, c := range []struct {
		name string
		r    Request
		f    Failure
		want Verdict
	}{
		{"a POST that was never sent goes on", Request{Method: "POST"}, NeverSent, Verdict{Again: true}},
		{"a POST that was sent does not", Request{Method: "POST", Replayable: true}, Broken, Verdict{Paid: true}},
		{"a POST that hangs does not", Request{Method: "POST", Replayable: true}, Hanging, Verdict{Paid: true}},
		{"a POST whose author says so is repeated", Request{Method: "POST", Key: true, Replayable: true}, Broken, Verdict{Again: true, Paid: true}},
		{"a GET is repeated", Request{Method: "GET", Replayable: true}, Broken, Verdict{Again: true, Paid: true}},
		{"a GET that hangs is asked of another", Request{Method: "GET", Replayable: true}, Hanging, Verdict{Again: true, Paid: true}},
		{"a PUT with a body that is gone is not repeated", Request{Method: "PUT"}, Broken, Verdict{Paid: true}},
		{"a WebSocket is not repeated", Request{Method: "GET", Replayable: true, Upgrade: true}, Hanging, Verdict{Paid: true}},
		{"PATCH is not idempotent", Request{Method: "PATCH", Replayable: true}, Broken, Verdict{Paid: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Retry(c.r, c.f); got != c.want {
				t.Errorf("judged %+v, want %+v", got, c.want)
			}
		})
	}
}

// Beyond its reserve a budget never pays for more than its share of the requests.
func TestTheBudgetBoundsRetries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Defaults()
		b := NewBudget(p)
		requests, retries := 0, 0
		var passed time.Duration
		for range rapid.IntRange(0, 2000).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				d := time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "passed"))
				passed += d
				b = b.Refill(p, d)
			case 1, 2, 3:
				requests++
				b = b.Earn(p)
			default:
				var ok bool
				if b, ok = b.Spend(); ok {
					retries++
				}
			}
		}
		bound := p.RetryReserve*(1+float64(passed)/float64(p.ReserveFill)) + p.RetryShare*float64(requests) + 1e-6
		if float64(retries) > bound || b.Tokens < 0 {
			t.Fatalf("%d retries for %d requests in %s, at most %.1f; left %.2f", retries, requests, passed, bound, b.Tokens)
		}
	})
}

func TestPause(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom([]State{Starting, Up, Silent, Down}).Draw(t, "state")
		ok := rapid.Bool().Draw(t, "last ok")
		got := Pause(s, ok, 2*time.Second, 500*time.Millisecond, rapid.Uint64().Draw(t, "dice"))
		want := 500 * time.Millisecond
		if s == Up && ok {
			want = 2 * time.Second
		}
		if got < want || got > want+want/10 {
			t.Fatalf("%s for %s, last ok %v", got, s, ok)
		}
	})
}
