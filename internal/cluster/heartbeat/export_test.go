package heartbeat

import (
	"context"
	"net"
)

// Connecting replaces how a listener reaches the network, before it runs.
func (l *Listener) Connecting(how func(ctx context.Context, network, address string) (net.Conn, error)) {
	l.connect = how
}
