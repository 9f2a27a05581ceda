package lab_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"holdfast/lab"
)

// refusesAlone waits until the balancer of a host that is cut off tells its clients so, instead of letting them wait
// for a service that cannot answer.
func refusesAlone(t *testing.T, w *lab.World, host string) {
	t.Helper()
	conf := w.TLS()
	conf.ServerName = "clinic.localhost"
	web := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{
		TLSClientConfig: conf, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return w.Net.Dial(host)(ctx, network, net.JoinHostPort(w.Address[host], "8443"))
		},
	}}
	last := ""
	for deadline := time.Now().Add(recoverMax); time.Now().Before(deadline); pauseFor(t.Context(), 100*time.Millisecond) {
		resp, err := web.Get("https://clinic.localhost/")
		if err != nil {
			last = err.Error()
			continue
		}
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close() // read, or broken
		if err == nil && resp.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(text), "cut off") {
			return
		}
		last = resp.Status
	}
	t.Errorf("the balancer beside a cut-off primary does not refuse: %s", last)
}
