package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/agent"
	"holdfast/internal/auth"
	"holdfast/internal/cluster"
	"holdfast/internal/cluster/memory"
	"holdfast/internal/database"
	"holdfast/internal/event"
	"holdfast/internal/problem"
)

// served is an API behind real certificates, with a client for an operator and one for a host.
type served struct {
	shared         *memory.Shared
	store          *memory.Store
	url            string
	operator, host *http.Client
	client         *Client
}

func serve(t *testing.T, self string) *served {
	t.Helper()
	return serveWith(t, self, func(*Source) {})
}

// serveWith lets a test change what the API speaks for.
func serveWith(t *testing.T, self string, change func(*Source)) *served {
	t.Helper()
	ca, err := auth.CreateAuthority(filepath.Join(t.TempDir(), "ca"), "clinic")
	if err != nil {
		t.Fatal(err)
	}
	dirOf := func(c auth.HostCert) string {
		dir := t.TempDir()
		if err := ca.WriteHost(dir, c); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	hostDir, adminDir := dirOf(auth.HostCert{Name: "b1", DNSNames: []string{"api.test"}}), dirOf(auth.HostCert{Name: "ann", Role: auth.Admin})
	out := &served{shared: memory.New()}
	out.store = out.shared.Open("b1")
	t.Cleanup(func() { _ = out.store.Close() }) // in memory: it cannot fail
	src := Source{
		Plan: clinic(), Self: self, Store: out.store, Snapshot: allWell().snapshot,
		Events:  func() []event.Event { return []event.Event{{What: "standby promoted"}} },
		Members: func() []string { return []string{"b1", "b3"} },
		Policy:  func(string) database.Policy { return database.Policy{Name: "records", Times: database.DefaultTimes()} },
		Log:     slog.New(slog.DiscardHandler),
	}
	change(&src)
	srv := httptest.NewUnstartedServer(Handler(src))
	if srv.TLS, err = auth.ServerTLS(hostDir); err != nil {
		t.Fatal(err)
	}
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	out.url = srv.URL
	as := func(dir string) *http.Client {
		conf, err := auth.ClientTLS(dir, "api.test")
		if err != nil {
			t.Fatal(err)
		}
		tr := &http.Transport{TLSClientConfig: conf}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: 2 * time.Minute}
	}
	out.operator, out.host = as(adminDir), as(hostDir)
	conf, err := auth.ClientTLS(adminDir, "api.test")
	if err != nil {
		t.Fatal(err)
	}
	out.client = NewClient([]string{strings.TrimPrefix(srv.URL, "https://")}, conf)
	t.Cleanup(out.client.Close)
	return out
}

// do asks and gives the status with the body.
func (s *served) do(t *testing.T, who *http.Client, method, path, body string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := who.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, data
}

const switchover = `{"room":"database","subject":"records","kind":"switchover","args":{"to":"b2"}}`

