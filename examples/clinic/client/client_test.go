package client_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
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

// startEdge serves the clinic over TLS, as example.com, on a loopback address.
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
	edge := httptest.NewUnstartedServer(front)
	if err := edge.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	if edge.Listener, err = net.Listen("tcp", "127.45.0.3:0"); err != nil {
		t.Fatal(err)
	}
	edge.StartTLS()
	t.Cleanup(edge.Close)
	return edge
}

// The whole story in small: the client writes on both paths while the server crashes and comes back, with a
// dead address in front of each living one; then rows are taken away behind its back, and it finds out.
func TestClientThroughACrash(t *testing.T) {
	server := pgtest.Start(t)
	edge := startEdge(t, server.URL)
	journal := filepath.Join(t.TempDir(), "outcomes.log")
	c, err := client.New(client.Config{
		EdgeURL:   "https://example.com:8443",
		TLS:       edge.Client().Transport.(*http.Transport).TLSClientConfig,
		ResolveTo: []string{"127.45.0.4:1", edge.Listener.Addr().String()},
		Listeners: []string{"postgres://clinic@127.45.0.4:1/clinic?sslmode=disable", server.URL},
		Timeout:   20 * time.Second,
		LogFile:   journal,
		Log:       slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	practices, err := c.Seed(ctx, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	if n := server.Number(t, `SELECT count(*) FROM appointments WHERE practice_id = $1`, practices[1].ID); n != 3 {
		t.Errorf("the second practice has %d appointments, want 3", n)
	}
	if err := c.UploadAttachments(ctx, practices[0].ID, 5, 10_000); err != nil {
		t.Fatal(err)
	}

	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(running) }()
	recovered := func() {
		t.Helper()
		if err := c.Recovered(ctx); err != nil {
			t.Fatal(err)
		}
	}
	recovered()
	c.Mark("crash")
	server.Crash(t)
	server.Run(t)
	recovered()
	c.Mark("after")
	recovered()

	verdict, err := c.Verify(ctx, server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := verdict.Err(); err != nil {
		t.Error(err)
	}
	if whole, err := c.ReadAttachments(ctx); whole != 5 || err != nil {
		t.Errorf("%d attachments are whole: %v", whole, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}

	phases := c.Phases()
	if len(phases) != 3 || phases[1].Name != "crash" {
		t.Fatalf("phases: %+v", phases)
	}
	crash := phases[1].Paths
	if crash[client.ListenerWrite].Failed == 0 {
		t.Errorf("the crash ended the session, and no failed commit was counted: %+v", crash[client.ListenerWrite])
	}
	for _, p := range []client.Path{client.EdgeWrite, client.EdgeRead} {
		if f := crash[p]; f.Failed != 0 || f.Acknowledged == 0 {
			t.Errorf("%s: the application waits for its database, yet clients saw %+v", p, f)
		}
	}
	if c.FailedConnects() == 0 {
		t.Error("the dead listener was never tried")
	}
	total := 0
	for _, p := range phases {
		for _, f := range p.Paths {
			total += f.Acknowledged + f.Failed
		}
	}
	text, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(text), "\n"); lines != total {
		t.Errorf("the log has %d lines for %d outcomes", lines, total)
	}

	server.Exec(t, `DELETE FROM numbered_rows WHERE number = 1`)
	server.Exec(t, `DELETE FROM load_rows WHERE number = 1`)
	server.Exec(t, `INSERT INTO load_rows (client, number)
		SELECT client, number FROM load_rows WHERE client = $1 ORDER BY number DESC LIMIT 1`, c.Name())
	server.Exec(t, `INSERT INTO numbered_rows (client, number) VALUES ($1, 1000000)`, c.Name())
	verdict, err = c.Verify(ctx, server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if verdict.Lost() != 2 || verdict.Err() == nil {
		t.Errorf("two rows were taken away, the verdict is %+v", verdict)
	}
	for _, p := range verdict.Paths {
		if p.Path == client.ListenerWrite && len(p.Duplicated) != 1 || p.Path == client.EdgeWrite && len(p.Strangers) != 1 {
			t.Errorf("a twin and a stranger were put in, the verdict is %+v", p)
		}
	}
	// Content and hash changed together fool the application, but not whoever knows what was sent.
	server.Exec(t, `UPDATE attachments SET content = 'x', sha256 = sha256('x') WHERE id = (SELECT min(id) FROM attachments)`)
	if whole, err := c.ReadAttachments(ctx); whole != 4 || err == nil {
		t.Errorf("one attachment was exchanged, %d are whole: %v", whole, err)
	}
}

func TestACancelledWaitIsNotAnAcknowledgement(t *testing.T) {
	server := pgtest.Start(t)
	c, err := client.New(client.Config{Listeners: []string{server.URL}, Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	if err := c.Recovered(ctx); err != nil {
		t.Fatal(err)
	}
	c.Mark("cancelled")
	server.Exec(t, `ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (nobody)'`)
	server.Exec(t, `SELECT pg_reload_conf()`)
	server.Await(t, 1, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`)
	server.Exec(t, `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`)
	server.Exec(t, `ALTER SYSTEM RESET synchronous_standby_names`)
	server.Exec(t, `SELECT pg_reload_conf()`)
	if err := c.Recovered(ctx); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := c.Phases()[1].Paths[client.ListenerWrite].Kinds["unacknowledged"]; n == 0 {
		t.Errorf("no commit counted as unacknowledged: %+v", c.Phases()[1])
	}
}

func TestNewNamesEveryBadField(t *testing.T) {
	_, err := client.New(client.Config{EdgeURL: "clinic.example/x", EdgeReads: -1, Listeners: []string{"port=none"}})
	if err == nil {
		t.Fatal("all of it was accepted")
	}
	for _, part := range []string{"EdgeURL", "EdgeReads", "listener 1"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s is not named in: %v", part, err)
		}
	}
}
