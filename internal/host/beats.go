package host

import (
	"context"
	"crypto/tls"
	"log/slog"

	"holdfast/internal/agent"
	"holdfast/internal/clock"
	"holdfast/internal/cluster/heartbeat"
	"holdfast/internal/database"
	"holdfast/internal/plan"
)

// beats joins this host's publisher and what it hears of the others' agents and gates.
type beats struct {
	publisher *heartbeat.Publisher
	listener  *heartbeat.Listener
	log       *slog.Logger
}

func newBeats(p *plan.Plan, self string, conf *tls.Config, c clock.Clock, log *slog.Logger) *beats {
	peers := map[string]string{}
	for _, h := range p.AllHosts() {
		if h.Name == self {
			continue
		}
		peers[h.Name] = "https://" + hostPort(h.Address, p.Ports.Agent)
		for _, d := range p.Databases {
			peers[h.Name+"/"+d.Name] = "https://" + hostPort(h.Address, p.Ports.Gate+d.Index)
		}
	}
	b := &beats{
		publisher: heartbeat.NewPublisher(self, c),
		listener:  heartbeat.NewListener(peers, conf, c, heartbeat.Interval, log),
		log:       log,
	}
	heartbeat.Pair(b.publisher, b.listener)
	return b
}

func (b *beats) run(ctx context.Context) error { return b.listener.Run(ctx) }

// Publish implements agent.Beats.
func (b *beats) Publish(payload []byte) {
	if err := b.publisher.Publish(payload); err != nil {
		b.log.Error("report not published", "err", err)
	}
}

// Latest implements agent.Beats.
func (b *beats) Latest() map[string]agent.Beat {
	out := map[string]agent.Beat{}
	for name, x := range b.listener.Latest() {
		if x.Payload == nil {
			continue
		}
		beat := agent.Beat{Payload: x.Payload, Age: x.Age, Contact: x.Contact, Ahead: x.Ahead}
		if x.Contact < 0 {
			beat.Contact = database.Never
		}
		out[name] = beat
	}
	return out
}

// Wake implements agent.Beats.
func (b *beats) Wake() <-chan struct{} { return b.listener.Wake() }
