package gate

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The heartbeat is the gate's own sign of life: it is answered while the agent is away.
func TestTheHeartbeatIsServedBesideTheClients(t *testing.T) {
	certs := httptest.NewUnstartedServer(nil)
	certs.StartTLS()
	defer certs.Close()

	spec := testSpec(t)
	spec.BeatListen = freeAddr(t)
	cfg := Config{Spec: spec, Log: discard(),
		Beats:    http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "alive") }),
		BeatsTLS: &tls.Config{Certificates: certs.TLS.Certificates},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	client := certs.Client()
	client.Transport.(*http.Transport).TLSClientConfig.ServerName = "example.com" // what httptest certifies
	var text []byte
	waitFor(t, "the heartbeat is answered", func() bool {
		resp, err := client.Get("https://" + spec.BeatListen + "/")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, err = io.ReadAll(resp.Body)
		return err == nil
	})
	if string(text) != "alive" {
		t.Errorf("answered %q", text)
	}
	client.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestASpecNamesAllItLacks(t *testing.T) {
	err := Run(t.Context(), Config{Spec: Spec{BeatListen: "127.43.0.1:1"}})
	if err == nil {
		t.Fatal("ran without a spec")
	}
	for _, want := range []string{"database", "listen is empty", "control", "state_file", "beat_listen", "logger"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}
