package service_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/plan"
	"holdfast/internal/service"
)

func task(change ...func(*service.Task)) service.Task {
	t := service.Task{
		Assignment: service.Assignment{ID: "web.1", Service: "web", Host: "h", Version: "v1"},
		StopGrace:  5 * time.Second, StartFor: 30 * time.Second,
	}
	for _, c := range change {
		c(&t)
	}
	return t
}

func seen(state service.RunState, age time.Duration) service.Observed {
	return service.Observed{ID: "web.1", Service: "web", State: state, Life: "l1", Age: age, Why: "it fell over"}
}

func TestDecideHost(t *testing.T) {
	leave := func(t *service.Task) { t.Leave = true }
	single := func(t *service.Task) { t.Singleton = true }
	live := func(s service.HealthState) func(*service.Task) {
		return func(t *service.Task) { t.Live = service.Health{State: s, Reason: "503"} }
	}
	ready := func(s service.HealthState) func(*service.Task) {
		return func(t *service.Task) { t.HasReady, t.Ready = true, service.Health{State: s} }
	}
	tries := func(n int) service.Memory {
		return service.Memory{Tries: map[string]service.Tries{"web.1": {Count: n, Life: "l1"}}}
	}
	type verbs []service.Verb
	for name, tc := range map[string]struct {
		v      service.View
		m      service.Memory
		want   verbs
		report service.ReportState
	}{
		"what is assigned is started":             {service.View{Tasks: []service.Task{task()}}, service.Memory{}, verbs{service.Start}, service.Starting},
		"what runs is left alone and ready":       {service.View{Tasks: []service.Task{task()}, Observed: []service.Observed{seen(service.Running, time.Hour)}}, service.Memory{}, nil, service.Ready},
		"unread readiness is starting":            {service.View{Tasks: []service.Task{task(ready(""))}, Observed: []service.Observed{seen(service.Running, time.Hour)}}, service.Memory{}, nil, service.Starting},
		"failing readiness is only reported":      {service.View{Tasks: []service.Task{task(ready(service.Failing))}, Observed: []service.Observed{seen(service.Running, time.Hour)}}, service.Memory{}, nil, service.Unready},
		"failing liveness stops it":               {service.View{Tasks: []service.Task{task(live(service.Failing))}, Observed: []service.Observed{seen(service.Running, time.Minute)}}, service.Memory{}, verbs{service.Stop}, service.Unready},
		"failing liveness is forgiven at first":   {service.View{Tasks: []service.Task{task(live(service.Failing), ready(""))}, Observed: []service.Observed{seen(service.Running, 29*time.Second)}}, service.Memory{}, nil, service.Starting},
		"after an exit it pauses":                 {service.View{Tasks: []service.Task{task()}, Observed: []service.Observed{seen(service.Exited, 900*time.Millisecond)}}, service.Memory{}, nil, service.Starting},
		"after the pause it is restarted":         {service.View{Tasks: []service.Task{task()}, Observed: []service.Observed{seen(service.Exited, time.Second)}}, service.Memory{}, verbs{service.Start}, service.Starting},
		"the second pause is longer":              {service.View{Elapsed: 1900 * time.Millisecond, Tasks: []service.Task{task()}, Observed: []service.Observed{seen(service.Exited, 1900*time.Millisecond)}}, tries(2), nil, service.Starting},
		"after two restarts the host gives up":    {service.View{Elapsed: time.Hour, Tasks: []service.Task{task()}, Observed: []service.Observed{seen(service.Exited, time.Hour)}}, tries(3), nil, service.Failed},
		"what is asked to leave is stopped":       {service.View{Tasks: []service.Task{task(leave)}, Observed: []service.Observed{seen(service.Running, time.Hour)}}, service.Memory{}, verbs{service.Stop}, service.Unready},
		"what left is attested gone":              {service.View{Tasks: []service.Task{task(leave)}, Observed: []service.Observed{seen(service.Exited, time.Hour)}}, service.Memory{}, nil, service.Gone},
		"what was never there is gone too":        {service.View{Tasks: []service.Task{task(leave)}}, service.Memory{}, nil, service.Gone},
		"what is not assigned is stopped":         {service.View{Observed: []service.Observed{seen(service.Running, time.Hour)}}, service.Memory{}, verbs{service.Stop}, ""},
		"what is not assigned and ended is told":  {service.View{Observed: []service.Observed{seen(service.Exited, time.Hour)}}, service.Memory{}, nil, service.Gone},
		"and forgotten after a day":               {service.View{Observed: []service.Observed{seen(service.Exited, 24*time.Hour)}}, service.Memory{}, verbs{service.Forget}, service.Gone},
		"an unknown one is ended first":           {service.View{Tasks: []service.Task{task()}, Observed: []service.Observed{seen(service.Unknown, 0)}}, service.Memory{}, verbs{service.Stop}, service.Starting},
		"a singleton starts under fresh orders":   {service.View{OrdersAge: time.Second, Tasks: []service.Task{task(single)}}, service.Memory{}, verbs{service.Start}, service.Starting},
		"a singleton never starts under old ones": {service.View{OrdersAge: 3 * time.Second, Tasks: []service.Task{task(single)}}, service.Memory{}, nil, service.Starting},
		"a start waits for its predecessor here": {service.View{Tasks: []service.Task{task()}, Observed: []service.Observed{{ID: "web.0", Service: "web", State: service.Stopping}}},
			service.Memory{}, verbs{service.Stop}, service.Starting},
		"without orders nothing is done": {service.View{OrdersAge: -1, Observed: []service.Observed{seen(service.Running, time.Hour)}}, service.Memory{}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			tc.v.Known = true
			d, _ := service.DecideHost(service.HostPolicy{}, tc.v, tc.m)
			var got verbs
			for _, a := range d.Actions {
				got = append(got, a.Verb)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff, d)
			}
			var state service.ReportState
			for _, r := range d.Reports {
				if r.ID == "web.1" {
					state = r.State
				}
			}
			if state != tc.report {
				t.Errorf("reported %q, want %q: %+v", state, tc.report, d.Reports)
			}
		})
	}
	t.Run("without an answer from the runtime nothing is done or said", func(t *testing.T) {
		d, _ := service.DecideHost(service.HostPolicy{}, service.View{Tasks: []service.Task{task()}}, service.Memory{})
		if len(d.Actions)+len(d.Reports) != 0 {
			t.Errorf("decided %+v", d)
		}
	})
}

