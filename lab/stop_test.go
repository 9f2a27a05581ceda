package lab_test

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/api"
	"holdfast/internal/auth"
	"holdfast/internal/local"
	"holdfast/internal/problem"
	"holdfast/lab"
)

// The host of a standby is stopped by itself: its server ends in good order and at once, nothing is called a stop of the
// whole application meanwhile, and the host comes back with the next start of its agent.
func TestOneHostStopsInGoodOrderAndTheOthersGoOn(t *testing.T) {
	lab.Long(t)
	w := lab.New(t, "127.60.71")
	w.Start()
	h := standby(w.Await("well", recoverMax, lab.Well).Databases[0])
	said := func() string {
		text, err := os.ReadFile(local.LogFile(w.Root, h))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	has := func(st api.Status, code string) bool {
		return slices.ContainsFunc(st.Problems, func(p problem.Problem) bool { return p.Code == code })
	}
	if err := os.WriteFile(local.HoldFile(w.Root, h), nil, 0o644); err != nil { // else `up` starts it again at once
		t.Fatal(err)
	}
	pid, began := w.PID(h, "agent.pid"), time.Now()
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	w.Await("its agent is gone", recoverMax, func(st api.Status) bool {
		if has(st, "cluster.stopping") {
			t.Error("the status says that everything stops")
		}
		return len(local.Running(w.Root, []string{h})) == 0
	})
	if text := said(); strings.Contains(text, "server killed") || !strings.Contains(text, "this host stops, the others go on") {
		t.Errorf("after %s the agent of %s had said:\n%s", time.Since(began), h, text)
	}
	if err := os.Remove(local.HoldFile(w.Root, h)); err != nil {
		t.Fatal(err)
	}
	w.Await("well again", recoverMax, lab.Well)

	t.Run("a stop of everything is taken back by a command", func(t *testing.T) {
		conf, err := auth.ClientTLS(local.AdminDir(w.Root), "")
		if err != nil {
			t.Fatal(err)
		}
		client := api.NewClient([]string{w.Address[h] + ":7400"}, conf)
		defer client.Close()
		if err := client.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.Await("every server is stopped, and the way back is named", recoverMax, func(st api.Status) bool {
			return has(st, "cluster.stopping") && !slices.ContainsFunc(st.Databases[0].Servers, func(s api.ServerStatus) bool { return s.Role != "stopped" })
		})
		for _, want := range []string{"the stop is taken back", "no stop stands"} {
			if out, err := w.Run("cluster", "start"); err != nil || !strings.Contains(out, want) {
				t.Fatalf("%q, %v; want %q", out, err, want)
			}
		}
		w.Await("well once more", recoverMax, lab.Well)
	})
}
