package lab_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/api"
	"holdfast/internal/local"
	"holdfast/lab"
)

// A host comes and goes again while clients write: its agent waits until the plan has it, an instance runs there then, and
// when the plan has it no more it ends what it ran. The others take each list over one after the other.
func TestAHostComesAndGoesUnderLoad(t *testing.T) {
	const comes = "h4"
	w := lab.NewAs(t, "127.60.58", lab.Shape{Services: true, Plan: withoutBackup})
	w.Start()
	load := w.Load("one")
	text, err := os.ReadFile(w.Plan)
	must(t, err)
	three := strings.Replace(string(text), "    run: bin/clinic reminders\n", "    run: bin/clinic reminders\n    hosts: [h1, h2]\n", 1)
	three = strings.Replace(three, "    run: bin/clinic web\n    instances: 2\n", "    run: bin/clinic web\n    instances: 4\n", 1)
	line := "      h3: { address: 127.60.58.3, fault_domain: rack-h3 }\n"
	four := strings.Replace(three, line, line+"      h4: { address: 127.60.58.4, fault_domain: rack-h4 }\n", 1)
	next := filepath.Join(filepath.Dir(w.Plan), "next.yaml")
	must(t, os.WriteFile(next, []byte(four), 0o644))
	out, err := w.Run("cluster", "certify", comes, "--plan", next, "--root", w.Root)
	must(t, err, out)
	w.Bring(comes, next)
	awaitWords(t, w, comes, "does not have this host")
	applyText(t, w, next, four)
	w.Await("the new host runs an instance", recoverMax, func(st api.Status) bool {
		return lab.Well(st) && follow(st, "h1", "h2", "h3", "h4") && runsOn(st, "web", comes)
	})
	awaitMembers(t, w, "h1", "h2", "h3")
	applyText(t, w, next, strings.Replace(three, "instances: 4", "instances: 3", 1))
	w.Await("all follow the plan without it", recoverMax, func(st api.Status) bool { return lab.Well(st) && follow(st, "h1", "h2", "h3") })
	awaitWords(t, w, comes, "everything of it ends here")
	awaitAlone(t, w, comes)
	load.Recovered()
	load.End()
}

func runsOn(st api.Status, service, host string) bool {
	for _, s := range st.Services {
		if s.Name != service {
			continue
		}
		for _, i := range s.Instances {
			if i.Host == host && i.State == "ready" {
				return true
			}
		}
	}
	return false
}

