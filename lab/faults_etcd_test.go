package lab_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/api"
	"holdfast/lab"
)

// powerOffLeader is [powerOff] where the dead host leads etcd as well, so that the agreed state must elect first.
func powerOffLeader(r *lab.Round) {
	bringEtcdLead(r, r.Was.Primary)
	powerOff(r)
}

// bringEtcdLead makes one host's etcd member the leader: whoever else leads stands still until another is elected, each
// time with even odds.
func bringEtcdLead(r *lab.Round, host string) {
	for range 20 {
		leader := r.W.EtcdLeader()
		if leader == host {
			return
		}
		r.W.FreezeMembers(leader)
		for deadline := time.Now().Add(recoverMax); !slices.ContainsFunc(r.W.Others(leader), r.W.LeadsEtcd); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				r.Fatalf("nobody leads etcd in place of %s", leader)
			}
		}
		r.W.ThawMembers(leader)
		r.Flows("with another leader of etcd")
	}
	r.Fatalf("etcd's member on %s does not come to lead", host)
}

// whole is how long something lasts when everything is run, else short.
func whole(long, short time.Duration) time.Duration {
	if lab.All() {
		return long
	}
	return short
}

// noMajority stops two of three etcd members for a while, and asks for a change meanwhile: it is refused in words.
func noMajority(long time.Duration) func(*lab.Round) {
	return func(r *lab.Round) {
		r.Fault()
		r.W.FreezeMembers(r.W.Others(r.Was.Primary)...)
		out, err := r.W.Run("database", "switchover", "records", "--yes")
		if err == nil {
			r.Errorf("a switchover without an agreed state was accepted: %s", out)
		}
		if !strings.Contains(out, "agreed state") && !strings.Contains(out, "majority") {
			r.Errorf("the refusal does not say what is missing: %s", out)
		}
		r.Hold(long)
		r.Over()
		r.Served()
		r.W.ThawMembers(r.W.Others(r.Was.Primary)...)
		r.Unmoved()
		time.Sleep(5 * time.Second) // what was refused and kept somewhere all the same is carried out now
		r.Unmoved()
	}
}

// noMajorityThenStandby loses a standby while the agreed state is out of reach: the other one goes on acknowledging. Without that
// one, too, nothing is acknowledged, for nobody can agree on fewer.
func noMajorityThenStandby(r *lab.Round) {
	others := r.W.Others(r.Was.Primary)
	r.W.FreezeMembers(others...)
	r.Fault()
	r.W.PowerOff(others[0])
	r.Flows("with one standby and no majority")
	r.Hold(15 * time.Second)
	st, err := r.W.Status()
	if err != nil {
		r.Fatal(err)
	}
	if d := st.Databases[0]; d.Epoch != r.Was.Epoch || d.ElectionNeeds != r.Was.ElectionNeeds {
		r.Errorf("something was agreed without a majority: epoch %d, %d needed; before %d and %d", d.Epoch, d.ElectionNeeds, r.Was.Epoch, r.Was.ElectionNeeds)
	}
	r.W.PowerOff(others[1])
	blocked := r.Since()
	r.Hold(blocked + 10*time.Second)
	if n := r.AcknowledgedSince(r.FaultAt().Add(blocked)); n > 0 {
		r.Errorf("%d rows were acknowledged without any standby", n)
	}
	r.Over()
	r.W.Net.Heal()
	for _, h := range others {
		r.W.PowerOn(h)
	}
}

// noMajorityThenPrimary crashes the primary while the agreed state is out of reach: nobody is promoted until it is back.
func noMajorityThenPrimary(r *lab.Round) {
	others := r.W.Others(r.Was.Primary)
	r.W.FreezeMembers(others...)
	r.Fault()
	crashServer(r)
	r.Hold(whole(12*time.Second, 6*time.Second)) // with a majority it takes one
	for _, h := range r.W.Hosts {
		var recovering bool
		if err := r.Answer(h, "SELECT pg_is_in_recovery()", &recovering); err == nil {
			r.Errorf("a server answered through %s although nobody could agree on it", h)
		}
	}
	r.W.ThawMembers(others...)
	r.W.Await("a primary", recoverMax, func(st api.Status) bool { return st.Databases[0].Open && st.Databases[0].Epoch > r.Was.Epoch })
}

