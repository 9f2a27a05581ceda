package host

import (
	"fmt"
	"time"

	"holdfast/internal/auth"
	"holdfast/internal/cluster/members"
	"holdfast/internal/plan"
)

// leaveMax is how long the others may take to hear that this agent goes on purpose.
const leaveMax = 500 * time.Millisecond

// openMembers takes part in gossip: who is around, and with which version. Nothing is judged from it.
func openMembers(cfg Config, self plan.Host) (*members.List, error) {
	key, err := auth.LoadGossipKey(certDir(cfg.Dir))
	if err != nil {
		return nil, fmt.Errorf("read the key of gossip: %w", err)
	}
	c := members.Config{
		Self: self.Name, Bind: self.Address, Port: cfg.Plan.Ports.Gossip, Key: key, Meta: []byte(cfg.Version), Log: cfg.Log,
	}
	for _, h := range cfg.Plan.AllHosts() {
		c.Seeds = append(c.Seeds, hostPort(h.Address, cfg.Plan.Ports.Gossip))
	}
	return members.Open(c)
}

// memberNames are the hosts that gossip believes alive.
func (h *Host) memberNames() []string {
	var names []string
	for _, m := range h.members.Members() {
		names = append(names, m.Name)
	}
	return names
}
