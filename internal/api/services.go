package api

import (
	"holdfast/internal/agent"
	"holdfast/internal/plan"
)

// describeServices is filled from what hosts report of their instances.
func describeServices(p *plan.Plan, s agent.Snapshot) []ServiceStatus { return nil }
