package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"holdfast/internal/api"
	"holdfast/internal/problem"
	"holdfast/lab"
)

// crashServer kills the postmaster of the primary.
func crashServer(r *lab.Round) {
	r.W.Kill(r.W.PID(r.Was.Primary, "db/records/pgdata/postmaster.pid"))
}

func crash(r *lab.Round) {
	r.Fault()
	crashServer(r)
	r.Moved()
}

// crashBackend kills one backend. PostgreSQL would restart itself and show what no standby has; Holdfast forbids that, so
// the server ends.
func crashBackend(r *lab.Round) {
	conn, err := r.W.Connect(r.Context(), r.Was.Primary)
	if err != nil {
		r.Fatal(err)
	}
	defer func() { _ = conn.Close(r.Context()) }() // its backend is dead
	var pid int
	if err := conn.QueryRow(r.Context(), "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		r.Fatal(err)
	}
	r.Fault()
	r.W.Kill(pid)
	now := r.Moved()
	if now.Epoch != r.Was.Epoch+1 {
		r.Errorf("epoch %d after %d for one crash", now.Epoch, r.Was.Epoch)
	}
}

// crashMuchWAL crashes a primary that would have to replay much: nobody waits for that.
func crashMuchWAL(megabytes int) func(*lab.Round) {
	return func(r *lab.Round) {
		conn, err := r.W.Connect(r.Context(), r.Was.Primary)
		if err != nil {
			r.Fatal(err)
		}
		fill := fmt.Sprintf("CREATE TABLE IF NOT EXISTS lab_filler (n int, words text); INSERT INTO lab_filler SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, %d) n", megabytes*1000)
		if _, err := conn.PgConn().Exec(r.Context(), fill).ReadAll(); err != nil {
			r.Fatal(err)
		}
		_ = conn.Close(r.Context()) // done with
		r.Flows("after the filling")
		said := ""
		for deadline := time.Now().Add(recoverMax); !strings.Contains(said, "now a failover would come first"); time.Sleep(100 * time.Millisecond) {
			if said, err = r.W.Run("database", "explain", "records"); time.Now().After(deadline) {
				r.Fatalf("a restart in place would still come first: %v\n%s", err, said)
			}
		}
		if !strings.Contains(said, "replay its own log since its last checkpoint") || !strings.Contains(said, "a restart in place would take") {
			r.Errorf("it is not said why a restart would take longer: %s", said)
		}
		r.Fault()
		crashServer(r)
		now := r.Moved()
		if len(now.Because) == 0 || !strings.Contains(now.Because[0], "server") {
			r.Errorf("the primary moved because of %q", now.Because)
		}
		r.Flows("at the new primary")
		r.Over()
		ctx, cancel := context.WithTimeout(r.Context(), recoverMax) // all of it is read, from a cold disk
		defer cancel()
		conn, err = r.W.Connect(ctx, now.Primary)
		if err != nil {
			r.Fatalf("count what was filled in: %v", err)
		}
		defer func() { _ = conn.Close(ctx) }() // done with
		var rows int
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM lab_filler").Scan(&rows); err != nil {
			r.Fatalf("count what was filled in: %v", err)
		}
		if rows != megabytes*1000 {
			r.Errorf("%d rows of %d that were acknowledged are there", rows, megabytes*1000)
		}
		if _, err := conn.Exec(ctx, "DROP TABLE lab_filler"); err != nil {
			r.Errorf("remove what was filled in: %v", err)
		}
	}
}

// powerOff takes the power from the primary's host, and gives it back when writes flow again.
func powerOff(r *lab.Round) {
	r.Fault()
	r.W.PowerOff(r.Was.Primary)
	r.Moved()
	r.Flows("without the host")
	r.Over()
	r.W.Net.Heal()
	r.W.PowerOn(r.Was.Primary)
}

// standbyOff takes the power from a standby's host.
func standbyOff(r *lab.Round) {
	far := r.Standbys()[0]
	r.Fault()
	r.W.PowerOff(far)
	r.W.Await(far+" does not count", recoverMax, func(st api.Status) bool { return !counts(st, far) })
	r.Flows("without the standby")
	r.Hold(10 * time.Second)
	r.Over()
	r.W.Net.Heal()
	r.W.PowerOn(far)
	r.Unmoved()
}

