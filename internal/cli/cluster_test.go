package cli

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"holdfast/internal/api"
	"holdfast/internal/problem"
)

func TestAHostThatKeepsNoMemberIsTakenInByItsOwnWord(t *testing.T) {
	voter := api.SeatStatus{Host: "h1", Role: "voter", Serves: true}
	with := func(more ...api.ClusterStatus) []api.ClusterStatus {
		return append([]api.ClusterStatus{{Host: "h1", ClusterID: "7", Reachable: true, Seats: []api.SeatStatus{voter}}}, more...)
	}
	for _, c := range []struct {
		name string
		all  []api.ClusterStatus
		want string // contained; "" = it is waited on
	}{
		{"it does not answer yet", with(), ""},
		{"it is written off still", with(api.ClusterStatus{Host: "h4", ClusterID: "7", Reachable: true, WrittenOff: "rebuilt without it"}), ""},
		{"it reaches nobody yet", with(api.ClusterStatus{Host: "h4", ClusterID: "7"}), ""},
		{"it reaches the cluster of before", with(api.ClusterStatus{Host: "h4", ClusterID: "5", Reachable: true}), ""},
		{"it is in", with(api.ClusterStatus{Host: "h4", ClusterID: "7", Reachable: true}), "h4 takes part again"},
	} {
		if got := takenIn(c.all, "h4"); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	// A member that has its seat and does not serve is waited for, whatever its host's agent reaches through the others.
	all := with(api.ClusterStatus{Host: "h2", ClusterID: "7", Reachable: true})
	all[0].Seats = append(all[0].Seats, api.SeatStatus{Host: "h2", Role: "learner"})
	if got := takenIn(all, "h2"); got != "" {
		t.Errorf("an empty member that does not serve: %q", got)
	}
}

// A dry run of a replacement that would be refused is refused with the same words.
func TestADryReplacementRefusesAsTheRealOne(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.URL.Path == "/v1/cluster/replace/h2" {
			w.WriteHeader(http.StatusConflict)
			_ = json.NewEncoder(w).Encode(problem.Problem{Code: "cluster.seat-lives", Title: "it serves", Meaning: "m", Remedy: "r"})
			return
		}
		_ = json.NewEncoder(w).Encode(api.ClusterStatus{Host: "h1", Seats: []api.SeatStatus{{Host: "h2", Role: "voter", Serves: true}}})
	}))
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	client := api.NewClient([]string{strings.TrimPrefix(srv.URL, "https://")}, &tls.Config{RootCAs: roots})
	defer client.Close()
	cmd, out := clusterReplaceCommand(), &bytes.Buffer{}
	cmd.SetOut(out)
	cmd.SetContext(t.Context())
	var p *problem.Problem
	if err := sayReplace(cmd, client, "h2", "the agent of h2"); !errors.As(err, &p) || p.Code != "cluster.seat-lives" || out.Len() != 0 {
		t.Errorf("it says %q and is told %v", out, err)
	}
}

// The agent of the host itself refuses to give its own place away; it is not asked, though it comes first in the list.
func TestAReplacementOfTheFirstHostIsAskedOfAnother(t *testing.T) {
	agents := make([]string, 2)
	var asked []string // methods that the other host's agent was asked with
	serve := func(i int, handle http.HandlerFunc) *x509.Certificate {
		srv := httptest.NewTLSServer(handle)
		t.Cleanup(srv.Close)
		agents[i] = strings.TrimPrefix(srv.URL, "https://")
		return srv.Certificate()
	}
	const path = "/v1/cluster/replace/h1"
	seats := []api.SeatStatus{{Host: "h1", Role: "voter", Serves: true}, {Host: "h2", Role: "voter", Serves: true}}
	roots := x509.NewCertPool()
	roots.AddCert(serve(0, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == path {
			w.WriteHeader(http.StatusConflict)
			_ = json.NewEncoder(w).Encode(problem.Problem{Code: "cluster.seat-lives", Title: "its own member is the one that was asked"})
			return
		}
		_ = json.NewEncoder(w).Encode(api.ClusterStatus{Host: "h1"})
	}))
	roots.AddCert(serve(1, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == path {
			asked = append(asked, r.Method)
			_ = json.NewEncoder(w).Encode(map[string]string{"order": "join"})
			return
		}
		_ = json.NewEncoder(w).Encode(api.ClusterStatus{Host: "h2", Reachable: true, Seats: seats})
	}))
	client := api.NewClient(agents, &tls.Config{RootCAs: roots})
	defer client.Close()
	cmd, out := clusterReplaceCommand(), &bytes.Buffer{}
	cmd.SetOut(out)
	cmd.SetContext(t.Context())
	if err := sayReplace(cmd, client, "h1", agents[0]); err != nil {
		t.Errorf("the look is refused: %v", err)
	}
	if err := replaceMember(t.Context(), out, client, "h1", agents[0]); err != nil {
		t.Errorf("the replacement is refused: %v", err)
	}
	if strings.Join(asked, " ") != "GET POST" || !strings.Contains(out.String(), "h1 votes: 2 members do") {
		t.Errorf("the other agent was asked %v; it says\n%s", asked, out)
	}
}
