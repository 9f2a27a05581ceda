package api

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// hostsRefused names why the list of hosts, or who of them holds a member of etcd, may not change as next wants it. What
// may change is taken over by one host after the other (internal/host/hosts.go).
func (s Source) hostsRefused(ctx context.Context, now, next *plan.Plan) *problem.Problem {
	if plan.SameHosts(now, next) {
		return nil
	}
	snap := s.Snapshot()
	gone, come := plan.HostsGone(now, next), plan.HostsCome(now, next)
	if len(gone) > 0 && len(come) > 0 {
		return oneStep(s.Plan.Application, fmt.Sprintf("it adds %s and takes %s away", hostList(come), hostList(gone)),
			"first apply a plan that adds, then move what runs there, then apply one that takes away")
	}
	if why := unfollowed(now, s.Self, snap); why != "" {
		return oneStep(s.Plan.Application, why, "apply again once holdfast status says that all follow one plan; a host that is not to come back is silent, and is not waited for")
	}
	for _, h := range gone {
		if p := s.inUse(ctx, now, h.Name, snap); p != nil {
			return p
		}
	}
	return s.membersRefused(ctx, now, next)
}

func hostList(hosts []plan.Host) string {
	var names []string
	for _, h := range hosts {
		names = append(names, h.Name)
	}
	return strings.Join(names, ", ")
}

func oneStep(application, why, remedy string) *problem.Problem {
	return &problem.Problem{
		Code: "plan.hosts-one-step", Subject: application, Severity: problem.Note,
		Title: "hosts change one step at a time: " + why, Meaning: "Nothing was changed.", Remedy: remedy,
	}
}

// unfollowed names a host that is heard and has another list of hosts than the plan that counts, or cannot take one over.
func unfollowed(now *plan.Plan, self string, snap agent.Snapshot) string {
	want := plan.HostsDigest(now)
	for _, h := range now.AllHosts() {
		switch r := reportOf(self, h.Name, snap); {
		case r == nil || r.Hosts == want:
		case r.Hosts == "":
			return h.Name + " runs a version that cannot take other hosts over"
		default:
			return h.Name + " has not taken over the last change of hosts yet"
		}
	}
	return ""
}

// inUse refuses to take away a host that a database still counts on, or on which a singleton may run: nobody could tell
// when it has ended there.
func (s Source) inUse(ctx context.Context, now *plan.Plan, host string, snap agent.Snapshot) *problem.Problem {
	refuse := func(why, remedy string) *problem.Problem {
		return &problem.Problem{
			Code: "plan.host-in-use", Subject: host, Severity: problem.Note, Title: "it cannot be taken away yet: " + why,
			Meaning: "Nothing was changed.", Remedy: remedy + ", apply that, and take the host away when holdfast status shows it done",
		}
	}
	for _, d := range now.Databases {
		e, err := s.Store.Get(ctx, agent.RecordKey(d.Name))
		var r database.Record
		if err == nil && e.Revision > 0 {
			err = json.Unmarshal(e.Value, &r)
		}
		leaveOut := fmt.Sprintf("leave %s out of databases.%s.hosts and members", host, d.Name)
		switch {
		case err != nil:
			return refuse(fmt.Sprintf("whether database %s counts on it is not known (%v)", d.Name, err), "bring a majority of the hosts back")
		case r.Primary == host || r.SwitchTo == host:
			return refuse("it is the primary of database "+d.Name, fmt.Sprintf("move it (holdfast database switchover %s --to HOST); %s", d.Name, leaveOut))
		case r.Holds(host) || slices.ContainsFunc(r.Voters, func(v database.Voter) bool { return v.Host == host }):
			return refuse("database "+d.Name+" counts on its copy", leaveOut)
		case slices.ContainsFunc(now.DatabasePlacement(d), func(h plan.Host) bool { return h.Name == host }):
			return refuse("the plan that counts wants a copy of database "+d.Name+" on it", leaveOut)
		}
	}
	if p := onlyThere(reportOf(s.Self, host, snap)); p != nil {
		return p
	}
	for _, svc := range now.Services {
		may := slices.ContainsFunc(now.ServiceHosts(svc), func(h plan.Host) bool { return h.Name == host })
		if svc.Singleton() && (may || placedOn(snap, svc.Name, host)) {
			return refuse("service "+svc.Name+", of which only one instance may run, may run on it", fmt.Sprintf("give services.%s.hosts without %s", svc.Name, host))
		}
	}
	return nil
}

// onlyThere refuses to take away a host that says of itself that it alone has something: it ends with that, no command reaches it
// there any more, and nothing brings it elsewhere. A host that is silent says nothing.
func onlyThere(r *agent.Report) *problem.Problem {
	if r == nil {
		return nil
	}
	for _, x := range r.Problems {
		p := &problem.Problem{Code: "plan.host-in-use", Subject: r.Host, Severity: problem.Note, Meaning: "Nothing was changed."}
		switch x.Code {
		case "backup.log-spilled":
			p.Title = "it cannot be taken away yet: log of database " + x.Subject + " lies there alone, and is not in the vault"
			p.Remedy = "bring the vault back: it gets that log by itself; then take the host away. To give that log up: end the agent of the host first"
		case "database.salvage-waits":
			p.Title = "it cannot be taken away yet: commits of database " + x.Subject + " lie there alone, about which nobody has decided"
			p.Remedy = "decide: holdfast database salvage show " + x.Subject + "; then take the host away"
		default:
			continue
		}
		return p
	}
	return nil
}

func placedOn(snap agent.Snapshot, service, host string) bool {
	for _, p := range snap.Facts.Services.Agreed {
		for _, a := range p.Assignments {
			if a.Service == service && a.Host == host {
				return true
			}
		}
	}
	return false
}

// membersRefused refuses to take members of etcd from so many hosts at once that the others could not agree.
func (s Source) membersRefused(ctx context.Context, now, next *plan.Plan) *problem.Problem {
	had, leave := 0, []plan.Host(nil)
	for _, h := range now.HomeSite().EtcdHosts() {
		had++
		if to, ok := next.Host(h.Name); !ok || !to.Etcd {
			leave = append(leave, h)
		}
	}
	refuse := func(why, remedy string) *problem.Problem {
		return &problem.Problem{
			Code: "plan.hosts-majority", Subject: s.Plan.Application, Severity: problem.Note, Title: why, Meaning: "Nothing was changed.", Remedy: remedy,
		}
	}
	if len(leave) > (had-1)/2 {
		return refuse(fmt.Sprintf("the members of etcd on %s would leave at once, %d of %d", hostList(leave), len(leave), had),
			"take them away one after the other; where one host alone keeps a member, first add two hosts")
	}
	if len(leave) == 0 || s.Cluster == nil {
		return nil
	}
	st := s.Cluster.Describe(ctx)
	stay, serve := 0, 0
	for _, x := range st.Seats {
		if x.Role != "voter" || slices.ContainsFunc(leave, func(h plan.Host) bool { return h.Name == x.Host }) {
			continue
		}
		stay++
		if x.Serves {
			serve++
		}
	}
	if !st.Reachable || serve <= stay/2 {
		return refuse(fmt.Sprintf("without the member of etcd on %s too few would serve: %d of %d", hostList(leave), serve, stay),
			"bring the other hosts back first: holdfast cluster status")
	}
	return nil
}
