package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/api"
	"holdfast/internal/local"
	"holdfast/internal/problem"
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

// holdKeeper makes a keeper's directory look as one whose keeper lives.
func holdKeeper(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // gives the lock back
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
}

// An agent that was ended alone leaves all it looks after; that nothing runs is said only where nothing does.
func TestDownNamesWhatRunsWithoutAnAgent(t *testing.T) {
	c := local.Context{Application: "clinic", Plan: "/plans/holdfast.yaml", Root: t.TempDir(), Agents: map[string]string{"b1": "127.62.7.1:1", "b2": "127.62.7.2:1"}}
	var said []string
	say := func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	if err := down(t.Context(), say, c); err != nil || strings.Join(said, "|") != "nothing of clinic runs here" {
		t.Fatalf("where nothing runs it says %q: %v", said, err)
	}
	said = nil
	holdKeeper(t, filepath.Join(local.HostDir(c.Root, "b2"), "keep", "etcd"))
	holdKeeper(t, filepath.Join(local.HostDir(c.Root, "b2"), "db", "records", "keep"))
	holdKeeper(t, filepath.Join(local.HostDir(c.Root, "b2"), "svc", "web", "web.1"))
	var p *problem.Problem
	if err := down(t.Context(), say, c); !errors.As(err, &p) || p.Code != "host.left-running" {
		t.Fatalf("it says %q: %v", said, err)
	}
	if len(said) != 0 || !strings.Contains(p.Title, "b2: database records, etcd, service web.1") || strings.Contains(p.Title, "b1") {
		t.Errorf("it says %q, %q", said, p.Title)
	}
}
