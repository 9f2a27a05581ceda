package api

import (
	"fmt"

	"holdfast/internal/agent"
	"holdfast/internal/plan"
	"holdfast/internal/service"
)

// describeServices joins what is placed with what hosts report of their instances.
func describeServices(p *plan.Plan, self string, s agent.Snapshot) []ServiceStatus {
	var out []ServiceStatus
	for _, svc := range p.Services {
		st := ServiceStatus{Name: svc.Name, Wanted: svc.Instances}
		if svc.Route != nil {
			st.Route = svc.Route.String()
		}
		for _, placed := range s.Facts.Services.Agreed {
			if placed.Service != svc.Name {
				continue
			}
			for _, a := range placed.Assignments {
				i := describeInstance(a, reportOf(self, a.Host, s))
				if i.State == string(service.Ready) {
					st.Ready++
				}
				st.Instances = append(st.Instances, i)
			}
		}
		out = append(out, st)
	}
	return out
}

func describeInstance(a service.Assignment, rep *agent.Report) InstanceStatus {
	out := InstanceStatus{ID: a.ID, Host: a.Host, State: "unknown", Why: "its host does not answer"}
	if rep == nil {
		return out
	}
	out.State, out.Why = "placed", ""
	for _, r := range rep.Instances {
		if r.ID == a.ID {
			out.State, out.Why = string(r.State), r.Why
		}
	}
	if a.Leave {
		out.Why = fmt.Sprintf("leaves this host; %s", out.Why)
	}
	return out
}
