// Package servicetest is the contract of service.Runtime as tests, and a fake that passes them.
package servicetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"holdfast/internal/service"
)

// Opened is what a test works on.
type Opened struct {
	Runtime service.Runtime
	// Again is the same host's runtime after a restart of the agent.
	Again func() service.Runtime
	// Long runs until it is stopped, and ends in order when asked. Short ends by itself at once. Stubborn runs
	// until it is killed. Missing cannot be started.
	Long, Short, Stubborn, Missing []string
	// Lose kills an instance's keeper alone, which leaves the instance's state unknown.
	Lose func(id string)
}

// Run checks the contract. open gives a fresh runtime of host "h" for each case.
func Run(t *testing.T, open func(t *testing.T) Opened) {
	for name, f := range map[string]func(t *testing.T, s *suite){
		"an empty host runs nothing": func(t *testing.T, s *suite) {
			if got := s.observe(); len(got) != 0 {
				t.Errorf("observed %+v", got)
			}
		},
		"starting twice runs one": func(t *testing.T, s *suite) {
			s.start("web.1", s.o.Long)
			life := s.await("web.1", service.Running).Life
			s.start("web.1", s.o.Long)
			if again := s.await("web.1", service.Running); again.Life != life {
				t.Errorf("another life began: %s, then %s", life, again.Life)
			}
		},
		"an instance that ends is seen exited, and starts again with a new life": func(t *testing.T, s *suite) {
			s.start("web.1", s.o.Short)
			first := s.await("web.1", service.Exited)
			if first.Why == "" || first.Fenced {
				t.Errorf("ended as %+v", first)
			}
			s.start("web.1", s.o.Long)
			if next := s.await("web.1", service.Running); next.Life == first.Life {
				t.Error("the second life has the first one's name")
			}
		},
		"a stop ends it": func(t *testing.T, s *suite) {
			s.start("web.1", s.o.Long)
			s.await("web.1", service.Running)
			s.stop("web.1", time.Minute)
			s.await("web.1", service.Exited)
			s.stop("web.1", time.Minute)
		},
		"a stop kills what does not obey": func(t *testing.T, s *suite) {
			s.start("web.1", s.o.Stubborn)
			s.await("web.1", service.Running)
			s.stop("web.1", 20*time.Millisecond)
			s.await("web.1", service.Exited)
		},
		"stopping what was never there is no error": func(_ *testing.T, s *suite) { s.stop("web.9", time.Second) },
		"it survives a restart of the agent": func(t *testing.T, s *suite) {
			s.start("web.1", s.o.Long)
			before := s.await("web.1", service.Running)
			s.o.Runtime = s.o.Again()
			after := s.await("web.1", service.Running)
			if after.Life != before.Life || after.Service != "web" || after.Version != "v1" || after.Host != "h" {
				t.Errorf("before %+v, after %+v", before, after)
			}
		},
		"a program that is missing is an error, and seen exited": func(t *testing.T, s *suite) {
			if err := s.o.Runtime.Start(s.ctx, s.instance("web.1", s.o.Missing)); err == nil {
				t.Error("a missing program was started")
			}
			s.await("web.1", service.Exited)
		},
		"an exited one can be forgotten, a running one not": func(t *testing.T, s *suite) {
			s.start("web.1", s.o.Long)
			s.await("web.1", service.Running)
			if err := s.o.Runtime.Forget(s.ctx, "web.1"); err == nil {
				t.Error("a running instance was forgotten")
			}
			s.stop("web.1", time.Minute)
			s.await("web.1", service.Exited)
			for range 2 {
				if err := s.o.Runtime.Forget(s.ctx, "web.1"); err != nil {
					t.Error(err)
				}
			}
			if got := s.observe(); len(got) != 0 {
				t.Errorf("observed %+v after forgetting", got)
			}
		},
		"a singleton meets its deadline": func(t *testing.T, s *suite) {
			in := s.instance("one.1", s.o.Stubborn)
			in.Deadline, in.Confirmed = 100*time.Millisecond, time.Now()
			err := s.o.Runtime.Start(s.ctx, in)
			if errors.Is(err, service.ErrDeadlinePassed) {
				return // a slow machine: refused, which is right as well
			}
			if err != nil {
				t.Fatal(err)
			}
			if o := s.await("one.1", service.Exited); !o.Fenced {
				t.Errorf("ended as %+v, want fenced", o)
			}
			if err := s.o.Runtime.Extend(s.ctx, "one.1", time.Now(), time.Minute); err == nil {
				t.Error("a dead instance was extended")
			}
		},
		"a singleton that is extended runs on": func(t *testing.T, s *suite) {
			in := s.instance("one.1", s.o.Long)
			in.Deadline, in.Confirmed = 20*time.Second, time.Now()
			if err := s.o.Runtime.Start(s.ctx, in); err != nil {
				t.Fatal(err)
			}
			if err := s.o.Runtime.Extend(s.ctx, "one.1", time.Now(), time.Minute); err != nil {
				t.Error(err)
			}
			s.await("one.1", service.Running)
		},
		"a stale confirmation starts no singleton": func(t *testing.T, s *suite) {
			in := s.instance("one.1", s.o.Long)
			in.Deadline, in.Confirmed = time.Second, time.Now().Add(-time.Minute)
			if err := s.o.Runtime.Start(s.ctx, in); !errors.Is(err, service.ErrDeadlinePassed) {
				t.Errorf("started: %v", err)
			}
		},
		"a lost keeper makes it unknown until it is stopped": func(t *testing.T, s *suite) {
			s.start("web.1", s.o.Stubborn)
			s.await("web.1", service.Running)
			s.o.Lose("web.1")
			s.await("web.1", service.Unknown)
			if err := s.o.Runtime.Start(s.ctx, s.instance("web.1", s.o.Long)); err == nil {
				t.Error("started beside what may still run")
			}
			s.stop("web.1", 0)
			s.await("web.1", service.Exited)
			s.start("web.1", s.o.Long)
			s.await("web.1", service.Running)
		},
		"an id cannot leave the runtime's directory": func(t *testing.T, s *suite) {
			for _, id := range []string{"", "..", "../x", "a/b", ".hidden"} {
				if err := s.o.Runtime.Start(s.ctx, s.instance(id, s.o.Long)); err == nil {
					t.Errorf("%q was started", id)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			f(t, &suite{t: t, ctx: ctx, o: open(t)})
		})
	}
}

type suite struct {
	t   *testing.T
	ctx context.Context
	o   Opened
}

func (s *suite) instance(id string, argv []string) service.Instance {
	svc := "web"
	if id == "one.1" {
		svc = "one"
	}
	return service.Instance{ID: id, Service: svc, Host: "h", Version: "v1", Argv: argv, Env: service.Environment{"PATH=/usr/bin:/bin"}, WorkDir: "/"}
}

func (s *suite) start(id string, argv []string) {
	s.t.Helper()
	if err := s.o.Runtime.Start(s.ctx, s.instance(id, argv)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *suite) stop(id string, grace time.Duration) {
	s.t.Helper()
	if err := s.o.Runtime.Stop(s.ctx, id, grace); err != nil {
		s.t.Fatal(err)
	}
}

func (s *suite) observe() []service.Observed {
	s.t.Helper()
	got, err := s.o.Runtime.Observe(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

// await polls until the instance is in a state.
func (s *suite) await(id string, want service.RunState) service.Observed {
	s.t.Helper()
	var last []service.Observed
	for ; s.ctx.Err() == nil; time.Sleep(2 * time.Millisecond) {
		last = s.observe()
		for _, o := range last {
			if o.ID == id && o.State == want {
				return o
			}
		}
	}
	s.t.Fatalf("%s is not %s: %+v", id, want, last)
	return service.Observed{}
}
