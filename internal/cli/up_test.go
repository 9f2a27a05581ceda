package cli

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/api"
)

// A start waits for a majority, and leaves a stop alone that somebody asks for meanwhile.
func TestUpTakesBackTheLastStopAndNoNewerOne(t *testing.T) {
	for name, c := range map[string]struct {
		then int
		body string
		say  string
	}{
		"the stop is taken back": {http.StatusOK, `true`, ""},
		"it was stopped once more": {http.StatusConflict, `{"code":"cluster.stopping-again","title":"it was stopped once more meanwhile","remedy":"if it shall run: holdfast cluster start"}`,
			"the stop is not taken back: it was stopped once more meanwhile; if it shall run: holdfast cluster start"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if asked.Add(1) == 1 {
					w.WriteHeader(http.StatusServiceUnavailable)
					_, _ = fmt.Fprint(w, `{"code":"cluster.unreachable"}`)
					return
				}
				w.WriteHeader(c.then)
				_, _ = fmt.Fprint(w, c.body)
			}))
			defer srv.Close()
			client := api.NewClient([]string{strings.TrimPrefix(srv.URL, "https://")}, &tls.Config{InsecureSkipVerify: true}) // the certificate is the test's own
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			var said []string
			clearStopping(ctx, client, func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) })
			if n := asked.Load(); n != 2 || strings.Join(said, "|") != c.say || ctx.Err() != nil {
				t.Errorf("asked %d times, %v; said %q", n, ctx.Err(), said)
			}
		})
	}
}
