package host

import (
	"context"
	"errors"
	"testing"
	"time"

	"holdfast/internal/plan"
)

// slowToEnd begins work here that goes on after it was told to end; told is closed then, and release lets it end.
func slowToEnd(t *testing.T, h *Host) (told <-chan struct{}, release func()) {
	t.Helper()
	begun, end, may, over := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		err := h.works.do(t.Context(), func(ctx context.Context) error {
			close(begun)
			<-ctx.Done()
			close(end)
			<-may
			return ctx.Err()
		})
		if err != nil {
			t.Errorf("an end that was wanted is an error: %v", err)
		}
	}()
	<-begun
	return end, func() { close(may); <-over }
}

// streams begins archiving that ends as soon as it is told to.
func streams(t *testing.T, h *Host) (ended <-chan struct{}) {
	t.Helper()
	begun, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		_ = h.streams.do(t.Context(), func(ctx context.Context) error { close(begun); <-ctx.Done(); return nil })
	}()
	<-begun
	return over
}

func within(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		t.Fatalf("after a minute not yet: %s", what)
	}
}

// Neither another list of hosts, nor an order to enter a cluster, nor the end of the process ends the rounds before a trial has ended, and the log is archived until then.
func TestALifeDoesNotEndBeforeItsLongWork(t *testing.T) {
	four := planOf(t, "a*", "b*", "c*", "h1")
	for name, ends := range map[string]func(*Host, context.Context) error{
		"another list of hosts": func(h *Host, ctx context.Context) error {
			h.cfg.Plan = planOf(t, "a*", "b*", "h1*")
			h.applied = newApplied(h.cfg)
			h.applied.adopt(four.Source)
			gone := make(chan error, 1)
			go func() { gone <- h.followHosts(ctx) }()
			return errors.Join(<-h.ends, <-gone)
		},
		"an order to enter a cluster": func(h *Host, ctx context.Context) error {
			h.joins = make(chan struct{}, 1)
			h.joins <- struct{}{}
			gone := make(chan error, 1)
			go func() { gone <- h.followJoins(ctx) }()
			return errors.Join(<-h.ends, <-gone)
		},
		"the end of the process": func(h *Host, ctx context.Context) error {
			told, tell := context.WithCancel(ctx)
			tell()
			return h.endsWith(ctx, told)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := aFilerHost(t, plan.Moment{})
			h.ends = make(chan error)
			told, release := slowToEnd(t, h)
			archived := streams(t, h)
			over := make(chan struct{})
			var why error
			go func() {
				defer close(over)
				why = ends(h, t.Context())
			}()
			within(t, told, "the trial is told to end")
			for range 20 { // as often as it may look meanwhile
				time.Sleep(endEvery)
				select {
				case <-over:
					t.Fatal("the life ended before the trial")
				case <-archived:
					t.Fatal("the log is not archived any more, though the trial goes on")
				default:
				}
			}
			release()
			within(t, over, "the life ends")
			within(t, archived, "the archiving ends")
			if !errors.Is(why, errHosts) && !errors.Is(why, errJoins) && !errors.Is(why, context.Canceled) {
				t.Errorf("it ended with %v", why)
			}
			if err := h.works.do(t.Context(), func(context.Context) error { return errors.New("begun") }); err != nil {
				t.Error("another trial begins though the life ends")
			}
		})
	}
}

// What fails by itself, or ends with its life, says so.
func TestLongWorkSaysHowItEnded(t *testing.T) {
	var l longWork
	broken := errors.New("broken")
	if err := l.do(t.Context(), func(context.Context) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	life, end := context.WithCancel(t.Context())
	if err := l.do(life, func(ctx context.Context) error { end(); <-ctx.Done(); return ctx.Err() }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if !l.end() {
		t.Error("nothing is under way, and it has not ended")
	}
}

// A plan that gives this host its list of before back, after long work was told to end, leads to another life all the same: in this one
// nothing would be backed up any more.
func TestAChangeTakenBackBeginsAnew(t *testing.T) {
	h := aFilerHost(t, plan.Moment{})
	h.ends = make(chan error)
	h.applied = &applied{wanted: h.cfg.Plan}
	h.works.end()
	go func() { _ = h.followHosts(t.Context()) }()
	select {
	case why := <-h.ends:
		if !errors.Is(why, errHosts) {
			t.Error(why)
		}
	case <-time.After(time.Minute):
		t.Fatal("this life goes on without backups")
	}
}