// A host is replaced by one of another name while clients write: a fourth machine is certified, brought and added, a copy
// moves to it, and a former standby's host is taken away, whose etcd member goes to the new one. Agents are killed in the
// middle of both changes, and one comes back with the file of before each time. Nothing acknowledged is lost, and in the
// end all is as if the new host had always been there.
func TestAHostIsReplacedByOneOfAnotherNameUnderLoad(t *testing.T) {
	lab.Long(t)
	const comes, goes = "h4", "h3"
	three := func(text string) string {
		text = strings.Replace(text, "    run: bin/clinic reminders\n", "    run: bin/clinic reminders\n    hosts: [h1, h2]\n", 1)
		return withoutHost(withoutBackup(text), comes)
	}
	w := lab.NewApartAs(t, lab.Shape{Hosts: 4, Services: true, Plan: three})
	w.Hosts = slices.DeleteFunc(w.Hosts, func(h string) bool { return h == comes })
	w.Start()
	if was := w.Await("well", recoverMax, lab.Well).Databases[0]; was.Primary == goes {
		w.AwaitFit("h1", recoverMax)
		out, err := w.Run("database", "switchover", "records", "--to", "h1", "--yes")
		must(t, err, out)
		w.Await("well elsewhere", recoverMax, func(st api.Status) bool { return lab.Well(st) && st.Databases[0].Primary == "h1" })
	}
	loads := []*lab.Load{w.LoadOn("h1", "one"), w.LoadOn("h2", "two")}

	next, four := withNewHost(t, w, comes, goes)
	out, err := w.Run("cluster", "certify", comes, "--plan", next, "--root", w.Root)
	must(t, err, out)
	if !strings.Contains(out, "founds nothing") || strings.Contains(out, "PRIVATE") {
		t.Fatalf("it says %s", out)
	}
	w.Bring(comes, next) // before the plan has it: it waits
	awaitWords(t, w, comes, "does not have this host")
	if left := w.Processes(comes); len(left) != 1 {
		t.Errorf("beside its agent, %v run on a host that the plan does not have", left)
	}

	applyText(t, w, next, four)
	w.Kill(w.PID("h2", "agent.pid")) // it comes back with the file of before
	w.Await("all follow the plan with the new host", recoverMax, func(st api.Status) bool { return follow(st, "h1", "h2", "h3", "h4") })

	moved := strings.Replace(four, "    standbys: 2\n", "    standbys: 2\n    hosts: [h1, h2, h4]\n", 1)
	applyText(t, w, next, moved)
	w.Await("the copy has moved", recoverMax, func(st api.Status) bool {
		return lab.Well(st) && len(st.Databases[0].Servers) == 3 && counts(st, comes) == (st.Databases[0].Primary != comes) && !holds(st, goes)
	})

	gone := withoutHost(moved, goes)
	applyText(t, w, next, gone)
	w.Kill(w.PID("h1", "agent.pid"))
	w.Kill(w.PID("h2", "agent.pid"))
	w.Await("all follow the plan without the old host", recoverMax, func(st api.Status) bool { return follow(st, "h1", "h2", "h4") && lab.Well(st) })
	awaitMembers(t, w, "h1", "h2", "h4")
	awaitWords(t, w, goes, "everything of it ends here")
	awaitAlone(t, w, goes)
	if _, err := os.Stat(filepath.Join(w.Root, "hosts", goes, "db", "records", "pgdata", "PG_VERSION")); err != nil {
		t.Errorf("its data are gone: %v", err)
	}
	w.Kill(w.PID(goes, "agent.pid")) // with the file of before it begins nothing
	time.Sleep(5 * time.Second)
	awaitAlone(t, w, goes)
	w.Retire(goes)

	must(t, os.WriteFile(w.Plan, []byte(gone), 0o644), "")
	w.Kill(w.PID("h1", "agent.pid"))
	w.Kill(w.PID("h2", "agent.pid"))
	w.Await("nothing is wrong", recoverMax, func(st api.Status) bool {
		return lab.Well(st) && follow(st, "h1", "h2", "h4") && !slices.ContainsFunc(codes(st), func(code string) bool {
			room, kind, _ := strings.Cut(code, ".")
			own := slices.Contains([]string{"plan", "cluster", "host", "database", "service"}, room)
			return own && !strings.HasPrefix(kind, "disk-") // how full this machine's disk is says nothing
		})
	})
	for _, l := range loads {
		l.Recovered()
		l.End()
	}
}

// A machine burns down, and another one takes its place under a name of its own. Should the old one come back after all,
// with its old disk and its old file, it hears that it is not of the plan, and ends what it ran.
func TestADeadHostIsReplacedByOneOfAnotherName(t *testing.T) {
	lab.Long(t)
	const comes, goes = "h4", "h3"
	w := lab.NewApartAs(t, lab.Shape{Hosts: 4, Plan: func(text string) string { return withoutHost(withoutBackup(text), comes) }})
	w.Hosts = slices.DeleteFunc(w.Hosts, func(h string) bool { return h == comes })
	w.Start()
	load := w.LoadOn("h1", "one")
	w.PowerOff(goes)
	next, four := withNewHost(t, w, comes, goes)
	out, err := w.Run("cluster", "certify", comes, "--plan", next, "--root", w.Root)
	must(t, err, out)
	w.Bring(comes, next)
	applyText(t, w, next, four)
	w.Await("the new host is heard", recoverMax, func(st api.Status) bool { return heard(st, comes) })
	moved := strings.Replace(four, "    standbys: 2\n", "    standbys: 2\n    hosts: [h1, h2, h4]\n", 1)
	applyText(t, w, next, moved)
	w.Await("the copy has moved", recoverMax, func(st api.Status) bool { return lab.Well(st) && !holds(st, goes) && holds(st, comes) })
	applyText(t, w, next, withoutHost(moved, goes))
	w.Await("all follow the plan without the old host", recoverMax, func(st api.Status) bool { return follow(st, "h1", "h2", "h4") && lab.Well(st) })
	awaitMembers(t, w, "h1", "h2", "h4")

	w.Net.Heal()
	w.PowerOn(goes)
	awaitWords(t, w, goes, "everything of it ends here")
	awaitAlone(t, w, goes)
	w.Retire(goes)
	w.Await("well without it", recoverMax, func(st api.Status) bool { return follow(st, "h1", "h2", "h4") && lab.Well(st) })
	load.Recovered()
	load.End()
}

