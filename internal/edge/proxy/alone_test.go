package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"holdfast/internal/event"
)

func TestAHostThatIsCutOffRefusesWhatItCannotAnswer(t *testing.T) {
	s := httptest.NewServer(application("a"))
	t.Cleanup(s.Close)
	e, web, still, raw := startEdge(t, testSpec(t)), freeAddr(t), freeAddr(t), freeAddr(t)
	alone := webRoute(web, s.Listener.Addr().String())
	other := webRoute(still, s.Listener.Addr().String())
	other.Service = "pages"
	tcp := Route{Service: "mail", Scheme: "tcp", Listen: raw, Backends: []Backend{{ID: "m", Address: s.Listener.Addr().String()}}}
	e.apply(t, Snapshot{Revision: 1, Routes: []Route{alone, other, tcp}})
	e.waitUp(t)
	say := func(a Alone) {
		t.Helper()
		if _, err := e.SetAlone(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(addr string) (*http.Response, string) {
		t.Helper()
		resp, err := http.Get("http://" + addr + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(text)
	}

	say(Alone{Services: []string{"web", "mail"}, Why: "this host is cut off", For: event.Duration(time.Hour)})
	resp, text := ask(web)
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, "this host is cut off") || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a request was answered %d %q %v", resp.StatusCode, text, resp.Header)
	}
	if resp, _ := ask(still); resp.StatusCode != http.StatusOK {
		t.Errorf("a service that needs nobody was answered %d", resp.StatusCode)
	}
	// The refusal is a reset, which dialling may see before it has ended, and reading otherwise.
	waitFor(t, "the edge counts the refusal", func() bool {
		if c, err := net.Dial("tcp", raw); err == nil {
			c.SetDeadline(time.Now().Add(patience))
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a connection was led to a backend, or kept: %v", err)
			}
			c.Close()
		}
		return e.status(t).Routes[2].Refused > 0
	})
	if st := e.status(t).Routes[0]; st.Alone == "" || st.Refused == 0 {
		t.Errorf("status says %+v", st)
	}

	say(Alone{})
	if resp, _ := ask(web); resp.StatusCode != http.StatusOK {
		t.Errorf("afterwards a request was answered %d", resp.StatusCode)
	}
	say(Alone{Services: []string{"web"}, Why: "x", For: event.Duration(50 * time.Millisecond)})
	waitFor(t, "what is not said again is forgotten", func() bool {
		resp, _ := ask(web)
		return resp.StatusCode == http.StatusOK
	})
}