// primaryAndStandbyOff takes two hosts of three: the last one may lack what the others acknowledged, so nobody is
// promoted, and it is said who is missing.
func primaryAndStandbyOff(r *lab.Round) {
	lost := []string{r.Was.Primary, r.Standbys()[0]}
	r.Fault()
	for _, h := range lost {
		r.W.PowerOff(h)
	}
	last := r.Standbys()[1]
	r.W.Await("it is said that no majority is left", recoverMax, func(st api.Status) bool {
		said := false
		for _, p := range st.Problems {
			said = said || p.Code == "cluster.unreachable" || p.Code == "database.no-candidate"
		}
		return said && st.From == last
	})
	r.Hold(12 * time.Second)
	var recovering bool
	if err := r.Answer(last, "SELECT pg_is_in_recovery()", &recovering); err == nil {
		r.Errorf("the last host serves clients (in recovery: %t)", recovering)
	}
	r.Over()
	r.W.Net.Heal()
	for _, h := range lost {
		r.W.PowerOn(h)
	}
}

// primaryAndStandbyOfFiveOff takes both hosts of three that acknowledged, while a majority of etcd is left: nobody is promoted, and
// the alarm says whose commits may be missing, and how to force it.
func primaryAndStandbyOfFiveOff(r *lab.Round) {
	lost, last := []string{r.Was.Primary, r.Standbys()[0]}, r.Standbys()[1]
	r.Fault()
	for _, h := range lost {
		r.W.PowerOff(h)
	}
	off := r.Since()
	var alarm problem.Problem
	r.W.Await("it is said that nobody may be promoted", recoverMax, func(st api.Status) bool {
		i := slices.IndexFunc(st.Problems, func(p problem.Problem) bool { return p.Code == "database.no-candidate" })
		if i >= 0 {
			alarm = st.Problems[i]
		}
		return i >= 0
	})
	if !strings.Contains(alarm.Meaning, lost[1]) || !strings.Contains(alarm.Remedy, "holdfast database failover records --force --dry-run") {
		r.Errorf("the alarm names neither %s nor the forced way: %s", lost[1], alarm.Text())
	}
	if out, err := r.W.Run("database", "failover", "records", "--force", "--dry-run"); err != nil || !strings.Contains(out, last) {
		r.Errorf("the forced way is not shown: %v\n%s", err, out)
	}
	r.Hold(off + 12*time.Second)
	if n := r.AcknowledgedSince(r.FaultAt().Add(off)); n > 0 {
		r.Errorf("%d rows were acknowledged by the standby that is left", n)
	}
	r.Over()
	r.W.Net.Heal()
	for _, h := range lost {
		r.W.PowerOn(h)
	}
}

// primaryAndOneOfThreeOff takes the primary and one standby of three, two of which must hold a commit: the two that are
// left hold everything, so one takes over; with one standby instead of two, strictly, its commits wait.
func primaryAndOneOfThreeOff(r *lab.Round) {
	lost := []string{r.Was.Primary, r.Standbys()[0]}
	r.Fault()
	for _, h := range lost {
		r.W.PowerOff(h)
	}
	now := r.W.Await("one of the two that are left is the primary", recoverMax, func(st api.Status) bool {
		return st.Databases[0].Primary != r.Was.Primary && st.Databases[0].Epoch > r.Was.Epoch && st.Databases[0].Phase == "steady"
	}).Databases[0]
	took := r.Since()
	r.Hold(took + 8*time.Second)
	if again := r.W.Await("one primary", recoverMax, func(api.Status) bool { return true }).Databases[0]; again.Primary != now.Primary || again.AcknowledgedBy != 2 {
		r.Errorf("%s after %s; a commit is acknowledged by %d", again.Primary, now.Primary, again.AcknowledgedBy)
	}
	if n := r.AcknowledgedSince(r.FaultAt().Add(took)); n > 0 {
		r.Errorf("%d rows were acknowledged where one standby is left of the two that must hold them", n)
	}
	r.Logf("%s took over after %.1f s", now.Primary, took.Seconds())
	r.Over()
	r.W.Net.Heal()
	for _, h := range lost {
		r.W.PowerOn(h)
	}
}

