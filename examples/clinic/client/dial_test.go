package client_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"holdfast/examples/clinic/client"
)

// Whoever runs the client in a network of its own must be sure that no connection is made around Dial.
func TestEveryConnectionIsMadeByDial(t *testing.T) {
	asked := make(chan string, 1000)
	refused := errors.New("refused by the test")
	const listener = "postgres://clinic@192.0.2.2:5432/clinic?sslmode=disable"
	c, err := client.New(client.Config{
		EdgeURL: "https://example.com:8443", ResolveTo: []string{"192.0.2.1:8443"}, Listeners: []string{listener},
		Dial: func(_ context.Context, _, address string) (net.Conn, error) {
			select {
			case asked <- address:
			default: // enough were seen
			}
			return nil, refused
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- c.Run(run) }()
	for missing := map[string]bool{"192.0.2.1:8443": true, "192.0.2.2:5432": true}; len(missing) > 0; {
		select {
		case address := <-asked:
			delete(missing, address)
		case <-ctx.Done():
			t.Fatalf("never dialled: %v", missing)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := c.Verify(ctx, listener); !errors.Is(err, refused) {
		t.Errorf("verify: got %v, want what Dial said", err)
	}
}
