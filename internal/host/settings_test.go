package host

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/plan"
)

// A round that takes a plan over renews leases as well: it must not wait for the disk. What it took over is kept a moment
// later all the same, and at the latest when the agent ends.
func TestAPlanThatIsTakenOverIsKeptBesideTheRound(t *testing.T) {
	const text = `application: clinic
sites: { b: { hosts: { b1: { address: 127.61.1.1 }, b2: { address: 127.61.1.2 }, b3: { address: 127.61.1.3 } } } }
databases: { records: { postgres: 15, standbys: 2, acknowledged_by: 1 } }
`
	p, mistakes := plan.Parse("/plan/holdfast.yaml", []byte(text))
	if p == nil {
		t.Fatal(mistakes)
	}
	cfg := Config{Plan: p, Self: "b1", Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	kept := filepath.Join(cfg.Dir, "applied.yaml")
	h := &Host{cfg: cfg, clock: clock.Real(), applied: newApplied(cfg), settings: newSettings(), services: &services{}}
	h.services.plan = h.plan
	h.adopt([]byte(text))
	if _, err := os.Stat(kept); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the round wrote to the disk: %v", err)
	}
	settled := func(end bool) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		if end {
			cancel()
		}
		go func() { done <- h.settle(ctx) }()
		deadline := time.Now().Add(5 * time.Minute)
		for found := false; !found; time.Sleep(time.Millisecond) {
			got, err := os.ReadFile(kept)
			found = err == nil && string(got) == h.applied.text
			if !found && time.Now().After(deadline) {
				t.Errorf("not kept: %v, %q", err, got)
				break
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	settled(false)
	h.adopt([]byte(text + "# the same\n"))
	settled(true)
	if again := newApplied(cfg); again.text != h.applied.text || again.kept != again.text {
		t.Errorf("the next life begins with %q", again.text)
	}
}

func TestAHostNotesThatItFollowsAnotherPlan(t *testing.T) {
	const text = `application: clinic
sites: { b: { hosts: { b1: { address: 127.61.1.1 }, b2: { address: 127.61.1.2 }, b3: { address: 127.61.1.3 } } } }
databases: { records: { postgres: 15, standbys: 2, acknowledged_by: 1 } }
`
	p, mistakes := plan.Parse("/plan/holdfast.yaml", []byte(text))
	if p == nil {
		t.Fatal(mistakes)
	}
	cfg := Config{Plan: p, Self: "b1", Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	now := time.Now()
	h := &Host{cfg: cfg, clock: clock.Real(), applied: newApplied(cfg), settings: newSettings(), services: &services{}, diary: aDiary(t, cfg.Dir, &now)}
	h.services.plan = h.plan
	for _, c := range []struct {
		text string
		want int
	}{{text + "# the same\n", 0}, {strings.Replace(text, "acknowledged_by: 1", "acknowledged_by: 2", 1), 1}} {
		h.adopt([]byte(c.text))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.settle(ctx) }()
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			// The text is kept before anything is noted, so that which is not noted is seen as well: by the end of settle.
			if got, err := os.ReadFile(appliedFile(cfg.Dir)); err == nil && string(got) == c.text && len(h.diary.Recent()) >= c.want {
				break
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if said := saidBy(h.diary); len(said) != c.want || c.want > 0 && said[0] != "this host follows the plan that was applied" {
			t.Errorf("after %q the diary says %q", c.text, said)
		}
	}
}

// An instance is another version when the role or the password of an address that it uses is, and not by another role.
func TestAnInstanceIsAnotherVersionWithAnotherLogin(t *testing.T) {
	t.Parallel()
	const text = `application: clinic
sites: { b: { hosts: { b1: { address: 127.61.1.1 }, b2: { address: 127.61.1.2 } } } }
services: { web: { run: /bin/web, instances: 2, env: { URL: "${databases.records.write_url}" } } }
databases: { records: { postgres: 15, standbys: 1, acknowledged_by: 1, roles: { app: { password: "file:/p", owns: [one] } } } }
`
	version := func(change ...string) string {
		t.Helper()
		p, mistakes := plan.Parse("/plan/holdfast.yaml", []byte(strings.NewReplacer(change...).Replace(text)))
		if p == nil {
			t.Fatal(mistakes)
		}
		svc, _ := p.ServiceNamed("web")
		return (&services{plan: func() *plan.Plan { return p }}).version(svc)
	}
	first := version()
	for _, change := range [][]string{{"file:/p", "file:/q"}, {"app:", "web:"}, {"[one]", "[two]"}, {"standbys: 1,", "standbys: 1, listen: { write: 6000 },"}} {
		if version(change...) == first {
			t.Errorf("with %q instead of %q it goes on as it is", change[1], change[0])
		}
	}
	if version("owns: [one] }", "owns: [one] }, other: { password: \"file:/r\" }") != first {
		t.Error("a role that it does not use restarts it")
	}
}