func TestWhatIsRefusedIsNotWritten(t *testing.T) {
	s := serve(t, "b1")
	for _, c := range []struct {
		name         string
		who          *http.Client
		method, path string
		body         string
		status       int
		code         string
	}{
		{"an unknown database", s.operator, "POST", "/v1/requests", `{"room":"database","subject":"orders","kind":"switchover"}`, 422, "api.unknown"},
		{"an unknown host", s.operator, "POST", "/v1/requests", strings.Replace(switchover, "b2", "b9", 1), 422, "api.unknown"},
		{"an unknown kind", s.operator, "POST", "/v1/requests", strings.Replace(switchover, "switchover", "drop", 1), 422, "api.unknown"},
		{"a kind of another room", s.operator, "POST", "/v1/requests", `{"room":"backup","subject":"records","kind":"switchover"}`, 422, "api.unknown"},
		{"an unknown room", s.operator, "POST", "/v1/requests", `{"room":"vault","subject":"records","kind":"base"}`, 422, "api.unknown"},
		{"a field that nobody knows", s.operator, "POST", "/v1/requests", `{"room":"backup","subject":"records","kind":"base","force":true}`, 400, "api.bad-request"},
		{"no JSON", s.operator, "POST", "/v1/requests", `please`, 400, "api.bad-request"},
		{"more than a request may hold", s.operator, "POST", "/v1/requests", `{"by":"` + strings.Repeat("x", requestMax) + `"}`, 400, "api.bad-request"},
		{"a host asks", s.host, "POST", "/v1/requests", switchover, 403, "api.not-an-operator"},
		{"a host stops everything", s.host, "PUT", "/v1/stopping", "", 403, "api.not-an-operator"},
		{"a host takes a stop back", s.host, "DELETE", "/v1/stopping", "", 403, "api.not-an-operator"},
		{"a host reads what was asked", s.host, "GET", "/v1/requests/x", "", 403, "api.not-an-operator"},
		{"a request that nobody made", s.operator, "GET", "/v1/requests/x", "", 404, "api.unknown"},
		{"candidates of an unknown database", s.host, "GET", "/v1/databases/orders/candidates", "", 404, "api.unknown"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body := s.do(t, c.who, c.method, c.path, c.body)
			var p problem.Problem
			if err := json.Unmarshal(body, &p); err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			if status != c.status || p.Code != c.code || p.Title == "" || p.Remedy == "" {
				t.Errorf("status %d, problem %+v; want %d, %s", status, p, c.status, c.code)
			}
			if rev := s.shared.Revision(); rev != 0 {
				t.Errorf("it was refused, and something was written (revision %d)", rev)
			}
		})
	}
}

func TestAHostMayLook(t *testing.T) {
	s := serve(t, "b1")
	status, body := s.do(t, s.host, "GET", "/v1/status", "")
	var st Status
	if err := json.Unmarshal(body, &st); err != nil || status != 200 {
		t.Fatalf("status %d: %v", status, err)
	}
	member := map[string]bool{}
	for _, h := range st.Hosts {
		member[h.Name] = h.Member
	}
	if diff := cmp.Diff(map[string]bool{"b1": true, "b2": false, "b3": true}, member); diff != "" {
		t.Errorf("members by gossip:\n%s", diff)
	}
	if status, body := s.do(t, s.host, "GET", "/v1/events", ""); status != 200 || !strings.Contains(string(body), "standby promoted") {
		t.Errorf("status %d: %s", status, body)
	}
	t.Run("nobody without a certificate does", func(t *testing.T) {
		bare := s.host.Transport.(*http.Transport).Clone()
		bare.TLSClientConfig.GetClientCertificate = nil
		defer bare.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), "GET", s.url+"/v1/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: bare}).Do(req)
		if err == nil {
			_ = resp.Body.Close() // the answer itself is the fault
			t.Errorf("it was answered: %s", resp.Status)
		}
	})
}

