package gate

import (
	"log/slog"
	"path/filepath"
	"testing"

	"holdfast/internal/database/kernelpath"
)

// slow is a kernel path whose rules change when it is told so.
type slow struct {
	stubborn
	asks, allowed chan struct{}
}

func (s *slow) Set(tag kernelpath.Tag) error {
	s.asks <- struct{}{}
	<-s.allowed
	return s.stubborn.Set(tag)
}

// While the kernel takes its time the gate goes on: clients are judged, and a fence shuts at once. It returns when the
// rules, which were on their way to lead, lead nowhere.
func TestNobodyWaitsForTheKernelButWhoMust(t *testing.T) {
	g, err := open(Config{Spec: Spec{
		Database: "orders", Host: "a1", Listen: []string{"127.0.0.1:1"}, Control: "unused", StateFile: filepath.Join(t.TempDir(), "state"),
	}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	kernel := &slow{asks: make(chan struct{}), allowed: make(chan struct{})}
	g.rules.path = kernel
	obeyed, fenced := make(chan error), make(chan struct{})
	go func() { obeyed <- g.Obey(t.Context(), Order{Epoch: 1, State: Open, Target: "10.0.0.1:5432"}) }()
	<-kernel.asks
	if s := g.Status(); s.State != Open {
		t.Errorf("the gate is %s while the rules follow", s.State)
	}
	go func() { g.Cut(1, "the agent is silent"); close(fenced) }()
	waitFor(t, "the gate is shut", func() bool { return g.Status().State == Shut })
	select {
	case <-fenced:
		t.Fatal("a fence returned while rules were on their way to lead")
	case kernel.allowed <- struct{}{}:
	}
	if err := <-obeyed; err != nil {
		t.Errorf("an order that was carried out before the fence: %v", err)
	}
	<-kernel.asks
	kernel.allowed <- struct{}{}
	<-fenced
	if kernel.tag.Leads() || kernel.sessions {
		t.Errorf("after the fence the rules say %+v", kernel.tag)
	}
}