// One crash loop from start to giving up: exactly two restarts, and no life is counted twice.
func TestACrashLoopEndsAfterTwoRestarts(t *testing.T) {
	var m service.Memory
	starts, life, ended := 0, 0, 0
	var age time.Duration
	for range 200 {
		v := service.View{Known: true, Elapsed: 100 * time.Millisecond, Tasks: []service.Task{task()}}
		if life > 0 {
			age += v.Elapsed
			o := seen(service.Exited, age)
			o.Life = string(rune('a' + life))
			v.Observed = []service.Observed{o}
		}
		var d service.Decision
		d, m = service.DecideHost(service.HostPolicy{}, v, m)
		for _, a := range d.Actions {
			if a.Verb == service.Start {
				starts, life, age = starts+1, life+1, 0
			}
		}
		for _, r := range d.Reports {
			if r.State == service.Failed {
				ended++
			}
		}
	}
	if starts != 3 || ended == 0 {
		t.Errorf("%d starts (want the first and 2 restarts), failed reported %d times", starts, ended)
	}
}

// A verdict changes only after enough results in a row, whatever came before.
func TestHealthNeedsEnoughInARow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := plan.Check{Rise: rapid.IntRange(1, 3).Draw(t, "rise"), Fall: rapid.IntRange(1, 3).Draw(t, "fall")}
		var h service.Health
		var history []bool
		for _, ok := range rapid.SliceOfN(rapid.Bool(), 1, 30).Draw(t, "results") {
			before := h
			h = service.NextHealth(c, h, time.Second, ok, "bad")
			history = append(history, ok)
			same := 0
			for i := len(history) - 1; i >= 0 && history[i] == ok; i-- {
				same++
			}
			switch {
			case ok && same >= c.Rise && h.State != service.Passing, !ok && same >= c.Fall && h.State != service.Failing:
				t.Fatalf("%d in a row of %v left it %s", same, ok, h.State)
			case h.State == before.State && h.Since != before.Since+time.Second:
				t.Fatalf("age %v after %v", h.Since, before.Since)
			case before.State != "" && h.State != before.State && h.Since != 0:
				t.Fatalf("a change is %v old", h.Since)
			case ok == (h.Reason != ""):
				t.Fatalf("result %v has reason %q", ok, h.Reason)
			}
			if ok && same < c.Rise && before.State == service.Failing && h.State != service.Failing {
				t.Fatalf("%d successes of %d were enough", same, c.Rise)
			}
		}
	})
}