// relaxed makes a plan let fewer standbys acknowledge when some are gone.
func relaxed(text string) string {
	return strings.Replace(text, "    acknowledged_by:", "    policy: relaxed\n    acknowledged_by:", 1)
}

// primaryAndOneOfThreeOffRelaxed takes as much where the policy is relaxed: writes go on, held by the one standby that is left,
// and that is said until the others are back.
func primaryAndOneOfThreeOffRelaxed(r *lab.Round) {
	const fewer = "database.acknowledged-by-fewer"
	lost := []string{r.Was.Primary, r.Standbys()[0]}
	r.Fault()
	for _, h := range lost {
		r.W.PowerOff(h)
	}
	now := r.Moved()
	r.Flows("with one standby of the two that the plan wants")
	r.Logf("%s took over, and writes flow after %.1f s", now.Primary, r.Since().Seconds())
	st := r.W.Await("it is said that fewer acknowledge", recoverMax, func(st api.Status) bool { return slices.Contains(codes(st), fewer) })
	left := st.Databases[0]
	counted := 0
	for _, s := range left.Servers {
		if s.Role == "standby" && s.Counts && !slices.Contains(lost, s.Host) {
			counted++
		}
	}
	if left.AcknowledgedBy != 1 || counted != 1 {
		r.Errorf("a commit is acknowledged by %d, and %d standbys that live count: both were to be 1", left.AcknowledgedBy, counted)
	}
	r.Over()
	r.W.Net.Heal()
	for _, h := range lost {
		r.W.PowerOn(h)
	}
	again := r.W.Await("two acknowledge again, and nothing is said any more", recoverMax, func(st api.Status) bool {
		return lab.Well(st) && st.Databases[0].AcknowledgedBy == 2 && !slices.Contains(codes(st), fewer)
	}).Databases[0]
	if again.Epoch != r.Was.Epoch+1 {
		out, err := r.W.Run("history")
		r.Logf("epoch %d after %d: %v\n%s", again.Epoch, r.Was.Epoch, err, out)
	}
}

// stopKeeper pauses the keeper of the primary's server, which lives on.
func stopKeeper(r *lab.Round) {
	keeper := keeperOf(r, r.W, r.Was.Primary, "/db/records/keep/")
	r.Fault()
	r.W.Pause(keeper)
	r.Moved()
	r.Flows("at the new primary")
	r.Over()
	if err := syscall.Kill(keeper, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
		r.Error(err)
	}
}

// stopAgent pauses the agent of the primary's host: nobody extends its lease.
func stopAgent(r *lab.Round) {
	agents := r.W.Running(r.Was.Primary, "agent")
	r.Fault()
	r.W.Pause(agents...)
	r.Moved()
	r.Flows("at the new primary")
	r.Hold(12 * time.Second)
	r.Over()
	r.W.Resume(agents...)
}

// freeze stops everything on the primary's host for a while, its kernel too; when it goes on its links are whole at once,
// as those of a virtual machine that was paused.
func freeze(long time.Duration) func(*lab.Round) {
	return func(r *lab.Round) {
		r.Fault()
		r.W.Net.Isolate(r.Was.Primary)
		r.W.Freeze(r.Was.Primary)
		r.Hold(long)
		r.W.Net.Heal()
		r.W.Thaw(r.Was.Primary)
		r.W.Await("well", recoverMax, lab.Well)
		r.Over()
		if now, err := r.W.Status(); err != nil || now.Databases[0].Epoch > r.Was.Epoch+1 {
			r.Errorf("more than one change of primary: %v, %+v", err, now.Databases)
		}
	}
}

// standbyStuck pauses a standby's server, which then neither flushes nor replays.
func standbyStuck(r *lab.Round) {
	far := r.Standbys()[0]
	server := r.W.Server(far)
	r.Fault()
	r.W.Pause(server...)
	r.W.Await(far+" does not count", recoverMax, func(st api.Status) bool { return !counts(st, far) })
	r.Flows("without the standby")
	r.Over()
	r.W.Resume(server...)
	r.Unmoved()
}

