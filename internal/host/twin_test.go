package host

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/cluster"
	"holdfast/internal/cluster/memory"
	"holdfast/internal/problem"
)

// at is a clock that stands where it is put.
type at struct {
	clock.Clock
	now time.Time
}

func (a *at) Now() time.Time { return a.now }

func TestWhoseAHostsNameIs(t *testing.T) {
	own := mark{Life: "own", Dir: "/srv/b2", Machine: "m2 (boot 2)", Address: "10.0.0.2:7400", Kernel: "k2", Hardware: "m2"}
	elsewhere := mark{Life: "x", Dir: "/srv/b2", Machine: "m9 (boot 9)", Address: "10.0.0.9:7400", Kernel: "k9", Hardware: "m9"}
	earlier := mark{Life: "y", Dir: own.Dir, Machine: "m2 (boot 1)", Address: own.Address, Kernel: "k1", Hardware: own.Hardware}
	tookOurs := elsewhere
	tookOurs.After = "own"
	nobodys := elsewhere
	nobodys.Hardware, nobodys.Address = "", own.Address
	plain := own
	plain.Hardware = ""
	for name, c := range map[string]struct {
		own  mark
		s    sight
		want verdict
	}{
		"nobody has it":                                        {own, sight{}, nameFree},
		"our own mark":                                         {own, sight{now: own}, nameOurs},
		"one that took it while we were cut off":               {own, sight{now: tookOurs, answered: true, asked: true}, nameFree},
		"a process of this machine that has ended":             {own, sight{now: elsewhere, here: true}, nameFree},
		"a process of this machine that lives":                 {own, sight{now: elsewhere, here: true, lives: true}, nameTaken},
		"one that lives is not gone because it is silent":      {own, sight{now: elsewhere, here: true, lives: true, asked: true, quiet: time.Hour, runs: true}, nameTaken},
		"one of a release before in our directory":             {own, sight{now: mark{Life: "before", Dir: own.Dir, Machine: own.Machine}}, nameFree},
		"one of a release before on another boot":              {own, sight{now: mark{Life: "before", Dir: own.Dir, Machine: "another boot"}}, nameUnclear},
		"not asked yet":                                        {own, sight{now: elsewhere, quiet: time.Hour}, nameUnclear},
		"asked just now":                                       {own, sight{now: elsewhere, asked: true, quiet: time.Second}, nameUnclear},
		"asked, and it answered":                               {own, sight{now: elsewhere, asked: true, answered: true, quiet: time.Second}, nameTaken},
		"it answered, though it seems to be this machine":      {own, sight{now: earlier, asked: true, answered: true, quiet: time.Hour}, nameTaken},
		"this machine before it was started anew":              {own, sight{now: earlier, asked: true, quiet: twinAnswer}, nameSilent},
		"an agent of before marks said so much":                {own, sight{now: mark{Life: "z"}, asked: true, quiet: twinAnswer}, nameSilent},
		"another machine is not gone because it is silent":     {own, sight{now: elsewhere, asked: true, quiet: 24 * time.Hour}, nameOrphaned},
		"machines that tell nothing of themselves are unknown": {plain, sight{now: nobodys, asked: true, quiet: time.Hour}, nameOrphaned},
		"a host that runs already waits longer":                {own, sight{now: elsewhere, asked: true, quiet: twinGone - 1, runs: true}, nameOrphaned},
		"but not for ever":                                     {own, sight{now: elsewhere, asked: true, quiet: twinGone, runs: true}, nameSilent},
	} {
		if got := c.own.judge(c.s); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestWhetherAProcessOfThisMachineLives(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m := newMark("/a", "x", time.Time{})
	if m.Kernel == "" || m.Born == "" {
		t.Fatalf("nothing is known of ourselves: %+v", m)
	}
	other := m
	other.Process, other.Born = cmd.Process.Pid, bornAt(cmd.Process.Pid)
	expect := func(what string, other mark, here, lives bool) {
		t.Helper()
		if h, l := m.look(other); h != here || l != lives {
			t.Errorf("%s: here %t, lives %t", what, h, l)
		}
	}
	expect("a child", other, true, true)
	expect("an earlier life of this process", m, true, false)
	late := other
	late.Born = "1"
	expect("one whose number another has now", late, true, false)
	far := other
	far.Kernel = "elsewhere"
	expect("one of another machine", far, false, false)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); bornAt(other.Process) != "" && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
	}
	expect("a child that ended, and that nobody asked for yet", other, true, false)
	_ = cmd.Wait() // it was killed
	expect("one that is gone", other, true, false)
}