// leaderChurn takes etcd's leader away every five seconds, for three.
func leaderChurn(long time.Duration) func(*lab.Round) {
	return func(r *lab.Round) {
		r.Fault()
		for at := time.Duration(0); at < long; at += 5 * time.Second {
			leader := r.W.EtcdLeader()
			r.W.FreezeMembers(leader)
			r.Hold(at + 3*time.Second)
			r.W.ThawMembers(leader)
			r.Hold(at + 5*time.Second)
		}
		r.Over()
		r.Served()
		r.Unmoved()
	}
}

// etcdDisk is the size of the disk of a member, most of which are holes: the log takes 64 MB at a time.
const etcdDisk = int64(768 << 20)

// etcdStall is how long a disk of etcd stands still, and etcdStallEvery how often.
const (
	etcdStall      = 3 * time.Second
	etcdStallEvery = 5 * time.Second
)

// etcdDisksStall lets the disk of etcd's leader stand still again and again, so that it can write no log and somebody else
// comes to lead; after that the disks of all members at once, so that nothing at all can be agreed.
func etcdDisksStall(long time.Duration) func(*lab.Round) {
	return func(r *lab.Round) {
		stall := func(hosts []string, bit func() bool) (seen bool) {
			began := time.Now()
			defer r.W.ThawEtcdDisks(hosts...) // also where something fails
			r.W.FreezeEtcdDisks(hosts...)
			for ; time.Since(began) < etcdStall; time.Sleep(50 * time.Millisecond) {
				seen = seen || bit()
			}
			return seen
		}
		r.Fault()
		stalls, led, waited := 0, 0, 0
		for at := time.Duration(0); at < long; at += etcdStallEvery {
			leader := r.W.EtcdLeader()
			if stall([]string{leader}, func() bool { return slices.ContainsFunc(r.W.Others(leader), r.W.LeadsEtcd) }) {
				led++
			}
			stalls++
			r.Hold(at + etcdStallEvery)
		}
		for at := long; at < 2*long; at += etcdStallEvery {
			if stall(r.W.Hosts, agreesOnNothing(r)) {
				waited++
			}
			r.Hold(at + etcdStallEvery)
		}
		r.Over()
		r.Logf("of %d stalls of the leader's disk %d made another member lead; of as many of all disks %d kept what was to be agreed waiting for a second", stalls, led, waited)
		if led == 0 || waited == 0 {
			r.Error("the stalls did not hit what they should")
		}
		r.Served()
		r.Unmoved()
	}
}

// agreesOnNothing reports whether something has waited to be agreed on, in each look of a second.
func agreesOnNothing(r *lab.Round) func() bool {
	var since time.Time
	return func() bool {
		switch waits := slices.ContainsFunc(r.W.Hosts, r.W.EtcdWaits); {
		case !waits:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		}
		return !since.IsZero() && time.Since(since) >= time.Second
	}
}

// membersReplaced takes the data of a member of etcd away for good, first of one that follows, then of the one that leads, and
// has an empty one take each place.
func membersReplaced(r *lab.Round) {
	r.Fault()
	for _, pick := range []func() string{
		func() string { return r.W.Others(r.W.EtcdLeader())[0] },
		r.W.EtcdLeader,
	} {
		host := pick()
		loseMember(r, host)
		r.W.Await("it is said that etcd's data are gone on "+host, recoverMax, func(st api.Status) bool { return slices.Contains(codes(st), "cluster.member-lost") })
		if out, err := r.W.Run("cluster", "replace", host, "--yes"); err != nil {
			r.Fatalf("replace the member on %s: %v\n%s", host, err, out)
		}
		awaitMembers(r, r.W, r.W.Hosts...)
	}
	r.Over()
	r.Served()
	r.Unmoved()
}

