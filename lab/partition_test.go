package lab_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/examples/clinic/client"
	"holdfast/internal/api"
	"holdfast/lab"
)

// One world for a chain of broken links: each fault begins when the one before is mended.
func TestLinksBreakAndNothingAcknowledgedIsLost(t *testing.T) {
	w := lab.NewApart(t)
	w.Start()
	load := w.Load("links")
	well := func(t *testing.T, when string) api.DatabaseStatus {
		t.Helper()
		return w.Await(when, recoverMax, lab.Well).Databases[0]
	}

	for _, c := range []struct {
		name, mark string
		fault      func(host string)
	}{
		{"a primary that is cut off with its clients acknowledges nothing, and the others go on", "isolated primary", w.Net.Isolate},
		{"a primary that nobody hears acknowledges nothing, and the others go on", "mute primary", w.Net.Mute},
		{"a primary that hears nobody acknowledges nothing, and the others go on", "deaf primary", w.Net.Deafen},
	} {
		t.Run(c.name, func(t *testing.T) {
			was := well(t, "well before")
			inside, watch := w.LoadOn(was.Primary, strings.ReplaceAll("beside the "+c.mark, " ", "-")), w.Watch(was.Primary)
			load.Client.Mark(c.mark)
			c.fault(was.Primary)
			cut := time.Now()
			w.Await("another primary", recoverMax, movedFrom(was))
			load.Recovered()
			if c.mark == "isolated primary" {
				refusesAlone(t, w, was.Primary)
			}
			linger(load)
			before := time.Now()
			w.Net.Heal()
			watch.End()
			stale(t, load, inside, watch, cut, before)
			well(t, "well after")
			load.Client.Mark("after the " + c.mark)
			inside.Recovered()
			inside.End()
		})
	}

	for _, c := range []struct {
		name, mark string
		cut        func(from, to string)
	}{
		{"a standby that the primary alone does not reach leaves, and nothing fails over", "one link", w.Net.Cut},
		{"a standby that hears nothing from the primary leaves, and nothing fails over", "one direction", w.Net.CutOneWay},
	} {
		t.Run(c.name, func(t *testing.T) {
			was := well(t, "well before")
			far := standby(was)
			load.Client.Mark(c.mark)
			c.cut(was.Primary, far)
			w.Await(far+" does not count", recoverMax, func(st api.Status) bool { return !counts(st, far) })
			load.Recovered()
			linger(load)
			w.Net.Heal()
			now := well(t, "well after")
			load.Client.Mark("after " + c.mark)
			unmoved(t, was, now)
		})
	}

	t.Run("without a majority of etcd the primary goes on, restarted agents included", func(t *testing.T) {
		was := well(t, "well before")
		load.Client.Mark("etcd without majority")
		w.FreezeMembers(others(w, was.Primary)...)
		cut := time.Now()
		for _, h := range w.Hosts {
			pid := w.PID(h, "agent.pid")
			w.Kill(pid)
			awaitChange(t, func() bool { return w.PID(h, "agent.pid") != pid })
		}
		for time.Since(cut) < 20*time.Second {
			load.Recovered()
		}
		w.ThawMembers(others(w, was.Primary)...)
		now := well(t, "well after")
		load.Recovered()
		load.Client.Mark("after etcd without majority")
		unmoved(t, was, now)
		if f := failed(load.Client.Phases(), "etcd without majority"); len(f) > 0 {
			t.Errorf("clients saw failed requests: %v", f)
		}
	})

	t.Run("a primary whose host was frozen wakes up and acknowledges nothing", func(t *testing.T) {
		was := well(t, "well before")
		inside, watch := w.LoadOn(was.Primary, "beside-the-frozen-host"), w.Watch(was.Primary)
		load.Client.Mark("frozen host")
		w.Net.Isolate(was.Primary)
		w.Freeze(was.Primary)
		cut := time.Now()
		w.Await("another primary", recoverMax, movedFrom(was))
		load.Recovered()
		for time.Since(cut) < 8*time.Second {
			load.Recovered()
		}
		// Awake and still alone: the worst moment, for it does not know yet what it missed.
		w.Thaw(was.Primary)
		linger(load)
		before := time.Now()
		w.Net.Heal()
		watch.End()
		stale(t, load, inside, watch, cut, before)
		well(t, "well after")
		load.Client.Mark("after the frozen host")
		inside.Recovered()
		inside.End()
	})

	for _, p := range load.End() {
		gap, failed, slow := p.Worst()
		t.Logf("%-28s longest gap %6.2f s, failed %d, slow %d", p.Name, gap.Seconds(), failed, slow)
	}
}

func movedFrom(was api.DatabaseStatus) func(api.Status) bool {
	return func(st api.Status) bool {
		d := st.Databases[0]
		return d.Open && d.Primary != was.Primary && d.Epoch > was.Epoch
	}
}

func unmoved(t *testing.T, was, now api.DatabaseStatus) {
	t.Helper()
	if was.Epoch != now.Epoch || was.Primary != now.Primary {
		t.Errorf("the primary moved from %s (epoch %d) to %s (epoch %d)", was.Primary, was.Epoch, now.Primary, now.Epoch)
	}
}

func standby(d api.DatabaseStatus) string {
	for _, s := range d.Servers {
		if s.Role == "standby" {
			return s.Host
		}
	}
	return ""
}

func others(w *lab.World, host string) []string {
	return slices.DeleteFunc(slices.Clone(w.Hosts), func(h string) bool { return h == host })
}

func counts(st api.Status, host string) bool {
	for _, s := range st.Databases[0].Servers {
		if s.Host == host {
			return s.Counts
		}
	}
	return false
}

// linger lets a fault last while other clients are served forty times more on each path: some seconds.
func linger(l *lab.Load) {
	for range 40 {
		l.Recovered()
	}
}

// stale checks what clients beside a primary were told that is cut off from cut to healed: no commit at all, for no
// standby could hear of one, and no answer to a question asked after others had a newer truth.
func stale(t *testing.T, load, inside *lab.Load, watch *lab.Watch, cut, healed time.Time) {
	t.Helper()
	for _, a := range inside.Acknowledged(client.ListenerWrite) {
		if a.Began.After(cut) && a.Ended.Before(healed) {
			t.Errorf("a commit sent %s after the cut was acknowledged", a.Began.Sub(cut))
		}
	}
	var newer lab.Told
	for _, a := range load.Acknowledged(client.ListenerWrite) {
		if a.Began.After(cut) {
			newer = a
			break
		}
	}
	if newer.Ended.IsZero() {
		t.Fatal("nobody acknowledged anything after the cut, so nothing can be compared")
	}
	var last lab.Told
	for _, a := range watch.Answers() {
		if a.Ended.Before(healed) {
			last = a
		}
	}
	if last.Ended.IsZero() {
		t.Fatal("the old primary never answered, so nothing can be compared")
	}
	t.Logf("the old primary answered until %.2f s after the cut, the new one acknowledged after %.2f s", last.Ended.Sub(cut).Seconds(), newer.Ended.Sub(cut).Seconds())
	if last.Began.After(newer.Ended) {
		t.Errorf("the old primary answered a question that was asked %s after the new one had acknowledged a commit", last.Began.Sub(newer.Ended))
	}
}

func awaitChange(t testing.TB, changed func() bool) {
	t.Helper()
	for deadline := time.Now().Add(recoverMax); !changed(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s", recoverMax)
		}
	}
}