func TestARequestFromAskingToItsAnswer(t *testing.T) {
	s := serve(t, "b1")
	asked, err := s.client.Ask(t.Context(), agent.Asked{
		ID: "mine", Room: "database", Subject: "records", Kind: "switchover", Args: map[string]string{"to": "b2"}, By: "somebody else", Host: "b9", Progress: "done",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := agent.Asked{ID: asked.ID, Room: "database", Subject: "records", Kind: "switchover", Args: map[string]string{"to": "b2", agent.ArgAsked: asked.Args[agent.ArgAsked]}, By: "ann"}
	if asked.ID == "mine" || len(asked.ID) != 16 {
		t.Errorf("the id is %q; the agent gives it", asked.ID)
	}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Errorf("what was taken:\n%s", diff)
	}
	entry, err := s.store.Get(t.Context(), agent.KeyRequests+asked.ID)
	var kept agent.Asked
	if err := errors.Join(err, json.Unmarshal(entry.Value, &kept)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, kept); diff != "" {
		t.Errorf("what lies in the store:\n%s", diff)
	}
	if status, body := s.do(t, s.operator, "GET", "/v1/requests/"+asked.ID, ""); status != 202 || !strings.Contains(string(body), asked.ID) {
		t.Errorf("while it is open: status %d, %s", status, body)
	}
	answer := agent.Settled{ID: asked.ID, OK: true, Text: "b2 is the primary", Host: "b2"}
	seen := 0
	got, err := s.client.Wait(t.Context(), asked.ID, func(q agent.Asked) {
		if seen++; seen > 1 {
			return
		}
		value, err := json.Marshal(answer)
		if err == nil {
			_, err = s.store.Put(context.Background(), agent.KeyAnswers+asked.ID, value, 0)
		}
		if err != nil || q.ID != asked.ID {
			t.Errorf("progress of %q: %v", q.ID, err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(answer, got); diff != "" || seen == 0 {
		t.Errorf("%d words on the way, then:\n%s", seen, diff)
	}
	if status, _ := s.do(t, s.operator, "GET", "/v1/requests/"+asked.ID, ""); status != 200 {
		t.Errorf("when it is settled: status %d", status)
	}
}

// betweenLookAndDeletion is a store in which something happens once the key of a stop was read for the first time. blind: the
// second look at it has no answer.
type betweenLookAndDeletion struct {
	cluster.Store
	happens func() error
	blind   bool
	looks   int
}

func (b *betweenLookAndDeletion) Get(ctx context.Context, key string) (cluster.Entry, error) {
	if key != agent.KeyStopping {
		return b.Store.Get(ctx, key)
	}
	b.looks++
	if b.looks == 2 && b.blind {
		return cluster.Entry{}, cluster.ErrUnavailable
	}
	e, err := b.Store.Get(ctx, key)
	if b.looks == 1 {
		err = errors.Join(err, b.happens())
	}
	return e, err
}

func TestAStopThatIsWrittenAnewIsNotTakenBack(t *testing.T) {
	stop := func(s cluster.Store) error {
		_, err := s.Set(t.Context(), agent.KeyStopping, []byte(`true`))
		return err
	}
	for name, c := range map[string]struct {
		happens func(cluster.Store) error
		blind   bool
		code    string // of what whoever takes it back is told; "" = that it is taken back
	}{
		"it is stopped once more":                                      {stop, false, "cluster.stopping-again"},
		"it is stopped once more, and the agreed state is away for it": {stop, true, "cluster.stopping-again"},
		"somebody else takes it back": {func(s cluster.Store) error {
			e, err := s.Get(t.Context(), agent.KeyStopping)
			return errors.Join(err, s.Delete(t.Context(), agent.KeyStopping, e.Revision))
		}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var between *betweenLookAndDeletion
			s := serveWith(t, "b1", func(src *Source) {
				inner := src.Store
				between = &betweenLookAndDeletion{Store: inner, happens: func() error { return c.happens(inner) }, blind: c.blind}
				src.Store = between
			})
			if err := s.client.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.client.urls = append(s.client.urls, s.client.urls[0]) // a next agent, which must not be asked
			stood, err := s.client.Start(t.Context())
			code := ""
			if p := (*problem.Problem)(nil); errors.As(err, &p) {
				code = p.Code
			} else if err != nil {
				t.Fatal(err)
			}
			e, err := s.store.Get(t.Context(), agent.KeyStopping)
			if err != nil || code != c.code || stood != (code == "") || (e.Revision != 0) != (code != "") {
				t.Errorf("it is told %q, that one stood: %t; the key is there: %t; %v", code, stood, e.Revision != 0, err)
			}
		})
	}
}

func TestStoppingIsSetAndTakenBack(t *testing.T) {
	s := serve(t, "b1")
	there := func() bool {
		e, err := s.store.Get(t.Context(), agent.KeyStopping)
		if err != nil {
			t.Fatal(err)
		}
		return e.Revision != 0
	}
	for _, step := range []struct {
		name       string
		set, stood bool // stood is told by whoever takes it back
	}{
		{"taking back what was never said is harmless", false, false},
		{"it is set", true, false},
		{"it is set again", true, false},
		{"it is taken back", false, true},
		{"it is taken back again", false, false},
	} {
		stood, err := false, error(nil)
		if step.set {
			err = s.client.Stop(t.Context())
		} else {
			stood, err = s.client.Start(t.Context())
		}
		if err != nil || there() != step.set || stood != step.stood {
			t.Errorf("%s: %v, the key is there: %v, it stood: %v", step.name, err, there(), stood)
		}
	}
}

func TestAnAgreedStateOutOfReachIsSaid(t *testing.T) {
	s := serve(t, "b1")
	s.shared.Unavailable(true)
	defer s.shared.Unavailable(false)
	for _, path := range []string{"POST /v1/requests", "PUT /v1/stopping", "DELETE /v1/stopping", "GET /v1/requests/x"} {
		method, path, _ := strings.Cut(path, " ")
		status, body := s.do(t, s.operator, method, path, switchover)
		if status != 503 || !strings.Contains(string(body), "cluster.unreachable") {
			t.Errorf("%s %s: status %d, %s", method, path, status, body)
		}
	}
	var p *problem.Problem
	if _, err := s.client.Ask(t.Context(), agent.Asked{Room: "backup", Subject: "records", Kind: "base"}); !errors.As(err, &p) || p.Code != "api.no-agent" {
		t.Errorf("the client says %v", err)
	}
	if status, _ := s.do(t, s.operator, "GET", "/v1/status", ""); status != 200 {
		t.Errorf("nobody may look meanwhile: status %d", status)
	}
}

// cutOffLeader is a store whose server leads etcd and has just lost the others: it answers no read, and keeps a write that it
// cannot agree on until they are back.
type cutOffLeader struct{ cluster.Store }

func (cutOffLeader) Get(context.Context, string) (cluster.Entry, error) {
	return cluster.Entry{}, cluster.ErrUnavailable
}

func (c cutOffLeader) Put(ctx context.Context, key string, value []byte, rev int64) (int64, error) {
	_, err := c.Store.Put(ctx, key, value, rev)
	return 0, errors.Join(cluster.ErrUnavailable, err)
}

func TestARequestThatCannotBeAgreedOnIsNotCarriedOutLater(t *testing.T) {
	s := serveWith(t, "b1", func(src *Source) { src.Store = cutOffLeader{src.Store} })
	if status, body := s.do(t, s.operator, "POST", "/v1/requests", switchover); status != 503 {
		t.Errorf("status %d, %s", status, body)
	}
	if kept, _, err := s.store.List(t.Context(), agent.KeyRequests); err != nil || len(kept) > 0 {
		t.Errorf("it was refused, and waits to be carried out all the same: %v, %v", kept, err)
	}
}

func TestOnlyThePrimarysHostKnowsTheCandidates(t *testing.T) {
	t.Run("the primary's host answers", func(t *testing.T) {
		c, err := serve(t, "b1").client.Candidates(t.Context(), "records")
		if err != nil || c.Primary != "b1" || !c.Open {
			t.Fatalf("%+v: %v", c, err)
		}
		for _, host := range []string{"b2", "b3"} {
			if _, told := c.Refused[host]; !told {
				t.Errorf("nothing is said of %s: %v", host, c.Refused)
			}
		}
	})
	t.Run("another says who does", func(t *testing.T) {
		s := serve(t, "b2")
		status, body := s.do(t, s.operator, "GET", "/v1/databases/records/candidates", "")
		if status != http.StatusMisdirectedRequest || !strings.Contains(string(body), "ask b1") {
			t.Errorf("status %d: %s", status, body)
		}
	})
}

func TestAnyHostExplainsWhoWouldTakeOver(t *testing.T) {
	x, err := serve(t, "b2").client.Explain(t.Context(), "records")
	if err != nil || x.Via != "b2" || x.Needed < 1 || len(x.Others) == 0 && x.Wins == "" {
		t.Fatalf("%+v: %v", x, err)
	}
	if _, err := serve(t, "b2").client.Explain(t.Context(), "nothing"); err == nil {
		t.Fatal("a database that is not there was explained")
	}
}