// loseMember ends a host's member of etcd and removes its data, as if its disk were gone. Its agent stands still meanwhile,
// for less than anybody minds, so that it starts nothing in between.
func loseMember(r *lab.Round, host string) {
	r.Helper()
	agents := r.W.Running(host, "agent")
	r.W.Pause(agents...)
	defer r.W.Resume(agents...)
	for deadline := time.Now().Add(recoverMax); ; time.Sleep(time.Millisecond) {
		left := r.W.Running(host, "etcd-member") // its keeper, too
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			r.Fatalf("the member on %s does not end: %v", host, left)
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
	if err := os.RemoveAll(r.W.EtcdDirs()[host]); err != nil {
		r.Fatal(err)
	}
}

// oldAgreedState puts etcd back to how it was before something was agreed: an epoch, or within an epoch who votes. It is
// refused, nobody serves, and the newest state put back is all that it takes to go on.
func oldAgreedState(since func(*lab.Round)) func(*lab.Round) {
	return func(r *lab.Round) {
		copies := r.TempDir()
		r.Fault()
		r.W.PowerOffAll()
		keepEtcd(r, filepath.Join(copies, "old"))
		r.W.PowerOnAll()
		r.W.Await("well with what was copied", recoverMax, lab.Well)
		since(r)
		r.W.PowerOffAll()
		keepEtcd(r, filepath.Join(copies, "new"))
		putEtcd(r, filepath.Join(copies, "old"))
		back := time.Now()
		r.W.PowerOnAll()
		st := r.W.Await("the old state is refused", recoverMax, func(st api.Status) bool { return slices.Contains(codes(st), "database.agreed-state-old") })
		for time.Since(back) < 15*time.Second {
			for _, h := range r.W.Hosts {
				var recovering bool
				if err := r.Answer(h, "SELECT pg_is_in_recovery()", &recovering); err == nil {
					r.Fatalf("a server answered through %s under an agreed state from a backup (epoch %d)", h, st.Databases[0].Epoch)
				}
			}
		}
		r.W.PowerOffAll()
		putEtcd(r, filepath.Join(copies, "new"))
		r.W.PowerOnAll()
	}
}

// anotherEpoch is a failover.
func anotherEpoch(r *lab.Round) {
	was := r.W.Await("well", recoverMax, lab.Well).Databases[0]
	r.W.Kill(r.W.PID(was.Primary, "db/records/pgdata/postmaster.pid"))
	r.W.Await("well in another epoch", recoverMax, func(st api.Status) bool { return lab.Well(st) && st.Databases[0].Epoch > was.Epoch })
	r.Flows("in the new epoch")
}

// anotherVoter makes a standby leave and join again, both in one epoch.
func anotherVoter(r *lab.Round) {
	was := r.W.Await("well", recoverMax, lab.Well).Databases[0]
	far := r.W.Others(was.Primary)[0]
	r.W.Net.Cut(was.Primary, far)
	r.W.Await(far+" does not count", recoverMax, func(st api.Status) bool { return !counts(st, far) })
	r.W.Net.Heal()
	r.W.Await("well again", recoverMax, func(st api.Status) bool { return lab.Well(st) && st.Databases[0].Epoch == was.Epoch })
	r.Flows("with all voters")
}

func codes(st api.Status) (all []string) {
	for _, p := range st.Problems {
		all = append(all, p.Code)
	}
	return all
}

func keepEtcd(r *lab.Round, to string) {
	r.Helper()
	for host, dir := range r.W.EtcdDirs() {
		copyTree(r, dir, filepath.Join(to, host))
	}
}

func putEtcd(r *lab.Round, from string) {
	r.Helper()
	for host, dir := range r.W.EtcdDirs() {
		if err := os.RemoveAll(dir); err != nil {
			r.Fatal(err)
		}
		copyTree(r, filepath.Join(from, host), dir)
	}
}

func copyTree(r *lab.Round, from, to string) {
	r.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		r.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		r.Fatal(fmt.Errorf("copy %s: %w: %s", from, err, out))
	}
}