// starve lets twenty times as many programs compute as there are cores.
func starve(long time.Duration) func(*lab.Round) {
	return func(r *lab.Round) {
		r.Fault()
		var hogs sync.WaitGroup
		defer hogs.Wait()
		for range 20 * runtime.NumCPU() {
			cmd := exec.CommandContext(r.Context(), "timeout", fmt.Sprint(int(long.Seconds())), "sh", "-c", "while :; do :; done")
			if err := cmd.Start(); err != nil {
				r.Fatal(err)
			}
			hogs.Go(func() { _ = cmd.Wait() }) // it is ended by its time
		}
		r.Hold(long)
		r.Over()
		r.Unmoved()
	}
}

// memoryRoom is what is left to each host that is short of memory. However much it is, it is used up all the time; what the
// host's programs come to need meanwhile must fit into it, else the kernel ends one of them.
const memoryRoom = 256 << 20

// fewRefusals is how often each second, at least, memory must have been asked for in vain for it to have been short.
const fewRefusals = 10

// starveOfMemory lets memory be short on every host.
func starveOfMemory(long time.Duration) func(*lab.Round) {
	return func(r *lab.Round) {
		was := map[string]int64{}
		for _, h := range r.W.Hosts {
			was[h] = r.W.MemoryRefusals(h)
		}
		r.Fault()
		for _, h := range r.W.Hosts {
			defer r.W.ShortOfMemory(h, memoryRoom).End()
		}
		r.Hold(long)
		r.Over()
		for _, h := range r.W.Hosts {
			n := r.W.MemoryRefusals(h) - was[h]
			r.Logf("on %s memory was asked for in vain %d times", h, n)
			if n < fewRefusals*int64(long.Seconds()) {
				r.Errorf("the memory of %s was not short: it was asked for in vain %d times", h, n)
			}
		}
		r.Unmoved()
	}
}

// agentsRestart ends every agent in turn, as an upgrade does, and the etcd member beside each.
func agentsRestart(r *lab.Round) {
	r.Fault()
	for _, h := range r.W.Hosts {
		for _, word := range []string{"agent", "etcd-member"} {
			// A keeper names its child among its arguments; it is not what is meant.
			killed := slices.DeleteFunc(r.W.Running(h, word), isKeeper)
			if len(killed) == 0 {
				r.Fatalf("no %s runs on %s", word, h)
			}
			for _, pid := range killed {
				r.W.Kill(pid)
			}
			r.W.Await("another "+word+" runs on "+h, recoverMax, func(st api.Status) bool {
				others := slices.DeleteFunc(r.W.Running(h, word), func(pid int) bool { return slices.Contains(killed, pid) || isKeeper(pid) })
				return len(others) > 0 && answers(st, h) && lab.Well(st)
			})
		}
	}
	r.Over()
	r.Served()
	r.Unmoved()
}

// switchover moves the primary on purpose.
func switchover(r *lab.Round) {
	to := r.Standbys()[0]
	r.W.AwaitFit(to, recoverMax)
	r.Fault()
	if out, err := r.W.Run("database", "switchover", "records", "--to", to, "--yes"); err != nil {
		r.Fatalf("switchover: %v\n%s", err, out)
	}
	now := r.W.Await(to+" is the primary", recoverMax, func(st api.Status) bool {
		d := st.Databases[0]
		return d.Open && d.Primary == to
	})
	if got := now.Databases[0].Epoch; got != r.Was.Epoch+1 {
		r.Errorf("epoch %d after %d", got, r.Was.Epoch)
	}
}

// targetDies takes the power from a switchover's target at some moment after it was asked for.
func targetDies(r *lab.Round) {
	to := r.Standbys()[0]
	asked := make(chan string, 1)
	r.Fault()
	go func() {
		out, err := r.W.Run("database", "switchover", "records", "--to", to, "--yes")
		asked <- fmt.Sprintf("%v %s", err, strings.TrimSpace(out))
	}()
	r.Hold(r.Point)
	r.W.PowerOff(to)
	r.Flows("without the target")
	r.Over()
	r.Logf("the switchover said: %s", <-asked)
	r.W.Net.Heal()
	r.W.PowerOn(to)
}

// steps are the moments at which a switchover's target dies.
func steps(all bool) []time.Duration {
	every := 400 * time.Millisecond
	if all {
		every = 50 * time.Millisecond
	}
	var points []time.Duration
	for at := time.Duration(0); at <= 1200*time.Millisecond; at += every {
		points = append(points, at)
	}
	return points
}

func isKeeper(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err != nil || strings.Contains(string(line), "\x00keeper\x00")
}
