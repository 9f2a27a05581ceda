package client_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/examples/clinic/client"
	"holdfast/examples/clinic/pgtest"
	"holdfast/examples/clinic/store"
	"holdfast/examples/clinic/web"
)

// startEdge serves the clinic over TLS on a loopback address and returns its trust and address.
func startEdge(t *testing.T, url string) *httptest.Server {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	s, err := store.Open(store.Config{URL: url, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	front, err := web.New(web.Config{Store: s, Deadline: 20 * time.Second, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	front.Ready()
	server := httptest.NewUnstartedServer(front)
	if err := server.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	if server.Listener, err = net.Listen("tcp", "127.45.0.3:0"); err != nil {
		t.Fatal(err)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// The whole story in small: a client writes through both paths while the server crashes and comes back.
func TestClientThroughACrash(t *testing.T) {
	server := pgtest.Start(t)
	edge := startEdge(t, server.URL)
	trust := edge.Client().Transport.(interface{ Clone() any })
	_ = trust
}