// twoOf are two agents of one host, each on a machine of its own, and their clock.
func twoOf() (first, second *twins, now *at) {
	shared := memory.New()
	now = &at{clock.Real(), time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	of := func(name string) *twins {
		m := mark{Life: name, Machine: name, Process: 7, Dir: "/" + name, Address: name + ":7400", Kernel: name, Hardware: name, Since: now.now}
		return newTwins("h2", m, shared.Open(name), now)
	}
	return of("a"), of("b"), now
}

func TestWhetherTwoMachinesRunAsOneHost(t *testing.T) {
	expect := func(t *testing.T, x *twins, want verdict) {
		t.Helper()
		if got, err := x.look(t.Context()); err != nil || got != want {
			t.Fatalf("%s: %d, %v, want %d", x.own.Life, got, err, want)
		}
	}
	say := func(t *testing.T, x *twins, code string, words ...string) {
		t.Helper()
		got := x.problems()
		if code == "" && len(got) == 0 {
			return
		}
		if len(got) != 1 || got[0].Code != code {
			t.Fatalf("%s says %v, want %s", x.own.Life, got, code)
		}
		for _, w := range words {
			if !strings.Contains(got[0].Text(), w) {
				t.Errorf("%s is not in: %s", w, got[0].Text())
			}
		}
	}
	t.Run("the newcomer is refused for as long as the first answers, and the first goes on", func(t *testing.T) {
		first, second, now := twoOf()
		expect(t, first, nameOurs)
		expect(t, second, nameUnclear)
		for range 20 {
			expect(t, first, nameOurs)
			say(t, first, "host.runs-twice", "in /b on b at b:7400", "is refused")
			if _, err := second.look(t.Context()); err != nil {
				t.Fatal(err)
			}
			say(t, second, "host.name-taken", "in /a on a at a:7400", "answers", "end this agent")
			now.now = now.now.Add(twinPace)
		}
		for range 2 { // the first is cut off, for as long as it takes
			now.now = now.now.Add(time.Hour)
			if v, err := second.look(t.Context()); err != nil || v < nameUnclear || v == nameSilent {
				t.Fatalf("the name of a host that is cut off: %d, %v", v, err)
			}
		}
		now.now = now.now.Add(time.Hour)
		expect(t, second, nameOrphaned)
		say(t, second, "host.name-taken", "does not answer", "holdfast cluster replace h2")
		expect(t, first, nameOurs)
		now.now = now.now.Add(2 * twinForgets)
		say(t, first, "")
	})
	t.Run("the newcomer comes up when the first has ended in good order", func(t *testing.T) {
		first, second, _ := twoOf()
		expect(t, first, nameOurs)
		expect(t, second, nameUnclear)
		if err := second.release(t.Context()); err != nil {
			t.Fatal(err)
		}
		expect(t, second, nameUnclear)
		if err := first.release(t.Context()); err != nil {
			t.Fatal(err)
		}
		expect(t, second, nameOurs)
		say(t, second, "")
	})
	t.Run("an operator gives up a host that does not answer, and not one that does", func(t *testing.T) {
		first, second, now := twoOf()
		expect(t, first, nameOurs)
		answering := func(context.Context, time.Duration) bool {
			now.now = now.now.Add(twinPace)
			expect(t, first, nameOurs)
			return true
		}
		if err := freeName(t.Context(), second.store, "h2", now, answering); err != nil {
			t.Fatal(err)
		}
		say(t, first, "") // an operator is no newcomer
		expect(t, second, nameUnclear)
		silent := func(context.Context, time.Duration) bool { now.now = now.now.Add(twinPace); return true }
		if err := freeName(t.Context(), second.store, "h2", now, silent); err != nil {
			t.Fatal(err)
		}
		expect(t, second, nameOurs)
		// The first was only cut off, and gives way to whom the operator let in.
		expect(t, first, nameUnclear)
		expect(t, second, nameOurs)
		expect(t, first, nameTaken)
	})
	t.Run("who took the name by silence gives it back", func(t *testing.T) {
		first, second, now := twoOf()
		second.own.Hardware, second.own.Address = first.own.Hardware, first.own.Address // a copy of a virtual machine, say
		expect(t, first, nameOurs)
		expect(t, second, nameUnclear)
		now.now = now.now.Add(twinAnswer)
		expect(t, second, nameOurs)
		expect(t, first, nameOurs)
		expect(t, second, nameTaken)
	})
}

func TestANameThatIsOursIsLookedAtOnlyWhenSomebodyAsks(t *testing.T) {
	first, second, _ := twoOf()
	sleeps := 0
	sleep := func(context.Context, time.Duration) bool { sleeps++; return sleeps < 3 }
	admitted := 0
	first.begin(func() { admitted++ }, nil)
	for want := range 2 {
		entries, _, err := first.store.List(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if first.nothingNew(byKey(entries)) != (want == 1) {
			t.Errorf("nothing new, with %v", entries)
		}
		if _, err := first.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := second.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	entries, _, err := first.store.List(t.Context(), "")
	if err != nil || first.nothingNew(byKey(entries)) {
		t.Errorf("%v: somebody asks, and it is not looked at: %v", err, entries)
	}
	fail := func(err error) { t.Error(err) }
	if err := first.run(t.Context(), sleep, none, fail); err != nil || admitted != 3 {
		t.Errorf("%v, admitted %d times", err, admitted)
	}
	yielded := ""
	second.begin(nil, func(p problem.Problem) { yielded = p.Code })
	sleeps = -1000
	if err := second.run(t.Context(), sleep, none, fail); err != nil || yielded != "host.name-taken" {
		t.Errorf("%v: a newcomer that ran already goes on: %q", err, yielded)
	}
}

func none() map[string]cluster.Entry { return nil }

func byKey(entries []cluster.Entry) map[string]cluster.Entry {
	out := map[string]cluster.Entry{}
	for _, e := range entries {
		out[e.Key] = e
	}
	return out
}

func TestARestartedAgentAsksNobody(t *testing.T) {
	dir := t.TempDir()
	own := newMark(dir, "x", time.Time{})
	if err := keepPlace(dir, own.place()); err != nil {
		t.Fatal(err)
	}
	if got := keptPlace(dir); got != newMark(dir, "x", time.Time{}).place() {
		t.Errorf("a new life in the same place does not know it: %q", got)
	}
	other := t.TempDir() // a copy of the directory
	if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if keptPlace(other) == newMark(other, "x", time.Time{}).place() {
		t.Error("a copy of the directory takes itself for the first")
	}
	if err := forgetPlace(dir); err != nil || keptPlace(dir) != "" {
		t.Errorf("%v, and %q is still known", err, keptPlace(dir))
	}
	if err := forgetPlace(dir); err != nil {
		t.Error(fmt.Errorf("again: %w", err))
	}
}