// withNewHost writes a plan file with a host more, behind another one, and gives its path and text.
func withNewHost(t *testing.T, w *lab.World, comes, behind string) (file, text string) {
	t.Helper()
	before, err := os.ReadFile(w.Plan)
	must(t, err, "")
	line := func(host string) string {
		return "      " + host + ": { address: " + w.Net.Address(host) + ", fault_domain: rack-" + host + " }\n"
	}
	text = strings.Replace(string(before), line(behind), line(behind)+line(comes), 1)
	if text == string(before) {
		t.Fatalf("%s has no place in the plan:\n%s", comes, text)
	}
	file = filepath.Join(filepath.Dir(w.Plan), "next.yaml")
	must(t, os.WriteFile(file, []byte(text), 0o644), "")
	return file, text
}

func heard(st api.Status, host string) bool {
	return slices.ContainsFunc(st.Hosts, func(h api.HostStatus) bool { return h.Name == host && h.Heard })
}

// withoutBackup is a plan's text that backs nothing up: an agent that is killed while a backup is restored on trial leaves
// that server running until the next one, and that is not what is tried here.
func withoutBackup(text string) string {
	before, _, _ := strings.Cut(text, "backup:\n")
	return before
}

// withoutHost is a plan's text without the line of one host.
func withoutHost(text, host string) string {
	var out []string
	for _, line := range strings.SplitAfter(text, "\n") {
		if !strings.HasPrefix(line, "      "+host+": {") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// applyText applies a plan's text as an operator does who waits for the step before to be done.
func applyText(t *testing.T, w *lab.World, file, text string) {
	t.Helper()
	must(t, os.WriteFile(file, []byte(text), 0o644), "")
	for deadline := time.Now().Add(recoverMax); ; time.Sleep(500 * time.Millisecond) {
		out, err := w.Run("apply", file, "--yes")
		if err == nil {
			return
		}
		if time.Now().After(deadline) || strings.Contains(out, "plan.not-at-run-time") || strings.Contains(out, "plan.mistakes") {
			t.Fatalf("apply: %v\n%s", err, out)
		}
	}
}

// follow reports whether these hosts, and no others, are in the plan, are heard, and follow one plan.
func follow(st api.Status, hosts ...string) bool {
	var names []string
	plans := map[string]bool{}
	for _, h := range st.Hosts {
		names = append(names, h.Name)
		plans[h.Plan] = true
		if !h.Heard {
			return false
		}
	}
	slices.Sort(names)
	return slices.Equal(names, hosts) && len(plans) == 1 && !plans[""]
}

func holds(st api.Status, host string) bool {
	return slices.ContainsFunc(st.Databases[0].Servers, func(s api.ServerStatus) bool { return s.Host == host })
}

// awaitWords waits until a host's agent has said something.
func awaitWords(t *testing.T, w *lab.World, host, words string) {
	t.Helper()
	for deadline := time.Now().Add(recoverMax); ; time.Sleep(200 * time.Millisecond) {
		log, _ := os.ReadFile(local.LogFile(w.Root, host)) // it may not be there yet
		if strings.Contains(string(log), words) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the agent of %s does not say %q", host, words)
		}
	}
}

// awaitAlone waits until nothing but its agent runs on a host.
func awaitAlone(t *testing.T, w *lab.World, host string) {
	t.Helper()
	for deadline := time.Now().Add(recoverMax); ; time.Sleep(200 * time.Millisecond) {
		left := w.Processes(host)
		if len(left) == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v run on %s", left, host)
		}
	}
}

// awaitMembers waits until etcd's voters are on these hosts, all serve, and there is no other member.
func awaitMembers(t testing.TB, w *lab.World, hosts ...string) {
	t.Helper()
	for deadline := time.Now().Add(recoverMax); ; time.Sleep(500 * time.Millisecond) {
		out, err := w.Run("cluster", "status", "--output", "json")
		var all []api.ClusterStatus
		if err == nil {
			err = json.Unmarshal([]byte(out), &all)
		}
		good := err == nil && len(all) > 0
		for _, s := range all {
			var vote []string
			for _, x := range s.Seats {
				good = good && x.Serves && x.Role == "voter"
				vote = append(vote, x.Host)
			}
			slices.Sort(vote)
			good = good && s.Reachable && slices.Equal(vote, hosts)
		}
		if good {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the members are not %v: %v\n%s", hosts, err, out)
		}
	}
}
